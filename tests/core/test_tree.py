"""Laws of the partition, for every rule, on mixed boxes."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optuna_partition.core import cell as cells
from optuna_partition.core.box import Box, ChoiceAxis, FloatAxis, GridAxis
from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import Claim, Probe, Record, Round, Status
from optuna_partition.core.node import Node
from optuna_partition.core.tree import Tree

# Fixtures of this folder hold no state.
LAWS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def volume(box: Box, cell: Cell) -> Fraction:
    return math.prod((high - low for low, high in cells.intervals(box, cell)), start=Fraction(1))


def overlap(box: Box, first: Cell, second: Cell) -> bool:
    pairs = zip(cells.intervals(box, first), cells.intervals(box, second), strict=True)
    return all(max(a[0], b[0]) < min(a[1], b[1]) for a, b in pairs)


def assert_tiles(tree: Tree) -> None:
    parts = tree.leaves + tree.open_divisions
    assert sum(volume(tree.box, cell) for cell in parts) == 1
    assert not any(overlap(tree.box, *pair) for pair in itertools.combinations(parts, 2))


def samples_of(node: Node) -> list[tuple[int, Status]]:
    return sorted((sample.number, sample.status) for sample in node.evaluation.samples)


def snapshot(tree: Tree) -> tuple[Any, ...]:
    """All that a rule can see of a tree."""
    nodes = [node for node in map(tree.find, tree.leaves) if node is not None]
    leaves = [(n.cell, n.rank, n.evaluation.cell, samples_of(n)) for n in nodes]
    rounds = [
        [(m.number, m.round, m.depth, m.node and m.node.cell) for m in tree.members(number)]
        for number in range(1, tree.round + 1)
    ]
    return (
        leaves,
        rounds,
        tree.open_divisions,
        tree.owed(),
        {key: (leaf.rank, leaf.cell) for key, leaf in tree.groups().items()},
        tree.depth,
        tree.expansions,
        tree.exhausted,
        tree.speculative(),
    )


def point_of(box: Box, claim: Claim) -> tuple[Any, ...]:
    found = cells.decode(box, claim.cell) if claim.probe is None else box.at(claim.probe.point)
    return tuple(found.values())


class Workers:
    """Several asynchronous workers on one tree: claims that end well, badly, or not at all."""

    def __init__(
        self, method: Any, box: Box, seed: int, workers: int, deaths: float = 0.15
    ) -> None:
        self.method, self.box, self.workers, self.deaths = method, box, workers, deaths
        self.rng = random.Random(seed)
        self.tree: Tree = method.tree(box)
        self.log: dict[int, Record] = {}
        self.running: list[int] = []

    def run(self, n: int) -> None:
        for number in range(n):
            claim = self.method.rule(self.tree)
            if claim is None and not self.running:
                break
            if claim is not None:
                self.tell(number, Record(claim, Status.PENDING))
                self.running.append(number)
            if claim is None or len(self.running) >= self.workers:
                self.finish(self.running.pop(self.rng.randrange(len(self.running))))

    def finish(self, number: int) -> None:
        claim = self.log[number].claim
        if self.rng.random() < self.deaths:
            self.tell(number, Record(claim, Status.FAILED))
        else:
            # A value that ties now and then: ties are where an order can hide.
            value = self.rng.choice([self.rng.gauss(0, 1), 1.0, math.inf])
            self.tell(number, Record(claim, Status.KNOWN, value))

    def tell(self, number: int, record: Record) -> None:
        self.log[number] = record
        assert self.tree.record(number, record)


@LAWS
@given(data=st.data(), seed=st.integers(0, 10**6), workers=st.integers(1, 9))
def test_leaves_tile_the_box(
    method: Any, boxes: st.SearchStrategy[Box], data: st.DataObject, seed: int, workers: int
) -> None:
    state = Workers(method, data.draw(boxes), seed, workers)
    state.run(40)
    assert_tiles(state.tree)


@LAWS
@given(data=st.data(), seed=st.integers(0, 10**6), workers=st.integers(1, 9))
def test_no_parameters_are_evaluated_more_often_than_the_rule_repeats_them(
    method: Any, boxes: st.SearchStrategy[Box], data: st.DataObject, seed: int, workers: int
) -> None:
    state = Workers(method, data.draw(boxes), seed, workers, deaths=0.0)
    state.run(60)
    points = [point_of(state.box, record.claim) for record in state.log.values()]
    assert max(Counter(points).values()) <= method.repeats


@LAWS
@given(data=st.data(), seed=st.integers(0, 10**6), workers=st.integers(1, 9))
def test_the_center_of_a_leaf_lies_in_it(
    method: Any, boxes: st.SearchStrategy[Box], data: st.DataObject, seed: int, workers: int
) -> None:
    state = Workers(method, data.draw(boxes), seed, workers)
    state.run(60)
    tree = state.tree
    for leaf in tree.leaves:
        assert tree.place_of(cells.center(tree.box, leaf)) is tree.find(leaf)


@LAWS
@given(data=st.data(), seed=st.integers(0, 10**6), workers=st.integers(1, 9))
def test_the_order_of_claims_does_not_matter(
    method: Any, boxes: st.SearchStrategy[Box], data: st.DataObject, seed: int, workers: int
) -> None:
    state = Workers(method, data.draw(boxes), seed, workers)
    state.run(40)
    shuffled = data.draw(st.permutations(list(state.log.items())))
    other: Tree = method.tree(state.box)
    for number, record in shuffled:
        other.record(number, record)
    assert snapshot(other) == snapshot(state.tree)


@LAWS
@given(data=st.data(), seed=st.integers(0, 10**6), workers=st.integers(2, 9))
def test_a_claim_that_is_taken_back_leaves_no_trace(
    method: Any, boxes: st.SearchStrategy[Box], data: st.DataObject, seed: int, workers: int
) -> None:
    state = Workers(method, data.draw(boxes), seed, workers)
    state.run(30)
    before = snapshot(state.tree)
    reserved = []
    for number in range(-1, -6, -1):
        claim = method.rule(state.tree)
        if claim is not None:
            state.tree.record(number, Record(claim, Status.PENDING))
            reserved.append(number)
    for number in data.draw(st.permutations(reserved)):
        state.tree.record(number, None)
    assert snapshot(state.tree) == before


@LAWS
@given(data=st.data(), seed=st.integers(0, 10**6), workers=st.integers(1, 5))
def test_a_finite_box_is_enumerated_exactly_once(
    method: Any, data: st.DataObject, seed: int, workers: int
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    box = Box(
        tuple(
            GridAxis(f"x{k}", range(3, 3 + n)) if k % 2 else ChoiceAxis(f"x{k}", tuple(range(n)))
            for k, n in enumerate(sizes)
        )
    )
    state = Workers(method, box, seed, workers, deaths=0.0)
    state.run(10 * method.repeats * math.prod(sizes))
    assert state.tree.exhausted
    assert len(state.tree.leaves) == math.prod(sizes)
    found = Counter(point_of(state.box, record.claim) for record in state.log.values())
    assert len(found) == math.prod(sizes)
    assert max(found.values()) <= method.repeats


def test_nothing_is_owed_for_ever(method: Any) -> None:
    box = Box((FloatAxis("x", -1.5, 4.0), FloatAxis("y", 2.0, 9.0)))
    tree: Tree = method.tree(box, max_retries=2)
    tries: dict[Cell, int] = {}
    for number in range(60):
        claim = method.rule(tree)
        assert claim is not None
        tries[claim.cell] = tries.get(claim.cell, 0) + 1
        tree.record(number, Record(claim, Status.FAILED))
    assert set(tries.values()) == {3}
    assert tree.value(tree.root) == math.inf


@pytest.fixture
def line() -> Box:
    return Box((FloatAxis("x", 2.0, 5.0),))


def claim_of(tree: Tree, axis: int, number: int) -> Claim:
    return Claim(cells.child(tree.box, tree.root, axis, number), axis)


def test_the_middle_child_inherits_its_parents_value(line: Box, methods: dict[str, Any]) -> None:
    tree: Tree = methods["soo"].tree(line)
    tree.record(0, Record(Claim(tree.root), Status.KNOWN, 7.0))
    tree.record(1, Record(claim_of(tree, 0, 0), Status.PENDING))
    assert [tree.value(leaf) for leaf in tree.leaves] == [None, 7.0, None]
    assert tree.owed() == claim_of(tree, 0, 2)


def test_of_two_results_the_earlier_trial_counts(line: Box, methods: dict[str, Any]) -> None:
    tree: Tree = methods["soo"].tree(line)
    tree.record(4, Record(Claim(tree.root), Status.KNOWN, 1.0))
    tree.record(3, Record(Claim(tree.root), Status.KNOWN, 2.0))
    assert tree.value(tree.root) == 2.0
    assert tree.holders(Claim(tree.root)) == (3, 4)


def test_a_claim_of_another_division_is_left_out(methods: dict[str, Any]) -> None:
    box = Box((FloatAxis("x", 2.0, 5.0), FloatAxis("y", 0.5, 1.0)))
    tree: Tree = methods["soo"].tree(box)
    assert not tree.record(0, Record(claim_of(tree, 1, 0), Status.PENDING))
    assert not tree.record(1, Record(claim_of(tree, 0, 1), Status.PENDING))  # the middle child
    assert not tree.record(2, Record(Claim(Cell((1,), (0,)), 0), Status.PENDING))  # another box
    assert tree.leaves == (tree.root,)


def test_a_division_along_several_sides_gives_the_best_side_the_largest_cells(
    methods: dict[str, Any],
) -> None:
    box = Box((FloatAxis("x", 2.0, 5.0), FloatAxis("y", 0.5, 1.0)))
    tree: Tree = methods["jones1993"].tree(box)
    values = {(0, 0): 5.0, (0, 2): 6.0, (1, 0): 9.0, (1, 2): 1.0}  # the best value lies along y
    tree.record(0, Record(Claim(tree.root), Status.KNOWN, 3.0))
    for number, ((axis, part), value) in enumerate(values.items(), start=1):
        assert tree.leaves == (() if number > 1 else (tree.root,))
        tree.record(number, Record(claim_of(tree, axis, part), Status.KNOWN, value))
    assert {leaf: tree.value(leaf) for leaf in tree.leaves} == {
        Cell((0, 1), (0, 0)): 9.0,
        Cell((0, 1), (0, 2)): 1.0,
        Cell((1, 1), (0, 1)): 5.0,
        Cell((1, 1), (1, 1)): 3.0,
        Cell((1, 1), (2, 1)): 6.0,
    }


def test_speculation_opens_the_shallowest_leaf_below_the_best_known_ancestor(
    line: Box, methods: dict[str, Any]
) -> None:
    tree: Tree = methods["soo"].tree(line)
    rule: Callable[[Tree], Claim | None] = methods["soo"].rule
    found = []
    for number in range(9):  # nine workers start at once on an empty study
        claim = rule(tree)
        assert claim is not None
        tree.record(number, Record(claim, Status.PENDING))
        found.append(cells.decode(line, claim.cell)["x"])
    assert len(set(found)) == 9
    assert found[:3] == [3.5, 2.5, 4.5]
    assert tree.round == 0


def test_rounds_survive_without_the_claim_that_opened_them(
    line: Box, methods: dict[str, Any]
) -> None:
    tree: Tree = methods["soo"].tree(line)
    tree.record(0, Record(Claim(tree.root), Status.KNOWN, 7.0))
    opened = claim_of(tree, 0, 0)
    tree.record(1, Record(Claim(opened.cell, 0, Round(1, 0)), Status.FAILED))
    assert tree.owed() == Claim(opened.cell, 0, Round(1, 0))


def test_a_probe_and_a_cell_with_one_point_see_each_other(methods: dict[str, Any]) -> None:
    # Two workers came to the same whole number, one by a division and one by a model.
    box = Box((GridAxis("n", range(3, 12)),))
    tree: Tree = methods["refined"].tree(box)
    tree.record(0, Record(Claim(tree.root), Status.KNOWN, 1.0))
    left = claim_of(tree, 0, 0)
    point = (box.axes[0].unit(cells.decode(box, left.cell)["n"]),)
    probe = Claim(tree.root, probe=Probe(point, 1.0, 0.5, 1))
    tree.record(1, Record(left, Status.PENDING))
    tree.record(2, Record(probe, Status.PENDING))
    assert tree.holders(left) == tree.holders(probe) == (1, 2)
    tree.record(1, None)
    assert tree.holders(probe) == (2,)
    tree.record(1, Record(left, Status.FAILED))
    assert tree.holders(left) == tree.holders(probe) == (2,)


def test_a_probe_sees_a_claim_whose_cell_was_given_up(methods: dict[str, Any]) -> None:
    box = Box((GridAxis("n", range(3, 30)),))
    tree: Tree = methods["refined"].tree(box)
    tree.record(0, Record(Claim(tree.root), Status.KNOWN, 1.0))
    left = claim_of(tree, 0, 0)
    below = Claim(cells.child(box, left.cell, 0, 0), 0)
    tree.record(1, Record(left, Status.PENDING))
    tree.record(3, Record(below, Status.PENDING))
    values = tuple(cells.decode(box, below.cell).values())
    probe = Claim(tree.root, probe=Probe((box.axes[0].unit(values[0]),), 1.0, 0.5, 1))
    tree.record(1, None)  # its worker took another cell
    tree.record(2, Record(probe, Status.PENDING))
    assert tree.is_tried(values)
    assert tree.holders(below) == tree.holders(probe) == (2, 3)
