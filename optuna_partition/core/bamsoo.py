"""Bayesian multi-scale optimistic optimization [Wang, Shakibi, Jin and de Freitas 2014].

SOO that evaluates a point only if a model thinks that it may beat the best value: where the lower
confidence bound lies above it, no trial is spent, and the upper bound stands for the value. Such a
cell is looked at again through its children.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

from optuna_partition.core.box import Box
from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import Claim, Skip, Status, Trial
from optuna_partition.core.node import Node
from optuna_partition.core.soo import DepthLimit, soo
from optuna_partition.core.tree import Tree

# A model that is sure of itself would reject children for ever.
_SKIPS_IN_A_ROW = 60

Point = tuple[float, ...]
Width = Callable[[int], float]
"""How many standard deviations a bound lies from the mean, at the N-th test."""
Bounds = Callable[[Sequence[Point], float], list[tuple[float, float]]]
"""Lower and upper bounds at points, so many standard deviations from the mean."""
Model = Callable[[Box, list[Trial]], Bounds]
"""Makes bounds of all trials that have a value or are under way, in their order."""
Rule = Callable[[Tree], Claim | None]


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
    # N counts all children, whether they were evaluated or not.
    tests = 1 + tree.count + tree.skipped
    return gated(functools.partial(soo, h_max=h_max), Gate(tree, model, width, tests))


class Gate:
    """What a model says of the next evaluations of a tree.

    Args:
        tree: The partition.
        model: Asked only if there is a feasible value.
        width: Of the bounds.
        test: Number N of the next test.
    """

    def __init__(self, tree: Tree, model: Model, width: Width, test: int) -> None:
        self.tree = tree
        self._model, self._width, self._test = model, width, test
        self._trials = tree.trials()
        self.best = _best(self._trials)

    @functools.cached_property
    def _bounds(self) -> Bounds:
        return self._model(self.tree.box, self._trials)

    def bounds(self, cells: Sequence[Cell], *, passed: int = 0) -> list[tuple[float, float]]:
        """Lower and upper bounds at the centers of cells, `passed` tests later."""
        points = [self.tree.box.middle(cell.levels, cell.index) for cell in cells]
        return self._bounds(points, self._width(self._test + passed))

    def passed_over(self, claim: Claim, passed: int, *, optimistic: bool) -> Skip | None:
        """The claim as one that is passed over; None if it may beat the best value."""
        divided = self.tree.divided_by(claim)
        if claim.axis is None or divided is None or _is_passed_over(divided, claim):
            return None
        ((lower, upper),) = self.bounds([claim.cell], passed=passed)
        if self.best is None or not lower > self.best:
            return None
        # Nothing is assumed of constraints but that they go on as at the parent's center.
        violation = divided.evaluation.rank[0] if divided.known else 0.0
        value = lower if optimistic else upper
        return Skip(claim.cell, claim.axis, claim.round, value, violation)


def gated(rule: Rule, gate: Gate, *, optimistic: bool = False) -> Claim | None:
    """The first evaluation of a rule that may beat the best value.

    Without a feasible value, with several objectives, or after 60 in a row, any will do.

    Args:
        rule: Chooses evaluations of the gate's tree.
        gate: Says which may beat the best value.
        optimistic: Whether the lower instead of the upper bound stands for the value.
    """
    tree, skips = gate.tree, list[Skip]()
    claim = rule(tree)
    if gate.best is None:
        return claim
    try:
        while claim is not None and len(skips) < _SKIPS_IN_A_ROW:
            skip = gate.passed_over(claim, len(skips), optimistic=optimistic)
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
    known = [trial.rank for trial in trials if trial.status is Status.KNOWN and trial.rank[0] == 0]
    found = min(known, default=None)
    return None if found is None or len(found) > 2 or math.isinf(found[-1]) else found[-1]


def _is_passed_over(divided: Node, claim: Claim) -> bool:
    """Whether nothing was left but what had been passed over."""
    return any(
        evaluation.cell == claim.cell and evaluation.status is Status.SUBSTITUTED
        for evaluation in divided.division
    )
