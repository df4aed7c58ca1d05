"""Optuna distributions as a box, and the search space that completed trials share."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, overload

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import FrozenTrial, TrialState

from optuna_partition.core.box import Axis, Box, ChoiceAxis, FloatAxis, GridAxis

SearchSpace = Mapping[str, BaseDistribution]


@dataclass(frozen=True, slots=True)
class StepRange(Sequence[float]):
    """`low + k * step` for k below `size`, in decimals: 0.1 * 3 is 0.3, and memory is constant."""

    low: float
    step: float
    size: int

    def __len__(self) -> int:
        """Number of values."""
        return self.size

    @overload
    def __getitem__(self, k: int) -> float: ...
    @overload
    def __getitem__(self, k: slice) -> list[float]: ...
    def __getitem__(self, k: int | slice) -> float | list[float]:
        """The k-th value."""
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(self.size))]
        position = range(self.size)[k]
        return float(Decimal(str(self.low)) + position * Decimal(str(self.step)))

    def index(self, value: float, start: int = 0, stop: int | None = None) -> int:
        """Position of a value; ValueError if it is not on the grid."""
        k = round((value - self.low) / self.step)
        if k not in range(self.size)[start:stop] or self[k] != value:
            raise ValueError(f"{value} is not one of {self.size} steps from {self.low}.")
        return k


def axis_of(name: str, distribution: BaseDistribution) -> Axis:
    """The axis of one parameter.

    Raises:
        TypeError: If the distribution is of a kind that Optuna does not ship.
    """
    match distribution:
        case FloatDistribution(step=None):
            return FloatAxis(name, distribution.low, distribution.high, distribution.log)
        case FloatDistribution(step=float(step)):
            low, high = Decimal(str(distribution.low)), Decimal(str(distribution.high))
            count = int((high - low) / Decimal(str(step))) + 1
            return GridAxis(name, StepRange(distribution.low, step, count))
        case IntDistribution():
            values = range(distribution.low, distribution.high + 1, distribution.step)
            return GridAxis(name, values, distribution.log)
        case CategoricalDistribution():
            choices = tuple(distribution.choices)
            return GridAxis(name, choices) if _is_scale(choices) else ChoiceAxis(name, choices)
    raise TypeError(
        f"distribution of {name!r} is {distribution!r}, expected a float, int or categorical one."
    )


def _is_scale(choices: tuple[Any, ...]) -> bool:
    """Whether the choices are numbers in ascending or descending order, such as batch sizes."""
    if not all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices):
        return False
    steps = [b - a for a, b in itertools.pairwise(choices)]
    return len(steps) > 1 and (all(s > 0 for s in steps) or all(s < 0 for s in steps))


def box_of(space: SearchSpace) -> Box:
    """The box of a search space, axes in its order."""
    return Box(tuple(axis_of(name, distribution) for name, distribution in space.items()))


def fingerprint(space: SearchSpace, fixed: Mapping[str, Any] | None = None) -> str:
    """Short name of a box: claims are coordinates in one box and mean nothing in another."""
    content: list[Any] = [[name, distribution_to_json(d)] for name, d in space.items()]
    if fixed:
        content.append(sorted((name, repr(value)) for name, value in fixed.items()))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Space:
    """A search space as a box.

    Args:
        distributions: Parameters in the order of the box's axes.
        fixed: Values that `PartialFixedSampler` sets for parameters outside the space: results with
            other values say nothing about this box.
        box: The box.
        fingerprint: Its short name.
    """

    distributions: SearchSpace
    fixed: Mapping[str, Any]
    box: Box
    fingerprint: str

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names in the order of the box's axes."""
        return tuple(self.distributions)

    def is_of(self, space: SearchSpace, fixed: Mapping[str, Any]) -> bool:
        """Whether it was made of these."""
        return (
            self.distributions == space
            and list(self.distributions) == list(space)
            and self.fixed == fixed
        )

    def values_of(self, trial: FrozenTrial, enqueued: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Where a trial lies in the box: parameter values in the order of its axes.

        None if it lacks one, has one out of range, or searched anything else: then it is no
        evaluation of a point of this box.

        Args:
            trial: The trial, whatever its state.
            enqueued: Values that were set for it before it began.
        """
        parameters = {**enqueued, **trial.params}
        if not parameters.keys() >= self.distributions.keys():
            return None
        for name in parameters.keys() - self.distributions.keys():
            distribution = trial.distributions.get(name)
            single = distribution is not None and distribution.single()
            if not single and (name not in self.fixed or parameters[name] != self.fixed[name]):
                return None
        values = tuple(parameters[name] for name in self.distributions)
        inside = all(a.holds(v) for a, v in zip(self.box.axes, values, strict=True))
        return values if inside else None


def space_of(space: SearchSpace, fixed: Mapping[str, Any] | None = None) -> Space:
    """The box of a search space, next to fixed values of other parameters."""
    return Space(dict(space), dict(fixed or {}), box_of(space), fingerprint(space, fixed))


def without_single_values(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The parameters that have something to search; Optuna sets the others by itself."""
    return {name: d for name, d in space.items() if not d.single()}


class SharedSpace:
    """The parameters that all completed trials suggested from the same distribution, by name.

    Optuna's `intersection_search_space` over trials that are fed one by one: it walks all of them
    at each call.
    """

    def __init__(self) -> None:
        self._space: dict[str, BaseDistribution] | None = None

    @property
    def known(self) -> bool:
        """Whether any trial has completed."""
        return self._space is not None

    def add(self, trial: FrozenTrial) -> None:
        """Take a finished trial into account."""
        if trial.state is not TrialState.COMPLETE:
            return
        seen = trial.distributions
        if self._space is None:
            self._space = dict(seen)
        else:
            self._space = {n: d for n, d in self._space.items() if seen.get(n) == d}

    def __iter__(self) -> Iterator[tuple[str, BaseDistribution]]:
        """Name and distribution, by name."""
        return iter(sorted((self._space or {}).items()))


def same_parameters(parameters: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether a trial has the expected values, where it has the parameter at all."""
    if parameters.items() >= expected.items():
        return True
    return all(
        parameters[name] == value or (parameters[name] != parameters[name] and value != value)
        for name, value in expected.items()
        if name in parameters
    )
