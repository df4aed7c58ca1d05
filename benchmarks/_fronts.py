"""Test problems with several objectives, all minimized, and the hypervolume of their values.

Sources:
    Zitzler, Deb and Thiele, "Comparison of multiobjective evolutionary algorithms" (2000): ZDT.
    Deb, Thiele, Laumanns and Zitzler, "Scalable test problems for evolutionary multiobjective
        optimization" (2005): DTLZ.
    Reference points of ZDT1 to 3, DTLZ1, 2, 5 and 7: those of `botorch.test_functions`. Its ZDT3
        lacks the factor g of the definition and is not the function here.

Six variables. A problem has position variables, which move along the front, and distance variables
with one best value each. A copy's box is cut by up to a tenth at every side that holds no best
value, so that the best 0.5 of DTLZ1, 2 and 5 and the best 0 of ZDT4 lie off center.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution

if TYPE_CHECKING:
    import optuna

FloatArray = NDArray[np.float64]

DIMENSION: Final = 6
_GRID: Final = {2: 4096, 3: 64}  # position values a variable when a front is sampled


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Functions to minimize over a box.

    Args:
        name: Name of the functions, with the number of objectives.
        function: Values (..., m) at points (..., d).
        low: (d,) lower bounds.
        high: (d,) upper bounds.
        best: Best value of each distance variable; the first m - 1 variables are positions.
        reference: (m,) reference point of the hypervolume.
    """

    name: str
    function: Callable[[FloatArray], FloatArray]
    low: FloatArray
    high: FloatArray
    best: float
    reference: FloatArray

    @property
    def objectives(self) -> int:
        """Number of objectives."""
        return self.reference.size

    @property
    def search_space(self) -> dict[str, BaseDistribution]:
        """Optuna distributions of the variables x0, x1, ... in order."""
        return {
            f"x{k}": FloatDistribution(float(low), float(high))
            for k, (low, high) in enumerate(zip(self.low, self.high, strict=True))
        }

    def __call__(self, trial: optuna.Trial) -> tuple[float, ...]:
        """Objective of an Optuna study."""
        bounds = zip(self.search_space, self.low, self.high, strict=True)
        point = [trial.suggest_float(name, low, high) for name, low, high in bounds]
        return tuple(self.function(np.array(point)).tolist())

    def cut(self, copy: int) -> Problem:
        """The same functions on a smaller box that keeps every best value."""
        rng = np.random.default_rng(1000 * copy + 17)
        span = self.high - self.low
        low = self.low + rng.uniform(0, 0.1, DIMENSION) * span
        high = self.high - rng.uniform(0, 0.1, DIMENSION) * span
        distance = np.arange(DIMENSION) >= self.objectives - 1
        low = np.where(distance & (self.best == self.low), self.low, low)
        return Problem(self.name, self.function, low, high, self.best, self.reference)

    def front(self) -> FloatArray:
        """(n, m) values of the best points on a fine grid of positions."""
        positions = self.objectives - 1
        axes = [
            np.linspace(self.low[k], self.high[k], _GRID[self.objectives]) for k in range(positions)
        ]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, positions)
        points = np.full((len(grid), DIMENSION), self.best)
        points[:, :positions] = grid
        return self.function(points)


def hypervolume(values: FloatArray, reference: FloatArray) -> float:
    """Volume between values (n, m) and the reference point (m,); two or three objectives.

    Exact. Three objectives are swept along the last one, as a stack of areas.

    Raises:
        ValueError: If there are neither two nor three objectives.
    """
    if values.ndim != 2 or values.shape[1:] != reference.shape or reference.size not in (2, 3):
        raise ValueError(
            f"values of shape {values.shape} and a reference point of shape {reference.shape}, "
            "expected (n, m) and (m,) with m = 2 or 3."
        )
    inside = values[np.all(values < reference, axis=1)]
    inside = inside[np.lexsort(inside.T[::-1])]
    if reference.size == 2:
        return _area(inside, reference)
    heights = np.unique(inside[:, 2])
    thickness = np.diff(np.append(heights, reference[2]))
    areas = (_area(inside[inside[:, 2] <= height], reference[:2]) for height in heights)
    return float(sum(a * t for a, t in zip(areas, thickness, strict=True)))


def _area(values: FloatArray, reference: FloatArray) -> float:
    """Area of the first two columns, which are in ascending order of the first."""
    lowest = np.minimum.accumulate(np.append(reference[1], values[:, 1]))
    gains = lowest[:-1] - lowest[1:]
    return float(np.sum((reference[0] - values[:, 0]) * gains))


def _zdt(x: FloatArray, kind: int) -> FloatArray:
    first, rest = x[..., 0], x[..., 1:]
    mean = np.mean(rest, axis=-1)
    match kind:
        case 4:
            g = 1 + np.sum(10 + rest**2 - 10 * np.cos(4 * np.pi * rest), axis=-1)
        case 6:
            first = 1 - np.exp(-4 * first) * np.sin(6 * np.pi * first) ** 6
            g = 1 + 9 * mean**0.25
        case _:
            g = 1 + 9 * mean
    match kind:
        case 2 | 6:
            shape = 1 - (first / g) ** 2
        case 3:
            shape = 1 - np.sqrt(first / g) - first / g * np.sin(10 * np.pi * x[..., 0])
        case _:
            shape = 1 - np.sqrt(first / g)
    return np.stack([first, g * shape], axis=-1)


def _products(left: FloatArray, right: FloatArray) -> FloatArray:
    """(..., m): left_1 ... left_(m-1); then one left fewer each, times the right in its place."""
    m = left.shape[-1] + 1
    found = [np.prod(left, axis=-1)]
    for k in range(m - 2, -1, -1):
        found.append(np.prod(left[..., :k], axis=-1) * right[..., k])
    return np.stack(found, axis=-1)


def _dtlz1(x: FloatArray, m: int) -> FloatArray:
    position, offset = x[..., : m - 1], x[..., m - 1 :] - 0.5
    waves = offset**2 - np.cos(20 * np.pi * offset)
    g = 100 * (offset.shape[-1] + np.sum(waves, axis=-1))
    return np.asarray(_products(position, 1 - position) * (1 + g)[..., np.newaxis] / 2)


def _dtlz2(x: FloatArray, m: int) -> FloatArray:
    angle = x[..., : m - 1] * np.pi / 2
    g = np.sum((x[..., m - 1 :] - 0.5) ** 2, axis=-1)
    return np.asarray(_products(np.cos(angle), np.sin(angle)) * (1 + g)[..., np.newaxis])


def _dtlz5(x: FloatArray, m: int) -> FloatArray:
    g = np.sum((x[..., m - 1 :] - 0.5) ** 2, axis=-1)[..., np.newaxis]
    bent = np.pi / (4 * (1 + g)) * (1 + 2 * g * x[..., 1 : m - 1])
    angle = np.concatenate([x[..., :1] * np.pi / 2, bent], axis=-1)
    return np.asarray(_products(np.cos(angle), np.sin(angle)) * (1 + g))


def _dtlz7(x: FloatArray, m: int) -> FloatArray:
    position = x[..., : m - 1]
    g = 1 + 9 * np.mean(x[..., m - 1 :], axis=-1)
    waves = position / (1 + g)[..., np.newaxis] * (1 + np.sin(3 * np.pi * position))
    last = (1 + g) * (m - np.sum(waves, axis=-1))
    return np.concatenate([position, last[..., np.newaxis]], axis=-1)


def _on_unit_cube(
    name: str,
    function: Callable[[FloatArray], FloatArray],
    best: float,
    reference: Sequence[float],
) -> Problem:
    low, high = np.zeros(DIMENSION), np.ones(DIMENSION)
    return Problem(name, function, low, high, best, np.array(reference, dtype=np.float64))


_ZDT4_LOW: Final = np.array([0.0] + [-5.0] * (DIMENSION - 1))
_ZDT4_HIGH: Final = np.array([1.0] + [5.0] * (DIMENSION - 1))

PROBLEMS: Final[tuple[Problem, ...]] = (
    _on_unit_cube("ZDT1", partial(_zdt, kind=1), 0.0, [11, 11]),
    _on_unit_cube("ZDT2", partial(_zdt, kind=2), 0.0, [11, 11]),
    _on_unit_cube("ZDT3", partial(_zdt, kind=3), 0.0, [11, 11]),
    # Above every value in the box: g is at most 1 + 5 (10 + 25 + 10).
    Problem("ZDT4", partial(_zdt, kind=4), _ZDT4_LOW, _ZDT4_HIGH, 0.0, np.array([11.0, 226.0])),
    _on_unit_cube("ZDT6", partial(_zdt, kind=6), 0.0, [11, 11]),
    _on_unit_cube("DTLZ1, 2 objectives", partial(_dtlz1, m=2), 0.5, [400] * 2),
    _on_unit_cube("DTLZ1, 3 objectives", partial(_dtlz1, m=3), 0.5, [400] * 3),
    _on_unit_cube("DTLZ2, 2 objectives", partial(_dtlz2, m=2), 0.5, [1.1] * 2),
    _on_unit_cube("DTLZ2, 3 objectives", partial(_dtlz2, m=3), 0.5, [1.1] * 3),
    # With two objectives it is DTLZ2.
    _on_unit_cube("DTLZ5, 3 objectives", partial(_dtlz5, m=3), 0.5, [10] * 3),
    _on_unit_cube("DTLZ7, 2 objectives", partial(_dtlz7, m=2), 0.0, [15] * 2),
    _on_unit_cube("DTLZ7, 3 objectives", partial(_dtlz7, m=3), 0.0, [15] * 3),
)
