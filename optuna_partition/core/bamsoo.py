"""Bayesian multi-scale optimistic optimization [Wang, Shakibi, Jin and de Freitas 2014].

SOO that evaluates a point only if a model thinks that it may beat the best value: where the lower
confidence bound lies above it, no trial is spent, and the upper bound stands for the value. Such a
cell is looked at again through its children.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

from optuna_partition.core.box import Box
from optuna_partition.core.claim import Claim, Rank, Skip, Status
from optuna_partition.core.node import Node
from optuna_partition.core.soo import DepthLimit, soo
from optuna_partition.core.tree import Tree

# A model that is sure of itself would reject children for ever.
_SKIPS_IN_A_ROW = 60

Trial = tuple[tuple[float, ...], Status, Rank]
"""Unit-cube point, (d,), what became of it, and its rank if it is known."""
Width = Callable[[int], float]
"""How many standard deviations a bound lies from the mean, at the N-th test."""
Bounds = Callable[[tuple[float, ...], float], tuple[float, float]]
"""Lower and upper bound at a point (d,), so many standard deviations from the mean."""
Model = Callable[[Box, list[Trial]], Bounds]
"""Makes bounds of all trials that have a value or are under way, in their order."""


def bamsoo(
    tree: Tree, *, model: Model, width: Width, h_max: DepthLimit | None = None
) -> Claim | None:
    """The next evaluation of BaMSOO; the tree's leaves are grouped by depth.

    Args:
        tree: The partition, grouped by `depth`.
        model: Makes confidence bounds of what is known.
        width: Of the bounds.
        h_max: As in `soo`.

    Returns:
        A claim, or None if no evaluation is left to hand out.
    """
    return gated(tree, rule=functools.partial(soo, h_max=h_max), model=model, width=width)


def gated(
    tree: Tree, *, rule: Callable[[Tree], Claim | None], model: Model, width: Width
) -> Claim | None:
    """The first evaluation of a rule that may beat the best value.

    With several objectives, without a feasible value, or after 60 in a row, any evaluation will do.
    """
    claim = rule(tree)
    trials = tree.trials()
    best = _best(trials)
    if claim is None or claim.axis is None or best is None:
        return claim
    bounds = model(tree.box, trials)
    skips: list[Skip] = []
    try:
        while claim is not None and len(skips) < _SKIPS_IN_A_ROW:
            skip = _tested(tree, claim, best, bounds, width)
            if skip is None:
                break
            skips.append(skip)
            tree.assume(tuple(skips))
            claim = rule(tree)
    finally:
        tree.assume(())
    return None if claim is None else dataclasses.replace(claim, skips=tuple(skips))


def theory(test: int, *, eta: float) -> float:
    """`beta_N = sqrt(2 log(pi**2 N**2 / (6 eta)))` at the N-th test [Wang et al. 2014].

    With probability `1 - eta` all bounds hold, if the model does.
    """
    return math.sqrt(2 * math.log(math.pi**2 * max(test, 1) ** 2 / (6 * eta)))


def constant(test: int, *, beta: float) -> float:
    """The same width at every test."""
    return beta


def _best(trials: list[Trial]) -> float | None:
    """Best feasible value."""
    known = [rank for _, status, rank in trials if status is Status.KNOWN and rank[0] == 0]
    found = min(known, default=None)
    return None if found is None or len(found) > 2 or math.isinf(found[-1]) else found[-1]


def _tested(tree: Tree, claim: Claim, best: float, bounds: Bounds, width: Width) -> Skip | None:
    """The claim as one that is passed over; None if it may beat the best value."""
    divided = tree.divided_by(claim)
    if claim.axis is None or divided is None or _is_passed_over(divided, claim):
        return None
    point = tree.box.middle(claim.cell.levels, claim.cell.index)
    lower, upper = bounds(point, width(tree.count + tree.skipped + 1))
    if not lower > best:
        return None
    # Nothing is assumed of constraints but that they go on as at the parent's center.
    violation = divided.evaluation.rank[0] if divided.known else 0.0
    return Skip(claim.cell, claim.axis, claim.round, upper, violation)


def _is_passed_over(divided: Node, claim: Claim) -> bool:
    """Whether nothing was left but what had been passed over."""
    return any(
        evaluation.cell == claim.cell and evaluation.status is Status.SUBSTITUTED
        for evaluation in divided.division
    )
