"""Data of a surrogate, and the map of values to its scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_partition.core.box import Box, ChoiceAxis, FloatAxis, GridAxis
from optuna_partition.surrogate.data import (
    CEILING,
    HIGH_CEILING,
    Data,
    Kind,
    Variable,
    bounded,
    variables_of,
    warp_of,
)
from optuna_partition.surrogate.prior import Prior

BOX = Box((FloatAxis("a", -1, 3), GridAxis("b", range(2, 10)), ChoiceAxis("c", ("x", "y", "z"))))
VARIABLES = variables_of(BOX)


def test_axes_tell_their_kinds() -> None:
    assert [variable.kind for variable in VARIABLES] == [
        Kind.CONTINUOUS,
        Kind.ORDERED,
        Kind.CHOICE,
    ]
    assert [variable.spacing for variable in VARIABLES] == [0.0, 1 / 8, 1 / 3]


@pytest.mark.parametrize(
    ("points", "values", "noise", "message"),
    [
        (np.zeros((2, 2)), np.zeros(2), np.empty(0), r"shapes \(2, 2\)"),
        (np.zeros((2, 3)), np.zeros(3), np.empty(0), r"\(3,\)"),
        (np.zeros((2, 3)), np.zeros(2), np.zeros(3), r"expected \(n, 3\)"),
        (np.full((1, 3), 1.1), np.zeros(1), np.empty(0), "outside"),
        (np.full((1, 3), np.nan), np.zeros(1), np.empty(0), "outside"),
        (np.zeros((1, 3)), np.zeros(1), np.array([-1.0]), "-1.0"),
    ],
)
def test_bad_data_is_refused(
    points: np.ndarray, values: np.ndarray, noise: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Data(VARIABLES, points, values, noise)


def test_what_has_no_value_is_left_out() -> None:
    data = Data(VARIABLES, np.full((3, 3), 0.5), np.array([1.0, math.nan, math.inf]))
    assert data.values.tolist() == [1.0, math.inf]
    assert np.isnan(data.noise).all()
    assert bounded(np.array([math.inf, 3.0, -math.inf, 1.0])).tolist() == [3.0, 3.0, 1.0, 1.0]


def test_one_diverged_trial_does_not_flatten_the_rest() -> None:
    values = np.append(np.linspace(0.5, 0.9, 30), 1e6)
    for worst in (1e6, 1e12, 1e300):
        values[-1] = worst
        standardized = warp_of(values)(values)
        assert np.ptp(standardized[:-1]) > 3
        assert (np.diff(standardized) > 0).all()
        assert np.ptp(warp_of(values, ceiling=HIGH_CEILING)(values)[:-1]) > 0.9
    values[-1] = 1e6
    assert np.ptp(values[:-1]) / values.std() < 1e-5  # without the map


def test_half_of_the_values_may_be_equal() -> None:
    values = np.array([0.0, 0, 0, 0, 1, 2, 1e9])
    standardized = warp_of(values)(values)
    assert standardized[4] - standardized[0] > 0.8
    assert warp_of(np.full(4, 0.1)).scale == 1


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    st.sampled_from([CEILING, HIGH_CEILING]),
)
def test_values_come_back(values: list[float], ceiling: float) -> None:
    found = np.array(values)
    warp = warp_of(found, ceiling=ceiling)
    standardized = warp(found)
    order = np.argsort(found, kind="stable")
    assert (np.diff(standardized[order]) >= -1e-12).all()
    if warp.spread:
        inside = found < warp.knee + math.expm1(0.99 * ceiling) * warp.spread
        tolerance = 1e-7 * (1 + np.abs(found).max())
        assert np.abs(warp.inverse(standardized) - found)[inside].max(initial=0) < tolerance
    assert np.isfinite(standardized).all()
    assert (warp.slope(found) > 0).all()


def test_slope_is_that_of_differences() -> None:
    values = np.array([0.0, 1.0, 2.0, 30.0])
    warp = warp_of(values, ceiling=HIGH_CEILING)
    at = np.array([0.3, 4.0, 17.0])
    difference = (warp(at + 1e-6) - warp(at - 1e-6)) / 2e-6
    np.testing.assert_allclose(warp.slope(at), difference, rtol=1e-6)
    flat = warp_of(np.full(3, 2.0))
    assert flat.slope(at).tolist() == [1.0, 1.0, 1.0]
    assert float(warp.inverse(np.array(1e9))) == math.inf


def test_variances_are_finite_however_small_the_values_are() -> None:
    values = np.array([0.0, 1e-159, 3.6e-159])
    found = warp_of(values).variances(values, np.array([1e-320, 1e300, np.nan]))
    assert np.isfinite(found[:2]).all()
    assert np.isnan(found[2])
    warp, plain = warp_of(np.arange(4.0)), np.arange(4.0)
    np.testing.assert_allclose(warp.variances(plain, plain), plain * warp.slope(plain) ** 2)


def test_thinning_keeps_the_best_the_nearest_and_the_latest() -> None:
    rng = np.random.default_rng(0)
    points, values = rng.random((200, 3)), rng.random(200)
    points[:, 2] = (np.floor(points[:, 2] * 3) + 0.5) / 3
    values[17] = -1
    points[40] = points[17]
    data = Data(VARIABLES, points, values)
    kept = data.thinned(30)
    assert len(kept) == 30
    rows = {tuple(point) for point in kept.points}
    for k in [*np.argsort(values)[:10], 40, *range(190, 200)]:
        assert tuple(points[k]) in rows
    assert data.thinned(200) is data


def test_prior_is_checked() -> None:
    with pytest.raises(ValueError, match=r"noise_sd is 0, expected a finite number above 0"):
        Prior(noise_sd=0)
    assert Variable().spacing == 0
