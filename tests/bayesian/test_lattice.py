from __future__ import annotations

import itertools

import numpy as np
import pytest

from optuna_partition.bayesian.lattice import Lattice
from optuna_partition.core.box import Box, ChoiceAxis, FloatAxis, GridAxis

BOX = Box(
    (
        FloatAxis("rate", 1e-4, 1e-1, log=True),
        GridAxis("rank", range(2, 300), log=True),
        GridAxis("steps", range(10, 10**9, 7)),
        GridAxis("one", (5,)),
        ChoiceAxis("mode", ("a", "b", "c")),
    )
)
FINITE = Box((GridAxis("n", range(3, 9)), ChoiceAxis("kind", ("a", "b")), GridAxis("m", (1, 2))))


def test_snapped_points_are_points_of_the_box() -> None:
    points = Lattice(BOX).snap(np.random.default_rng(3).uniform(-0.2, 1.2, (200, 5)))
    for point in points:
        values = tuple(BOX.at(point.tolist()).values())
        assert BOX.units(values)[1:] == tuple(point[1:])


def test_snapping_goes_to_the_nearest_value() -> None:
    box = Box((GridAxis("n", range(3, 9)),))
    units = [box.units((n,))[0] for n in range(3, 9)]
    found = Lattice(box).snap(np.linspace(0, 1, 101)[:, None])[:, 0]
    nearest = [min(units, key=lambda unit: abs(unit - x)) for x in np.linspace(0, 1, 101)]
    distance = np.abs(found - np.linspace(0, 1, 101))
    assert distance == pytest.approx(np.abs(nearest - np.linspace(0, 1, 101)))


def test_neighbors_differ_in_one_finite_axis() -> None:
    lattice = Lattice(BOX)
    point = lattice.snap(np.full((1, 5), 0.4))[0]
    neighbors = lattice.neighbors(point)
    assert ((neighbors != point).sum(axis=1) == 1).all()
    assert (neighbors[:, 0] == point[0]).all()
    assert len(np.unique(neighbors, axis=0)) == len(neighbors)
    assert set(neighbors[:, 4]) == {BOX.axes[4].unit(mode) for mode in "abc"}


def test_steps_of_one_are_among_the_neighbors() -> None:
    lattice = Lattice(FINITE)
    point = np.array(FINITE.units((5, "a", 2)))
    found = [tuple(FINITE.at(p.tolist()).values()) for p in lattice.neighbors(point)]
    assert {(4, "a", 2), (6, "a", 2), (3, "a", 2), (7, "a", 2), (5, "b", 2), (5, "a", 1)} == set(
        found
    )


def test_all_points_of_a_finite_box() -> None:
    lattice = Lattice(FINITE)
    found = [tuple(FINITE.at(p.tolist()).values()) for p in lattice.all()]
    assert found == list(itertools.product(range(3, 9), "ab", (1, 2)))
    assert len(found) == lattice.size


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_visits_every_point_once(seed: int) -> None:
    lattice = Lattice(FINITE)
    points = [tuple(p) for p in lattice.shuffled(np.random.default_rng(seed))]
    assert len(points) == len(set(points)) == 24
    assert {lattice.key(np.array(p)) for p in points} == {lattice.key(p) for p in lattice.all()}


def test_shuffled_never_ends_in_a_continuous_box() -> None:
    points = Lattice(BOX).shuffled(np.random.default_rng(0))
    assert len({tuple(p) for p in itertools.islice(points, 50)}) == 50
