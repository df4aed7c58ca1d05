"""Points of a box as rows of numbers, exact on axes of finitely many values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from optuna_partition.core.box import Axis, Box, ChoiceAxis, GridAxis, count_of
from optuna_partition.core.evaluations import Key
from optuna_partition.surrogate.data import FloatArray

# Positions of an axis with more values are computed when they are needed.
_LONGEST_TABLE = 4096


class Lattice:
    """The points of a box.

    Args:
        box: The search space, d axes.
    """

    def __init__(self, box: Box) -> None:
        self.box = box
        self.continuous = [k for k, axis in enumerate(box.axes) if not axis.finite]
        self.choices = [k for k, axis in enumerate(box.axes) if isinstance(axis, ChoiceAxis)]
        self.size = math.prod(map(count_of, box.axes)) if box.finite else math.inf
        self._tables = [_table(axis) for axis in box.axes]

    def key(self, point: FloatArray) -> Key:
        """What tells points apart, for a point (d,)."""
        return self.box.key(tuple(self.box.at(point.tolist()).values()))

    def snap(self, points: FloatArray) -> FloatArray:
        """The nearest points of the box, (n, d), to any points (n, d); of choices the share's."""
        found = np.clip(points, 0.0, 1.0)
        for k, (axis, table) in enumerate(zip(self.box.axes, self._tables, strict=True)):
            if not axis.finite:
                continue
            if isinstance(axis, ChoiceAxis) or table is None:
                found[:, k] = [axis.unit(axis.at(unit)) for unit in found[:, k].tolist()]
            elif len(table) == 1:
                found[:, k] = table[0]
            else:
                above = np.clip(np.searchsorted(table, found[:, k]), 1, len(table) - 1)
                middle = (table[above - 1] + table[above]) / 2
                found[:, k] = table[above - (found[:, k] < middle)]
        return found

    def neighbors(self, point: FloatArray) -> FloatArray:
        """Points (n, d) that differ from a point (d,) of the box in one finite axis.

        Every other choice, and of ordered values those that lie 1, 2, 4, ... steps away.
        """
        found = [
            np.concatenate([point[:k], [unit], point[k + 1 :]])
            for k, axis in enumerate(self.box.axes)
            if axis.finite
            for unit in _others(axis, float(point[k]))
        ]
        return np.array(found).reshape(-1, len(point))

    def all(self) -> FloatArray:
        """All points (n, d) of a finite box, in lexicographic order."""
        units = [[axis.unit(value) for value in _values(axis)] for axis in self.box.axes]
        return np.array(list(itertools.product(*units)))

    def shuffled(self, rng: np.random.Generator) -> Iterator[FloatArray]:
        """Every point (d,) of a finite box once, or random points without end."""
        if math.isinf(self.size):
            while True:
                yield self.snap(rng.random((1, len(self.box.axes))))[0]
        # Steps that share no factor with the size visit every point before the first one again.
        size = int(self.size)
        rank, step = int(rng.random() * size), int(rng.random() * size) | 1
        while math.gcd(step, size) > 1:
            step += 2
        for _ in range(size):
            yield self._point(rank)
            rank = (rank + step) % size

    def _point(self, rank: int) -> FloatArray:
        units = []
        for axis in self.box.axes:
            rank, k = divmod(rank, count_of(axis))
            units.append(axis.unit(_values(axis)[k]))
        return np.array(units)


def _values(axis: Axis) -> Sequence[Any]:
    assert isinstance(axis, GridAxis | ChoiceAxis)
    return axis.values if isinstance(axis, GridAxis) else axis.choices


def _table(axis: Axis) -> FloatArray | None:
    """Positions of the values of an ordered axis, ascending."""
    if not isinstance(axis, GridAxis) or len(axis.values) > _LONGEST_TABLE:
        return None
    return np.array([axis.unit(value) for value in axis.values])


def _others(axis: Axis, unit: float) -> list[float]:
    if isinstance(axis, ChoiceAxis):
        units = [axis.unit(choice) for choice in axis.choices]
        return [other for other in units if other != unit]
    assert isinstance(axis, GridAxis)
    count = len(axis.values)
    k = axis.values.index(axis.at(unit))
    steps = [sign << power for power in range(count.bit_length()) for sign in (-1, 1)]
    return [axis.unit(axis.values[k + step]) for step in steps if 0 <= k + step < count]
