"""StoSOO: the rule of the paper, its formulas, and the answer that it gives."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from objectives import synthetic
from optuna_partition.core import cell as cells
from optuna_partition.core.box import Box, FloatAxis
from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import Record, Status
from optuna_partition.core.stosoo import (
    Noise,
    answer,
    default_max_depth,
    default_repeats,
    optimistic,
    stosoo,
)
from optuna_partition.core.tree import Tree


def tree_of(box: Box, noise: Noise) -> Tree:
    order = functools.partial(optimistic, noise=noise)
    return Tree(box, division=cells.one_longest_side, group=cells.depth, order=order)


def textbook_stosoo(
    box: Box, function: Callable[[Cell], float], n: int, noise: Noise, h_max: float
) -> list[Cell]:
    """The loop of the paper over dicts: leaves with the cells that their values were made for."""
    root = cells.root(box)
    leaves, values = {root: root}, {root: [function(root)]}
    order = [root]

    def evaluate(cell: Cell) -> None:
        values.setdefault(cell, []).append(function(cell))
        order.append(cell)

    def bound_of(leaf: Cell) -> float:
        found = values[leaves[leaf]]
        return sum(found) / len(found) - noise.margin(len(found))

    while len(order) < n:
        bound, deepest = math.inf, min(max(leaf.depth for leaf in leaves), h_max)
        for depth in range(math.floor(deepest) + 1):
            level = [leaf for leaf in leaves if leaf.depth == depth]
            best = min(level, key=lambda leaf: (bound_of(leaf), leaf), default=None)
            if best is None or bound_of(best) > bound:
                continue
            if len(values[leaves[best]]) < noise.repeats:
                evaluate(leaves[best])
                continue
            bound, cell = bound_of(best), leaves.pop(best)
            for part, inherits in cells.children(box, best, cells.one_longest_side(box, best)[0]):
                leaves[part] = cell if inherits else part
                if not inherits:
                    evaluate(part)
    return order[:n]


@pytest.mark.parametrize("name", ["branin", "hartmann3", "hartmann6"])
@pytest.mark.parametrize("repeats", [1, 2, 5])
@pytest.mark.parametrize("h_max", [None, 6])
def test_stosoo_is_the_textbook_cell_for_cell(
    name: str, repeats: int, h_max: int | None, make_float_box: Any, search: Any
) -> None:
    problem = synthetic.by_name(name)
    box = make_float_box(problem.low, problem.high)
    noise = Noise(n_evaluations=300, repeats=repeats, delta=0.06, scale=0.4)

    def noisy(calls: Counter[Cell], cell: Cell) -> float:
        calls[cell] += 1
        # Differs from repeat to repeat, and is the same in both runs.
        disturbance = 0.4 * ((0.7548776662466927 * calls[cell]) % 1 - 0.5)
        point = np.array(list(cells.decode(box, cell).values()))
        return float(problem(point)) + disturbance

    rule = functools.partial(stosoo, noise=noise, h_max=h_max)
    found = search(tree_of(box, noise), rule, functools.partial(noisy, Counter()), 300)
    expected = textbook_stosoo(
        box, functools.partial(noisy, Counter()), 300, noise, math.inf if h_max is None else h_max
    )
    assert [claim.cell for claim, _ in found] == expected


def test_a_second_equal_value_makes_a_cell_less_promising() -> None:
    """The mean stays, and the interval around it narrows."""
    box = Box((FloatAxis("x", 2.0, 5.0),))
    noise = Noise(n_evaluations=100, repeats=4, delta=0.1, scale=1.0)
    tree = tree_of(box, noise)
    values = {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}
    claims = []
    for number, value in values.items():
        claim = stosoo(tree, noise=noise)
        assert claim is not None
        tree.record(number, Record(claim, Status.PENDING))
        tree.record(number, Record(claim, Status.KNOWN, value))
        claims.append(claim)
    assert [claim.axis for claim in claims] == [None] * 4 + [0, 0]
    first, middle, last = (tree.find(leaf) for leaf in tree.leaves)
    assert first is not None
    assert last is not None
    assert tree.best_leaf(1) is first  # as good as the last one, and lower
    tree.record(6, Record(tree.repeat(first, None), Status.KNOWN, 1.0))
    assert tree.best_leaf(1) is last
    assert optimistic(last, noise) < optimistic(first, noise)
    assert middle is not None
    assert tree.first(1, lambda leaf: leaf not in (first, last)) is middle
    assert tree.best_leaf(1) is last


def test_a_cell_waits_for_its_running_repeats_while_others_are_free() -> None:
    box = Box((FloatAxis("x", 2.0, 5.0), FloatAxis("y", -1.0, 4.0)))
    noise = Noise(n_evaluations=100, repeats=3, delta=0.1, scale=1.0)
    tree = tree_of(box, noise)
    claims = [stosoo(tree, noise=noise)]
    assert claims[0] is not None
    tree.record(0, Record(claims[0], Status.KNOWN, 1.0))
    for number in range(1, 6):
        claim = stosoo(tree, noise=noise)
        assert claim is not None
        tree.record(number, Record(claim, Status.PENDING))
        claims.append(claim)
    # Two more repeats of the root, then a division that does not wait for them.
    assert [claim.axis is None for claim in claims if claim] == [True] * 3 + [False] * 3
    assert len(set(claims)) == 6


def test_the_margin_is_the_formula_of_the_paper() -> None:
    noise = Noise(n_evaluations=500, repeats=3, delta=0.05, scale=2.0)
    assert noise.margin(2) == pytest.approx(2 * math.sqrt(math.log(500 * 3 / 0.05) / 4))


@pytest.mark.parametrize(("n", "repeats", "depth"), [(50, 2, 5), (400, 2, 14), (1000, 4, 15)])
def test_defaults_follow_the_paper(n: int, repeats: int, depth: int) -> None:
    assert default_repeats(n) == repeats
    assert default_max_depth(n, repeats) == depth


def test_the_answer_is_the_best_mean_of_the_deepest_divided_level(search: Any) -> None:
    box = Box((FloatAxis("x", 0.0, 3.0),))
    noise = Noise(n_evaluations=60, repeats=2, delta=0.1, scale=0.01)
    tree = tree_of(box, noise)
    assert answer(tree) is None

    def function(cell: Cell) -> float:
        return abs(float(cells.decode(box, cell)["x"]) - 0.7)

    search(tree, functools.partial(stosoo, noise=noise), function, 60)
    found = answer(tree)
    assert found is not None
    assert cells.decode(box, found.cell)["x"] == pytest.approx(0.7, abs=0.05)
    deepest = max(depth for depth in range(tree.depth) if tree.divided(depth))
    assert found.depth == deepest
    assert found.evaluation.count == 2
