"""How well hyperparameters explain the values: their log posterior density and its gradient.

theta = log lengthscales (d), log noise (the ratio of noise and signal variance), and, only if some
noise variances are known, the log signal variance; else the signal variance is profiled out:

    A = R + rho I + diag(v) / s2,    m = 1' A^-1 z / 1' A^-1 1,    alpha = A^-1 (z - m),
    s2 = ((z - m)' alpha + 2) / (n + 2)    without known variances v,

where z are the values on the model's scale [Rasmussen and Williams 2006, equations 2.30 and 5.9].
The mean and the profiled variance are stationary, so that they add nothing to the gradient.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from optuna_partition.surrogate.data import FloatArray, Variable
from optuna_partition.surrogate.kernel import choices_of, correlations, separations
from optuna_partition.surrogate.prior import Prior

# Added to the diagonal when a factorization fails, in units of the signal variance.
JITTERS = (0.0, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
# What an impossible hyperparameter is worth: the line search steps back from it.
_HOPELESS = 1e10


class Evidence:
    """Minus the log posterior density of hyperparameters, for given data.

    Args:
        variables: The axes, d of them.
        points: (n, d), n > 0.
        values: (n,) on the model's scale.
        noise: (n,) known variances on that scale, NaN where unknown.
        prior: Of the hyperparameters.
    """

    def __init__(
        self,
        variables: tuple[Variable, ...],
        points: FloatArray,
        values: FloatArray,
        noise: FloatArray,
        prior: Prior,
    ) -> None:
        n = len(values)
        self._n = n
        self.dimension = len(variables)
        self._targets = np.column_stack([values, np.ones(n)])
        self._choice = choices_of(variables)
        self._any_choice = bool(self._choice.any())
        self._noise = np.where(np.isnan(noise), 0.0, noise)
        self.knows_noise = bool(self._noise.any())
        rows, columns = np.tril_indices(n, -1)
        # LAPACK reads a triangle by columns.
        self._pairs = columns * n + rows
        self._diagonal = np.arange(n) * (n + 1)
        self._rows, self._columns = rows, columns
        self._separations = separations(points, rows, columns, self._choice)
        self.means, self.sds = _moments(self._choice, prior)

    def __len__(self) -> int:
        """Number of values."""
        return self._n

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """Value and gradient, shape like theta."""
        d, n = self.dimension, self._n
        weights = np.exp(np.where(self._choice, -1.0, -2.0) * theta[:d])
        found, slopes = self._correlations(weights)
        ratio = math.exp(theta[d])
        known = self._noise / math.exp(theta[d + 1]) if self.knows_noise else 0.0
        factor = self._factor(found, ratio + known)
        if factor is None:
            return _HOPELESS, np.zeros(len(theta))
        alpha, misfit, _ = self._solve(factor)
        s2 = math.exp(theta[d + 1]) if self.knows_noise else (misfit + 2) / (n + 2)
        away = (theta[: d + 1] - self.means) / self.sds
        value = (
            0.5 * misfit / s2
            + (0.5 * n + 1) * math.log(s2)
            + np.log(np.diagonal(factor)).sum()
            + 0.5 * n * math.log(2 * math.pi)
            + 1 / s2
            + 0.5 * (away**2).sum()
            + np.log(self.sds * math.sqrt(2 * math.pi)).sum()
        )
        inverse = lapack.dpotri(factor, lower=1, overwrite_c=1)[0].T.reshape(-1)
        mismatch = inverse[self._pairs] - alpha[self._rows] * alpha[self._columns] / s2
        own = inverse[self._diagonal] - alpha * alpha / s2
        gradient = np.empty(len(theta))
        gradient[:d] = weights * (self._separations @ (mismatch * slopes))
        if self._any_choice:
            gradient[:d][self._choice] = weights[self._choice] * (
                self._separations[self._choice] @ (mismatch * found)
            )
        gradient[d] = 0.5 * ratio * own.sum()
        gradient[: d + 1] += away / self.sds
        if self.knows_noise:
            gradient[d + 1] = 0.5 * (n - misfit / s2 - own @ known) + 1 - 1 / s2
        return float(value), gradient

    def solution(self, theta: FloatArray) -> tuple[FloatArray, FloatArray, float, float] | None:
        """Lower factor of A, (n, n); alpha, (n,); mean; signal variance. None without a factor."""
        d, n = self.dimension, self._n
        found, _ = self._correlations(np.exp(np.where(self._choice, -1.0, -2.0) * theta[:d]))
        known = self._noise / math.exp(theta[d + 1]) if self.knows_noise else 0.0
        factor = self._factor(found, math.exp(theta[d]) + known)
        if factor is None:
            return None
        alpha, misfit, mean = self._solve(factor)
        s2 = math.exp(theta[d + 1]) if self.knows_noise else (misfit + 2) / (n + 2)
        return factor, alpha, mean, s2

    def _correlations(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Of all pairs, and their slopes."""
        if not self._any_choice:
            return correlations(weights @ self._separations, None)
        choice = self._choice
        return correlations(
            np.where(choice, 0.0, weights) @ self._separations,
            weights[choice] @ self._separations[choice],
        )

    def _factor(self, found: FloatArray, noise: FloatArray | float) -> FloatArray | None:
        n = self._n
        for jitter in JITTERS:
            buffer = np.empty(n * n)
            buffer[self._pairs] = found
            buffer[self._diagonal] = 1 + noise + jitter
            factor, failed = lapack.dpotrf(buffer.reshape(n, n).T, lower=1, clean=0, overwrite_a=1)
            if not failed and np.isfinite(np.diagonal(factor)).all():
                return np.asarray(factor)
        return None

    def _solve(self, factor: FloatArray) -> tuple[FloatArray, float, float]:
        """Alpha, (n,), (z - m)' alpha and m."""
        solved = lapack.dpotrs(factor, self._targets, lower=1)[0]
        mean = float(solved[:, 0].sum() / solved[:, 1].sum())
        alpha = solved[:, 0] - mean * solved[:, 1]
        return alpha, max(float((self._targets[:, 0] - mean) @ alpha), 0.0), mean


def _moments(choice: NDArray[np.bool_], prior: Prior) -> tuple[FloatArray, FloatArray]:
    """Means and standard deviations, (d + 1,), of the log lengthscales and the log noise."""
    medians = np.where(choice, prior.choice_lengthscale, prior.lengthscale)
    sds = np.where(choice, prior.choice_lengthscale_sd, prior.lengthscale_sd)
    return np.log(np.append(medians, prior.noise)), np.append(sds, prior.noise_sd)
