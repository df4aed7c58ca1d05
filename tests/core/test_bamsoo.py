"""The gate of BaMSOO: what is not evaluated, and what stands for its value."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from objectives import synthetic
from optuna_partition.core import cell as cells
from optuna_partition.core.bamsoo import Bounds, Model, bamsoo, constant, theory
from optuna_partition.core.box import Box, FloatAxis
from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import Claim, Observation, Record, Skip, Status, Trial
from optuna_partition.core.soo import soo
from optuna_partition.core.tree import Tree
from optuna_partition.surrogate.bounds import ProcessModel
from optuna_partition.surrogate.prior import short_prior

MODEL = ProcessModel(short_prior())
TWO = functools.partial(constant, beta=2.0)


def never_closed(box: Box, trials: list[Trial]) -> Bounds:
    return lambda points, width: [(-math.inf, math.inf)] * len(points)


def always_closed(box: Box, trials: list[Trial]) -> Bounds:
    return lambda points, width: [(1e9, 1e9)] * len(points)


def value_at(problem: synthetic.Problem, box: Box, cell: Cell) -> float:
    return float(problem(np.array(list(cells.decode(box, cell).values()))))


def run(
    tree: Tree, rule: Callable[[Tree], Claim | None], function: Callable[[Cell], float], n: int
) -> list[Claim]:
    found = []
    for number in range(n):
        claim = rule(tree)
        assert claim is not None
        tree.record(number, Record(claim, Status.KNOWN, function(claim.cell)))
        found.append(claim)
    return found


def textbook_bamsoo(
    box: Box,
    function: Callable[[Cell], float],
    n: int,
    model: Model,
    width: Callable[[int], float],
) -> tuple[list[Cell], list[tuple[Cell, float]]]:
    """The published loop over a dict of leaves: evaluated cells, and those passed over.

    Pseudo-code as in Al-Dujaili and Suresh 2016; the middle child has its parent's value.
    """
    evaluated = [cells.root(box)]
    known = {evaluated[0]: function(evaluated[0])}
    leaves = dict(known)
    passed: list[tuple[Cell, float]] = []
    while True:
        bound = math.inf
        for depth in range(max(c.depth for c in leaves) + 1):
            level = [c for c in leaves if c.depth == depth]
            best = min(level, key=lambda c: (leaves[c], c), default=None)
            if best is None or leaves[best] > bound:
                continue
            bound = leaves.pop(best)
            for part, inherits in cells.children(box, best, cells.one_longest_side(box, best)[0]):
                if inherits:
                    leaves[part] = bound
                    continue
                trials: list[Trial] = [
                    Trial(box.middle(c.levels, c.index), Status.KNOWN, (0.0, known[c]))
                    for c in evaluated
                ]
                tests = len(evaluated) + len(passed) + 1
                bounds = model(box, trials)
                ((lower, upper),) = bounds([box.middle(part.levels, part.index)], width(tests))
                if lower > min(known.values()):
                    leaves[part] = upper
                    passed.append((part, upper))
                    continue
                if len(evaluated) == n:
                    return evaluated, passed
                leaves[part] = known[part] = function(part)
                evaluated.append(part)


@pytest.mark.parametrize("width", [TWO, functools.partial(theory, eta=0.05)], ids=["2", "theory"])
@pytest.mark.parametrize("name", ["hartmann6", "shekel10"])
def test_it_is_the_textbook_cell_for_cell(
    name: str, width: Callable[[int], float], methods: dict[str, Any], make_float_box: Any
) -> None:
    problem = synthetic.by_name(name)
    box = make_float_box(problem.low, problem.high)
    function = functools.partial(value_at, problem, box)
    tree: Tree = methods["bamsoo"].tree(box)
    model = methods["bamsoo"].rule.keywords["model"]
    claims = run(tree, functools.partial(bamsoo, model=model, width=width), function, 120)
    evaluated, passed = textbook_bamsoo(box, function, 120, model, width)
    assert [claim.cell for claim in claims] == evaluated
    skips = [skip for claim in claims for skip in claim.skips]
    found = [(skip.cell, skip.value) for skip in skips]
    assert [cell for cell, _ in found] == [cell for cell, _ in passed[: len(found)]]
    np.testing.assert_allclose(
        [value for _, value in found], [value for _, value in passed[: len(found)]], rtol=1e-6
    )
    assert tree.skipped == len(skips) >= 10


def test_a_gate_that_never_closes_makes_it_soo(
    methods: dict[str, Any], make_float_box: Any
) -> None:
    problem = synthetic.by_name("goldstein_price")
    box = make_float_box(problem.low, problem.high)
    function = functools.partial(value_at, problem, box)
    rule = functools.partial(bamsoo, model=never_closed, width=TWO)
    tree = methods["soo"].tree(box)
    claims = run(tree, rule, function, 150)
    assert claims == run(methods["soo"].tree(box), soo, function, 150)
    assert tree.skipped == 0


def test_at_most_sixty_evaluations_are_passed_over_in_a_row(
    methods: dict[str, Any], make_float_box: Any
) -> None:
    tree: Tree = methods["soo"].tree(make_float_box([-1.0, 3.0], [2.0, 5.0]))
    rule = functools.partial(bamsoo, model=always_closed, width=TWO)
    claims = run(tree, rule, lambda cell: float(cell.depth), 6)
    # The root has no rival, and nothing is known before it.
    assert [len(claim.skips) for claim in claims] == [0, 60, 60, 60, 60, 60]
    assert tree.skipped == 300
    assert tree.count == 6


def test_the_published_width() -> None:
    # beta_N at eta = 0.05: sqrt(2 log(pi^2 N^2 / 0.3)).
    assert theory(100, eta=0.05) == pytest.approx(5.0406, abs=1e-4)
    assert theory(1000, eta=0.05) == pytest.approx(5.8837, abs=1e-4)
    assert constant(7, beta=1.5) == 1.5


@pytest.fixture
def tree(methods: dict[str, Any]) -> Tree:
    made: Tree = methods["soo"].tree(Box((FloatAxis("x", 2.0, 5.0),)))
    made.record(0, Record(Claim(made.root), Status.KNOWN, 1.0))
    return made


def side(tree: Tree, number: int) -> Cell:
    return cells.child(tree.box, tree.root, 0, number)


def test_the_bound_stands_for_the_value_until_there_is_one(tree: Tree) -> None:
    left, right = side(tree, 0), side(tree, 2)
    claim = Claim(right, 0, skips=(Skip(left, 0, None, 7.0),))
    tree.record(1, Record(claim, Status.PENDING))
    node = tree.find(left)
    assert node is not None
    assert node.known
    assert node.rank == (0.0, 7.0)
    assert node.value is None  # nobody has seen it
    assert tree.owed() is None
    assert tree.points.values[~np.isnan(tree.points.values)].tolist() == [1.0]
    assert len(tree.points) == 2
    assert tree.holders(Claim(left, 0)) == ()
    # Another worker has evaluated it all the same.
    tree.record(2, Record(Claim(left, 0), Status.KNOWN, 3.0))
    assert node.value == 3.0
    assert node.rank == (0.0, 3.0)
    tree.record(2, None)
    assert node.rank == (0.0, 7.0)
    # A failed trial keeps what it passed over; a claim that is taken back does not.
    tree.record(1, Record(claim, Status.FAILED))
    assert node.rank == (0.0, 7.0)
    tree.record(1, None)
    assert tree.find(left) is None
    assert tree.skipped == 0


def test_of_two_bounds_that_of_the_earlier_trial_counts(tree: Tree) -> None:
    left, right = side(tree, 0), side(tree, 2)
    for number, value in ((5, 6.0), (3, 9.0), (4, 1.0)):
        claim = Claim(right, 0, skips=(Skip(left, 0, None, value, violation=0.5),))
        tree.record(number, Record(claim, Status.KNOWN, 2.0))
    node = tree.find(left)
    assert node is not None
    assert node.rank == (0.5, 9.0)


def test_what_was_passed_over_is_evaluated_when_nothing_else_is_left(tree: Tree) -> None:
    claim = Claim(side(tree, 2), 0, skips=(Skip(side(tree, 0), 0, None, 7.0),))
    tree.record(1, Record(claim, Status.KNOWN, 2.0))
    left = tree.unevaluated()
    assert left == Claim(side(tree, 0), 0)
    tree.record(2, Record(left, Status.PENDING))
    assert tree.unevaluated() is None
    node = tree.find(side(tree, 0))
    assert node is not None
    assert not node.known


def test_constraints_and_failures_leave_the_gate_open(tree: Tree) -> None:
    tree.record(0, Record(Claim(tree.root), Status.KNOWN, 1.0, violation=2.0))
    claim = bamsoo(tree, model=always_closed, width=TWO)
    assert claim is not None
    assert claim.skips == ()
    tree.observe(1, Observation((2.1,), Status.KNOWN, 4.0))
    claim = bamsoo(tree, model=always_closed, width=TWO)
    assert claim is not None
    assert len(claim.skips) == 60
    # The infeasible center of the box lends its violation to what is passed over below it.
    assert claim.skips[0].violation == 2.0


def test_the_model_knows_all_trials(tree: Tree) -> None:
    seen: list[list[Trial]] = []

    def model(box: Box, trials: list[Trial]) -> Bounds:
        seen.append(trials)
        return never_closed(box, trials)

    tree.observe(3, Observation((2.3,), Status.PENDING))
    tree.observe(2, Observation((2.6,), Status.KNOWN, 5.0, variance=0.5))
    tree.record(1, Record(Claim(side(tree, 2), 0), Status.PENDING, variance=0.1))
    tree.record(1, Record(Claim(side(tree, 2), 0), Status.PENDING))
    tree.record(4, Record(Claim(side(tree, 0), 0), Status.FAILED))
    deeper = Claim(cells.child(tree.box, side(tree, 0), 0, 0), 0)
    tree.record(5, Record(deeper, Status.KNOWN, 8.0, variance=0.25))
    bamsoo(tree, model=model, width=TWO)
    points = [trial.point for trial in seen[0]]
    assert np.array(points).ravel() == pytest.approx([1 / 2, 5 / 6, 0.2, 0.1, 1 / 18])
    assert [t.rank[-1] for t in seen[0] if t.status is Status.KNOWN] == [1, 5, 8]
    variances = [trial.variance for trial in seen[0]]
    assert variances == pytest.approx([math.nan, math.nan, 0.5, math.nan, 0.25], nan_ok=True)


def test_running_trials_narrow_the_bounds_of_the_process() -> None:
    box = Box((FloatAxis("x", 2.0, 5.0), FloatAxis("y", -1.0, 5.0)))
    known: list[Trial] = [
        Trial((x, y), Status.KNOWN, (0.0, x + y * y)) for x in (0.1, 0.5, 0.9) for y in (0.2, 0.7)
    ]
    free = MODEL(box, known)([(0.3, 0.4)], 2.0)[0]
    pending: list[Trial] = [*known, Trial((0.31, 0.4), Status.PENDING, (math.inf, math.inf))]
    busy = MODEL(box, pending)([(0.3, 0.4)], 2.0)[0]
    assert free[0] < busy[0] < busy[1] < free[1]
    middle = MODEL(box, pending)([(0.3, 0.4)], 0.0)[0]
    assert middle[0] == middle[1] == pytest.approx(MODEL(box, known)([(0.3, 0.4)], 0.0)[0][0])
