from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from botorch.posteriors.gpytorch import GPyTorchPosterior
from gpytorch.mlls import ExactMarginalLogLikelihood

from optuna_partition.bayesian import model as module
from optuna_partition.bayesian.model import FitError, Surrogate, fit
from optuna_partition.surrogate.data import DOUBT, Data, FloatArray, Kind, Variable, warp_of

VARIABLES = (Variable(), Variable(Kind.ORDERED, 9), Variable(Kind.CHOICE, 3))


def make_data(n: int, *, noise: float = 0.0, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    points = rng.random((n, 3))
    points[:, 1] = (np.floor(points[:, 1] * 9) + 0.5) / 9
    points[:, 2] = (np.floor(points[:, 2] * 3) + 0.5) / 3
    values = truth(points) + noise * rng.standard_normal(n)
    return Data(VARIABLES, points, values)


def truth(points: FloatArray) -> FloatArray:
    found: FloatArray = (
        np.sin(4 * points[:, 0]) + (points[:, 1] - 0.3) ** 2 + 0.7 * (points[:, 2] > 0.6)
    )
    return found


def on_model_scale(surrogate: Surrogate, points: FloatArray) -> FloatArray:
    return surrogate.means(torch.from_numpy(points)).numpy()


def test_values_that_were_not_seen_are_predicted() -> None:
    surrogate, unseen = fit(make_data(60)), make_data(200, seed=1).points
    errors = on_model_scale(surrogate, unseen) - surrogate.warp(truth(unseen))
    assert np.sqrt((errors**2).mean()) < 0.1


def test_the_posterior_is_the_one_of_gpytorch() -> None:
    data = make_data(25)
    gp = module._gp(data, warp_of(data.values), noisy=True)
    module._maximize_posterior(gp, torch.zeros(25))
    surrogate = fit(data)
    unseen = torch.from_numpy(make_data(8, seed=2).points)
    with torch.no_grad():
        expected, found = gp.posterior(unseen), surrogate.posterior(unseen)
        single = surrogate.posterior(unseen[:, None, :])
    assert found.mean.numpy() == pytest.approx(expected.mean.numpy(), abs=1e-6)
    assert isinstance(expected, GPyTorchPosterior)
    covariances = found.distribution.covariance_matrix, expected.distribution.covariance_matrix
    assert covariances[0].numpy() == pytest.approx(covariances[1].numpy(), abs=1e-6)
    assert single.mean[:, 0].numpy() == pytest.approx(expected.mean.numpy(), abs=1e-6)
    assert single.variance[:, 0].numpy() == pytest.approx(expected.variance.numpy(), abs=1e-6)


@pytest.mark.parametrize("known_noise", [False, True])
def test_a_fit_ends_where_the_marginal_likelihood_of_gpytorch_is_flat(known_noise: bool) -> None:
    data = make_data(20, noise=0.2)
    if known_noise:
        data = dataclasses.replace(data, noise=np.full(20, 0.04))
    gp = module._gp(data, warp_of(data.values), noisy=True)

    def slopes() -> torch.Tensor:
        gp.zero_grad()
        gp.train()
        mll = ExactMarginalLogLikelihood(gp.likelihood, gp)
        mll(gp(*gp.train_inputs), gp.train_targets).backward()
        return torch.cat([p.grad.reshape(-1) for p in gp.parameters() if p.grad is not None])

    before = slopes().abs().max()
    module._maximize_posterior(gp, torch.zeros(20))
    assert slopes().abs().max() < 0.02 * before


def test_a_fit_is_a_function_of_the_data() -> None:
    first, second = fit(make_data(30)), fit(make_data(30))
    assert torch.equal(first.kernel.lengthscale, second.kernel.lengthscale)
    assert torch.equal(first.noise, second.noise)


def test_values_of_a_million_do_not_flatten_the_rest() -> None:
    data = make_data(40)
    away = data.points[:, 0] > 0.85
    diverged = fit(Data(VARIABLES, data.points, np.where(away, 1e6, data.values)))
    good = np.flatnonzero(~away)
    predicted = on_model_scale(diverged, data.points[good])
    assert np.corrcoef(predicted, data.values[good])[0, 1] > 0.95


def test_noise_is_inferred() -> None:
    assert fit(make_data(60, noise=0.3)).noise[0] > 20 * fit(make_data(60)).noise[0]
    assert fit(make_data(60), noisy=False).noise[0] < fit(make_data(60)).noise[0]


def test_known_noise_is_taken_as_it_is_and_the_median_fills_in() -> None:
    data = make_data(12)
    noise = np.full(12, np.nan)
    noise[:3] = 0.01, 0.04, 0.09
    surrogate = fit(dataclasses.replace(data, noise=noise))
    expected = noise[:3] * surrogate.warp.slope(data.values[:3]) ** 2
    assert surrogate.noise[:3].numpy() == pytest.approx(expected)
    assert surrogate.noise[3:].numpy() == pytest.approx(np.full(9, np.median(expected)))


def test_a_failed_trial_is_known_with_doubt() -> None:
    data = make_data(12)
    values = data.values.copy()
    values[4] = math.inf
    surrogate = fit(dataclasses.replace(data, values=values))
    assert surrogate.noise[4] - surrogate.noise[0] == pytest.approx(DOUBT**2)


def test_believers_keep_the_mean_and_shrink_the_variance() -> None:
    surrogate = fit(make_data(20, noise=0.05))
    there = torch.tensor([[0.93, 0.5, 0.5]], dtype=torch.float64)
    believing = surrogate.given(there)
    everywhere = torch.from_numpy(make_data(30, seed=5).points)
    assert believing.means(everywhere).numpy() == pytest.approx(
        surrogate.means(everywhere).numpy(), abs=1e-6
    )
    before, after = (m.posterior(there[:, None, :]).variance for m in (surrogate, believing))
    assert after.item() < 0.5 * before.item()
    assert surrogate.given(there[:0]) is surrogate


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("value", [0.0, 3.5, -1e9])
def test_constant_values_fit(n: int, value: float) -> None:
    data = make_data(n)
    surrogate = fit(Data(VARIABLES, data.points, np.full(n, value)))
    assert np.isfinite(on_model_scale(surrogate, data.points)).all()


def test_the_same_point_many_times_fits() -> None:
    points = np.tile(make_data(1).points, (30, 1))
    surrogate = fit(Data(VARIABLES, points, np.arange(30.0)), noisy=False)
    assert np.isfinite(on_model_scale(surrogate, points)).all()


def test_more_points_than_the_limit_are_thinned_out() -> None:
    assert len(fit(make_data(module.MAX_POINTS + 50)).points) == module.MAX_POINTS


def test_a_covariance_without_a_factor_is_an_error() -> None:
    with pytest.raises(FitError, match="no Cholesky factor"):
        module._factored(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64))
