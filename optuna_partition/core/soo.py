"""Simultaneous optimistic optimization [Munos 2011].

A sweep goes from the shallowest to the deepest level of the tree and divides the best leaf of each
level, if it is at least as good as every leaf that the sweep has divided so far. The depth of a
sweep is frozen when it opens: with an odd number of children the middle one ties with its parent,
and an open end would let one sweep dive for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from optuna_partition.core.claim import WORST, Claim, Rank, Round
from optuna_partition.core.tree import Tree

DepthLimit = Callable[[int], float]


def soo(tree: Tree, *, h_max: DepthLimit | None = None) -> Claim | None:
    """The next evaluation of SOO; the tree's leaves are grouped by depth.

    Args:
        tree: The partition, grouped by `depth`.
        h_max: Deepest level that may be divided, as a function of the number of divided cells; None
            sets no limit.

    Returns:
        A claim, or None if no evaluation is left to hand out.
    """
    return (
        tree.owed()
        or _continue_sweep(tree)
        or _open_sweep(tree, h_max)
        or tree.speculative()
        or tree.unevaluated()
    )


def _continue_sweep(tree: Tree) -> Claim | None:
    members = tree.members(tree.round)
    if not members:
        return None
    # The depths are maxima and the bound is a minimum: whoever claimed first, the sweep's position
    # is the same.
    max_depth = max(member.round.max_depth or 0 for member in members)
    bound = min(WORST if member.node is None else member.node.rank for member in members)
    return _next(tree, Round(tree.round, max_depth), 1 + max(m.depth for m in members), bound)


def _open_sweep(tree: Tree, h_max: DepthLimit | None) -> Claim | None:
    depths = list(tree.groups())
    if not depths:
        return None
    limit = math.inf if h_max is None else h_max(tree.expansions)
    # A limit above which no leaf is left would end the search: the shallowest level stays open.
    max_depth = max(min(tree.depth, limit), depths[0])
    return _next(tree, Round(tree.round + 1, math.floor(max_depth)), first=0, bound=WORST)


def _next(tree: Tree, sweep: Round, first: int, bound: Rank) -> Claim | None:
    for depth in range(first, (sweep.max_depth or 0) + 1):
        best = tree.best_leaf(depth)
        if best is not None and best.rank <= bound:
            return tree.divide(best, sweep)
    return None
