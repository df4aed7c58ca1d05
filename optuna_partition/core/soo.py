"""Simultaneous optimistic optimization [Munos 2011].

A sweep goes from the shallowest to the deepest level of the tree and divides the best leaf of each
level, if it is at least as good as every leaf that the sweep has divided so far. The depth of a
sweep is frozen when it opens: with an odd number of children the middle one ties with its parent,
and an open end would let one sweep dive for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from optuna_partition.core.claim import Claim, Round
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
    return tree.owed() or _continue_sweep(tree) or _open_sweep(tree, h_max) or tree.speculative()


def _continue_sweep(tree: Tree) -> Claim | None:
    claims = tree.claims_of_round(tree.round)
    if not claims:
        return None
    # The depths are maxima and the bound is a minimum: whoever claimed first, the sweep's position
    # is the same.
    depth = max(claim.cell.depth for claim in claims) - 1
    max_depth = max(claim.round.max_depth or 0 for claim in claims if claim.round)
    bound = min(_parent_value(tree, claim) for claim in claims)
    return _next(tree, Round(tree.round, max_depth), first=depth + 1, bound=bound)


def _open_sweep(tree: Tree, h_max: DepthLimit | None) -> Claim | None:
    depths = list(tree.groups())
    if not depths:
        return None
    limit = math.inf if h_max is None else h_max(tree.expansions)
    # A limit above which no leaf is left would end the search: the shallowest level stays open.
    max_depth = max(min(tree.depth, limit), depths[0])
    return _next(tree, Round(tree.round + 1, math.floor(max_depth)), first=0, bound=math.inf)


def _next(tree: Tree, sweep: Round, *, first: int, bound: float) -> Claim | None:
    for depth in range(first, (sweep.max_depth or 0) + 1):
        best = tree.best_leaf(depth)
        if best is not None and best[0] <= bound:
            return tree.divide(best[1], sweep)
    return None


def _parent_value(tree: Tree, claim: Claim) -> float:
    value = tree.value_of_parent(claim)
    return math.inf if value is None else value
