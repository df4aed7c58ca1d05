"""MO-SOO, SOO for several objectives [Al-Dujaili and Suresh 2018].

A sweep goes from the shallowest to the deepest level and divides all leaves of a level that no leaf
of the level, and none that the sweep has divided before, dominates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
    return _next(tree, Round(tree.round, max_depth), level, sorted(divided))


def _open_sweep(tree: Tree) -> Claim | None:
    depths = list(tree.groups())
    if not depths:
        return None
    return _next(tree, Round(tree.round + 1, max(tree.depth, depths[0])), 0, [])


def _next(tree: Tree, sweep: Round, first: int, divided: list[Node]) -> Claim | None:
    taken = [node.evaluation.rank for node in divided if node.known]
    for depth in range(first, (sweep.max_depth or 0) + 1):
        leaves = tree.candidates(depth)
        ranks = [leaf.evaluation.rank for leaf in leaves]
        free = nondominated(ranks, among=ranks + taken)
        if free.any():
            best = min(
                (rank, leaf) for rank, leaf, ok in zip(ranks, leaves, free, strict=True) if ok
            )
            return tree.divide(best[1], sweep)
    return None


def nondominated(ranks: list[Rank], *, among: list[Rank]) -> NDArray[np.bool_]:
    """Which ranks no other one dominates, (n,).

    Args:
        ranks: n ranks: violation of the constraints, then minimized objectives.
        among: The ranks that may dominate them.
    """
    width = max((len(rank) for rank in among), default=2)
    points, others = _array(ranks, width), _array(among, width)
    less = others[:, None, 0] < points[None, :, 0]
    equal = others[:, None, 0] == points[None, :, 0]
    nowhere_worse = (others[:, None, 1:] <= points[None, :, 1:]).all(axis=2)
    somewhere_better = (others[:, None, 1:] < points[None, :, 1:]).any(axis=2)
    dominated = less | (equal & nowhere_worse & somewhere_better)
    return np.asarray(~dominated.any(axis=0))


def _array(ranks: list[Rank], width: int) -> NDArray[np.float64]:
    """Ranks as rows; that of a failed evaluation is as long as the others."""
    rows = [rank + rank[-1:] * (width - len(rank)) for rank in ranks]
    return np.array(rows, dtype=float).reshape(len(ranks), width)
