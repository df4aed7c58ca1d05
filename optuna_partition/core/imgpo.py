"""Infinite-metric Gaussian process optimization [Kawaguchi, Kaelbling and Lozano-Perez 2015].

An iteration goes like a sweep of SOO, with three differences. A child whose lower confidence bound
lies above the best value is not evaluated; the bound stands for its value, and once the cell is
chosen to be divided, it is evaluated first. All cells of an iteration are selected when it opens.
And a cell is left out if the model sees nothing below it, some levels down, that could be better
than the cell that was selected there; how far it looks grows after an improvement.

The article's text could not be consulted; the rules are those of a public C++ implementation of it.
"""

from __future__ import annotations

import functools
import math

from optuna_partition.core.bamsoo import Gate, Model, Width, gated
from optuna_partition.core.cell import Cell, children
from optuna_partition.core.claim import WORST, Claim, Round, Status
from optuna_partition.core.direct import continue_iteration
from optuna_partition.core.node import Node
from optuna_partition.core.tree import Tree

# Levels that an iteration looks ahead at first, more after an improvement, and fewer without; at
# most so many are looked at.
_FIRST_REACH, _GAIN, _LOSS, _LONGEST = 1.0, 4.0, 0.5, 3


def imgpo(tree: Tree, *, model: Model, width: Width) -> Claim | None:
    """The next evaluation of IMGPO; the tree's leaves are grouped by depth.

    Args:
        tree: The partition, grouped by `depth`.
        model: Makes confidence bounds of what is known.
        width: Of the bounds.

    Returns:
        A claim, or None if no evaluation is left to hand out.
    """
    gate = Gate(tree, model, width, 1 + tree.skipped)
    return gated(functools.partial(_ungated, gate=gate), gate, optimistic=True)


def theory(test: int, *, eta: float) -> float:
    """`sqrt(2 log(pi**2 M**2 / (12 eta)))` after M - 1 tests that spared an evaluation."""
    return math.sqrt(2 * math.log(math.pi**2 * max(test, 1) ** 2 / (12 * eta)))


def _ungated(tree: Tree, *, gate: Gate) -> Claim | None:
    return (
        tree.owed()
        or continue_iteration(tree)
        or _open_iteration(tree, gate)
        or tree.speculative()
        or tree.unevaluated()
    )


def _open_iteration(tree: Tree, gate: Gate) -> Claim | None:
    selected: dict[int, Node] = {}
    bound = WORST
    for depth, leaf in tree.groups().items():
        if leaf.rank > bound:
            continue
        if leaf.evaluation.status is Status.SUBSTITUTED:
            return Claim(leaf.evaluation.cell, leaf.evaluation.axis)
        selected[depth], bound = leaf, leaf.rank
    if not selected:
        return None
    reach = _reach(tree, gate)
    depths = [d for d in selected if _is_promising(tree, gate, selected, d, reach)]
    cells = tuple(selected[depth].cell for depth in depths)
    opened = Round(tree.round + 1, selected=cells, best=gate.best, reach=reach)
    return tree.divide(selected[depths[0]], opened)


def _reach(tree: Tree, gate: Gate) -> float:
    """How many levels the next iteration looks ahead."""
    rounds = [m.round for m in tree.members(tree.round) if m.round.reach is not None]
    if not rounds:
        return _FIRST_REACH
    # Several workers may have opened it, each with what it knew.
    reach = max(round_.reach or _FIRST_REACH for round_ in rounds)
    before = min(math.inf if round_.best is None else round_.best for round_ in rounds)
    if gate.best is not None and gate.best < before:
        return reach + _GAIN
    return max(reach - _LOSS, _FIRST_REACH)


def _is_promising(
    tree: Tree, gate: Gate, selected: dict[int, Node], depth: int, reach: float
) -> bool:
    """Whether something below a selected cell may be better than the cell selected there."""
    levels = range(1, min(math.ceil(reach), _LONGEST) + 1)
    ahead = next((level for level in levels if depth + level in selected), None)
    if ahead is None or gate.best is None:
        return True
    lowest = min(lower for lower, _ in gate.bounds(_below(tree, selected[depth].cell, ahead)))
    value = selected[depth + ahead].value
    return value is None or lowest <= value


def _below(tree: Tree, cell: Cell, levels: int) -> list[Cell]:
    """The cells that divisions of a cell, so many levels down, would make."""
    found = [cell]
    for _ in range(levels):
        found = [part for above in found for part in _parts(tree, above)]
    return found


def _parts(tree: Tree, cell: Cell) -> list[Cell]:
    axes = tree.division(tree.box, cell)
    return [part for part, _ in children(tree.box, cell, axes[0])] if axes else [cell]
