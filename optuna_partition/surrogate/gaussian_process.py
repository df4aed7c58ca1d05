"""A Gaussian process with MAP hyperparameters: cheap, deterministic, and never an exception.

One fit is a pure function of the data and the prior: no warm start, no random number. Numbers are
on the model's scale (`GaussianProcess.warp` maps back to values); standard deviations are those of
the function, without the noise of an evaluation.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass, field

import numpy as np
import scipy.optimize
from scipy.linalg import lapack

from optuna_partition.surrogate.data import Data, FloatArray, Warp, bounded, warp_of
from optuna_partition.surrogate.evidence import JITTERS, Evidence
from optuna_partition.surrogate.kernel import Kernel, choices_of
from optuna_partition.surrogate.prior import Prior, short_prior

# More points are thinned out (`Data.thinned`): a fit costs their number cubed.
MAX_POINTS = 300
# Hyperparameters are learned from fewer: that takes twenty factorizations and as many inverses.
_MAX_LEARNED = 150
_SHORTEST, _LONGEST = 5e-3, 100.0
_NOISIEST = 10.0
# With few values the posterior of the hyperparameters has several modes.
_SECOND_START_BELOW = 60
_MAX_ITERATIONS = 40
# Variances below this share of the signal variance are rounding errors.
_LEAST_VARIANCE = 1e-12
# Where the search for hyperparameters ends: relative decrease, and gradient.
_TOLERANCE, _FLAT = 1e-6, 1e-3
# Of the differences that make the Hessian.
_STEP = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class GaussianProcess:
    """Posterior of a function, for fixed hyperparameters.

    Args:
        kernel: Correlation of two points.
        points: (n, d) the process is conditioned on.
        alpha: (n,) weights of the correlations in the mean.
        factor: (n, n) lower Cholesky factor of the correlations with noise; above the diagonal it
            is arbitrary.
        residuals: (n,) values on the model's scale minus the mean.
        mean: Of the process, on the model's scale.
        variance: Signal variance.
        noise: Unknown noise variance in units of the signal variance.
        warp: Map from values to the model's scale.
        log_posterior: Log density of values and hyperparameters at the latter.
        log_evidence: Log density of the values with the hyperparameters integrated out by Laplace's
            approximation; NaN unless `fit` was asked for it.
    """

    kernel: Kernel
    points: FloatArray
    alpha: FloatArray
    factor: FloatArray
    residuals: FloatArray
    mean: float = 0.0
    variance: float = 1.0
    noise: float = 1e-6
    warp: Warp = field(default_factory=Warp)
    log_posterior: float = -math.inf
    log_evidence: float = math.nan

    @property
    def lengthscales(self) -> FloatArray:
        """(d,) in unit-cube lengths."""
        return self.kernel.lengthscales

    def posterior(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the function, (m,) each, at points (m, d)."""
        correlations = self.kernel(points, self.points)
        explained = (self._halved(correlations.T) ** 2).sum(axis=0)
        return self.mean + correlations @ self.alpha, self._sd(explained)

    def means(self, points: FloatArray) -> FloatArray:
        """Mean of the function, (m,), at points (m, d): cheaper than `posterior`."""
        return np.asarray(self.mean + self.kernel(points, self.points) @ self.alpha)

    def gradients(self, point: FloatArray) -> tuple[float, float, FloatArray, FloatArray]:
        """Mean, standard deviation, and the gradients, (d,) each, of both at a point (d,).

        The gradient along a choice is 0.
        """
        correlations, slopes = self.kernel.gradients(point, self.points)
        half = self._halved(correlations)
        sd = float(self._sd(half @ half))
        weights = _solved(self.factor, half, transposed=True)
        return (
            self.mean + float(correlations @ self.alpha),
            sd,
            slopes.T @ self.alpha,
            -self.variance * (slopes.T @ weights) / sd,
        )

    def given(self, points: FloatArray) -> GaussianProcess:
        """Conditioned on points (m, d) as if their values were the posterior means.

        Such believers stand for evaluations under way: the mean stays, the variance shrinks.
        """
        n, m = len(self.points), len(points)
        if m == 0:
            return self
        cross = self._halved(self.kernel(self.points, points))
        own = self.kernel(points, points) - cross.T @ cross
        own[np.diag_indices(m)] += self.noise
        corner = _factored(own)
        factor = np.zeros((n + m, n + m), order="F")
        factor[:n, :n], factor[n:, :n], factor[n:, n:] = self.factor, cross.T, corner
        believed = self.kernel(points, self.points) @ self.alpha
        return dataclasses.replace(
            self,
            points=np.vstack([self.points, points]),
            alpha=np.append(self.alpha, np.zeros(m)),
            factor=factor,
            residuals=np.append(self.residuals, believed),
        )

    def leave_one_out(self) -> tuple[FloatArray, FloatArray]:
        """What each value would be without itself: mean and standard deviation, (n,) each.

        The standard deviation includes the noise; hyperparameters stay as they are
        [Rasmussen and Williams 2006, equations 5.12].
        """
        if len(self.points) == 0:
            return np.empty(0), np.empty(0)
        inverse = lapack.dtrtri(np.asfortranarray(np.tril(self.factor)), lower=1)[0]
        precision = (inverse**2).sum(axis=0)
        means = self.mean + self.residuals - self.alpha / precision
        return means, np.sqrt(self.variance / precision)

    def _halved(self, correlations: FloatArray) -> FloatArray:
        """L^-1 k, whose squared length is the share of the variance that the points explain."""
        return _solved(self.factor, correlations)

    def _sd(self, explained: FloatArray) -> FloatArray:
        return np.sqrt(self.variance * np.maximum(1 - explained, _LEAST_VARIANCE))


def fit(data: Data, prior: Prior | None = None, *, with_evidence: bool = False) -> GaussianProcess:
    """The process with the hyperparameters of highest posterior density (MAP).

    Args:
        data: What was observed. The process holds `MAX_POINTS` of them (`Data.thinned`), and learns
            its hyperparameters from half as many.
        prior: Of the hyperparameters; None: `short_prior()`.
        with_evidence: Whether to compute `log_evidence`, for the price of 2 (d + 1) evaluations.

    Returns:
        A process in every case: without a point, or where no factorization succeeds (one warning),
        it has mean 0 and standard deviation 1 on the model's scale.
    """
    prior = prior or short_prior()
    warp = warp_of(bounded(data.values))
    chosen = data.thinned(MAX_POINTS)
    blank = _blank(chosen, prior, warp)
    if len(chosen) == 0:
        return blank
    learned = _evidence(chosen.thinned(_MAX_LEARNED), prior, warp)
    theta, loss = _minimized(learned, prior)
    evidence = learned if len(learned) == len(chosen) else _evidence(chosen, prior, warp)
    solution = evidence.solution(theta)
    if solution is None:
        warnings.warn(
            f"no Gaussian process fits {len(chosen)} values; a constant stands in for it.",
            stacklevel=2,
        )
        return blank
    factor, alpha, mean, variance = solution
    d = len(data.variables)
    return GaussianProcess(
        kernel=Kernel(blank.kernel.choice, np.exp(theta[:d])),
        points=chosen.points,
        alpha=alpha,
        factor=factor,
        residuals=warp(bounded(chosen.values)) - mean,
        mean=mean,
        variance=variance,
        noise=math.exp(theta[d]),
        warp=warp,
        log_posterior=-loss,
        log_evidence=_laplace(learned, theta, loss) if with_evidence else math.nan,
    )


def _evidence(data: Data, prior: Prior, warp: Warp) -> Evidence:
    finite = bounded(data.values)
    noise = warp.variances(finite, data.noise)
    return Evidence(data.variables, data.points, warp(finite), noise, prior)


def _minimized(evidence: Evidence, prior: Prior) -> tuple[FloatArray, float]:
    """Hyperparameters of the highest density among the fixed starts, and minus its logarithm."""
    d = evidence.dimension
    bounds = [(math.log(_SHORTEST), math.log(_LONGEST))] * d
    bounds += [(math.log(prior.noise_floor), math.log(_NOISIEST))] + [
        (-12.0, 12.0)
    ] * evidence.knows_noise
    starts = [(0.0, 10 * prior.noise)]
    if len(evidence) < _SECOND_START_BELOW:
        starts.append((-1.0, max(1e-3, prior.noise)))
    best: tuple[FloatArray, float] | None = None
    for shift, noise in starts:
        start = np.append(evidence.means[:d] + shift, math.log(max(noise, prior.noise_floor)))
        found = scipy.optimize.minimize(
            evidence,
            np.append(start, np.zeros(int(evidence.knows_noise))),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": _MAX_ITERATIONS, "ftol": _TOLERANCE, "gtol": _FLAT},
        )
        if best is None or found.fun < best[1]:
            best = found.x, float(found.fun)
    assert best is not None
    return best


def _laplace(evidence: Evidence, theta: FloatArray, loss: float) -> float:
    """Log evidence by Laplace's approximation, with a Hessian of differences of the gradient."""
    size = len(theta)
    hessian = np.empty((size, size))
    for k, step in enumerate(_STEP * np.eye(size)):
        hessian[k] = (evidence(theta + step)[1] - evidence(theta - step)[1]) / (2 * _STEP)
    curvatures = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    # At a bound, or in a flat valley, the density is no narrower than the widest prior.
    widest = float(evidence.sds.max())
    logs = np.log(np.maximum(curvatures, widest**-2.0))
    return float(-loss + 0.5 * size * math.log(2 * math.pi) - 0.5 * logs.sum())


def _blank(data: Data, prior: Prior, warp: Warp) -> GaussianProcess:
    """The process before any value: a constant."""
    choice = choices_of(data.variables)
    medians = np.where(choice, prior.choice_lengthscale, prior.lengthscale)
    none = np.empty(0)
    return GaussianProcess(
        kernel=Kernel(choice, medians),
        points=np.empty((0, len(choice))),
        alpha=none,
        factor=np.empty((0, 0), order="F"),
        residuals=none,
        noise=prior.noise,
        warp=warp,
    )


def _solved(factor: FloatArray, right: FloatArray, *, transposed: bool = False) -> FloatArray:
    """L^-1 b, or L^-T b; LAPACK takes no empty matrix."""
    if len(factor) == 0:
        return np.asarray(right)
    return np.asarray(lapack.dtrtrs(factor, right, lower=1, trans=int(transposed))[0])


def _factored(own: FloatArray) -> FloatArray:
    """Lower Cholesky factor of a small matrix that rounding may have made indefinite."""
    for jitter in JITTERS:
        factor, failed = lapack.dpotrf(own + jitter * np.eye(len(own)), lower=1)
        if not failed:
            return np.asarray(factor)
    # Points on top of each other explain nothing more.
    return np.eye(len(own))
