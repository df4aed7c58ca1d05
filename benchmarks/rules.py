"""Regret of the partition samplers against random search, one worker.

The score is the mean over problems of log10(regret / median regret of ten random searches with as
many evaluations); -1 is ten times less regret than random search. Next to the samplers run DIRECT
of SciPy and of NLopt, on the same problems, and Optuna's TPE (mean over seeds). A sampler that
plans for its number of trials is run once for each budget, the others once.

Two tables: 11 functions in 2 to 6 dimensions, and these with 4 copies each whose box is cut by up
to a tenth at every side (55 problems).
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, SupportsFloat

import nlopt
import numpy as np
import optuna
import scipy.optimize

from benchmarks import _common, _problems
from benchmarks._problems import FloatArray
from benchmarks._samplers import OURS, OURS_SLOW, SINGLE, Entry
from objectives.synthetic import Problem

# Values in the order of evaluation, for a problem and a number of evaluations.
Search = Callable[[Problem, int], list[float]]
# The value at a point (d,).
Function = Callable[[Sequence[float] | FloatArray], SupportsFloat]


class _BudgetSpentError(Exception):
    """Ends a search that counts its budget in iterations or overdraws it."""


class Recorder:
    """A function that keeps the values of its evaluations, up to a budget."""

    def __init__(self, function: Function, budget: int) -> None:
        self.values: list[float] = []
        self._function = function
        self._budget = budget

    def __call__(self, point: Sequence[float] | FloatArray) -> float:
        """The value at a point (d,)."""
        if len(self.values) == self._budget:
            raise _BudgetSpentError
        value = float(self._function(point))
        self.values.append(value)
        return value


def optuna_search(problem: Problem, budget: int, *, entry: Entry, seed: int = 0) -> list[float]:
    """A sampler of Optuna's interface."""
    record = Recorder(problem, budget)
    names = list(problem.search_space)

    def objective(trial: optuna.Trial) -> float:
        bounds = zip(names, problem.low, problem.high, strict=True)
        return record([trial.suggest_float(name, low, high) for name, low, high in bounds])

    sampler = entry.make(problem.search_space, budget, seed)
    optuna.create_study(sampler=sampler).optimize(objective, n_trials=budget)
    return record.values


def scipy_direct(problem: Problem, budget: int, *, locally_biased: bool) -> list[float]:
    """DIRECT of SciPy on a problem."""
    bounds = scipy.optimize.Bounds(problem.low, problem.high)
    return direct(problem, bounds, budget, locally_biased=locally_biased)


def direct(
    function: Function, bounds: scipy.optimize.Bounds, budget: int, *, locally_biased: bool
) -> list[float]:
    """DIRECT of SciPy, which ends on evaluations only."""
    record = Recorder(function, budget)
    with contextlib.suppress(_BudgetSpentError):
        scipy.optimize.direct(
            record,
            bounds,
            locally_biased=locally_biased,
            maxfun=10 * budget,
            maxiter=10 * budget,
            vol_tol=0,
            len_tol=0,
        )
    return record.values


def nlopt_direct(problem: Problem, budget: int, *, algorithm: int) -> list[float]:
    """DIRECT of NLopt; its translation of Gablonsky's code may overdraw, which is cut off."""
    values: list[float] = []

    def function(point: FloatArray, gradient: FloatArray) -> float:
        values.append(float(problem(point)))
        return values[-1]

    search = nlopt.opt(algorithm, problem.dimension)
    search.set_min_objective(function)
    search.set_lower_bounds(problem.low)
    search.set_upper_bounds(problem.high)
    search.set_maxeval(budget)
    search.optimize(problem.from_unit(np.full(problem.dimension, 0.5)))
    return values[:budget]


OTHERS: Final[Mapping[str, Search]] = {
    "SciPy direct": partial(scipy_direct, locally_biased=False),
    "SciPy direct, locally biased": partial(scipy_direct, locally_biased=True),
    "NLopt GN_ORIG_DIRECT": partial(nlopt_direct, algorithm=nlopt.GN_ORIG_DIRECT),
    "NLopt GN_ORIG_DIRECT_L": partial(nlopt_direct, algorithm=nlopt.GN_ORIG_DIRECT_L),
    "NLopt GN_DIRECT": partial(nlopt_direct, algorithm=nlopt.GN_DIRECT),
    "NLopt GN_DIRECT_L": partial(nlopt_direct, algorithm=nlopt.GN_DIRECT_L),
}
NAMES: Final = (*SINGLE, *OTHERS)
DEFAULT: Final = (*(name for name in OURS if name not in OURS_SLOW), "TPE", *OTHERS)


def log_regrets(
    name: str, found: Sequence[Problem], budgets: Sequence[int], seeds: int
) -> FloatArray:
    """(problems, n) mean over seeds of log10 regret after 1 to n evaluations.

    A sampler that plans for its number of trials has values at the budgets only, NaN elsewhere.
    """
    entry = SINGLE.get(name)
    runs = range(seeds if entry is not None and entry.seeded else 1)
    n = budgets[-1]
    logs = np.empty((len(found), n))
    for row, problem in enumerate(_common.progress(found, name)):
        if entry is None:
            logs[row] = np.log10(_problems.regrets(OTHERS[name](problem, n), problem, n))
        elif entry.budgeted:
            logs[row] = np.nan
            for budget in budgets:
                values = optuna_search(problem, budget, entry=entry)
                logs[row, budget - 1] = np.log10(_problems.regrets(values, problem, budget)[-1])
        else:
            values_of = partial(optuna_search, problem, n, entry=entry)
            each = [_problems.regrets(values_of(seed=seed), problem, n) for seed in runs]
            logs[row] = np.mean(np.log10(each), axis=0)
    return logs


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = _common.parser(__doc__)
    _common.add_samplers(parser, NAMES, DEFAULT)
    number = _common.positive
    parser.add_argument("--budgets", type=number, nargs="+", default=[50, 100, 200])
    parser.add_argument("--functions", nargs="+", choices=_problems.NAMES, default=_problems.NAMES)
    parser.add_argument("--copies", type=int, default=4, help="cut copies of each function")
    parser.add_argument("--seeds", type=number, default=3, help="runs of a sampler with a seed")
    return parser.parse_args()


def main() -> None:
    """Print the tables and draw the picture."""
    given = arguments()
    _common.quiet()
    budgets: list[int] = sorted(set(given.budgets))
    found = _problems.problems(copies=given.copies, names=given.functions)
    baseline = np.log10([_problems.random_search(problem, budgets[-1]) for problem in found])
    scores = {
        name: log_regrets(name, found, budgets, given.seeds) - baseline for name in given.samplers
    }
    at = np.array(budgets) - 1
    sets = {f"{len(given.functions)} functions": slice(None, None, given.copies + 1)}
    if given.copies:
        sets[f"{len(found)} problems"] = slice(None)
    for title, rows in sets.items():
        header = ["score after", *map(str, budgets)]
        body = [
            [name, *(f"{score:.2f}" for score in each[rows].mean(axis=0)[at])]
            for name, each in scores.items()
        ]
        _common.report(title, _common.markdown(header, body))
    if given.output is None:
        return
    lines = {}
    for name, each in scores.items():
        mean = each.mean(axis=0)
        known = np.flatnonzero(np.isfinite(mean))
        lines[name] = ((known + 1).tolist(), mean[known].tolist())
    figure = _common.curves(
        lines,
        title=f"Regret against random search, {len(found)} problems, one worker",
        x_title="evaluations",
        y_title="mean log10(regret / regret of random search)",
        markers=[name for name in scores if name in SINGLE and SINGLE[name].budgeted],
        peers=[name for name in scores if name not in OURS],
    )
    _common.save(figure, given.output)


if __name__ == "__main__":
    main()
