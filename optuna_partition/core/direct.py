"""DIRECT and its variants: an iteration divides all potentially optimal cells.

Sources: Jones, Perttunen and Stuckman 1993; Gablonsky and Kelley 2001 (DIRECT-L).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from optuna_partition.core.claim import Claim, Rank, Round
from optuna_partition.core.node import Node
from optuna_partition.core.tree import Tree

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]


def direct(
    tree: Tree, *, size: Callable[[int], float], epsilon: float = 1e-4, one_per_size: bool = False
) -> Claim | None:
    """The next evaluation of DIRECT; the tree's leaves are grouped by size.

    Args:
        tree: The partition, grouped by `squared_diagonal` or `longest_side`.
        size: Unit-cube length of a group's key: `half_diagonal` or `length`.
        epsilon: Relative improvement that a cell must promise (dimensionless).
        one_per_size: Whether one of several equally good cells of a size is divided [Gablonsky and
            Kelley 2001] instead of all.

    Returns:
        A claim, or None if no evaluation is left to hand out. With a division along several sides
        the shape of a cell is open until all its values are in; None may then also mean that every
        cell is in that state.
    """
    return (
        tree.owed()
        or continue_iteration(tree)
        or _open_iteration(tree, size, epsilon, one_per_size)
        or tree.speculative()
        or tree.unevaluated()
    )


def continue_iteration(tree: Tree) -> Claim | None:
    """The next division of the cells that were selected when the round opened."""
    members = tree.members(tree.round)
    divided = {member.node.cell for member in members if member.node is not None}
    for member in members:
        for cell in (cell for cell in member.round.selected if cell not in divided):
            leaf = tree.find(cell)
            if leaf is not None and leaf.is_leaf:
                return tree.divide(leaf, Round(tree.round))
    return None


def _open_iteration(
    tree: Tree, size: Callable[[int], float], epsilon: float, one_per_size: bool
) -> Claim | None:
    groups = tree.groups()
    if not groups:
        return None
    keys = list(groups)
    chosen = potentially_optimal(
        np.array([size(key) for key in keys]),
        _single_values([leaf.rank for leaf in groups.values()]),
        epsilon=epsilon,
    )
    selected: list[Node] = []
    for key in (keys[i] for i in chosen):
        selected.extend([groups[key]] if one_per_size else tree.ties(key))
    cells = tuple(leaf.cell for leaf in selected)
    return tree.divide(selected[0], Round(tree.round + 1, selected=cells))


def _single_values(ranks: list[Rank]) -> FloatArray:
    """Values of feasible leaves, +inf for the others; violations while nothing is feasible."""
    feasible = [violation == 0 for violation, _ in ranks]
    if not any(feasible):
        return np.array([violation for violation, _ in ranks])
    return np.array([value if violation == 0 else math.inf for violation, value in ranks])


def potentially_optimal(sizes: FloatArray, values: FloatArray, *, epsilon: float) -> IntArray:
    """Indices of the potentially optimal cells, ascending [Jones et al. 1993].

    Cell j is potentially optimal if a rate K > 0 exists with `values[j] - K * sizes[j] <= values[i]
    - K * sizes[i]` for all i and `values[j] - K * sizes[j] <= best - epsilon * abs(best)`.

    Args:
        sizes: (n,) half-diagonals or longest sides in unit-cube lengths, positive.
        values: (n,) center values, minimized; +inf marks a failed trial and counts like the worst
            finite value.
        epsilon: Relative improvement that a cell must promise (dimensionless).

    Raises:
        ValueError: If the shapes differ, a value is NaN, or epsilon is outside [0, 1).
    """
    if sizes.shape != values.shape or sizes.ndim != 1:
        raise ValueError(f"shapes are {sizes.shape} and {values.shape}, expected (n,) twice.")
    if np.isnan(values).any():
        raise ValueError("values hold NaN, expected numbers; a failed trial counts as +inf.")
    check_epsilon(epsilon)
    if not len(sizes):
        return np.empty(0, dtype=np.intp)
    classes, class_of = np.unique(sizes, return_inverse=True)
    best = np.full(len(classes), math.inf)
    np.minimum.at(best, class_of, _finite(values))
    width = classes[:, None] - classes[None, :]
    slope = np.divide(
        best[:, None] - best[None, :], width, out=np.zeros_like(width), where=width != 0
    )
    # A smaller cell bounds the rate from below, a larger one from above, and so does the promised
    # improvement.
    lowest = np.where(width > 0, slope, -math.inf).max(axis=1)
    highest = np.where(width < 0, slope, math.inf).min(axis=1)
    target = best.min() - epsilon * abs(best.min())
    lowest = np.maximum(lowest, (best - target) / classes)
    optimal = (lowest <= highest) & (highest > 0)
    return np.flatnonzero(optimal[class_of] & (_finite(values) == best[class_of]))


def check_epsilon(epsilon: float) -> None:
    """Raise a ValueError unless epsilon is in [0, 1)."""
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon is {epsilon}, expected a value in [0, 1); try 1e-4.")


def _finite(values: FloatArray) -> FloatArray:
    """Values without infinities: they count like the worst, or the best, finite value."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.zeros_like(values)
    return np.clip(values, finite.min(), finite.max())
