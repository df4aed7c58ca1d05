"""A BoTorch Gaussian process for 10 to 300 points of a mixed box.

The model is BoTorch's `SingleTaskGP` with a GPyTorch kernel for mixed axes. Two parts bypass
GPyTorch's lazy tensors, which at these sizes cost several times the arithmetic: the gradient of the
log posterior density during the fit, and the posterior that acquisition functions ask for.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from botorch.exceptions.warnings import OptimizationWarning
from botorch.models import SingleTaskGP
from botorch.models.model import Model
from botorch.optim.fit import fit_gpytorch_mll_scipy
from botorch.posteriors.gpytorch import GPyTorchPosterior
from gpytorch.constraints import GreaterThan
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from linear_operator import to_linear_operator
from numpy.typing import NDArray
from torch import Tensor

from optuna_partition.surrogate.data import CEILING, DOUBT, Data, Kind, Warp, bounded, warp_of
from optuna_partition.surrogate.prior import Prior

# More points are thinned out (`Data.thinned`): the posterior costs their square, a fit their cube.
MAX_POINTS = 300
MAX_LEARNED = 150
_MAX_ITERATIONS = 50
_SHORTEST = 5e-3
# Where a fit starts: smooth, with noise. From shorter lengthscales it often ends where noise passes
# for structure; from here it finds the way to both. The lengthscale is in modes of its prior.
_LONG_START, _NOISE_START = 3.0, 0.1
_JITTERS = (0.0, 1e-8, 1e-6, 1e-4)
# Known variances below this, on the model's scale, make the covariance singular.
_LEAST_NOISE = 1e-6
_LEAST_VARIANCE = 1e-10


class FitError(RuntimeError):
    """No Gaussian process fits the values."""


def dimension_scaled_prior(dimension: int, *, noisy: bool) -> Prior:
    """BoTorch's log-normal prior of the lengthscales [Hvarfner et al. 2024].

    Args:
        dimension: Number of ordered axes.
        noisy: Whether evaluations of one point may differ. The noise is then anything between none
            and most of what is seen; BoTorch's own prior leaves no room for none.
    """
    noise = {"noise": 1e-2, "noise_sd": 2.0, "noise_floor": 1e-6}
    if not noisy:
        noise = {"noise": 1e-5, "noise_sd": 2.0, "noise_floor": 1e-7}
    return Prior(
        lengthscale=math.exp(math.sqrt(2)) * math.sqrt(max(dimension, 1)),
        lengthscale_sd=math.sqrt(3),
        **noise,
    )


class MixedMatern(Kernel):  # type: ignore[misc]  # GPyTorch has no types
    """Covariance of two points of a mixed box.

        R(x, x') prod_j exp(-[c_j != c'_j] / l_j)

    R is Matern 5/2 over the ordered axes and j counts the choices. The variance is 1, that of the
    standardized values.

    Args:
        choice: (d,) whether an axis holds choices.
        prior: Of the lengthscales.
    """

    has_lengthscale = True

    def __init__(self, choice: NDArray[np.bool_], prior: Prior) -> None:
        medians = np.where(choice, prior.choice_lengthscale, prior.lengthscale)
        sds = np.where(choice, prior.choice_lengthscale_sd, prior.lengthscale_sd)
        modes = medians * np.exp(-(sds**2))
        super().__init__(
            ard_num_dims=len(choice),
            lengthscale_prior=LogNormalPrior(
                torch.from_numpy(np.log(medians)), torch.from_numpy(sds)
            ),
            lengthscale_constraint=_above(_SHORTEST, torch.from_numpy(_LONG_START * modes)),
        )
        self._ordered = torch.from_numpy(np.flatnonzero(~choice))
        self._choices = torch.from_numpy(np.flatnonzero(choice))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        """Covariances (..., n, m) of points (..., n, d) and (..., m, d); (..., n) if `diag`."""
        if diag:
            return torch.ones_like(x1[..., 0])
        lengthscale = self.lengthscale[..., 0, :]
        left, right = x1[..., self._ordered], x2[..., self._ordered]
        steps = (left.unsqueeze(-2) - right.unsqueeze(-3)) / lengthscale[self._ordered]
        # The root's slope at 0 is infinite; below the clamp it counts as 0.
        scaled = (5 * steps.square().sum(-1)).clamp_min(1e-30).sqrt()
        found: Tensor = (1 + scaled + scaled.square() / 3) * (-scaled).exp()
        if len(self._choices):
            left, right = x1[..., self._choices], x2[..., self._choices]
            differs = (left.unsqueeze(-2) != right.unsqueeze(-3)).to(found)
            found = found * (-(differs / lengthscale[self._choices]).sum(-1)).exp()
        return found


def _above(bound: float, start: float | Tensor) -> GreaterThan:
    """A constraint whose raw parameter is a logarithm: the scale on which a fit moves evenly."""
    return GreaterThan(bound, transform=torch.exp, inv_transform=torch.log, initial_value=start)


class Surrogate(Model):
    """Posterior of a fitted Gaussian process, as BoTorch's acquisition functions ask for it.

    Args:
        kernel: Correlation of two points.
        points: (n, d) the process is conditioned on.
        values: (n,) on the model's scale.
        noise: (n,) variances of the values.
        mean: Of the process.
        warp: Map from values to the model's scale.

    Raises:
        FitError: If the covariance has no Cholesky factor.
    """

    def __init__(
        self,
        kernel: MixedMatern,
        points: Tensor,
        values: Tensor,
        noise: Tensor,
        mean: Tensor,
        warp: Warp,
    ) -> None:
        super().__init__()
        self.kernel, self.points, self.values = kernel, points, values
        self.noise, self.constant, self.warp = noise, mean, warp
        self._factor = _factored(kernel.forward(points, points) + torch.diag(noise))
        self._alpha = torch.cholesky_solve((values - mean)[:, None], self._factor)[:, 0]

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """None."""
        return torch.Size()

    def posterior(
        self,
        X: Tensor,  # noqa: N803  # BoTorch's name
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: Callable[[GPyTorchPosterior], GPyTorchPosterior] | None = None,
    ) -> GPyTorchPosterior:
        """Of the function's values, without noise, at points (..., q, d)."""
        *batch, q, d = X.shape
        cross = self.kernel.forward(X.reshape(-1, d), self.points)
        # All points in one call: a batch of single right-hand sides would copy the factor for each.
        half = torch.linalg.solve_triangular(self._factor, cross.T, upper=False)
        mean = (self.constant + cross @ self._alpha).reshape(*batch, q)
        if q == 1:
            explained = half.square().sum(0).reshape(*batch, 1, 1)
            covariance = (1 - explained).clamp_min(_LEAST_VARIANCE)
        else:
            halves = half.T.reshape(*batch, q, -1)
            covariance = self.kernel.forward(X, X) - halves @ halves.transpose(-1, -2)
        # Dense covariances would be factored at once, and without jitter.
        normal = MultivariateNormal(mean, to_linear_operator(covariance))
        found = GPyTorchPosterior(normal)
        return found if posterior_transform is None else posterior_transform(found)

    def means(self, points: Tensor) -> Tensor:
        """Posterior means (n,) at points (n, d)."""
        cross: Tensor = self.kernel.forward(points, self.points)
        found: Tensor = self.constant + cross @ self._alpha
        return found

    def given(self, points: Tensor) -> Surrogate:
        """Conditioned on points (m, d) as if their values were the posterior means.

        Such believers stand for evaluations under way: the mean stays, the variance shrinks.
        """
        if len(points) == 0:
            return self
        return Surrogate(
            self.kernel,
            torch.cat([self.points, points]),
            torch.cat([self.values, self.means(points)]),
            torch.cat([self.noise, self.noise.median().expand(len(points))]),
            self.constant,
            self.warp,
        )


def _factored(covariance: Tensor) -> Tensor:
    """Lower Cholesky factor (n, n)."""
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    for jitter in _JITTERS:
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(covariance + jitter * eye)
        if not failed.item() and bool(factor.isfinite().all()):
            return factor
    raise FitError(f"the covariance of {len(covariance)} points has no Cholesky factor.")


def fit(data: Data, *, noisy: bool = True, ceiling: float = CEILING) -> Surrogate:
    """The process with the hyperparameters of highest posterior density (MAP).

    A pure function of the data: it starts at the prior's mode and draws no random number.

    Args:
        data: What was observed, one point at least. The process holds `MAX_POINTS` of them, and
            learns its hyperparameters from `MAX_LEARNED` (`Data.thinned`).
        noisy: Whether evaluations of one point differ. Where `data` knows some variances, they
            count instead, and the median of the known ones stands for the others.
        ceiling: Where values far above the median count as equal, as in `Warp`.

    Raises:
        FitError: If no process fits.
    """
    warp = warp_of(bounded(data.values), ceiling=ceiling)
    held = data.thinned(MAX_POINTS)
    learned = held.thinned(MAX_LEARNED)
    gp = _gp(learned, warp, noisy=noisy)
    _maximize_posterior(gp, _extra(learned))
    for parameter in gp.parameters():
        parameter.requires_grad_(False)
    points, values, variances = _tensors(held, warp)
    noise = gp.likelihood.noise.expand(len(values)) if variances is None else variances
    noise = noise + _extra(held)
    return Surrogate(gp.covar_module, points, values, noise, gp.mean_module.constant, warp)


def _gp(data: Data, warp: Warp, *, noisy: bool) -> SingleTaskGP:
    points, values, variances = _tensors(data, warp)
    choice = np.array([variable.kind is Kind.CHOICE for variable in data.variables], bool)
    prior = dimension_scaled_prior(int((~choice).sum()), noisy=noisy)
    likelihood = GaussianLikelihood(
        noise_prior=LogNormalPrior(math.log(prior.noise), prior.noise_sd),
        noise_constraint=_above(prior.noise_floor, _NOISE_START),
    )
    return SingleTaskGP(
        points,
        values[:, None],
        None if variances is None else variances[:, None],
        likelihood=likelihood if variances is None else None,
        covar_module=MixedMatern(choice, prior),
        outcome_transform=None,
    ).to(points)


def _tensors(data: Data, warp: Warp) -> tuple[Tensor, Tensor, Tensor | None]:
    """Points, and values and variances (None if none is known) on the model's scale."""
    values = bounded(data.values)
    points = torch.from_numpy(data.points)
    warped = torch.from_numpy(warp(values))
    if np.isnan(data.noise).all():
        return points, warped, None
    known = warp.variances(values, data.noise)
    filled = np.where(np.isnan(known), np.nanmedian(known), known)
    return points, warped, torch.from_numpy(np.maximum(filled, _LEAST_NOISE))


def _extra(data: Data) -> Tensor:
    """(n,) variances on the model's scale that infinite values, failed trials, have on top."""
    return DOUBT**2 * torch.from_numpy(np.isinf(data.values)).to(torch.float64)


@contextlib.contextmanager
def quiet_optimizer() -> Iterator[None]:
    """Without BoTorch's warnings of line searches that end early: what they reach will do."""
    # BoTorch asks for these to be shown always, which no filter of ours overrides.
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        if not issubclass(warning.category, OptimizationWarning):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _maximize_posterior(gp: SingleTaskGP, extra: Tensor) -> None:
    """Fit the hyperparameters, by BoTorch's L-BFGS-B with a gradient of our own.

    Args:
        gp: Holds what is learned from.
        extra: (n,) variances on top of the noise of its likelihood.
    """
    mll = ExactMarginalLogLikelihood(gp.likelihood, gp)
    parameters = {name: p for name, p in mll.named_parameters() if p.requires_grad}
    priors = [(module, prior, value_of) for _, module, prior, value_of, _ in mll.named_priors()]
    points, values = gp.train_inputs[0], gp.train_targets
    n = len(values)

    def closure() -> tuple[Tensor, list[Tensor | None]]:
        for parameter in parameters.values():
            parameter.grad = None
        covariance = gp.covar_module.forward(points, points)
        noise = gp.likelihood.noise.expand(n) + extra
        mean = gp.mean_module.constant
        log_prior = sum(
            prior.log_prob(value_of(module)).sum() for module, prior, value_of in priors
        )
        with torch.no_grad():
            factor = _factored(covariance + torch.diag(noise))
            inverse = torch.cholesky_inverse(factor)
            residuals = values - mean
            alpha = inverse @ residuals
            loss = 0.5 * residuals @ alpha + factor.diagonal().log().sum()
            # Of the loss by the covariance [Rasmussen and Williams 2006, equation 5.9].
            slope = 0.5 * (inverse - alpha[:, None] * alpha) / n
        total = (slope * covariance).sum() + slope.diagonal() @ noise
        total = total - (alpha.sum() * mean + log_prior) / n
        total.backward()
        return (loss - log_prior.detach()) / n, [p.grad for p in parameters.values()]

    with quiet_optimizer():
        fit_gpytorch_mll_scipy(
            mll, parameters=parameters, closure=closure, options={"maxiter": _MAX_ITERATIONS}
        )
