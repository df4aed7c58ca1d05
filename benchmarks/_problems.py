"""Test problems of the single-objective benchmarks, and what is left to gain on them.

Eleven functions in 2 to 6 dimensions, and copies of each whose box is cut by up to a tenth at every
side, so that no optimum sits at a center or a trisection point by luck.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from objectives import synthetic
from objectives.synthetic import Problem

FloatArray = NDArray[np.float64]

FLOOR: Final = 1e-5  # below it a regret is as good as none

# Each function with the seed of its cuts.
_FUNCTIONS: Final[tuple[tuple[Problem, int], ...]] = (
    (synthetic.BRANIN, 51),
    (synthetic.SIX_HUMP_CAMEL, 58),
    (
        dataclasses.replace(
            synthetic.GOLDSTEIN_PRICE, low=np.full(2, -1.87), high=np.full(2, 2.13)
        ),
        79,
    ),
    (synthetic.HARTMANN3, 66),
    (synthetic.SHEKEL10, 74),
    (synthetic.rosenbrock(), 47),
    (synthetic.rastrigin(), 47),
    (synthetic.ackley(), 61),
    (synthetic.levy(), 47),
    (synthetic.styblinski_tang(), 68),
    (synthetic.HARTMANN6, 69),
)
NAMES: Final = tuple(problem.name for problem, _ in _FUNCTIONS)


def problems(*, copies: int, names: Iterable[str] = NAMES) -> list[Problem]:
    """The functions of these names, each followed by its cut copies."""
    wanted = set(names)
    found = []
    for problem, seed in _FUNCTIONS:
        if problem.name not in wanted:
            continue
        found.append(problem)
        for copy in range(1, copies + 1):
            found.append(cut(problem, np.random.default_rng(1000 * copy + seed)))
    return found


def cut(problem: Problem, rng: np.random.Generator) -> Problem:
    """The problem on a box that is smaller by up to a tenth of the range at every side."""
    span = problem.high - problem.low
    low = problem.low + rng.uniform(0, 0.1, problem.dimension) * span
    high = problem.high - rng.uniform(0, 0.1, problem.dimension) * span
    return problem.within(low, high)


def regrets(values: Sequence[float] | FloatArray, problem: Problem, n: int) -> FloatArray:
    """(n,) simple regret after 1 to n evaluations; a search that ended early keeps its last."""
    best = np.minimum.accumulate(np.asarray(values, dtype=np.float64)[:n]) - problem.minimum
    kept = best[np.minimum(np.arange(n), len(best) - 1)]
    return np.asarray(np.maximum(kept, FLOOR))


def random_search(problem: Problem, n: int) -> FloatArray:
    """(n,) median regret of ten random searches after 1 to n evaluations."""
    found = []
    for seed in range(10):
        points = np.random.default_rng(seed).uniform(size=(n, problem.dimension))
        found.append(regrets(problem(problem.from_unit(points)), problem, n))
    return np.asarray(np.median(found, axis=0))
