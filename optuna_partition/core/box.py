"""Axes and boxes: what one cell of the partition means in parameters.

Along one axis a cell is a pair of integers `(level, index)`: the axis was split `level` times, and
`index` is the path of child numbers written in base `arity`. Integers identify a cell exactly; no
side is ever compared as a float.

======  =====  ==================================================  =======================
axis    arity  a cell is                                           can be split
======  =====  ==================================================  =======================
float   3      `[index, index + 1) * 3**-level`, linear or log     until float resolution
grid    3      a run of neighboring values (int, log int, step)    while it holds two
choice  n      all choices (level 0) or one of them (level 1)      once
======  =====  ==================================================  =======================
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol, cast

# Neighboring centers of a float axis stay this many rounding errors apart, so that they decode to
# different numbers.
_RESOLUTION = 64 * sys.float_info.epsilon


class Axis(Protocol):
    """One parameter: how its range splits and which value a cell's center stands for."""

    @property
    def name(self) -> str:
        """Name of the parameter."""

    @property
    def arity(self) -> int:
        """Base of the index: child `c` of `(level, index)` is `(level + 1, index * arity + c)`."""

    @property
    def finite(self) -> bool:
        """Whether the axis has finitely many values."""

    def exists(self, level: int, index: int) -> bool:
        """Whether splits lead to the cell, for `0 <= index < arity**level`."""

    def splittable(self, level: int, index: int) -> bool:
        """Whether the cell holds two values or more that a split can tell apart."""

    def children(self, level: int, index: int) -> tuple[int, ...]:
        """Child numbers that hold a value, ascending; two values have no left child."""

    def inheritor(self, level: int, index: int) -> int:
        """Child number whose center is the parent's center, so that it needs no evaluation."""

    def value(self, level: int, index: int) -> Any:
        """Parameter value at the cell's center."""

    def middle(self, level: int, index: int) -> float:
        """Position in [0, 1] of a cell's center: `unit` of its value."""

    def at(self, unit: float) -> Any:
        """Parameter value at a position in [0, 1] of the axis."""

    def unit(self, value: Any) -> float:
        """Position in [0, 1] of a value; of one of finitely many the middle of its own share."""

    def holds(self, value: Any) -> bool:
        """Whether the axis has the parameter value."""

    def part(self, level: int, index: int, value: Any) -> int:
        """Child number, after a split of the cell, of the part that holds one of its values."""

    def interval(self, level: int, index: int) -> tuple[Fraction, Fraction]:
        """Low and high edge in unit-cube lengths, exact."""


@dataclass(frozen=True, slots=True)
class FloatAxis:
    """A continuous parameter in `[low, high]`, split linearly or in log space."""

    name: str
    low: float
    high: float
    log: bool = False
    arity: int = 3
    finite: bool = False
    # Asked for at every cell: how far the range can be split, and its ends as they are split.
    finest: int = field(init=False, repr=False, compare=False)
    ends: tuple[float, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the range, and how far it can be split."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"range of {self.name!r} is [{self.low}, {self.high}], expected finite low < high."
            )
        if self.log and self.low <= 0:
            raise ValueError(f"log range of {self.name!r} starts at {self.low}, expected low > 0.")
        ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        object.__setattr__(self, "ends", ends)
        object.__setattr__(self, "finest", _finest(self))

    def exists(self, level: int, index: int) -> bool:
        """Down to float resolution."""
        return level <= self.finest

    def splittable(self, level: int, index: int) -> bool:
        """Whether the children's centers would still decode to different floats."""
        return level < self.finest

    def children(self, level: int, index: int) -> tuple[int, ...]:
        """Always left, middle and right."""
        return (0, 1, 2)

    def inheritor(self, level: int, index: int) -> int:
        """The middle third."""
        return 1

    def value(self, level: int, index: int) -> float:
        """Value at the cell's center."""
        return self.at((2 * index + 1) / (2 * 3**level))  # `middle`, asked for at every trial

    def middle(self, level: int, index: int) -> float:
        """Position of the cell's center."""
        # One correctly rounded division of integers: a middle child decodes to the very same float
        # as its parent.
        position: float = (2 * index + 1) / (2 * 3**level)
        return position

    def at(self, unit: float) -> float:
        """Value at a position in [0, 1] of the axis."""
        low, high = self.ends
        value = low * (1 - unit) + high * unit
        if self.log:
            value = math.exp(value)
        return self.low if value < self.low else self.high if value > self.high else value

    def holds(self, value: Any) -> bool:
        """Whether the value is a number of the range."""
        return isinstance(value, float | int) and self.low <= value <= self.high

    def part(self, level: int, index: int, value: float) -> int:
        """The third that holds the value; at an edge the upper one."""
        position: int = math.floor(self.unit(value) * 3 ** (level + 1)) - 3 * index
        return min(max(position, 0), 2)

    def unit(self, value: float) -> float:
        """Position in [0, 1] of a value of the range: the inverse of `at`, up to rounding."""
        low, high = self.ends
        if self.log:
            value = math.log(value)
        # Halves keep a range as wide as the floats themselves from overflowing.
        return (value / 2 - low / 2) / (high / 2 - low / 2)

    def interval(self, level: int, index: int) -> tuple[Fraction, Fraction]:
        """Low and high edge in unit-cube lengths."""
        return Fraction(index, 3**level), Fraction(index + 1, 3**level)


def _finest(axis: FloatAxis) -> int:
    low, high = axis.ends
    scale = max(abs(low), abs(high), 1.0 if axis.log else sys.float_info.min)
    # Halves keep a range as wide as the floats themselves from overflowing.
    ratio = (high / 2 - low / 2) / scale * 2
    return max(0, math.floor(math.log(ratio / _RESOLUTION, 3)))


@dataclass(frozen=True, slots=True)
class _Run:
    """Grid positions `start <= k < stop`; the value at `center` is evaluated.

    A middle child takes its center from its parent: its edges alone could give another one.
    """

    start: int
    stop: int
    center: int


@dataclass(frozen=True, slots=True)
class GridAxis:
    """A parameter with ordered, finitely many values: an int, a log int, or a float with a step.

    Args:
        name: Name of the parameter.
        values: The values in ascending order; a lazy sequence such as `range` keeps a huge grid
            small.
        log: Whether runs are cut in log space. The values are then consecutive positive integers.
    """

    name: str
    values: Sequence[Any]
    log: bool = False
    arity: int = 3
    finite: bool = True
    # The caches below look it up at every cell; a long list of values takes long to hash.
    hashed: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check that there are values."""
        if len(self.values) == 0:
            raise ValueError(f"{self.name!r} has no values, expected one or more.")
        if self.log and self.values[0] < 1:
            raise ValueError(
                f"log range of {self.name!r} starts at {self.values[0]}, expected 1 or more."
            )
        object.__setattr__(self, "hashed", hash((self.name, self.values, self.log)))

    def __hash__(self) -> int:
        """Of name, values and log."""
        return self.hashed

    def exists(self, level: int, index: int) -> bool:
        """Whether every split on the way had something to split, and the run holds a value."""
        return _exists(self, level, index)

    def splittable(self, level: int, index: int) -> bool:
        """Whether the run holds two values or more."""
        run = _run(self, level, index)
        return run.stop - run.start > 1

    def children(self, level: int, index: int) -> tuple[int, ...]:
        """Child numbers of the runs that are not empty."""
        return _children(self, level, index)

    def inheritor(self, level: int, index: int) -> int:
        """The middle run: it is cut around the parent's center."""
        return 1

    def value(self, level: int, index: int) -> Any:
        """Value at the run's center."""
        return self.values[_run(self, level, index).center]

    def middle(self, level: int, index: int) -> float:
        """Middle of the share of the run's center."""
        return self._share(_run(self, level, index).center)

    def at(self, unit: float) -> Any:
        """The value whose own share of the axis holds the position."""
        low, high = _coordinate(self, 0), _coordinate(self, len(self.values))
        k = math.floor(_position(self, low + (high - low) * unit))
        return self.values[min(max(k, 0), len(self.values) - 1)]

    def unit(self, value: Any) -> float:
        """Middle of the value's own share of the axis."""
        return self._share(self.values.index(value))

    def _share(self, k: int) -> float:
        low, high = _coordinate(self, 0), _coordinate(self, len(self.values))
        return ((_coordinate(self, k) + _coordinate(self, k + 1)) / 2 - low) / (high - low)

    def holds(self, value: Any) -> bool:
        """Whether the value is on the grid."""
        try:
            return self.values.index(value) >= 0
        except ValueError:
            return False

    def part(self, level: int, index: int, value: Any) -> int:
        """The run that holds the value."""
        k = self.values.index(value)
        left, middle, _ = _thirds(self, level, index)
        return 0 if k < left.stop else 1 if k < middle.stop else 2

    def interval(self, level: int, index: int) -> tuple[Fraction, Fraction]:
        """Edges as shares of the number of values."""
        run = _run(self, level, index)
        return Fraction(run.start, len(self.values)), Fraction(run.stop, len(self.values))


def _coordinate(axis: GridAxis, k: int) -> float:
    """Coordinate of the boundary before grid position k: halfway between two values."""
    return math.log(axis.values[0] + k - 0.5) if axis.log else float(k)


def _position(axis: GridAxis, coordinate: float) -> float:
    """Grid position of a coordinate: the inverse of `_coordinate`, not rounded."""
    return math.exp(coordinate) - axis.values[0] + 0.5 if axis.log else coordinate


def _centered_run(axis: GridAxis, start: int, stop: int) -> _Run:
    """The run [start, stop) evaluated at the value whose own interval holds the middle."""
    middle = (_coordinate(axis, start) + _coordinate(axis, stop)) / 2
    return _Run(start, stop, min(max(math.floor(_position(axis, middle)), start), stop - 1))


@functools.lru_cache(maxsize=1 << 15)
def _thirds(axis: GridAxis, level: int, index: int) -> tuple[_Run, _Run, _Run]:
    """Left, middle and right part; the middle holds the center, the outer ones may be empty."""
    run = _run(axis, level, index)
    low, high = _coordinate(axis, run.start), _coordinate(axis, run.stop)
    cuts = [round(_position(axis, low + (high - low) * k / 3)) for k in (1, 2)]
    first = max(run.start, min(cuts[0], run.center))
    second = min(run.stop, max(cuts[1], run.center + 1))
    if (first, second) == (
        run.start,
        run.stop,
    ):  # neither cut fell inside; a split has to make progress
        first, second = run.center, run.center + 1
    return (
        _centered_run(axis, run.start, first),
        _Run(first, second, run.center),
        _centered_run(axis, second, run.stop),
    )


@functools.lru_cache(maxsize=1 << 16)
def _run(axis: GridAxis, level: int, index: int) -> _Run:
    if level == 0:
        return _centered_run(axis, 0, len(axis.values))
    parent, child = divmod(index, 3)
    return _thirds(axis, level - 1, parent)[child]


@functools.lru_cache(maxsize=1 << 15)
def _children(axis: GridAxis, level: int, index: int) -> tuple[int, ...]:
    parts = _thirds(axis, level, index)
    return tuple(child for child, part in enumerate(parts) if part.stop > part.start)


@functools.lru_cache(maxsize=1 << 15)
def _exists(axis: GridAxis, level: int, index: int) -> bool:
    if level == 0:
        return True
    parent, number = divmod(index, 3)
    return (
        _exists(axis, level - 1, parent)
        and axis.splittable(level - 1, parent)
        and number in axis.children(level - 1, parent)
    )


@dataclass(frozen=True, slots=True)
class ChoiceAxis:
    """A categorical parameter: it has no order, so that a split gives one cell a choice."""

    name: str
    choices: tuple[Any, ...]
    finite: bool = True

    @property
    def arity(self) -> int:
        """One child a choice."""
        return len(self.choices)

    def exists(self, level: int, index: int) -> bool:
        """One split at most."""
        return level <= 1

    def splittable(self, level: int, index: int) -> bool:
        """Once, if there are two choices or more."""
        return level == 0 and len(self.choices) > 1

    def children(self, level: int, index: int) -> tuple[int, ...]:
        """All choices."""
        return tuple(range(len(self.choices)))

    def inheritor(self, level: int, index: int) -> int:
        """The first choice stands for the unsplit axis."""
        return 0

    def value(self, level: int, index: int) -> Any:
        """The choice; the first one while the axis is unsplit."""
        return self.choices[index]

    def middle(self, level: int, index: int) -> float:
        """Middle of the choice's share."""
        return (index + 0.5) / len(self.choices)

    def at(self, unit: float) -> Any:
        """The choice at a position, when the choices are laid side by side."""
        return self.choices[min(math.floor(unit * len(self.choices)), len(self.choices) - 1)]

    def unit(self, value: Any) -> float:
        """Middle of the choice's share."""
        return (self.part(0, 0, value) + 0.5) / len(self.choices)

    def holds(self, value: Any) -> bool:
        """Whether the value is one of the choices."""
        return any(_is_choice(value, choice) for choice in self.choices)

    def part(self, level: int, index: int, value: Any) -> int:
        """Number of the choice."""
        return next(k for k, choice in enumerate(self.choices) if _is_choice(value, choice))

    def interval(self, level: int, index: int) -> tuple[Fraction, Fraction]:
        """Edges when the choices are laid side by side."""
        if level == 0:
            return Fraction(0), Fraction(1)
        return Fraction(index, len(self.choices)), Fraction(index + 1, len(self.choices))


def _is_choice(value: Any, choice: Any) -> bool:
    """Equal and of one type: True is no 1; a NaN is a NaN."""
    return type(value) is type(choice) and (
        value == choice or (value != value and choice != choice)
    )


def key_of(axis: Axis, value: Any) -> Any:
    """What tells the values of an axis apart: the float, or the number of the value.

    The number keeps choices such as 1, 1.0 and True apart, which are equal to Python.
    """
    if isinstance(axis, GridAxis):
        return axis.values.index(value)
    return axis.part(0, 0, value) if isinstance(axis, ChoiceAxis) else value


def count_of(axis: Axis) -> int:
    """Number of values of a finite axis."""
    return len(axis.choices if isinstance(axis, ChoiceAxis) else cast(GridAxis, axis).values)


@dataclass(frozen=True, slots=True)
class Box:
    """The search space: axes in the order in which ties between equally long sides are broken.

    Args:
        axes: One axis a parameter, at least one, with different names.
    """

    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        """Check the names."""
        names = [axis.name for axis in self.axes]
        if not names or len(set(names)) != len(names):
            raise ValueError(
                f"axes are named {names}, expected at least one axis and different names."
            )

    @property
    def finite(self) -> bool:
        """Whether the box has finitely many points."""
        return all(axis.finite for axis in self.axes)

    def decode(self, levels: Sequence[int], index: Sequence[int]) -> dict[str, Any]:
        """Parameter values at a cell's center."""
        return {
            axis.name: axis.value(level, i)
            for axis, level, i in zip(self.axes, levels, index, strict=True)
        }

    def at(self, units: Sequence[float]) -> dict[str, Any]:
        """Parameter values at a point of the unit cube, shape (d,)."""
        return {axis.name: axis.at(unit) for axis, unit in zip(self.axes, units, strict=True)}

    def units(self, values: Sequence[Any]) -> tuple[float, ...]:
        """Where parameter values, in the order of the axes, lie in the unit cube."""
        return tuple(axis.unit(value) for axis, value in zip(self.axes, values, strict=True))

    def key(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """What tells points apart, for parameter values in the order of the axes."""
        return tuple(map(key_of, self.axes, values))

    def middle(self, levels: Sequence[int], index: Sequence[int]) -> tuple[float, ...]:
        """Where a cell's center lies in the unit cube, shape (d,)."""
        return tuple([a.middle(n, i) for a, n, i in zip(self.axes, levels, index, strict=True)])

    def center(self) -> dict[str, Any]:
        """Parameter values at the center of the whole box."""
        return {axis.name: axis.value(0, 0) for axis in self.axes}
