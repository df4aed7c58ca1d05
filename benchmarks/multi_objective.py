"""Hypervolume that samplers for several objectives reach, on ZDT and DTLZ.

Twelve problems in six variables with two or three objectives, each on three cut boxes
(`benchmarks/_fronts.py` holds their definitions and reference points). The gap of a run is the
hypervolume that its values lack of the front's, as a share of the front's. A sampler with a seed
runs once for each seed, and the median gap is taken.

The score is the mean over problems and boxes of log10(gap / gap of random search); -1 is a tenth of
random search's gap. NSGA-II draws its first 50 trials at random, as Optuna's default has it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import optuna

from benchmarks import _common, _fronts
from benchmarks._fronts import FloatArray, Problem
from benchmarks._samplers import MULTI, OURS_MULTI, RANDOM

FLOOR: Final = 1e-6  # below it a gap is as good as none
STEP: Final = 10  # evaluations between two points of the picture
NAMES: Final = tuple(problem.name for problem in _fronts.PROBLEMS)


def run(problem: Problem, sampler: str, n: int, seed: int) -> FloatArray:
    """(n, m) values of a study in the order of its trials."""
    study = optuna.create_study(
        directions=["minimize"] * problem.objectives,
        sampler=MULTI[sampler].make(problem.search_space, n, seed),
    )
    study.optimize(problem, n_trials=n)
    values = [trial.values for trial in study.get_trials(deepcopy=False)]
    return np.array(values, dtype=np.float64)


def gaps(problem: Problem, sampler: str, marks: Sequence[int], seeds: int) -> FloatArray:
    """(marks,) median gap after so many evaluations."""
    most = _fronts.hypervolume(problem.front(), problem.reference)
    planned = MULTI[sampler].budgeted
    found = []
    for seed in range(seeds if MULTI[sampler].seeded else 1):
        values = run(problem, sampler, marks[-1], seed)
        row = []
        for n in marks:
            if planned:
                values = run(problem, sampler, n, seed)
            reached = _fronts.hypervolume(values[:n], problem.reference)
            row.append(max(1 - reached / most, FLOOR))
        found.append(row)
    return np.asarray(np.median(found, axis=0))


def per_problem(found: Mapping[str, FloatArray], names: Sequence[str], copies: int) -> str:
    """Table of the final gaps in percent, mean over the boxes."""
    header = ["hypervolume missing, % of the front's", *found]
    body = [
        [
            name,
            *(
                f"{100 * of[copies * row : copies * (row + 1), -1].mean():.3g}"
                for of in found.values()
            ),
        ]
        for row, name in enumerate(names)
    ]
    return _common.markdown(header, body)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = _common.parser(__doc__)
    _common.add_samplers(parser, MULTI)
    number = _common.positive
    parser.add_argument("--problems", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--budgets", type=number, nargs="+", default=[50, 100, 200])
    parser.add_argument("--copies", type=number, default=3, help="cut boxes of each problem")
    parser.add_argument("--seeds", type=number, default=10, help="runs of a sampler with a seed")
    return parser.parse_args()


def main() -> None:
    """Print the tables and draw the picture."""
    given = arguments()
    _common.quiet()
    budgets: list[int] = sorted(set(given.budgets))
    marks = sorted({*budgets, *range(STEP, budgets[-1], STEP)} if given.output else budgets)
    names = [name for name in NAMES if name in given.problems]
    by_name = {problem.name: problem for problem in _fronts.PROBLEMS}
    boxes = [by_name[name].cut(copy) for name in names for copy in range(1, given.copies + 1)]
    found = {
        name: np.array(
            [gaps(box, name, marks, given.seeds) for box in _common.progress(boxes, name)]
        )
        for name in dict.fromkeys([RANDOM, *given.samplers])
    }
    scores = {
        name: np.log10(of / found[RANDOM]).mean(axis=0)
        for name, of in found.items()
        if name != RANDOM
    }
    at = [marks.index(n) for n in budgets]
    body = [[name, *(f"{score:.2f}" for score in of[at])] for name, of in scores.items()]
    title = f"{len(names)} problems, {given.copies} boxes each"
    _common.report(title, _common.markdown(["score after", *map(str, budgets)], body))
    _common.report(f"After {budgets[-1]} evaluations", per_problem(found, names, given.copies))
    if given.output is not None:
        figure = _common.curves(
            {name: (marks, of.round(3).tolist()) for name, of in scores.items()},
            title=f"Hypervolume gap against random search, {len(boxes)} boxes",
            x_title="evaluations",
            y_title="mean log10(gap / gap of random search)",
            peers=[name for name in scores if name not in OURS_MULTI],
        )
        _common.save(figure, given.output)


if __name__ == "__main__":
    main()
