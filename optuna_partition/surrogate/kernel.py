"""Correlation of two points: Matern 5/2 with a lengthscale an axis, times one factor a choice.

    R(x, x') = (1 + a + a**2 / 3) exp(-a) prod_c exp(-[x_c != x'_c] / l_c),
    a = sqrt(5) r,  r**2 = sum_k (x_k - x'_k)**2 / l_k**2,

k over the ordered axes [Rasmussen and Williams 2006, equation 4.17] and c over the choices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from optuna_partition.surrogate.data import FloatArray, Kind, Variable

_SQRT5 = np.sqrt(5.0)
# Equal choices have equal positions, up to rounding.
_SAME = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """The correlation for given lengthscales.

    Args:
        choice: (d,) whether an axis holds choices.
        lengthscales: (d,) in unit-cube lengths; of a choice the inverse log correlation.
    """

    choice: NDArray[np.bool_]
    lengthscales: FloatArray

    @property
    def weights(self) -> FloatArray:
        """(d,) what a unit of `separations` counts along each axis."""
        return np.where(self.choice, 1 / self.lengthscales, self.lengthscales**-2.0)

    def __call__(self, left: FloatArray, right: FloatArray) -> FloatArray:
        """Correlations (m, n) of points (m, d) and (n, d)."""
        return self.parts(left, right)[0]

    def parts(self, left: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Correlations, and minus twice their derivative to r**2; both (m, n)."""
        lengthscales = np.where(self.choice, np.inf, self.lengthscales)
        squared = cdist(left / lengthscales, right / lengthscales, "sqeuclidean")
        choices = np.zeros_like(squared) if self.choice.any() else None
        for k in np.flatnonzero(self.choice):
            choices += (np.abs(left[:, k, None] - right[None, :, k]) > _SAME) * self.weights[k]
        return correlations(squared, choices)

    def gradients(self, point: FloatArray, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Correlations (n,) of a point (d,) with points (n, d), and their gradients (n, d).

        The gradient along a choice is 0.
        """
        values, slopes = self.parts(point[None, :], points)
        steps = (point - points) * np.where(self.choice, 0.0, self.weights)
        return values[0], -slopes[0][:, None] * steps


def choices_of(variables: tuple[Variable, ...]) -> NDArray[np.bool_]:
    """(d,) whether an axis holds choices."""
    return np.array([variable.kind is Kind.CHOICE for variable in variables], bool)


def separations(
    points: FloatArray,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    choice: NDArray[np.bool_],
) -> FloatArray:
    """(d, pairs) squared differences of pairs of points; of a choice 1 where it differs."""
    steps = points.T[:, rows] - points.T[:, columns]
    found = steps * steps
    found[choice] = np.abs(steps[choice]) > _SAME
    return np.ascontiguousarray(found)


def correlations(squared: FloatArray, choices: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """Correlations, and minus twice their derivative to r**2.

    Args:
        squared: r**2 over the ordered axes.
        choices: Sum of the inverse lengthscales of the choices that differ; None without choices.
    """
    scaled = _SQRT5 * np.sqrt(squared)
    decay = np.exp(-scaled if choices is None else -(scaled + choices))
    slope = (5 / 3) * (1 + scaled) * decay
    return (1 + scaled + (5 / 3) * squared) * decay, slope
