"""Fractal decomposition: geometry, laws of the fold, and the rule against a sequential textbook."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from optuna_partition.core.box import Axis, Box, ChoiceAxis, FloatAxis, GridAxis
from optuna_partition.core.claim import Observation, Status
from optuna_partition.core.fda import fda
from optuna_partition.core.fractal import (
    ROOT,
    SHRINKAGE,
    Fractal,
    FractalClaim,
    FractalRecord,
    Kind,
    Sphere,
    claim_from_json,
    claim_to_json,
    covering_inflation,
    root_sphere,
)

# Fixtures of this folder hold no state.
LAWS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

FloatArray = NDArray[np.float64]
Values = tuple[Any, ...]


# Functions and boxes


def branin(x: Values) -> float:
    a, b = x
    curve = b - 5.1 / (4 * math.pi**2) * a * a + 5 / math.pi * a - 6
    return float(curve**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10)


def rosenbrock(x: Values) -> float:
    return float(sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in itertools.pairwise(x)))


def ripples(x: Values) -> float:
    """Many basins; the lowest lies off center."""
    return math.fsum((v - 1.3) ** 2 + 2 * math.sin(5 * v + k) for k, v in enumerate(x))


def mixed(x: Values) -> float:
    rate, rank, layers, kind = x
    penalty = {"adam": 0.31, "sgd": 0.0, "lion": 0.47}[kind]
    return float((math.log10(rate) + 3.3) ** 2 + abs(rank - 37) / 20 + (layers - 3) ** 2 + penalty)


BRANIN = Box((FloatAxis("a", -5, 10), FloatAxis("b", 0.2, 15)))
ROSENBROCK = Box(tuple(FloatAxis(f"x{k}", -2.1 + k / 3, 3.7 - k / 5) for k in range(4)))
RIPPLES = Box(tuple(FloatAxis(f"x{k}", -3.1, 4.4 + k) for k in range(3)))
LINE = Box((FloatAxis("x", -3.1, 4.4),))
MIXED = Box(
    (
        FloatAxis("rate", 3e-6, 0.2, log=True),
        GridAxis("rank", range(2, 71), log=True),
        GridAxis("layers", range(1, 12, 2)),
        ChoiceAxis("kind", ("adam", "sgd", "lion")),
    )
)
SMALL = Box(
    (
        GridAxis("layers", range(-3, 9, 4)),
        ChoiceAxis("flag", (True, 1, 1.0)),
        GridAxis("rank", range(3, 8), log=True),
    )
)


# The textbook


class Textbook:
    """FDA as one sequential loop, without claims: spheres in a list, floats as they come."""

    def __init__(
        self,
        box: Box,
        function: Callable[[Values], float],
        *,
        depth: int,
        min_step: float,
        budget: int,
        inflation: float = 1.75,
    ) -> None:
        self.box, self.function, self.depth = box, function, depth
        self.min_step, self.budget, self.inflation = min_step, budget, inflation
        self.values: dict[Values, float] = {}
        self.points: dict[Values, FloatArray] = {}

    def run(self) -> tuple[list[Values], bool]:
        """Evaluated parameters in order, and whether the whole tree was searched."""
        try:
            self._search()
        except StopIteration:
            return list(self.values), False
        return list(self.values), True

    def _search(self) -> None:
        d = len(self.box.axes)
        waiting = [(0, np.full(d, 0.5), 0.5, self._explore(np.full(d, 0.5), 0.5))]
        while waiting:
            level = max(item[0] for item in waiting)
            chosen = min(
                (i for i, item in enumerate(waiting) if item[0] == level),
                key=lambda i: self._quality(waiting[i][3]),
            )
            _, center, radius, _ = waiting.pop(chosen)
            small = radius / (1 + math.sqrt(2))
            for axis, sign in itertools.product(range(d), (1, -1)):
                point = center.copy()
                point[axis] = np.clip(point[axis] + sign * (radius - small), 0, 1)
                if level + 1 == self.depth:
                    self._exploit(point, small * self.inflation)
                else:
                    found = self._explore(point, small * self.inflation)
                    waiting.append((level + 1, point, small * self.inflation, found))

    def _explore(self, center: FloatArray, radius: float) -> list[Values]:
        shift = radius / math.sqrt(len(center))
        return [self._evaluate(center + s * shift) for s in (0, 1, -1)]

    def _exploit(self, center: FloatArray, step: float) -> None:
        here, value = center, self.values[self._evaluate(center)]
        while step > self.min_step:
            improved = False
            for axis in range(len(center)):
                sides = [here + sign * step * np.eye(len(center))[axis] for sign in (1, -1)]
                found = [self.values[self._evaluate(side)] for side in sides]
                if min(found) < value:
                    value, here, improved = min(found), sides[int(np.argmin(found))], True
            if not improved:
                step /= 2

    def _evaluate(self, point: FloatArray) -> Values:
        values = tuple(self.box.at(np.clip(point, 0, 1).tolist()).values())
        # Positions that were added up in another order differ by rounding.
        values = next((known for known in self.values if close(known, values)), values)
        if values not in self.values:
            if len(self.values) == self.budget:
                raise StopIteration
            self.values[values] = self.function(values)
            self.points[values] = np.array(
                [middle(axis, v) for axis, v in zip(self.box.axes, values, strict=True)]
            )
        return values

    def _quality(self, found: list[Values]) -> float:
        best = min(self.values, key=lambda v: self.values[v])
        return min(
            (self.values[v] - self.values[best])
            / (float(np.linalg.norm(self.points[v] - self.points[best])) + 1e-20)
            for v in found
        )


def close(first: Values, second: Values) -> bool:
    return all(
        abs(a - b) < 1e-9 * (1e-6 + abs(a)) if isinstance(a, float) else a == b
        for a, b in zip(first, second, strict=True)
    )


def middle(axis: Any, value: Any) -> float:
    """Middle of the share of the axis that decodes to a value; its edges found by bisection."""
    if isinstance(axis, FloatAxis):
        return axis.unit(value)
    order = list(axis.values if isinstance(axis, GridAxis) else axis.choices)

    def edge(first: int) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            half = (low + high) / 2
            low, high = (half, high) if order.index(axis.at(half)) < first else (low, half)
        return high

    return (edge(order.index(value)) + edge(order.index(value) + 1)) / 2


def search(
    fractal: Fractal, function: Callable[[Values], float], n: int
) -> list[tuple[FractalClaim, Values]]:
    """One evaluation after the other."""
    found = []
    for number in range(n):
        claim = fda(fractal)
        if claim is None:
            break
        values = tuple(fractal.decode(claim).values())
        fractal.record(number, FractalRecord(claim, Status.KNOWN, function(values)))
        found.append((claim, values))
    return found


@pytest.mark.parametrize(
    ("box", "function", "depth", "min_step", "budget"),
    [
        (BRANIN, branin, 5, 1e-4, 500),
        (BRANIN, branin, 2, 1e-2, 500),
        (ROSENBROCK, rosenbrock, 2, 1e-3, 500),
        (ROSENBROCK, rosenbrock, 1, 1e-3, 400),
        (RIPPLES, ripples, 3, 3e-3, 900),
        (RIPPLES, ripples, 4, 3e-2, 900),
        (MIXED, mixed, 2, 1e-2, 300),
        (MIXED, mixed, 3, 3e-2, 300),
    ],
)
def test_one_worker_is_the_sequential_textbook(
    box: Box, function: Callable[[Values], float], depth: int, min_step: float, budget: int
) -> None:
    expected, _ = Textbook(box, function, depth=depth, min_step=min_step, budget=budget).run()
    fractal = Fractal(box, depth=depth, min_step=min_step)
    found = search(fractal, function, budget)
    assert len(expected) == budget
    assert {claim.kind for claim, _ in found} == {Kind.SPHERE, Kind.LOCAL}
    pairs = zip((values for _, values in found), expected, strict=True)
    assert [pair for pair in pairs if not close(*pair)] == []


def test_a_tree_that_was_searched_is_followed_by_a_grid() -> None:
    expected, finished = Textbook(LINE, ripples, depth=2, min_step=0.02, budget=999).run()
    fractal = Fractal(LINE, depth=2, min_step=0.02)
    found = search(fractal, ripples, len(expected) + 40)
    assert finished
    values = [x for _, (x,) in found]
    assert values[: len(expected)] == pytest.approx([x for (x,) in expected])
    assert {claim.kind for claim, _ in found[len(expected) :]} == {Kind.GRID}
    # Cells of a width of 1/32 of the range each have a point.
    assert {math.floor(32 * (x + 3.1) / 7.5) for x in values} >= set(range(32))


def test_the_search_comes_close_to_the_minimum_of_branin() -> None:
    # Branin's minimum is 0.397887 [Dixon and Szegoe 1978].
    fractal = Fractal(BRANIN, depth=2)
    search(fractal, branin, 300)
    assert fractal.best is not None
    assert 0.397887 <= fractal.best[1] < 0.397887 + 1e-3


# Geometry


@pytest.mark.parametrize("dimension", [1, 2, 3, 6])
def test_children_touch_their_parent_and_one_another_from_within(dimension: int) -> None:
    parent = Sphere((), tuple(0.45 + 0.01 * k for k in range(dimension)), 0.31)
    for number in range(2 * dimension):
        child = parent.child(number, 1.0)
        assert child.path == (number,)
        assert child.radius == pytest.approx(0.31 / (1 + math.sqrt(2)))
        assert math.dist(child.center, parent.center) + child.radius == pytest.approx(0.31)
        assert parent.child(number, 1.75).radius == pytest.approx(1.75 * child.radius)
        assert parent.child(number, 1.75).center == child.center
    for a, b in itertools.combinations(range(2 * dimension), 2):
        distance = math.dist(parent.child(a, 1).center, parent.child(b, 1).center)
        # Those on different axes touch; the two on one axis leave the middle open.
        if a // 2 != b // 2:
            assert distance == pytest.approx(2 * 0.31 * SHRINKAGE)
        else:
            assert distance > 2 * 0.31 * SHRINKAGE


def ball(rng: np.random.Generator, n: int, dimension: int) -> FloatArray:
    """Points in the root sphere, many of them near its surface, shape (n, d)."""
    directions = rng.normal(size=(n, dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points: FloatArray = 0.5 + 0.5 * directions * rng.random((n, 1)) ** (1 / (2 * dimension))
    return points


def uncovered(points: FloatArray, spheres: Sequence[Sphere]) -> float:
    """Share of the points that lie in no sphere."""
    centers = np.array([sphere.center for sphere in spheres])
    radii = np.array([sphere.radius for sphere in spheres])
    distances = np.linalg.norm(points[:, None, :] - centers[None], axis=2)
    return float(np.mean((distances > radii * (1 + 1e-12)).all(axis=1)))


def children(spheres: Sequence[Sphere], inflation: float) -> list[Sphere]:
    return [s.child(k, inflation) for s in spheres for k in range(2 * len(s.center))]


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 6])
def test_covering_inflation_is_enough_and_not_too_much(dimension: int) -> None:
    root, points = [root_sphere(dimension)], ball(np.random.default_rng(7), 20000, dimension)
    surface, center = 0.5 + 0.5 / math.sqrt(dimension), 0.5
    farthest = np.full((1, dimension), center if dimension == 1 else surface)
    points = np.concatenate([points, farthest])
    enough = covering_inflation(dimension)
    assert uncovered(points, children(root, enough)) == 0
    assert uncovered(farthest, children(root, 0.999 * enough)) == 1


def test_published_inflation_covers_a_plane_on_every_level_but_not_space() -> None:
    assert covering_inflation(2) < 1.75 < covering_inflation(3)
    points, spheres = ball(np.random.default_rng(3), 5000, 2), [root_sphere(2)]
    for _ in range(4):
        spheres = children(spheres, 1.75)
        assert uncovered(points, spheres) == 0
    space = ball(np.random.default_rng(3), 5000, 3)
    assert 0 < uncovered(space, children([root_sphere(3)], 1.75)) < 0.5


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_three_points_lie_on_the_diagonal_within_the_cube(dimension: int) -> None:
    sphere = Sphere((), (0.4,) * dimension, 0.3)
    center, up, down = (sphere.point(number) for number in range(3))
    assert center == sphere.center
    assert math.dist(center, up) == pytest.approx(0.3)
    assert up[0] > center[0] > down[0]
    assert np.add(up, down) == pytest.approx(np.multiply(center, 2))
    assert Sphere((), (0.9,) * dimension, 0.3 * dimension).point(1) == (1.0,) * dimension


def test_first_evaluation_is_the_center_of_every_float_and_grid_axis() -> None:
    for box in (BRANIN, RIPPLES, Box(MIXED.axes[:3])):
        fractal = Fractal(box)
        assert fda(fractal) == ROOT
        assert fractal.decode(ROOT) == box.center()


# Laws


class Workers:
    """Asynchronous workers on one fractal: claims that end well, badly, or not at all."""

    def __init__(
        self,
        box: Box,
        seed: int,
        workers: int,
        *,
        deaths: float = 0.15,
        guests: float = 0.0,
        **options: Any,
    ) -> None:
        self.box, self.options, self.workers = box, options, workers
        self.deaths, self.guests = deaths, guests
        self.rng = random.Random(seed)
        self.fractal = self.new()
        self.log: dict[int, FractalRecord | Observation] = {}
        self.running: list[int] = []

    def new(self) -> Fractal:
        return Fractal(self.box, **self.options)

    def run(self, n: int, rule: Callable[[Fractal], FractalClaim | None] = fda) -> None:
        for number in range(n):
            if self.rng.random() < self.guests:
                self.visit(number)
                continue
            claim = rule(self.fractal)
            if claim is None and not self.running:
                break
            if claim is not None:
                self.tell(number, FractalRecord(claim, Status.PENDING))
                self.running.append(number)
            if claim is None or len(self.running) >= self.workers:
                self.finish(self.running.pop(self.rng.randrange(len(self.running))))

    def visit(self, number: int) -> None:
        units = [self.rng.choice([0.5, 0.0, self.rng.random()]) for _ in self.box.axes]
        values = tuple(self.box.at(units).values())
        status = self.rng.choice([Status.PENDING, Status.KNOWN])
        self.tell(number, Observation(values, status, self.rng.gauss(0, 1)))

    def finish(self, number: int) -> None:
        record = self.log[number]
        assert isinstance(record, FractalRecord)
        if self.rng.random() < self.deaths:
            self.tell(number, FractalRecord(record.claim, Status.FAILED))
        else:
            # A value that ties now and then: ties are where an order can hide.
            value = self.rng.choice([self.rng.gauss(0, 1), 1.0, math.inf, -math.inf, math.nan])
            violation = self.rng.choice([0.0, 0.0, 0.7])
            self.tell(number, FractalRecord(record.claim, Status.KNOWN, value, violation))

    def tell(self, number: int, item: FractalRecord | Observation) -> None:
        self.log[number] = item
        assert put(self.fractal, number, item)

    def parameters(self, number: int) -> str:
        item = self.log[number]
        values = item.values if isinstance(item, Observation) else self.decode(item.claim)
        return repr(values)  # tells 1, 1.0 and True apart

    def decode(self, claim: FractalClaim) -> Values:
        return tuple(self.fractal.decode(claim).values())


def put(fractal: Fractal, number: int, item: FractalRecord | Observation | None) -> bool:
    """Set both what a trial claims and what it observes, of which one at least is None."""
    observation = item if isinstance(item, Observation) else None
    record = item if isinstance(item, FractalRecord) else None
    return fractal.record(number, record) & fractal.observe(number, observation)


def snapshot(fractal: Fractal, log: dict[int, FractalRecord | Observation]) -> tuple[Any, ...]:
    """All that a rule or a sampler can see."""
    claims = [item.claim for _, item in sorted(log.items()) if isinstance(item, FractalRecord)]
    spheres = [()] + [
        (*path, number)
        for level in range(fractal.depth - 1)
        for path in sorted(fractal.decomposed(level))
        for number in fractal.children
    ]
    return (
        fda(fractal),
        fractal.exhausted,
        fractal.best,
        [(fractal.value(claim), fractal.holders(claim)) for claim in claims],
        [(path, fractal.explored(path), fractal.quality(path)) for path in spheres],
    )


OPTIONS = st.fixed_dictionaries(
    {
        "depth": st.integers(1, 4),
        "inflation": st.floats(1.0, 2.4),
        "min_step": st.sampled_from([1e-4, 1e-2, 0.2, 0.7]),
        "max_retries": st.integers(0, 2),
    }
)


@LAWS
@given(data=st.data(), seed=st.integers(0, 10**6), workers=st.integers(1, 9), options=OPTIONS)
def test_no_parameters_are_evaluated_twice(
    boxes: st.SearchStrategy[Box],
    data: st.DataObject,
    seed: int,
    workers: int,
    options: dict[str, Any],
) -> None:
    state = Workers(data.draw(boxes), seed, workers, **options)
    failures: dict[str, int] = {}
    running_or_known: set[str] = set()

    def watched(fractal: Fractal) -> FractalClaim | None:
        claim = fda(fractal)
        running_or_known.clear()
        failures.clear()
        for number, item in state.log.items():
            if item.status is Status.FAILED:
                failures[state.parameters(number)] = failures.get(state.parameters(number), 0) + 1
            else:
                running_or_known.add(state.parameters(number))
        if claim is not None:
            parameters = repr(state.decode(claim))
            assert parameters not in running_or_known
            assert failures.get(parameters, 0) <= options["max_retries"]
        return claim

    state.run(50, watched)


@LAWS
@given(data=st.data(), seed=st.integers(0, 10**6), workers=st.integers(1, 9), options=OPTIONS)
def test_the_order_of_records_does_not_matter(
    boxes: st.SearchStrategy[Box],
    data: st.DataObject,
    seed: int,
    workers: int,
    options: dict[str, Any],
) -> None:
    state = Workers(data.draw(boxes), seed, workers, guests=0.1, **options)
    state.run(60)
    expected = snapshot(state.fractal, state.log)
    other, numbers = state.new(), list(state.log)
    state.rng.shuffle(numbers)
    for number in numbers:
        # Detours: another trial's claim, one that is taken back, questions in between.
        put(other, number, state.log[state.rng.choice(numbers)])
        if state.rng.random() < 0.3:
            assert put(other, number, None)
        if state.rng.random() < 0.3:
            fda(other)
        assert put(other, number, state.log[number])
    assert snapshot(other, state.log) == expected


@LAWS
@given(
    data=st.data(), seed=st.integers(0, 10**6), workers=st.integers(1, 9), cut=st.integers(0, 59)
)
def test_a_study_that_was_cut_goes_on_as_if_it_had_not_been(
    boxes: st.SearchStrategy[Box], data: st.DataObject, seed: int, workers: int, cut: int
) -> None:
    box = data.draw(boxes)
    whole = Workers(box, seed, workers, depth=2, min_step=0.01)
    whole.run(60)
    calls = 0
    parts = Workers(box, seed, workers, depth=2, min_step=0.01)

    def reopened(fractal: Fractal) -> FractalClaim | None:
        nonlocal calls
        calls += 1
        if calls > cut:
            fractal = parts.new()
            for number, item in parts.log.items():
                put(fractal, number, through_json(item))
            parts.fractal = fractal
        return fda(fractal)

    parts.run(60, reopened)
    assert repr(parts.log) == repr(whole.log)


def through_json(item: FractalRecord | Observation) -> FractalRecord | Observation:
    if isinstance(item, Observation):
        return item
    claim = claim_from_json(json.loads(json.dumps(claim_to_json(item.claim))))
    return FractalRecord(claim, item.status, item.value, item.violation)


def values_of(axis: Axis) -> list[Any]:
    """All values of a finite axis."""
    return list(axis.choices if isinstance(axis, ChoiceAxis) else cast(GridAxis, axis).values)


def all_parameters(box: Box) -> list[str]:
    return [repr(values) for values in itertools.product(*map(values_of, box.axes))]


def finite_axes(name: str) -> st.SearchStrategy[GridAxis | ChoiceAxis]:
    ints = st.builds(
        lambda low, count, step: GridAxis(name, range(low, low + count * step, step)),
        st.integers(-9, 9),
        st.integers(1, 7),
        st.integers(1, 3),
    )
    steps = st.integers(1, 5).map(lambda n: GridAxis(name, tuple(0.3 + 0.1 * k for k in range(n))))
    log_ints = st.builds(
        lambda low, count: GridAxis(name, range(low, low + count), log=True),
        st.integers(1, 9),
        st.integers(1, 9),
    )
    choices = st.permutations([True, 1, 1.0, None, "one", math.nan]).map(
        lambda values: ChoiceAxis(name, tuple(values[:3]))
    )
    return st.one_of(ints, steps, log_ints, choices)


FINITE = st.integers(1, 4).flatmap(
    lambda d: st.tuples(*(finite_axes(f"x{k}") for k in range(d))).map(Box)
)


@LAWS
@given(box=FINITE, seed=st.integers(0, 10**6), workers=st.integers(1, 9), options=OPTIONS)
def test_a_finite_box_is_enumerated_once(
    box: Box, seed: int, workers: int, options: dict[str, Any]
) -> None:
    combinations = all_parameters(box)
    assume(len(combinations) <= 400)
    state = Workers(box, seed, workers, deaths=0.0, **options)
    state.run(2 * len(combinations) + workers)
    evaluated = [state.parameters(number) for number in state.log]
    assert sorted(evaluated) == sorted(combinations)
    assert state.fractal.exhausted
    assert fda(state.fractal) is None


def test_a_float_axis_of_a_few_numbers_comes_to_an_end() -> None:
    eps = math.ulp(3.0)
    box = Box((FloatAxis("x", 3.0, 3.0 + 5 * eps), GridAxis("k", range(4, 8))))
    state = Workers(box, 3, 2, deaths=0.0)
    state.run(100)
    assert 4 <= len(state.log) <= 6 * 4
    assert len({state.parameters(number) for number in state.log}) == len(state.log)
    assert state.fractal.exhausted


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_choices_that_python_takes_for_equal_are_kept_apart(depth: int) -> None:
    state = Workers(SMALL, 5, 3, deaths=0.3, depth=depth, max_retries=2)
    state.run(400)
    assert state.fractal.exhausted
    known = [state.parameters(n) for n, i in state.log.items() if i.status is Status.KNOWN]
    failed = [state.parameters(n) for n, i in state.log.items() if i.status is Status.FAILED]
    assert len(set(known)) == len(known)
    assert set(known + failed) == set(all_parameters(SMALL))
    assert all(failed.count(p) == 3 for p in set(failed) - set(known))


@pytest.mark.parametrize("box", [BRANIN, RIPPLES, MIXED, LINE])
def test_eight_workers_never_wait_and_never_meet(box: Box) -> None:
    state = Workers(box, 11, 8, deaths=0.1, depth=2, min_step=0.01)
    asked: list[FractalClaim | None] = []

    def noted(fractal: Fractal) -> FractalClaim | None:
        asked.append(fda(fractal))
        return asked[-1]

    state.run(250, noted)
    assert len(asked) == 250
    assert None not in asked
    held = [state.parameters(n) for n, i in state.log.items() if i.status is not Status.FAILED]
    assert len(set(held)) == len(held)


@pytest.mark.parametrize("box", [BRANIN, ROSENBROCK, MIXED])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_workers_that_start_together_each_get_a_point_of_their_own(box: Box, depth: int) -> None:
    state = Workers(box, 0, 10**9, depth=depth)
    state.run(100)
    assert len({state.parameters(number) for number in state.log}) == 100


def test_workers_share_a_local_search_as_if_running_trials_brought_nothing() -> None:
    fractal = Fractal(BRANIN, depth=1)
    for number in range(3):
        claim = FractalClaim(Kind.SPHERE, (), 0, (number,))
        fractal.record(number, FractalRecord(claim, Status.KNOWN, float(number)))
    center = FractalClaim(Kind.LOCAL, (0,), 0, (0, 0))
    fractal.record(3, FractalRecord(center, Status.KNOWN, 7.0))
    asked = []
    for number in range(4, 11):
        claim = fda(fractal) or ROOT
        asked.append((claim.scale, claim.index))
        fractal.record(number, FractalRecord(claim, Status.PENDING))
    assert asked == [
        *[(0, (1, 0)), (0, (-1, 0)), (0, (0, 1)), (0, (0, -1))],
        *[(1, (1, 0)), (1, (-1, 0)), (1, (0, 1))],
    ]
    # One neighbor is better, so that the search is expected to go on from there.
    better = FractalClaim(Kind.LOCAL, (0,), 0, (-1, 0))
    fractal.record(5, FractalRecord(better, Status.KNOWN, 2.0))
    assert fda(fractal) == FractalClaim(Kind.LOCAL, (0,), 0, (-1, 1))
    # The other one is better still.
    other = FractalClaim(Kind.LOCAL, (0,), 0, (1, 0))
    fractal.record(4, FractalRecord(other, Status.KNOWN, 1.0))
    assert fda(fractal) == FractalClaim(Kind.LOCAL, (0,), 0, (1, 1))


def test_what_was_taken_back_is_found_again_whatever_was_asked_before() -> None:
    tree, min_step = 2, 0.02
    fractal = Fractal(LINE, depth=tree, min_step=min_step)
    found = search(fractal, ripples, 120)
    assert {claim.kind for claim, _ in found} == set(Kind)
    for gone in range(0, 120, 7):
        fresh = Fractal(LINE, depth=tree, min_step=min_step)
        for number, (claim, values) in enumerate(found):
            if number != gone:
                fresh.record(number, FractalRecord(claim, Status.KNOWN, ripples(values)))
        assert fractal.record(gone, None)
        assert fda(fractal) == fda(fresh) != FractalClaim(Kind.GRID, (), 0, (0,))
        assert fractal.decode(found[gone][0]) == fractal.decode(fda(fractal) or ROOT)
        claim, values = found[gone]
        fractal.record(gone, FractalRecord(claim, Status.KNOWN, ripples(values)))


def test_a_local_search_is_walked_again_when_a_value_changes() -> None:
    fractal = Fractal(BRANIN, depth=1)
    found = search(fractal, branin, 40)
    changed = 0
    before = fda(fractal)
    for number in range(40):
        fresh = Fractal(BRANIN, depth=1)
        for k, (claim, values) in enumerate(found):
            value = 1e3 if k == number else branin(values)
            fresh.record(k, FractalRecord(claim, Status.KNOWN, value))
        claim, values = found[number]
        fractal.record(number, FractalRecord(claim, Status.KNOWN, 1e3))
        assert fda(fractal) == fda(fresh)
        changed += fda(fractal) != before
        fractal.record(number, FractalRecord(claim, Status.KNOWN, branin(values)))
        assert fda(fractal) == before
    assert changed > 3


def test_of_two_unfinished_spheres_the_deeper_one_comes_first() -> None:
    fractal = Fractal(RIPPLES, depth=3)
    paths: list[tuple[int, ...]] = [(), (0,), (1,), (0, 0)]
    for k, (path, number) in enumerate(itertools.product(paths, range(3))):
        if (path, number) != ((0, 0), 2):
            claim = FractalClaim(Kind.SPHERE, path, 0, (number,))
            fractal.record(k, FractalRecord(claim, Status.KNOWN, float(k)))
    assert fda(fractal) == FractalClaim(Kind.SPHERE, (0, 0), 0, (2,))


def test_spheres_that_others_evaluated_are_decomposed_without_a_claim() -> None:
    fractal = Fractal(RIPPLES, depth=3)
    paths: list[tuple[int, ...]] = [(), *((number,) for number in fractal.children)]
    for k, (path, number) in enumerate(itertools.product(paths, range(3))):
        values = tuple(fractal.decode(FractalClaim(Kind.SPHERE, path, 0, (number,))).values())
        assert fractal.observe(k, Observation(values, Status.KNOWN, 9.0 - (path == (4,))))
    assert not fractal.decomposed(0)
    assert fda(fractal) == FractalClaim(Kind.SPHERE, (4, 0), 0, (0,))


# Failures, observations


def test_a_failed_point_is_owed_until_its_retries_are_used_up() -> None:
    fractal = Fractal(BRANIN, max_retries=2)
    for number in range(3):
        assert fda(fractal) == ROOT
        fractal.record(number, FractalRecord(ROOT, Status.FAILED))
        assert fractal.holders(ROOT) == ()
    assert fractal.value(ROOT) == math.inf
    assert fda(fractal) == FractalClaim(Kind.SPHERE, (), 0, (1,))
    assert fractal.best is None
    fractal.record(2, None)
    assert fractal.value(ROOT) is None
    assert fda(fractal) == ROOT


def test_the_earlier_of_two_trials_counts() -> None:
    fractal = Fractal(BRANIN)
    fractal.record(4, FractalRecord(ROOT, Status.KNOWN, 2.0))
    fractal.record(3, FractalRecord(ROOT, Status.KNOWN, 5.0))
    assert (fractal.value(ROOT), fractal.best) == (5.0, (3, 5.0))
    assert fractal.holders(ROOT) == (3, 4)
    fractal.record(3, FractalRecord(ROOT, Status.FAILED))
    assert (fractal.value(ROOT), fractal.best) == (2.0, (4, 2.0))
    assert fractal.holders(ROOT) == (4,)


def test_a_feasible_point_is_better_than_one_that_is_not() -> None:
    fractal = Fractal(BRANIN)
    first, second = ROOT, FractalClaim(Kind.SPHERE, (), 0, (1,))
    fractal.record(0, FractalRecord(first, Status.KNOWN, -9.0, violation=0.1))
    fractal.record(1, FractalRecord(second, Status.KNOWN, 7.0))
    assert fractal.best == (1, 7.0)


def test_an_observation_shares_its_evaluation_and_counts_for_the_best() -> None:
    fractal = Fractal(BRANIN)
    assert fractal.observe(7, Observation(tuple(fractal.decode(ROOT).values()), Status.KNOWN, 3.5))
    assert fractal.holders(ROOT) == (7,)
    assert fractal.best == (7, 3.5)
    assert fda(fractal) == FractalClaim(Kind.SPHERE, (), 0, (1,))
    assert fractal.observe(8, Observation((9.5, 2.5), Status.KNOWN, 0.4))
    assert fractal.best == (8, 0.4)
    assert fractal.observe(7, None)
    assert fda(fractal) == ROOT


def test_a_claim_and_an_observation_are_taken_back_one_by_one() -> None:
    fractal = Fractal(BRANIN)
    fractal.record(0, FractalRecord(ROOT, Status.KNOWN, 5.0))
    fractal.observe(0, None)
    assert (fractal.best, fractal.holders(ROOT)) == ((0, 5.0), (0,))
    assert fractal.observe(0, Observation(tuple(fractal.decode(ROOT).values()), Status.PENDING))
    assert (fractal.best, fractal.holders(ROOT)) == ((0, 5.0), (0,))
    fractal.record(0, None)
    assert (fractal.best, fractal.holders(ROOT)) == (None, (0,))
    fractal.observe(0, None)
    assert fractal.holders(ROOT) == ()
    assert fda(fractal) == ROOT


def test_an_observation_draws_the_search_to_its_neighborhood() -> None:
    def first_decomposed(*observations: Observation) -> set[tuple[int, ...]]:
        fractal = Fractal(BRANIN, depth=3)
        for number, observation in enumerate(observations):
            assert fractal.observe(1000 + number, observation)
        search(fractal, lambda x: 100 + 0.1 * x[0] + 0.01 * x[1], 3 + 4 * 3 + 1)
        return set(fractal.decomposed(1))

    assert first_decomposed() == {(1,)}  # where the plane is lowest: down the first axis
    # The quality of a sphere counts from the best: far away and hardly worse is promising.
    far = Observation((-5.0, 15.0), Status.KNOWN, 90.0)
    assert first_decomposed(far) != {(1,)}


def test_observations_outside_of_the_box_are_left_out() -> None:
    fractal = Fractal(MIXED)
    inside = (1e-3, 17, 5, "sgd")
    assert fractal.observe(0, Observation(inside, Status.KNOWN, 1.0))
    for k, value in enumerate((0.3, 71, 4, "rmsprop")):
        values = (*inside[:k], value, *inside[k + 1 :])
        assert not fractal.observe(0, Observation(values, Status.KNOWN, 0.0))
        assert fractal.best is None
    assert not fractal.observe(1, Observation(inside[:3], Status.KNOWN, 0.0))


# Claims


@LAWS
@given(data=st.data(), seed=st.integers(0, 10**6), options=OPTIONS)
def test_every_claim_fits_its_own_fractal_and_survives_json(
    boxes: st.SearchStrategy[Box], data: st.DataObject, seed: int, options: dict[str, Any]
) -> None:
    state = Workers(data.draw(boxes), seed, 3, **options)
    state.run(60)
    for item in state.log.values():
        assert isinstance(item, FractalRecord)
        assert state.fractal.fits(item.claim)
        assert claim_from_json(json.loads(json.dumps(claim_to_json(item.claim)))) == item.claim
    claims = [item.claim for item in state.log.values() if isinstance(item, FractalRecord)]
    assert sorted(set(claims))  # hashable and ordered


@LAWS
@given(box=FINITE, data=st.data())
def test_grid_points_of_a_finite_box_are_its_parameters(box: Box, data: st.DataObject) -> None:
    fractal = Fractal(box)
    sides = [values_of(axis) for axis in box.axes]
    index = tuple(data.draw(st.integers(0, len(side) - 1)) for side in sides)
    claim = FractalClaim(Kind.GRID, (), 0, index)
    assert fractal.fits(claim)
    expected = tuple(side[i] for side, i in zip(sides, index, strict=True))
    assert repr(tuple(fractal.decode(claim).values())) == repr(expected)


@pytest.mark.parametrize(
    "claim",
    [
        FractalClaim(Kind.SPHERE, (4,), 0, (0,)),
        FractalClaim(Kind.SPHERE, (0, 1, 2), 0, (0,)),
        FractalClaim(Kind.SPHERE, (0,), 0, (3,)),
        FractalClaim(Kind.SPHERE, (0,), 0, (0, 0)),
        FractalClaim(Kind.SPHERE, (0,), 1, (0,)),
        FractalClaim(Kind.LOCAL, (0,), 0, (0, 0)),
        FractalClaim(Kind.LOCAL, (0, 1, 2, 3), 0, (0, 0)),
        FractalClaim(Kind.LOCAL, (0, 1, 2), 0, (0,)),
        FractalClaim(Kind.LOCAL, (0, 1, 2), 99, (0, 0)),
        FractalClaim(Kind.LOCAL, (0, 1, 2), 0, (10**400, 0)),
        FractalClaim(Kind.GRID, (0,), 0, (0, 0)),
        FractalClaim(Kind.GRID, (), 2, (0, 4)),
        FractalClaim(Kind.GRID, (), 2, (-1, 0)),
        FractalClaim(Kind.GRID, (), 99, (0, 0)),
        FractalClaim(Kind.GRID, (), 1, (0,)),
    ],
)
def test_a_claim_of_another_fractal_is_left_out(claim: FractalClaim) -> None:
    fractal = Fractal(BRANIN, depth=3)
    assert not fractal.fits(claim)
    fractal.record(0, FractalRecord(ROOT, Status.KNOWN, 1.0))
    assert not fractal.record(0, FractalRecord(claim, Status.KNOWN, 1.0))
    assert fractal.best is None  # what the trial said before no longer holds


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 3},
        {"kind": True},
        {"kind": None},
        {"path": [0, -1]},
        {"path": [0.0]},
        {"path": "01"},
        {"scale": -1},
        {"scale": "0"},
        {"index": [False]},
        {"index": None},
    ],
)
def test_nonsense_is_no_claim(change: dict[str, Any]) -> None:
    content = claim_to_json(FractalClaim(Kind.SPHERE, (0, 3), 0, (1,)))
    with pytest.raises((TypeError, ValueError)):
        claim_from_json({**content, **change})
    for name in content:
        with pytest.raises(KeyError, match=name):
            claim_from_json({k: v for k, v in content.items() if k != name})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("depth", 0),
        ("inflation", 0.99),
        ("inflation", 2.5),
        ("inflation", math.nan),
        ("min_step", 0.0),
        ("min_step", 1.0),
        ("max_retries", -1),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, value: float) -> None:
    settings: dict[str, Any] = {setting: value}
    with pytest.raises(ValueError, match=f"{setting} is .* expected .* try"):
        Fractal(BRANIN, **settings)
