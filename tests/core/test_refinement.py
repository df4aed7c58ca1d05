"""Probes: when they are made, how far they go, and the model that places them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives import synthetic
from optuna_partition.core import cell as cells
from optuna_partition.core.box import Axis, Box, ChoiceAxis, FloatAxis, GridAxis
from optuna_partition.core.claim import Claim, Observation, Probe, Record, Status
from optuna_partition.core.refinement import (
    FloatArray,
    _fit,
    _quadratic_minimizer,
    _reach,
    _width,
)
from optuna_partition.core.tree import Tree


@pytest.fixture
def grown(methods: dict[str, Any]) -> Callable[..., tuple[Tree, list[tuple[Claim, float]]]]:
    """Grow a refined tree on a function of unit-cube points or parameter values."""

    def grow(
        box: Box, function: Callable[[list[Any]], float], n: int
    ) -> tuple[Tree, list[tuple[Claim, float]]]:
        tree: Tree = methods["refined"].tree(box)
        found = []
        for number in range(n):
            claim = methods["refined"].rule(tree)
            assert claim is not None
            value = function(list(parameters(box, claim).values()))
            tree.record(number, Record(claim, Status.KNOWN, value))
            found.append((claim, value))
        return tree, found

    return grow


def parameters(box: Box, claim: Claim) -> dict[str, Any]:
    if claim.probe is not None:
        return box.at(claim.probe.point)
    return cells.decode(box, claim.cell)


@pytest.mark.parametrize("name", ["hartmann3", "shekel10", "rosenbrock5"])
def test_the_region_grows_with_success_and_shrinks_with_failure(
    name: str, grown: Any, make_float_box: Any
) -> None:
    problem = synthetic.by_name(name)
    box = make_float_box(problem.low, problem.high)
    _, found = grown(box, lambda x: float(problem(np.array(x))), 150)
    probes = [(n, c.probe, value) for n, (c, value) in enumerate(found) if c.probe is not None]
    assert len(probes) > 30
    assert probes[0][1].width in (1 / 3, 1 / 6, 1 / 12, 1 / 24)
    for (n, probe, value), (later, following, _) in itertools.pairwise(probes):
        whole = min(max(probe.width * (2 if value < probe.best else 0.5), 1e-4), 1)
        # One ask may halve it up to three times more.
        assert following.width in [whole / 2**k for k in range(4)]
        assert later - n >= 2  # a division lies between


def test_a_probe_stays_near_the_best_point(grown: Any, make_float_box: Any) -> None:
    problem = synthetic.by_name("hartmann3")
    box = make_float_box(problem.low, problem.high)
    _, found = grown(box, lambda x: float(problem(np.array(x))), 120)
    best_value, best_point = np.inf, None
    for claim, value in found:
        if claim.probe is not None:
            assert claim.probe.best == best_value
            assert (
                np.abs(np.array(claim.probe.point) - best_point).max() <= claim.probe.width + 1e-12
            )
        if value < best_value:
            best_value = value
            best_point = np.array(box.units(list(parameters(box, claim).values())))


def test_probes_find_the_neighbors_on_a_grid_and_keep_the_choice(grown: Any) -> None:
    axes: tuple[Axis, ...] = (
        GridAxis("layers", range(1, 65), log=True),
        FloatAxis("rate", 1e-4, 1e-1, log=True),
        ChoiceAxis("kind", ("a", "b", "c")),
    )

    def value(x: list[Any]) -> float:
        return float(abs(x[0] - 23) + (math.log10(x[1]) + 2.3) ** 2 + 5.0 * (x[2] != "b"))

    box = Box(axes)
    _, found = grown(box, value, 80)
    probes = [claim for claim, _ in found if claim.probe is not None]
    assert len(probes) > 10
    best = min(found, key=lambda item: item[1])[0]
    assert best.probe is not None
    assert parameters(box, best)["layers"] == 23
    points = [tuple(parameters(box, claim).values()) for claim, _ in found]
    assert len(set(points)) == len(points)


@pytest.mark.parametrize(("parameter", "half", "low", "high"), [(8, 1e-4, 7, 9), (1, 1e-4, 1, 2)])
def test_a_step_on_a_grid_reaches_the_neighbors(
    parameter: int, half: float, low: int, high: int
) -> None:
    axis = GridAxis("n", range(1, 17), log=True)
    at = axis.unit(parameter)
    below, above = _reach(axis, parameter, at, half)
    assert (axis.at(at + below), axis.at(at + above)) == (low, high)


def test_workers_at_one_time_do_not_probe_one_place(methods: Any, make_float_box: Any) -> None:
    pairs = 0
    # How many probes one problem has under way depends on the last digit of a processor.
    for name, known in itertools.product(("hartmann3", "hartmann6", "shekel5"), (20, 30, 50)):
        problem = synthetic.by_name(name)
        box = make_float_box(problem.low, problem.high)
        tree: Tree = methods["refined"].tree(box)
        running: list[Probe] = []
        for number in range(known + 20):
            claim = methods["refined"].rule(tree)
            assert claim is not None
            value = float(problem(np.array(list(parameters(box, claim).values()))))
            status = Status.KNOWN if number < known else Status.PENDING
            tree.record(number, Record(claim, status, value))
            if status is Status.PENDING and claim.probe is not None:
                running.append(claim.probe)
        for one, other in itertools.combinations(running, 2):
            pairs += 1
            away = np.abs(np.subtract(one.point, other.point)).max()
            assert away > 0.1 * other.width
    assert pairs > 3


def test_the_best_of_several_workers_probes_decides_on_the_width(
    methods: Any, make_float_box: Any
) -> None:
    tree: Tree = methods["refined"].tree(make_float_box([-3.0, 2.0], [5.0, 3.0]))
    tree.record(0, Record(Claim(tree.root), Status.KNOWN, 9.0))

    def end(number: int, width: float, value: float | None) -> None:
        claim = Claim(tree.root, probe=Probe((0.1 + number / 20, 0.3), 5.0, width, number))
        status = Status.PENDING if value is None else Status.KNOWN
        tree.record(number, Record(claim, status, 0.0 if value is None else value))

    assert _width(tree) == 1 / 3
    end(1, 0.4, 6.0)
    assert _width(tree) == 0.2
    end(2, 0.1, 4.0)
    assert _width(tree) == 0.2
    end(3, 0.05, 4.5)
    assert _width(tree) == 0.1  # one worker: the last probe alone
    end(4, 0.3, None)
    assert _width(tree) == 0.5 * 0.2  # two of them: the better one, and half of it in turn
    end(5, 0.02, 7.0)
    end(6, 0.06, 8.0)
    assert _width(tree) == 0.5 * 0.03  # nothing paid: half of the widest
    end(7, 0.3, None)
    assert _width(tree) == 0.1  # three of them: one had paid
    for number in range(8, 40):
        end(number, 0.08, 6.0)
    assert _width(tree) == 0.04  # who never ends is forgotten


def test_points_hold_every_trial_whatever_became_of_it(methods: Any) -> None:
    box = Box((FloatAxis("x", 2.0, 10.0),))
    tree: Tree = methods["refined"].tree(box)
    root = Claim(tree.root)
    tree.record(0, Record(root, Status.KNOWN, 3.0))
    assert tree.points.values.tolist() == [3.0]
    probe = Claim(tree.root, probe=Probe((0.75,), 3.0, 0.5, 1))
    tree.record(1, Record(probe, Status.PENDING))
    tree.observe(2, Observation((4.0,), Status.KNOWN, 1.0))
    tree.observe(3, Observation((9.0,), Status.KNOWN, 2.0, violation=1.0))
    tree.observe(4, Observation((9.5,), Status.KNOWN, -np.inf))
    found = dict(zip(tree.points.points[:, 0].tolist(), tree.points.values.tolist(), strict=True))
    assert found.keys() == {0.5, 0.75, 0.25, 0.875, 0.9375}
    assert {at for at, value in found.items() if value == value} == {0.5, 0.25}
    tree.record(1, Record(probe, Status.KNOWN, 0.5))
    tree.observe(2, None)
    found = dict(zip(tree.points.points[:, 0].tolist(), tree.points.values.tolist(), strict=True))
    assert found[0.75] == 0.5
    assert 0.25 not in found


def test_the_model_interpolates_and_knows_its_derivatives() -> None:
    rng = np.random.default_rng(3)
    points = rng.uniform(-0.4, 0.3, size=(22, 4))
    values = np.sin(3 * points).sum(axis=1)
    model = _fit(points, values, scale=0.8)
    assert model is not None
    found = model.values(points / 0.8)
    assert np.ptp(found - values) < 1e-3  # up to a constant, and to the smoothing
    x = rng.uniform(-0.3, 0.3, size=4)
    gradient, hessian = model.derivatives(x)
    steps = 1e-5 * np.eye(4)
    slopes = (model.values(x + steps) - model.values(x - steps)) / 2e-5
    assert np.allclose(gradient, slopes, atol=1e-6)
    bends = [
        (model.derivatives(x + step)[0] - model.derivatives(x - step)[0]) / 2e-5 for step in steps
    ]
    assert np.allclose(hessian, bends, atol=1e-5)


def test_the_model_finds_the_minimum_of_a_bowl() -> None:
    rng = np.random.default_rng(5)
    target = np.array([0.11, -0.07, 0.2])
    points = rng.uniform(-0.5, 0.5, size=(40, 3))
    values = ((points - target) ** 2).sum(axis=1)
    model = _fit(points, values, scale=0.8)
    assert model is not None
    low, high = np.full(3, -0.3), np.full(3, 0.3)
    assert np.abs(model.minimizer(low, high) - target).max() < 0.02
    high[2] = 0.1  # the minimum lies outside
    assert model.minimizer(low, high)[2] == pytest.approx(0.1)


def test_points_in_one_place_make_no_model() -> None:
    assert _fit(np.zeros((5, 2)), np.zeros(5), scale=0.0) is None


@settings(deadline=None)  # SciPy takes its time when it is imported
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_the_step_minimizes_a_convex_quadratic_in_its_box(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d))
    hessian = root @ root.T + 3 * d * np.eye(d)  # so that four sweeps are enough
    gradient = rng.normal(size=d) * 5
    low, high = -rng.uniform(0, 1, d), rng.uniform(0, 1, d)

    def quadratic(p: FloatArray) -> float:
        return float(gradient @ p + p @ hessian @ p / 2)

    step = _quadratic_minimizer(gradient, hessian, low, high)
    best = scipy.optimize.minimize(
        quadratic, np.zeros(d), bounds=list(zip(low, high, strict=True)), method="L-BFGS-B"
    )
    assert ((low <= step) & (step <= high)).all()
    assert quadratic(step) <= best.fun + 1e-2 * abs(best.fun) + 1e-9


def test_a_quadratic_that_bends_down_is_followed_to_the_lower_end() -> None:
    found = _quadratic_minimizer(
        np.array([0.5, -0.5]), -np.eye(2), np.array([-1.0, -1.9]), np.array([1.9, 1.0])
    )
    assert found.tolist() == [-1.0, 1.0]  # -1, and -0.86 at the other end of each
