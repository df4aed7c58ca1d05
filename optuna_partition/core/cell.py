"""Cells: boxes inside the search space, named by integers; how they are measured and divided.

Sources: Jones, Perttunen and Stuckman 1993 (division along all longest sides, half-diagonal);
    Gablonsky and Kelley 2001
(longest side as the size); Jones 2001 (division along one longest side); Munos 2011 (depth).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from optuna_partition.core.box import Box

# Sizes are integers in units of 3**-_FINEST: exact, and finer than any side can get.
_FINEST = 64


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """A cell: axis k was split `levels[k]` times, and `index[k]` is the path taken (see `box`)."""

    levels: tuple[int, ...]
    index: tuple[int, ...]

    @property
    def depth(self) -> int:
        """Number of splits between the root and this cell."""
        return sum(self.levels)


def root(box: Box) -> Cell:
    """The whole box."""
    zeros = (0,) * len(box.axes)
    return Cell(zeros, zeros)


def child(box: Box, cell: Cell, axis: int, number: int) -> Cell:
    """Child `number` of a cell that is split along `axis`."""
    levels, index = list(cell.levels), list(cell.index)
    levels[axis] += 1
    index[axis] = index[axis] * box.axes[axis].arity + number
    return Cell(tuple(levels), tuple(index))


def parent(box: Box, cell: Cell, axis: int) -> tuple[Cell, int]:
    """The cell whose split along `axis` made this one, and the child number.

    Raises:
        ValueError: If the cell was never split along `axis`.
    """
    if cell.levels[axis] == 0:
        raise ValueError(
            f"{cell} was never split along axis {axis}, expected a level of 1 or more."
        )
    levels, index = cell.levels, cell.index
    above, number = divmod(index[axis], box.axes[axis].arity)
    return Cell(
        (*levels[:axis], levels[axis] - 1, *levels[axis + 1 :]),
        (*index[:axis], above, *index[axis + 1 :]),
    ), number


def children(box: Box, cell: Cell, axis: int) -> tuple[tuple[Cell, bool], ...]:
    """Children of a split, ascending, each with whether it inherits the cell's evaluation."""
    split, level, index = box.axes[axis], cell.levels[axis], cell.index[axis]
    inheritor, first = split.inheritor(level, index), index * split.arity
    levels = (*cell.levels[:axis], level + 1, *cell.levels[axis + 1 :])
    before, after = cell.index[:axis], cell.index[axis + 1 :]
    return tuple(
        [
            (Cell(levels, (*before, first + number, *after)), number == inheritor)
            for number in split.children(level, index)
        ]
    )


def fits(box: Box, cell: Cell) -> bool:
    """Whether the integers name a cell of the box, however they were come by."""
    if not len(cell.levels) == len(cell.index) == len(box.axes):
        return False
    for axis, level, index in zip(box.axes, cell.levels, cell.index, strict=True):
        if not (0 <= level <= _FINEST and 0 <= index < axis.arity**level):
            return False
        if not axis.exists(level, index):
            return False
    return True


def splittable_axes(box: Box, cell: Cell) -> tuple[int, ...]:
    """Axes along which the cell still holds more than one point."""
    levels, index = cell.levels, cell.index
    return tuple([k for k, axis in enumerate(box.axes) if axis.splittable(levels[k], index[k])])


def decode(box: Box, cell: Cell) -> dict[str, Any]:
    """Parameter values at the cell's center."""
    return box.decode(cell.levels, cell.index)


def center(box: Box, cell: Cell) -> tuple[Any, ...]:
    """Parameter values at the cell's center, in the order of the axes."""
    return tuple([a.value(n, i) for a, n, i in zip(box.axes, cell.levels, cell.index, strict=True)])


def intervals(box: Box, cell: Cell) -> tuple[tuple[Fraction, Fraction], ...]:
    """Edges along each axis in unit-cube lengths, exact."""
    return tuple(
        axis.interval(level, index)
        for axis, level, index in zip(box.axes, cell.levels, cell.index, strict=True)
    )


def _by_length(box: Box, cell: Cell) -> Iterator[tuple[int, int]]:
    """Level and number of the axes that can be split, the longest sides first."""
    levels, index = cell.levels, cell.index
    for level in sorted(set(levels)):
        for k, axis in enumerate(box.axes):
            if levels[k] == level and axis.splittable(level, index[k]):
                yield level, k


def all_longest_sides(box: Box, cell: Cell) -> tuple[int, ...]:
    """Axes of the longest sides that can be split: DIRECT of 1993 divides along all of them."""
    found = list(_by_length(box, cell))
    return tuple([k for level, k in found if level == found[0][0]])


def one_longest_side(box: Box, cell: Cell) -> tuple[int, ...]:
    """The first axis of the longest sides: the children are known before they are evaluated."""
    longest, least = -1, _FINEST + 1
    for k, level in enumerate(cell.levels):
        if level < least and box.axes[k].splittable(level, cell.index[k]):
            longest, least = k, level
    return () if longest < 0 else (longest,)


def depth(box: Box, cell: Cell) -> int:
    """Depth as the key by which SOO groups leaves."""
    return cell.depth


def longest_side(box: Box, cell: Cell) -> int:
    """Longest side that can be split, in units of 3**-64 [Gablonsky and Kelley 2001]."""
    for k in one_longest_side(box, cell):
        return _side(cell.levels[k])
    return 0


def squared_diagonal(box: Box, cell: Cell) -> int:
    """Squared diagonal over the sides that can be split, in units of 9**-64 [Jones et al. 1993]."""
    return sum(_side(cell.levels[k]) ** 2 for k in splittable_axes(box, cell))


def length(key: int) -> float:
    """Unit-cube length of a `longest_side`."""
    return float(Fraction(key, 3**_FINEST))


def half_diagonal(key: int) -> float:
    """Unit-cube half diagonal of a `squared_diagonal`."""
    return math.sqrt(Fraction(key, 9**_FINEST)) / 2


@functools.cache
def _side(level: int) -> int:
    return int(3 ** (_FINEST - level))
