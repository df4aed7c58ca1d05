from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from objectives import synthetic
from optuna_partition.core import cell as cells
from optuna_partition.core.box import Box
from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import Record, Status
from optuna_partition.core.soo import soo
from optuna_partition.core.tree import Tree


def textbook_soo(
    box: Box, function: Callable[[Cell], float], n: int, h_max: Callable[[int], float]
) -> list[Cell]:
    """The loop of the paper over a dict of leaves; returns the cells as they are evaluated."""
    leaves, order, expansions = {cells.root(box): function(cells.root(box))}, [cells.root(box)], 0
    while len(order) < n:
        bound, deepest = math.inf, min(max(c.depth for c in leaves), h_max(expansions))
        deepest = max(deepest, min(c.depth for c in leaves))
        for depth in range(math.floor(deepest) + 1):
            level = [c for c in leaves if c.depth == depth]
            best = min(level, key=lambda c: (leaves[c], c), default=None)
            if best is None or leaves[best] > bound:
                continue
            bound, axis = leaves.pop(best), cells.one_longest_side(box, best)[0]
            expansions += 1
            for part, inherits in cells.children(box, best, axis):
                leaves[part] = bound if inherits else function(part)
                order.extend([] if inherits else [part])
    return order[:n]


@pytest.mark.parametrize(
    "name", ["branin", "goldstein_price", "hartmann3", "shekel10", "hartmann6"]
)
@pytest.mark.parametrize("h_max", [None, math.sqrt], ids=["no limit", "sqrt"])
def test_soo_is_the_textbook_cell_for_cell(
    name: str,
    h_max: Callable[[int], float] | None,
    methods: dict[str, Any],
    make_float_box: Any,
    search: Any,
) -> None:
    problem = synthetic.by_name(name)
    box = make_float_box(problem.low, problem.high)

    def function(cell: Cell) -> float:
        return float(problem(np.array(list(cells.decode(box, cell).values()))))

    tree: Tree = methods["soo"].tree(box)
    found = search(tree, lambda t: soo(t, h_max=h_max), function, 300)
    expected = textbook_soo(box, function, 300, h_max or (lambda _: math.inf))
    assert [claim.cell for claim, _ in found] == expected


# Evaluations to 0.01 % of the minimum, measured with an independent prototype of SOO without a
# depth limit.
@pytest.mark.parametrize(
    ("name", "evaluations"),
    [
        ("shekel5", 488),
        ("shekel10", 488),
        ("hartmann3", 182),
        ("hartmann6", 782),
        ("branin", 136),
        ("goldstein_price", 158),
    ],
)
def test_soo_matches_an_independent_implementation(
    name: str, evaluations: int, methods: dict[str, Any], make_float_box: Any, search: Any
) -> None:
    problem = synthetic.by_name(name)
    box = make_float_box(problem.low, problem.high)
    found = search(
        methods["soo"].tree(box),
        soo,
        lambda cell: float(problem(np.array(list(cells.decode(box, cell).values())))),
        1000,
        stop=problem.minimum + 1e-4 * abs(problem.minimum),
    )
    assert len(found) == evaluations


def test_a_sweep_does_not_dive(methods: dict[str, Any], make_float_box: Any, search: Any) -> None:
    # The middle child of the best cell always ties with it: an unfrozen sweep would follow it for
    # ever.
    box = make_float_box([-1.0], [2.0])
    tree: Tree = methods["soo"].tree(box)
    search(tree, soo, lambda cell: abs(cells.decode(box, cell)["x0"] - 0.5), 60)
    assert len([leaf for leaf in tree.leaves if leaf.depth <= 3]) > 10


def test_a_depth_limit_below_every_leaf_is_lifted(
    methods: dict[str, Any], make_float_box: Any, search: Any
) -> None:
    box = make_float_box([-1.0], [2.0])
    tree: Tree = methods["soo"].tree(box)
    found = search(tree, lambda t: soo(t, h_max=lambda _: 1), lambda cell: cell.depth, 40)
    assert len(found) == 40


def test_a_sweep_goes_on_where_other_workers_are(
    methods: dict[str, Any], make_float_box: Any
) -> None:
    box = make_float_box([-1.0], [2.0])
    tree: Tree = methods["soo"].tree(box)
    for number in range(3):  # root, left, right
        claim = soo(tree)
        assert claim is not None
        tree.record(number, Record(claim, Status.KNOWN, float(number)))
    first = soo(tree)
    assert first is not None
    assert first.round is not None
    assert (first.round.number, first.round.max_depth) == (2, 1)
    tree.record(3, Record(first, Status.PENDING))
    second = soo(tree)
    assert second is not None
    assert second.round == first.round  # the sibling is owed before anything else
    assert cells.parent(box, second.cell, 0)[0] == cells.parent(box, first.cell, 0)[0]
