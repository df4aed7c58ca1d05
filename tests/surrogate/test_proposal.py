"""Expected improvement, its gradient, and the points that are proposed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from optuna_partition.core.box import Axis, Box, ChoiceAxis, FloatAxis, GridAxis
from optuna_partition.core.claim import WORST, Status, Trial
from optuna_partition.surrogate.data import Data, Variable, noise_of, variables_of
from optuna_partition.surrogate.gaussian_process import fit
from optuna_partition.surrogate.improvement import LogExpectedImprovement, log_h
from optuna_partition.surrogate.proposal import ProcessProposer

MIXED: tuple[Axis, ...] = (
    FloatAxis("rate", 1e-4, 1e-1, log=True),
    GridAxis("rank", range(2, 65), log=True),
    ChoiceAxis("kind", ("a", "b", "c")),
    FloatAxis("dropout", 0.1, 0.6),
)


@settings(deadline=None)  # the integral takes its time
@given(st.floats(-6, 6))
def test_log_h_is_the_integral_that_it_stands_for(z: float) -> None:
    area, _ = integrate.quad(lambda u: (z - u) * stats.norm.pdf(u), -np.inf, z, epsabs=1e-14)
    assert math.exp(log_h(np.array([z]))[0]) == pytest.approx(area, rel=1e-4, abs=1e-12)


def test_log_h_stays_smooth_far_to_the_left() -> None:
    z = -np.logspace(0, 8, 4000)
    found = log_h(z)
    assert np.isfinite(found).all()
    assert (np.diff(found) < 0).all()
    # phi(z) / z**2 in the limit
    limit = -(z**2) / 2 - 0.5 * math.log(2 * math.pi) - 2 * np.log(-z)
    assert np.allclose(found[z < -1e3], limit[z < -1e3], rtol=1e-5)


def test_the_gradient_is_that_of_the_value() -> None:
    rng = np.random.default_rng(4)
    points = rng.uniform(size=(20, 3))
    values = np.sin(4 * points).sum(axis=1)
    process = fit(Data((Variable(),) * 3, points, values))
    improvement = LogExpectedImprovement(process, float(process.posterior(points)[0].min()))
    for point in rng.uniform(0.1, 0.9, size=(5, 3)):
        value, gradient = improvement.gradient(point)
        assert value == pytest.approx(float(improvement(point[None])[0]))
        steps = 1e-6 * np.eye(3)
        slopes = (improvement(point + steps) - improvement(point - steps)) / 2e-6
        assert np.allclose(gradient, slopes, rtol=1e-3, atol=1e-3)


def trials_of(box: Box, n: int, *, seed: int = 0) -> list[Trial]:
    """Trials at random points whose best is near rate 1e-2, rank 16, kind "b"."""
    rng = np.random.default_rng(seed)
    found: list[Trial] = []
    for unit in rng.uniform(size=(n, len(box.axes))).tolist():
        x = box.at(unit)
        value = (
            (math.log10(x["rate"]) + 2) ** 2
            + math.log2(x["rank"] / 16) ** 2 / 4
            + (x["kind"] != "b")
            + x["dropout"]
        )
        found.append(Trial(box.units(list(x.values())), Status.KNOWN, (0.0, value)))
    return found


def test_proposals_are_points_of_the_grid_in_the_cell_around_the_best() -> None:
    box = Box(MIXED)
    trials = trials_of(box, 25)
    best = min(trials, key=lambda trial: trial[2])[0]
    for level, (seed, count) in itertools.product((1, 2, 3), ((0, 25), (7, 26))):
        proposals = itertools.islice(ProcessProposer()(box, trials, level, (seed, count)), 50)
        for point in proposals:
            assert box.units(list(box.at(point).values()))[1:3] == pytest.approx(point[1:3])
            assert point[2] == best[2]  # the choice stays
            for k in (0, 3):
                assert abs(point[k] - best[k]) <= 3.0**-level + 1e-12
            neighbor = 2 * max(np.diff([MIXED[1].unit(v) for v in range(2, 65)]))
            assert abs(point[1] - best[1]) <= 3.0**-level + neighbor


def test_the_first_proposal_improves_most_of_all_that_are_made() -> None:
    box = Box(MIXED)
    trials = trials_of(box, 30)
    points = np.array([trial.point for trial in trials])
    values = np.array([trial.rank[-1] for trial in trials])
    process = fit(Data(variables_of(box), points, values))
    improvement = LogExpectedImprovement(process, float(process.posterior(points)[0].min()))
    proposed = np.array(list(ProcessProposer()(box, trials, 0, (0, 30))))
    assert improvement(proposed).argmax() == 0
    everywhere = np.random.default_rng(9).uniform(size=(4000, 4))
    snapped = np.array([box.units(list(box.at(u).values())) for u in everywhere.tolist()])
    assert improvement(proposed[:1])[0] > improvement(snapped).max()


def test_a_proposal_depends_on_trials_and_seed_alone() -> None:
    box = Box(MIXED)
    first = next(ProcessProposer()(box, trials_of(box, 20), 0, (1, 20)))
    assert next(ProcessProposer()(box, trials_of(box, 20), 0, (1, 20))) == first


def test_trials_under_way_keep_others_away() -> None:
    box = Box((FloatAxis("x", -1.0, 3.0), FloatAxis("y", 2.0, 5.0)))
    trials = [t._replace(point=t.point[:2]) for t in trials_of(Box(MIXED), 20, seed=2)]
    first = next(ProcessProposer()(box, trials, 0, (0, 20)))
    trials.append(Trial(first, Status.PENDING, WORST))
    second = next(ProcessProposer()(box, trials, 0, (0, 21)))
    assert np.abs(np.subtract(first, second)).max() > 5e-3


def test_failed_and_infeasible_trials_repel() -> None:
    box = Box((FloatAxis("x", 0.0, 1.0),))
    trials: list[Trial] = [
        Trial((x,), Status.KNOWN, (0.0, (x - 0.8) ** 2) if x < 0.7 else rank)
        for x, rank in ((0.1, WORST), (0.3, WORST), (0.5, WORST), (0.75, WORST), (0.9, (2.0, -5.0)))
    ]
    point = next(ProcessProposer()(box, trials, 1, (0, 5)))
    assert point[0] < 0.75


def test_a_crash_among_good_values_does_not_repel() -> None:
    box = Box((FloatAxis("x", 0.0, 1.0), FloatAxis("y", 0.0, 1.0)))
    points = [(x, y) for x in (0.1, 0.3, 0.5, 0.7, 0.9) for y in (0.15, 0.4, 0.65, 0.9)]
    trials: list[Trial] = [
        Trial(point, Status.KNOWN, (0.0, (point[0] - 0.58) ** 2 + (point[1] - 0.47) ** 2))
        for point in points
    ]
    trials.append(Trial((0.55, 0.5), Status.KNOWN, WORST))
    point = next(ProcessProposer()(box, trials, 1, (0, 21)))
    assert np.abs(np.subtract(point, (0.58, 0.47))).max() < 0.05


def test_without_a_feasible_trial_the_violation_is_minimized() -> None:
    box = Box((FloatAxis("x", 0.0, 1.0),))
    trials: list[Trial] = [
        Trial((x,), Status.KNOWN, (abs(x - 0.62), -10 * x))
        for x in (0.05, 0.2, 0.35, 0.5, 0.75, 0.9)
    ]
    point = next(ProcessProposer()(box, trials, 0, (0, 6)))
    assert abs(point[0] - 0.62) < 0.12


def test_a_lucky_value_with_a_large_standard_error_is_not_followed() -> None:
    box = Box((FloatAxis("x", -1.0, 3.0), FloatAxis("y", 2.0, 5.0)))
    grid = [(x, y) for x in (0.1, 0.35, 0.65, 0.9) for y in (0.15, 0.5, 0.85)]
    trials = [
        Trial(p, Status.KNOWN, (0.0, (p[0] - 0.8) ** 2 + (p[1] - 0.3) ** 2), 1e-6) for p in grid
    ]
    for variance, follows in ((1e-6, True), (100.0, False)):
        lucky = Trial((0.2, 0.8), Status.KNOWN, (0.0, -1.0), variance)
        point = next(ProcessProposer()(box, [*trials, lucky], 1, (0, 13)))
        # The region is the cell of side 1/3 around the best mean.
        assert (point[0] < 1 / 3) == follows


def test_where_a_standard_error_is_missing_the_median_of_the_others_stands_in() -> None:
    values = np.array([3.0, 1.0, 2.0, math.inf])
    unknown = noise_of(values, np.full(4, math.nan))
    assert np.isnan(unknown).tolist() == [True, True, True, False]
    known = noise_of(values, np.array([0.1, math.nan, 0.3, math.nan]))
    assert known[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert known[3] == unknown[3]
