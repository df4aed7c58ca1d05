"""SequOOL, sequential online optimistic optimization [Bartlett, Gabillon and Valko 2019].

The levels of the tree are visited once, from the top: of level h the `floor(h_max / h)` best cells
are opened. There is nothing to set but the number of evaluations, and no way back: a wrong ranking
at a shallow level is final.
"""

from __future__ import annotations

import functools
import math

from optuna_partition.core.claim import Claim
from optuna_partition.core.node import Node
from optuna_partition.core.soo import soo
from optuna_partition.core.tree import Tree


def sequool(tree: Tree, *, n_evaluations: int) -> Claim | None:
    """The next evaluation of SequOOL; the tree's leaves are grouped by depth.

    With pending values the shallowest level comes first that has a cell among its best known ones
    which is not open yet. When every level has its share the deepest ones are opened by one cell
    each, and beyond the budget, or where nothing of that is left, SOO goes on.

    Args:
        tree: The partition, grouped by `depth`.
        n_evaluations: Number of evaluations that the search may use.

    Returns:
        A claim, or None if no evaluation is left to hand out.
    """
    owed = tree.owed()
    if owed is not None:
        return owed
    for depth, leaf in tree.groups().items():
        if _is_among_the_best(tree, leaf, quota(depth, n_evaluations)):
            return tree.divide(leaf, None)
    return tree.speculative() or soo(tree)


def quota(depth: int, n_evaluations: int) -> int:
    """How many cells of a level are opened: `floor(h_max / depth)`, and one below `h_max`.

    An opening costs two evaluations, as the middle child has its parent's, so that
    `(n_evaluations - 1) / 2` of them can be paid; `h_max` is their number divided by the harmonic
    number of it.
    """
    return max(1, _h_max(n_evaluations) // depth) if depth else 1


@functools.cache
def _h_max(n_evaluations: int) -> int:
    openings = max(1, (n_evaluations - 1) // 2)
    return math.floor(openings / math.fsum(1 / k for k in range(1, openings + 1)))


def _is_among_the_best(tree: Tree, leaf: Node, quota: int) -> bool:
    # While a level is being opened its order changes all the time, and is not asked for.
    return len(tree.divided(leaf.depth)) < quota or tree.divided_before(leaf) < quota
