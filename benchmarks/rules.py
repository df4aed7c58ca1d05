"""Regret of the partition samplers against random search, one worker: `python benchmarks/rules.py`.

55 problems: eleven functions in 2 to 6 dimensions, and four copies of each whose box is cut by up
to a tenth at every side, so that no optimum sits at a center or a trisection point by luck. The
score is the mean of log10(regret / median regret of ten random searches with as many evaluations).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
import optuna
from numpy.typing import NDArray

from objectives import synthetic
from objectives.synthetic import Problem
from optuna_partition import DIRECTSampler, SOOSampler

FloatArray = NDArray[np.float64]

FLOOR = 1e-5  # below it a regret is as good as none
SAMPLERS: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
    "DIRECT, one side": DIRECTSampler,
    "DIRECT-L": partial(DIRECTSampler, variant="locally_biased"),
    "DIRECT 1993": partial(DIRECTSampler, variant="jones1993"),
    "SOO": SOOSampler,
    'SOO, h_max="sqrt"': partial(SOOSampler, h_max="sqrt"),
}


def functions() -> list[tuple[Problem, int]]:
    """The eleven functions, each with the seed of its cuts."""
    goldstein_price = dataclasses.replace(
        synthetic.GOLDSTEIN_PRICE, low=np.full(2, -1.87), high=np.full(2, 2.13)
    )
    return [
        (synthetic.BRANIN, 51),
        (synthetic.SIX_HUMP_CAMEL, 58),
        (goldstein_price, 79),
        (synthetic.HARTMANN3, 66),
        (synthetic.SHEKEL10, 74),
        (synthetic.rosenbrock(), 47),
        (synthetic.rastrigin(), 47),
        (synthetic.ackley(), 61),
        (synthetic.levy(), 47),
        (synthetic.styblinski_tang(), 68),
        (synthetic.HARTMANN6, 69),
    ]


def problems() -> list[Problem]:
    """All 55."""
    found = []
    for problem, seed in functions():
        found.append(problem)
        span = problem.high - problem.low
        for copy in range(1, 5):
            rng = np.random.default_rng(1000 * copy + seed)
            low = problem.low + rng.uniform(0, 0.1, problem.dimension) * span
            high = problem.high - rng.uniform(0, 0.1, problem.dimension) * span
            found.append(problem.within(low, high))
    return found


def regrets(values: FloatArray, problem: Problem, budgets: list[int]) -> FloatArray:
    """Simple regret after each budget; a search that ended early keeps its last one."""
    best = np.minimum.accumulate(values) - problem.minimum
    return np.asarray(np.maximum(best[np.minimum(budgets, len(best)) - 1], FLOOR))


def random_search(problem: Problem, budgets: list[int]) -> FloatArray:
    """Median regret of ten random searches at each budget."""
    found = []
    for seed in range(10):
        points = np.random.default_rng(seed).uniform(size=(budgets[-1], problem.dimension))
        found.append(regrets(problem(problem.from_unit(points)), problem, budgets))
    return np.asarray(np.median(found, axis=0))


def search(
    problem: Problem, sampler: optuna.samplers.BaseSampler, budgets: list[int]
) -> FloatArray:
    """Regret of a sampler at each budget."""
    study = optuna.create_study(sampler=sampler)
    study.optimize(problem.objective, n_trials=budgets[-1])
    values = [trial.value for trial in study.trials if trial.value is not None]
    return regrets(np.array(values), problem, budgets)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", type=int, nargs="+", default=[50, 100, 200])
    budgets: list[int] = sorted(parser.parse_args().budgets)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    medians = np.array([random_search(problem, budgets) for problem in problems()])
    print("| evaluations | " + " | ".join(map(str, budgets)) + " |")
    print("|---" * (len(budgets) + 1) + "|")
    for name, sampler in SAMPLERS.items():
        reached = np.array([search(problem, sampler(), budgets) for problem in problems()])
        scores = np.log10(reached / np.maximum(medians, FLOOR)).mean(axis=0)
        print(f"| {name} | " + " | ".join(f"{score:.2f}" for score in scores) + " |", flush=True)


if __name__ == "__main__":
    main()
