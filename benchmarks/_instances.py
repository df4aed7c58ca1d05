"""One instance of a tuning task: what a sampler sees, and what is known about it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from optuna.distributions import BaseDistribution

from objectives.synthetic import Problem
from optuna_partition.core.box import Box
from optuna_partition.samplers._space import box_of

Space = dict[str, BaseDistribution]
Parameters = Mapping[str, Any]

RANDOM_POINTS: Final = 1000  # whose median value is a regret of 100


@dataclass(frozen=True, eq=False)
class Instance:
    """A function to minimize over a search space.

    Args:
        space: Optuna distributions by name.
        minimum: Smallest true value, or the best known.
        true: True value at parameters, finite.
        told: What a sampler is told there, with noise from the generator; NaN fails the trial.
            The true value if not given.
    """

    space: Space
    minimum: float
    true: Callable[[Parameters], float]
    told: Callable[[Parameters, Generator], float] | None = None

    def evaluate(self, parameters: Parameters, rng: Generator) -> tuple[float, float]:
        """What a sampler is told, and the true value."""
        true = self.true(parameters)
        return (true if self.told is None else self.told(parameters, rng)), true

    def regret(self, true: float) -> float:
        """Normalized regret of a true value: 0 at the minimum, 100 at the median."""
        return max(0.0, 100 * (true - self.minimum) / (self.median - self.minimum))

    @functools.cached_property
    def box(self) -> Box:
        """The search space as a box, to draw from."""
        return box_of(self.space)

    @functools.cached_property
    def median(self) -> float:
        """Median true value of 1,000 uniform points."""
        points = np.random.default_rng(0).uniform(size=(RANDOM_POINTS, len(self.space)))
        return float(np.median([self.true(self.box.at(point)) for point in points.tolist()]))


def of(problem: Problem) -> Instance:
    """A test problem as it is."""

    def value(parameters: Parameters) -> float:
        return float(problem([parameters[name] for name in problem.search_space]))

    return Instance(problem.search_space, problem.minimum, value)


def noisy(instance: Instance, share: float) -> Instance:
    """The same with normal noise; its deviation is a share of median - minimum."""
    deviation = share * (instance.median - instance.minimum)

    def told(parameters: Parameters, rng: Generator) -> float:
        return instance.true(parameters) + float(rng.normal(0, deviation))

    return Instance(instance.space, instance.minimum, instance.true, told)


def recentered(
    problem: Problem, space: Space, width: float, rng: Generator
) -> tuple[Callable[[Parameters], float], Parameters]:
    """A problem on another space of as many ordered axes, `width` wide each in its own units.

    Its minimum, which has to be global on the whole real space, moves to a point that is drawn
    from the inner 70 % of the space and returned after the function. That point is one of the
    space, so that the minimum keeps its value even where axes are discrete.
    """
    box = box_of(space)
    names = list(space)
    best = box.at(rng.uniform(0.15, 0.85, size=len(names)).tolist())
    target = np.array(box.units(list(best.values())))

    def value(parameters: Parameters) -> float:
        units = np.array(box.units([parameters[name] for name in names]))
        return float(problem(problem.minimizers[0] + width * (units - target)))

    return value, best
