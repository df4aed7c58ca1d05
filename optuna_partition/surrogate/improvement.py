"""Expected improvement on a logarithmic scale, which has slopes where the improvement has none."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from optuna_partition.surrogate.data import FloatArray
from optuna_partition.surrogate.gaussian_process import GaussianProcess

_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)
# Below, `1 - sqrt(pi / 2) |z| erfcx(|z| / sqrt(2))` cancels, and its limit `1 / z**2` is exact.
_FAR = -1e4


@dataclass(frozen=True, slots=True)
class LogExpectedImprovement:
    """Logarithm of the expected improvement below a value [Ament et al. 2023, equations 8 and 9].

    Args:
        process: Posterior of the function.
        best: Value to improve on, on the model's scale.
    """

    process: GaussianProcess
    best: float

    def __call__(self, points: FloatArray) -> FloatArray:
        """(m,) at points (m, d)."""
        mean, sd = self.process.posterior(points)
        return np.asarray(np.log(sd) + log_h((self.best - mean) / sd))

    def gradient(self, point: FloatArray) -> tuple[float, FloatArray]:
        """Value and gradient, (d,), at a point (d,); 0 along a choice."""
        mean, sd, mean_slopes, sd_slopes = self.process.gradients(point)
        z = (self.best - mean) / sd
        value = float(log_h(np.array([z]))[0])
        ratio = math.exp(float(special.log_ndtr(z)) - value)  # h' = Phi
        slopes = -(mean_slopes + z * sd_slopes) / sd
        return math.log(sd) + value, sd_slopes / sd + ratio * slopes


def log_h(z: FloatArray) -> FloatArray:
    """`log(phi(z) + z Phi(z))`, (n,), exact far to the left too [Ament et al. 2023, equation 9]."""
    near = z > -1
    found = np.empty_like(z)
    right = z[near]
    density = np.exp(-(right**2) / 2 - _LOG_ROOT_TWO_PI)
    found[near] = np.log(density + right * special.ndtr(right))
    left = np.abs(z[~near])
    tail = np.where(
        left < -_FAR,
        math.sqrt(math.pi / 2) * special.erfcx(left / math.sqrt(2)) * left,
        1 - 1 / np.maximum(left, 1) ** 2,
    )
    found[~near] = -(left**2) / 2 - _LOG_ROOT_TWO_PI + np.log1p(-tail)
    return found
