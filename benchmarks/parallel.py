"""What parallel workers cost: real samplers, simulated workers.

W workers share one study in memory, with log-normal evaluation times (see `_workers.py`). A sampler
is compared with itself at W = 1, by the mean over problems of log10 regret:

- after equal numbers of finished evaluations, where more workers mean choices on fewer values;
- at equal wall-clock: at time n/W, in mean evaluations, against one worker after n evaluations.

Efficiency is the time of the evaluations finished in the end over W times the time that passed:
below 1 by evaluations that are cut off at the end, and by workers that had nothing to do. Points
are duplicates if all parameters are equal. A sampler that plans for its number of trials runs once
for each budget. Several workers, and a sampler with a seed, run several times, with other durations
each time, and the mean is taken.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import optuna

from benchmarks import _common, _problems, _workers
from benchmarks._problems import FloatArray
from benchmarks._samplers import OURS_SLOW, SINGLE, Entry
from objectives.synthetic import Problem

if TYPE_CHECKING:
    from plotly import graph_objects as go

# StoSOO repeats its points by design; SOO with a depth limit is for comparison with the literature.
DEFAULT: Final = tuple(
    name for name in SINGLE if name not in ("StoSOO", 'SOO, h_max="sqrt"', *OURS_SLOW)
)
COLUMNS: Final = 3  # panels in a row of the picture


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A simulated study.

    Args:
        times: (n,) when each evaluation finished, ascending, in mean evaluations.
        regrets: (n,) simple regret from then on.
        efficiency: Time of these evaluations over workers times the time that passed.
        duplicates: How many of them repeat the parameters of another.
    """

    times: FloatArray
    regrets: FloatArray
    efficiency: float
    duplicates: int

    def after(self, n: int) -> float:
        """log10 regret after n evaluations."""
        return float(np.log10(self.regrets[min(n, len(self.regrets)) - 1]))

    def at(self, time: float) -> float:
        """log10 regret at a time; the first value counts for the time before it, too."""
        return self.after(max(1, int(np.searchsorted(self.times, time, side="right"))))


def simulate(problem: Problem, entry: Entry, *, workers: int, n: int, seed: int) -> Run:
    """Run `workers` workers until `n` evaluations have finished."""
    study = optuna.create_study(sampler=entry.make(problem.search_space, n, seed))
    times: list[float] = []
    values: list[float] = []
    spent = 0.0
    points = set()
    for done in _workers.finished(study, problem.objective, workers=workers, n=n, seed=seed):
        times.append(done.time)
        values.append(done.value)
        spent += done.length
        points.add(tuple(study.get_trials(deepcopy=False)[done.number].params.values()))
    regrets = _problems.regrets(values, problem, n)
    return Run(np.array(times), regrets, spent / (workers * times[-1]), n - len(points))


# One sampler's studies by workers, budget and then problem and seed.
Runs = Mapping[int, Mapping[int, Sequence[Run]]]


def simulate_all(
    name: str, found: Sequence[Problem], budgets: Sequence[int], workers: Sequence[int], seeds: int
) -> Runs:
    """All runs of a sampler; one that does not plan for its budget has the same for each."""
    entry = SINGLE[name]
    planned = budgets if entry.budgeted else budgets[-1:]
    jobs = [(w, n) for w in workers for n in planned]
    runs: dict[int, dict[int, Sequence[Run]]] = {w: {} for w in workers}
    for w, n in _common.progress(jobs, name):
        runs[w][n] = [
            simulate(problem, entry, workers=w, n=n, seed=100 * seed + row)
            for row, problem in enumerate(found)
            # One worker's points depend on no durations.
            for seed in range(seeds if entry.seeded or w > 1 else 1)
        ]
    if not entry.budgeted:
        for of in runs.values():
            of.update(dict.fromkeys(budgets, of[budgets[-1]]))
    return runs


def after(runs: Runs, workers: int, n: int) -> float:
    """Mean log10 regret after n evaluations."""
    return float(np.mean([run.after(n) for run in runs[workers][n]]))


def at_equal_time(runs: Runs, workers: int, n: int) -> float:
    """Mean log10 regret at the time in which ideal workers do n evaluations."""
    return float(np.mean([run.at(n / workers) for run in runs[workers][n]]))


def changes(all_runs: Mapping[str, Runs], budgets: Sequence[int], clock: Sequence[int]) -> str:
    """Table of what more workers change, for each sampler."""
    header = [
        "change against one worker",
        "W",
        "efficiency",
        "duplicates",
        *(f"{n} evaluations" for n in budgets),
        *(f"time {n}/W" for n in clock),
    ]
    body = []
    for name, runs in all_runs.items():
        alone = min(runs)
        for w in runs:
            last = runs[w][budgets[-1]]
            row = [name, str(w), f"{np.mean([run.efficiency for run in last]):.2f}"]
            row.append(str(sum(run.duplicates for run in last)))
            if w != alone:
                row += [f"{after(runs, w, n) - after(runs, alone, n):+.2f}" for n in budgets]
                row += [f"{at_equal_time(runs, w, n) - after(runs, alone, n):+.2f}" for n in clock]
            else:
                row += ["0"] * (len(budgets) + len(clock))
            body.append(row)
    return _common.markdown(header, body)


def levels(all_runs: Mapping[str, Runs], n: int) -> str:
    """Table of the regret itself, after n evaluations with W workers."""
    workers = list(next(iter(all_runs.values())))
    header = [f"mean log10 regret after {n} evaluations", *(f"W = {w}" for w in workers)]
    body = [
        [name, *(f"{after(runs, w, n):.2f}" for w in workers)] for name, runs in all_runs.items()
    ]
    return _common.markdown(header, body)


def draw(all_runs: Mapping[str, Runs], n: int) -> go.Figure:
    """Regret against wall-clock, one panel a sampler, one line a number of workers."""
    from plotly.subplots import make_subplots

    columns = min(COLUMNS, len(all_runs))
    rows = -(-len(all_runs) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=list(all_runs),
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.03,
        vertical_spacing=0.2 / rows,
    )
    for panel, runs in enumerate(all_runs.values()):
        for line, w in enumerate(runs):
            of = runs[w][n]
            start = max(run.times[0] for run in of)
            end = min(run.times[-1] for run in of)
            times = np.geomspace(start, end, 120)
            figure.add_scatter(
                x=times.round(3).tolist(),
                y=[round(float(np.mean([run.at(t) for run in of])), 3) for t in times],
                name=f"W = {w}",
                legendgroup=str(w),
                showlegend=panel == 0,
                line=_common.line_style(line),
                row=panel // columns + 1,
                col=panel % columns + 1,
            )
    figure.update_xaxes(type="log", tickvals=[1, 10, 100, 1000])
    figure.update_xaxes(title="wall-clock (mean evaluations)", row=rows)
    figure.update_yaxes(title="mean log10 regret", col=1)
    title = f"Regret against wall-clock with W simulated workers, {n} evaluations"
    return _common.style(figure, title=title, height=120 + 260 * rows)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = _common.parser(__doc__)
    _common.add_samplers(parser, SINGLE, DEFAULT)
    number = _common.positive
    parser.add_argument("--workers", type=number, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--budgets", type=number, nargs="+", default=[50, 100, 200])
    parser.add_argument("--functions", nargs="+", choices=_problems.NAMES, default=_problems.NAMES)
    parser.add_argument("--copies", type=int, default=1, help="cut copies of each function")
    parser.add_argument(
        "--seeds", type=number, default=3, help="runs of several workers or of a seed"
    )
    return parser.parse_args()


def main() -> None:
    """Print the tables and draw the picture."""
    given = arguments()
    _common.quiet()
    budgets: list[int] = sorted(set(given.budgets))
    workers = sorted({1, *given.workers})
    found = _problems.problems(copies=given.copies, names=given.functions)
    all_runs = {
        name: simulate_all(name, found, budgets, workers, given.seeds) for name in given.samplers
    }
    title = f"{len(found)} problems; + is worse"
    _common.report(title, changes(all_runs, budgets, budgets[-2:]))
    _common.report("Lower is better", levels(all_runs, budgets[-1]))
    if given.output is not None:
        _common.save(draw(all_runs, budgets[-1]), given.output)


if __name__ == "__main__":
    main()
