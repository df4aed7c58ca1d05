"""Where all trials lie, as arrays: for rules that look at distances instead of cells."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Points:
    """Points and values by key, in no particular order.

    Args:
        dimension: Number of axes.
    """

    def __init__(self, dimension: int) -> None:
        self._row_of: dict[int, int] = {}
        self._keys = np.empty(0, dtype=np.int64)
        self._points = np.empty((0, dimension))
        self._values = np.empty(0)

    def __len__(self) -> int:
        """Number of points."""
        return len(self._row_of)

    @property
    def keys(self) -> IntArray:
        """(n,) keys."""
        return self._keys[: len(self)]

    @property
    def points(self) -> FloatArray:
        """(n, d) points in unit-cube lengths."""
        return self._points[: len(self)]

    @property
    def values(self) -> FloatArray:
        """(n,) minimized values; NaN where there is none that a model could use."""
        return self._values[: len(self)]

    def put(self, key: int, point: tuple[float, ...], value: float) -> None:
        """Add a point (d,), or replace the one of the same key."""
        row = self._row_of.setdefault(key, len(self))
        if row == len(self._keys):
            self._grow()
        self._keys[row], self._points[row], self._values[row] = key, point, value

    def drop(self, key: int) -> None:
        """Take a point away, if there is one of this key."""
        row = self._row_of.pop(key, None)
        if row is None or row == len(self):
            return
        last = len(self)  # the last row fills the gap
        for array in (self._keys, self._points, self._values):
            array[row] = array[last]
        self._row_of[int(self._keys[row])] = row

    def _grow(self) -> None:
        size = max(16, 2 * len(self._keys))
        # Nobody else holds the arrays: what the properties hand out is used at once.
        for name in ("_keys", "_points", "_values"):
            old = getattr(self, name)
            new = np.empty((size, *old.shape[1:]), dtype=old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)


@functools.cache
def spread(n: int, d: int) -> FloatArray:
    """Points (n, d) that fill the unit cube evenly: an additive recurrence [Roberts 2018].

    Its ratios are powers of the root of `x**(d + 1) = x + 1`, the golden ratio for d = 1.
    """
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (d + 1))
    return np.asarray((0.5 + np.outer(np.arange(1, n + 1), root ** -np.arange(1.0, d + 1))) % 1)
