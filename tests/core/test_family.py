"""SequOOL, LOGO and MO-SOO: their rules, and the scores that they reach."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives import synthetic
from optuna_partition.core import cell as cells
from optuna_partition.core.box import Box
from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import Claim, Rank, Record, Status
from optuna_partition.core.logo import WIDTHS, logo
from optuna_partition.core.mosoo import nondominated
from optuna_partition.core.sequool import quota, sequool
from optuna_partition.core.soo import soo
from optuna_partition.core.tree import Tree

Rule = Callable[[Tree], Claim | None]


def run(tree: Tree, rule: Rule, problem: synthetic.Problem, n: int) -> list[tuple[Claim, float]]:
    """Evaluate n claims one after the other, off the centers too."""
    found = []
    for number in range(n):
        claim = rule(tree)
        assert claim is not None
        parameters = (
            cells.decode(tree.box, claim.cell)
            if claim.probe is None
            else tree.box.at(claim.probe.point)
        )
        value = float(problem(np.array(list(parameters.values()))))
        tree.record(number, Record(claim, Status.KNOWN, value))
        found.append((claim, value))
    return found


def test_sequool_opens_its_share_of_every_level(methods: Any, make_float_box: Any) -> None:
    problem = synthetic.by_name("hartmann6")
    tree: Tree = methods["sequool"].tree(make_float_box(problem.low, problem.high))
    n = 201
    run(tree, functools.partial(sequool, n_evaluations=n), problem, n)
    h_max = math.floor(100 / sum(1 / k for k in range(1, 101)))  # 100 openings can be paid
    for depth in range(1, h_max + 1):
        available = 3 * len(tree.divided(depth - 1))
        assert len(tree.divided(depth)) == min(h_max // depth, available)
    assert len(tree.divided(0)) == 1
    assert {len(tree.divided(depth)) for depth in range(h_max + 1, tree.depth)} <= {1}


def test_sequool_opens_the_best_cells_of_a_level(methods: Any, make_float_box: Any) -> None:
    problem = synthetic.by_name("branin")
    tree: Tree = methods["sequool"].tree(make_float_box(problem.low, problem.high))
    run(tree, functools.partial(sequool, n_evaluations=101), problem, 101)
    opened = tree.divided(2)
    nodes = [*opened, *tree.candidates(2)]
    best = sorted(nodes, key=lambda node: (node.rank, node))[: len(opened)]
    assert opened == set(best)
    assert len(opened) == quota(2, 101)


def test_sequool_goes_on_beyond_its_budget(methods: Any, make_float_box: Any, search: Any) -> None:
    box = make_float_box([-1.0], [2.0])
    tree: Tree = methods["sequool"].tree(box)
    found = search(
        tree,
        functools.partial(sequool, n_evaluations=5),
        lambda cell: abs(cells.decode(box, cell)["x0"] - 0.5),
        60,
    )
    assert len({claim.cell for claim, _ in found}) == 60


def test_logo_of_width_one_is_soo(methods: Any, make_float_box: Any) -> None:
    problem = synthetic.by_name("shekel10")
    box = make_float_box(problem.low, problem.high)
    one = run(methods["soo"].tree(box), functools.partial(logo, widths=(1,)), problem, 150)
    other = run(methods["soo"].tree(box), soo, problem, 150)
    assert [claim.cell for claim, _ in one] == [claim.cell for claim, _ in other]


def test_the_adaptive_width_goes_up_after_an_improvement(methods: Any, make_float_box: Any) -> None:
    problem = synthetic.by_name("goldstein_price")
    tree: Tree = methods["logo"].tree(make_float_box(problem.low, problem.high))
    found = run(tree, functools.partial(logo, widths=WIDTHS), problem, 200)
    best_after: dict[int, float] = {}
    width_of: dict[int, int] = {}
    best = math.inf
    for claim, value in found:
        best = min(best, value)
        if claim.round is not None:
            best_after[claim.round.number] = best
            width_of.setdefault(claim.round.number, claim.round.width or 0)
    best_after[0] = found[0][1]
    for number in range(1, max(width_of)):
        i = WIDTHS.index(width_of[number])
        improved = best_after[number] < best_after[number - 1]
        step = 1 if improved else -1
        assert width_of[number + 1] == WIDTHS[min(max(i + step, 0), len(WIDTHS) - 1)]
    assert len(set(width_of.values())) > 1


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 1.0]), st.integers(0, 4), st.integers(0, 4)),
        min_size=1,
        max_size=12,
    )
)
def test_nondominated_is_its_definition(ranks: list[tuple[float, int, int]]) -> None:
    def dominates(a: tuple[float, int, int], b: tuple[float, int, int]) -> bool:
        if a[0] != b[0]:
            return a[0] < b[0]
        return a[1] <= b[1] and a[2] <= b[2] and a != b

    points: list[Rank] = [tuple(map(float, rank)) for rank in ranks]
    found = nondominated(points)
    assert found == sorted(
        {p for p, a in zip(points, ranks, strict=True) if not any(dominates(b, a) for b in ranks)}
    )


def textbook_mosoo(box: Box, function: Callable[[Cell], tuple[float, float]], n: int) -> list[Cell]:
    """The sweeps of the paper over a dict of leaves; returns the cells as they are evaluated."""

    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    order = [cells.root(box)]
    leaves = {order[0]: function(order[0])}
    while len(order) < n:
        taken: list[tuple[float, float]] = []
        for depth in range(max(leaf.depth for leaf in leaves) + 1):
            level = {leaf: found for leaf, found in leaves.items() if leaf.depth == depth}
            rivals = [*level.values(), *taken]
            front = [
                (found, leaf)
                for leaf, found in level.items()
                if not any(dominates(other, found) for other in rivals)
            ]
            for found, leaf in sorted(front):
                taken.append(leaves.pop(leaf))
                axis = cells.one_longest_side(box, leaf)[0]
                for part, inherits in cells.children(box, leaf, axis):
                    leaves[part] = found if inherits else function(part)
                    order.extend([] if inherits else [part])
    return order[:n]


@pytest.mark.parametrize("name", ["branin", "hartmann3", "hartmann6"])
def test_mosoo_is_the_textbook_cell_for_cell(name: str, methods: Any, make_float_box: Any) -> None:
    problem = synthetic.by_name(name)
    box = make_float_box(problem.low, problem.high)

    def function(cell: Cell) -> tuple[float, float]:
        point = np.array(list(cells.decode(box, cell).values()))
        # The second objective is coarse, so that points tie in it.
        return float(problem(point)), round(float(np.abs(point - problem.low).sum()), 0)

    tree: Tree = methods["mosoo"].tree(box)
    found = []
    for number in range(300):
        claim = methods["mosoo"].rule(tree)
        objectives = function(claim.cell)
        record = Record(claim, Status.KNOWN, objectives[0], 0.0, objectives)
        tree.record(number, record)
        found.append(claim.cell)
    assert found == textbook_mosoo(box, function, 300)


@pytest.mark.parametrize(
    ("name", "problem", "evaluations", "regret"),
    [
        ("refined", "branin", 60, 5e-3),
        ("refined", "hartmann3", 60, 1e-2),
        ("refined", "hartmann6", 150, 0.2),
        ("mosoo", "branin", 80, 5e-2),
    ],
)
def test_regret(
    name: str,
    problem: str,
    evaluations: int,
    regret: float,
    methods: Any,
    make_float_box: Any,
) -> None:
    function = synthetic.by_name(problem)
    tree: Tree = methods[name].tree(make_float_box(function.low, function.high))
    found = run(tree, methods[name].rule, function, evaluations)
    assert min(value for _, value in found) - function.minimum < regret
