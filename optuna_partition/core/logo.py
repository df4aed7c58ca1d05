"""LOGO, locally oriented global optimization [Kawaguchi, Maruyama and Zheng 2016].

A sweep of SOO over groups of `w` levels: one cell of each group, the best, is divided. The wider
the groups, the more local the search; `w = 1` is SOO.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from optuna_partition.core.claim import WORST, Claim, Rank, Round
from optuna_partition.core.node import Node
from optuna_partition.core.tree import Tree

WIDTHS = (3, 4, 5, 6, 8, 30)
"""Widths of the adaptive variant: one up after an improvement, one down otherwise."""


def logo(tree: Tree, *, widths: Sequence[int]) -> Claim | None:
    """The next evaluation of LOGO; the tree's leaves are grouped by depth.

    Args:
        tree: The partition, grouped by `depth`.
        widths: Numbers of levels that a group can have, ascending. One for a fixed width; of
            several the next wider one is taken when the last sweep improved the best value, and the
            next narrower one when it did not.

    Returns:
        A claim, or None if no evaluation is left to hand out.
    """
    return (
        tree.owed()
        or _continue_sweep(tree)
        or _open_sweep(tree, widths)
        or tree.speculative()
        or tree.unevaluated()
    )


def _continue_sweep(tree: Tree) -> Claim | None:
    members = tree.members(tree.round)
    if not members:
        return None
    rounds = [member.round for member in members]
    width = max(round_.width or 1 for round_ in rounds)
    max_depth = max(round_.max_depth or 0 for round_ in rounds)
    best = [round_.best for round_ in rounds if round_.best is not None]
    bound = min(WORST if member.node is None else member.node.rank for member in members)
    group = 1 + max(member.depth // width for member in members)
    sweep = Round(tree.round, max_depth, width=width, best=min(best, default=None))
    return _next(tree, sweep, group, bound)


def _open_sweep(tree: Tree, widths: Sequence[int]) -> Claim | None:
    groups = tree.groups()
    if not groups:
        return None
    best = min(leaf.rank for leaf in groups.values())[-1]
    width = _next_width(tree, widths, best)
    sweep = Round(tree.round + 1, max(tree.depth, *groups), width=width, best=_finite(best))
    return _next(tree, sweep, 0, WORST)


def _next_width(tree: Tree, widths: Sequence[int], best: float) -> int:
    last = [member.round for member in tree.members(tree.round)]
    width = max((round_.width or 0 for round_ in last), default=0)
    if width not in widths:
        return widths[0]
    before = min((r.best for r in last if r.best is not None), default=math.inf)
    step = 1 if best < before else -1
    return widths[min(max(widths.index(width) + step, 0), len(widths) - 1)]


def _next(tree: Tree, sweep: Round, first: int, bound: Rank) -> Claim | None:
    width = sweep.width or 1
    for group in range(first, (sweep.max_depth or 0) // width + 1):
        best = _best_of(tree.best_leaf, range(group * width, (group + 1) * width))
        if best is not None and best.rank <= bound:
            return tree.divide(best, sweep)
    return None


def _best_of(best_leaf: Callable[[int], Node | None], depths: range) -> Node | None:
    found = [leaf for leaf in map(best_leaf, depths) if leaf is not None]
    return min(found, key=lambda leaf: (leaf.rank, leaf), default=None)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
