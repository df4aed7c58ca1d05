"""MO-SOO, SOO for several objectives [Al-Dujaili and Suresh 2018].

A sweep goes from the shallowest to the deepest level and divides all leaves of a level that no leaf
of the level, and none that the sweep has divided before, dominates.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Iterable

from optuna_partition.core.claim import Claim, Rank, Round
from optuna_partition.core.node import Node
from optuna_partition.core.tree import Tree


def mosoo(tree: Tree) -> Claim | None:
    """The next evaluation of MO-SOO; the tree's leaves are grouped by depth.

    A point that violates the constraints less dominates one that violates them more.

    Args:
        tree: The partition, grouped by `depth`.

    Returns:
        A claim, or None if no evaluation is left to hand out.
    """
    return tree.owed() or _continue_sweep(tree) or _open_sweep(tree) or tree.speculative()


def _continue_sweep(tree: Tree) -> Claim | None:
    members = tree.members(tree.round)
    if not members:
        return None
    max_depth = max(member.round.max_depth or 0 for member in members)
    divided = {member.node for member in members if member.node is not None}
    # Children lie below their level, so that its remaining leaves are still those of the turn.
    level = max(member.depth for member in members)
    taken = nondominated(node.evaluation.rank for node in divided if node.known)
    return _next(tree, Round(tree.round, max_depth), level, taken)


def _open_sweep(tree: Tree) -> Claim | None:
    depths = list(tree.groups())
    if not depths:
        return None
    return _next(tree, Round(tree.round + 1, max(tree.depth, depths[0])), 0, [])


def _next(tree: Tree, sweep: Round, first: int, taken: list[Rank]) -> Claim | None:
    def is_free(leaf: Node) -> bool:
        return not _is_dominated(leaf.evaluation.rank, taken)

    # Of the leaves of a level the first in the order of ranks that nothing taken dominates is one
    # that no leaf dominates either: such a leaf comes before it, so that something taken dominates
    # that leaf, and with it this one.
    for depth in range(first, (sweep.max_depth or 0) + 1):
        best = tree.first(depth, is_free)
        if best is not None:
            return tree.divide(best, sweep)
    return None


def nondominated(ranks: Iterable[Rank]) -> list[Rank]:
    """The different ranks that no other one dominates, ascending."""
    front: list[Rank] = []
    for rank in sorted(set(ranks)):
        if not _is_dominated(rank, front):
            front.append(rank)
    return front


def _is_dominated(rank: Rank, front: list[Rank]) -> bool:
    """Whether a rank of an ascending front dominates another one.

    What does comes before it, and of two objectives the last before it does if any.
    """
    before = front[: bisect.bisect_left(front, rank)]
    return any(dominates(other, rank) for other in reversed(before))


def dominates(one: Rank, other: Rank) -> bool:
    """Whether a rank dominates another one.

    It does if it violates the constraints less, or equally, and is nowhere worse and somewhere
    better. A failed evaluation is the worst in every objective.
    """
    if one[0] != other[0] or len(one) != len(other):
        return one < other
    return one != other and all(map(operator.le, one, other))
