"""The Gaussian process against textbook formulas, BoTorch, and differences."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optuna_partition.surrogate import evidence, gaussian_process
from optuna_partition.surrogate.data import Data, FloatArray, Kind, Variable, bounded, warp_of
from optuna_partition.surrogate.evidence import Evidence
from optuna_partition.surrogate.gaussian_process import GaussianProcess, fit
from optuna_partition.surrogate.prior import Prior, long_prior, short_prior

MIXED = (Variable(), Variable(Kind.ORDERED, 7), Variable(Kind.CHOICE, 3), Variable(Kind.CHOICE, 2))
FLOATS = (Variable(),) * 3


def draw(
    variables: tuple[Variable, ...], n: int, *, seed: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Points and values of a bumpy function."""
    rng = np.random.default_rng(seed)
    points = rng.random((n, len(variables)))
    for k, variable in enumerate(variables):
        if variable.count:
            points[:, k] = (np.floor(points[:, k] * variable.count) + 0.5) / variable.count
    values = np.sin(7 * points[:, 0]) + ((points - 0.37) ** 2).sum(axis=1)
    if len(variables) > 2:
        values += np.cos(9 * points[:, 2])
    return points, values


def data_of(variables: tuple[Variable, ...], n: int, *, noise: bool = False) -> Data:
    points, values = draw(variables, n)
    known = np.full(n, np.nan)
    if noise:
        known[::2] = 0.01 * (1 + np.arange(n)[::2])
    return Data(variables, points, values, known)


def dense(gp: GaussianProcess, data: Data, points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation by the book, loop by loop [Rasmussen and Williams 2006, 2.2]."""

    def correlation(x: FloatArray, y: FloatArray) -> float:
        squared, factor = 0.0, 1.0
        for k, variable in enumerate(data.variables):
            if variable.kind is Kind.CHOICE:
                factor *= math.exp(-float(x[k] != y[k]) / gp.lengthscales[k])
            else:
                squared += ((x[k] - y[k]) / gp.lengthscales[k]) ** 2
        r = math.sqrt(5 * squared)
        return (1 + r + r * r / 3) * math.exp(-r) * factor

    n = len(data)
    values = gp.warp(bounded(data.values))
    known = np.nan_to_num(data.noise) * gp.warp.slope(data.values) ** 2
    system = np.array([[correlation(x, y) for y in data.points] for x in data.points])
    system += np.diag(gp.noise + known / gp.variance)
    inverse = np.linalg.inv(system)
    mean = inverse.sum(axis=0) @ values / inverse.sum()
    cross = np.array([[correlation(x, y) for y in data.points] for x in points])
    means = mean + cross @ inverse @ (values - mean)
    variances = gp.variance * (1 - np.array([row @ inverse @ row for row in cross]))
    assert len(means) == len(points)
    assert n == len(system)
    return means, np.sqrt(variances)


@pytest.mark.parametrize("variables", [FLOATS, MIXED])
@pytest.mark.parametrize("noise", [False, True])
def test_posterior_is_that_of_the_textbook(variables: tuple[Variable, ...], noise: bool) -> None:
    data = data_of(variables, 25, noise=noise)
    gp = fit(data, long_prior(len(variables)))
    points, _ = draw(variables, 40, seed=1)
    mean, sd = gp.posterior(points)
    expected_mean, expected_sd = dense(gp, data, points)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-7)
    np.testing.assert_allclose(sd, expected_sd, atol=1e-7)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit, on import
def test_posterior_is_that_of_botorch() -> None:
    import torch
    from botorch.models import SingleTaskGP
    from gpytorch.kernels import MaternKernel, ScaleKernel

    data = data_of(FLOATS, 30)
    gp = fit(data, long_prior(3))
    x = torch.tensor(data.points)
    y = torch.tensor(gp.warp(data.values))[:, None]
    model = SingleTaskGP(
        x, y, covar_module=ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=3)), outcome_transform=None
    )
    model.covar_module.base_kernel.lengthscale = torch.tensor(gp.lengthscales)
    model.covar_module.outputscale = gp.variance
    model.likelihood.noise = gp.noise * gp.variance
    model.mean_module.constant = gp.mean
    model.double().eval()
    points, _ = draw(FLOATS, 50, seed=1)
    posterior = model.posterior(torch.tensor(points))
    mean, sd = gp.posterior(points)
    np.testing.assert_allclose(mean, posterior.mean.detach().numpy()[:, 0], atol=1e-6)
    np.testing.assert_allclose(sd**2, posterior.variance.detach().numpy()[:, 0], atol=1e-6)


@pytest.mark.parametrize("variables", [FLOATS, MIXED])
def test_gradients_are_those_of_differences(variables: tuple[Variable, ...]) -> None:
    gp = fit(data_of(variables, 25), long_prior(len(variables)))
    point = np.array([0.41, 0.53, 0.5, 0.25])[: len(variables)]
    mean, sd, mean_slope, sd_slope = gp.gradients(point)
    np.testing.assert_allclose((mean, sd), np.ravel(gp.posterior(point[None, :])))
    for k, variable in enumerate(variables):
        if variable.kind is Kind.CHOICE:
            assert (mean_slope[k], sd_slope[k]) == (0, 0)
            continue
        step = 1e-5 * np.eye(len(variables))[k]
        above, below = gp.posterior((point + step)[None, :]), gp.posterior((point - step)[None, :])
        assert mean_slope[k] == pytest.approx((above[0] - below[0])[0] / 2e-5, rel=1e-5, abs=1e-8)
        assert sd_slope[k] == pytest.approx((above[1] - below[1])[0] / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("variables", [FLOATS, MIXED])
@pytest.mark.parametrize("noise", [False, True])
def test_gradient_of_the_evidence(variables: tuple[Variable, ...], noise: bool) -> None:
    data = data_of(variables, 20, noise=noise)
    values = warp_of(data.values)(data.values)
    loss = Evidence(variables, data.points, values, data.noise, long_prior(len(variables)))
    theta = np.log(np.array([0.3, 0.5, 0.9, 1.4])[: len(variables)])
    theta = np.append(theta, [math.log(0.02), 0.3] if noise else [math.log(0.02)])
    _, gradient = loss(theta)
    assert loss.knows_noise == noise
    for k in range(len(theta)):
        step = 1e-5 * np.eye(len(theta))[k]
        difference = (loss(theta + step)[0] - loss(theta - step)[0]) / 2e-5
        assert gradient[k] == pytest.approx(difference, rel=1e-5, abs=1e-6)


def test_evidence_is_the_density_of_the_values() -> None:
    from scipy.stats import invgamma, multivariate_normal, norm

    data = data_of(FLOATS, 15)
    values = warp_of(data.values)(data.values)
    prior = Prior(lengthscale=0.5, noise=0.01)
    theta = np.log([0.4, 0.6, 0.9, 0.05])
    loss = Evidence(FLOATS, data.points, values, data.noise, prior)
    solution = loss.solution(theta)
    assert solution is not None
    factor, _, mean, variance = solution
    lower = np.tril(factor)
    expected = multivariate_normal(np.full(15, mean), variance * lower @ lower.T).logpdf(values)
    expected += norm(math.log(0.5), 1).logpdf(theta[:3]).sum()
    expected += norm(math.log(0.01), 2.5).logpdf(theta[3])
    # The density of the logarithm of an inverse gamma variable.
    expected += invgamma(1, scale=1).logpdf(variance) + math.log(variance)
    assert -loss(theta)[0] == pytest.approx(expected)


def test_the_signal_variance_is_the_most_probable_one() -> None:
    data = data_of(FLOATS, 15)
    values = warp_of(data.values)(data.values)
    theta = np.log([0.4, 0.6, 0.9, 0.05])
    profiled = Evidence(FLOATS, data.points, values, data.noise, short_prior())
    noise = np.where(np.arange(15) == 0, 1e-12, np.nan)
    free = Evidence(FLOATS, data.points, values, noise, short_prior())
    solution = profiled.solution(theta)
    assert solution is not None
    value, gradient = free(np.append(theta, math.log(solution[3])))
    assert value == pytest.approx(profiled(theta)[0])
    assert gradient[-1] == pytest.approx(0, abs=1e-6)


def test_laplace_is_right_where_the_posterior_is_a_prior() -> None:
    # One value says nothing of lengthscales or noise: the evidence is that of the value alone.
    gp = fit(Data(FLOATS, np.array([[0.2, 0.5, 0.7]]), np.array([3.0])), with_evidence=True)
    assert gp.log_evidence > gp.log_posterior
    assert math.isnan(fit(data_of(FLOATS, 5)).log_evidence)


def test_evidence_prefers_the_prior_that_made_the_values() -> None:
    smooth = data_of(FLOATS, 60)
    rough = dataclasses.replace(smooth, values=np.random.default_rng(5).normal(size=60))
    for data, better, worse in [
        (rough, long_prior(3), Prior(lengthscale=1.0, lengthscale_sd=0.3, noise_sd=0.5)),
        (smooth, long_prior(3), Prior(lengthscale=0.02, lengthscale_sd=0.3)),
    ]:
        left, right = fit(data, better, with_evidence=True), fit(data, worse, with_evidence=True)
        assert left.log_evidence > right.log_evidence


def test_known_noise_is_believed() -> None:
    points, values = draw(FLOATS, 40)
    values[3] -= 5  # far above, a value would count like any other that is bad
    for variance in (1e-6, 100.0):
        noise = np.full(40, 1e-6)
        noise[3] = variance
        gp = fit(Data(FLOATS, points, values, noise))
        mean, _ = gp.posterior(points[3:4])
        error = abs(float(gp.warp.inverse(mean)[0]) - values[3])
        assert error < 0.5 if variance < 1 else error > 2.5


def test_leave_one_out_is_what_leaving_one_out_gives() -> None:
    data = data_of(MIXED, 20)
    gp = fit(data, long_prior(4))
    means, sds = gp.leave_one_out()
    values = gp.warp(data.values)
    for k in range(len(data)):
        others = np.delete(np.arange(len(data)), k)
        system = gp.kernel(data.points[others], data.points[others]) + gp.noise * np.eye(19)
        weights = np.linalg.solve(system, gp.kernel(data.points[others], data.points[k : k + 1]))
        mean = gp.mean + (weights[:, 0] @ (values[others] - gp.mean))
        correlation = gp.kernel(data.points[others], data.points[k : k + 1])[:, 0]
        variance = gp.variance * (1 + gp.noise - correlation @ weights[:, 0])
        assert means[k] == pytest.approx(mean, abs=1e-8)
        assert sds[k] == pytest.approx(math.sqrt(variance), abs=1e-8)


def test_believers_shrink_the_variance_and_keep_the_mean() -> None:
    data = data_of(FLOATS, 25)
    gp = fit(data, long_prior(3))
    believed, _ = draw(FLOATS, 6, seed=3)
    points, _ = draw(FLOATS, 30, seed=4)
    conditioned = gp.given(believed[:2]).given(believed[2:])
    mean, sd = conditioned.posterior(points)
    np.testing.assert_allclose(mean, gp.posterior(points)[0], atol=1e-9)
    everything = np.vstack([data.points, believed])
    system = gp.kernel(everything, everything) + gp.noise * np.eye(31)
    cross = gp.kernel(points, everything)
    variance = gp.variance * (1 - (cross * np.linalg.solve(system, cross.T).T).sum(axis=1))
    np.testing.assert_allclose(sd, np.sqrt(variance), atol=1e-7)
    assert (sd <= gp.posterior(points)[1] + 1e-12).all()
    assert conditioned.given(np.empty((0, 3))) is conditioned
    assert len(conditioned.leave_one_out()[0]) == 31


@pytest.mark.parametrize("n", [0, 1, 2, 5])
@pytest.mark.parametrize("value", [0.0, 3.5, -1e300, 1e-300, math.inf, -math.inf])
def test_equal_values_and_equal_points_are_no_trouble(n: int, value: float) -> None:
    points = np.full((n, 3), 0.5)
    gp = fit(Data(FLOATS, points, np.full(n, value)), with_evidence=True)
    mean, sd = gp.given(points).posterior(np.vstack([points, [[0.1, 0.9, 0.4]]]))
    assert np.isfinite(mean).all()
    assert (sd > 0).all()
    assert np.isfinite(gp.gradients(np.full(3, 0.5))[2:]).all()


def test_a_failed_factorization_warns_once_and_leaves_a_constant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evidence, "JITTERS", (-1e9,))
    with pytest.warns(UserWarning, match="no Gaussian process fits 12 values") as caught:
        gp = fit(data_of(FLOATS, 12))
    assert len(caught) == 1
    mean, sd = gp.posterior(np.full((4, 3), 0.3))
    assert mean.tolist() == [0.0] * 4
    assert sd.tolist() == [1.0] * 4


def test_a_fit_is_a_function_of_the_data() -> None:
    first, second = fit(data_of(MIXED, 30)), fit(data_of(MIXED, 30))
    assert first.lengthscales.tolist() == second.lengthscales.tolist()
    assert first.alpha.tolist() == second.alpha.tolist()


def test_many_points_are_thinned_out() -> None:
    gp = fit(data_of(FLOATS, 700))
    assert len(gp.points) == gaussian_process.MAX_POINTS
    points, values = draw(FLOATS, 100, seed=9)
    mean, _ = gp.posterior(points)
    assert np.corrcoef(mean, gp.warp(values))[0, 1] > 0.95


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=True, width=64), min_size=0, max_size=12),
    seed=st.integers(0, 5),
)
@example(values=[0.0, 3.6e-159], seed=0)
def test_any_values_can_be_fitted(values: list[float], seed: int) -> None:
    points, _ = draw(MIXED, len(values), seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gp = fit(Data(MIXED, points, np.array(values)))
        mean, sd = gp.posterior(draw(MIXED, 5, seed=1)[0])
    assert np.isfinite(mean).all()
    assert np.isfinite(sd).all()
    assert (sd > 0).all()
