"""Evaluations that a division waits for and nobody makes: siblings, and retries of failed ones."""

from __future__ import annotations

import math
from collections.abc import Iterable

from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import Claim, Round, Status
from optuna_partition.core.node import Evaluation


class Owed:
    """An index over the evaluations that are to be handed out before new divisions."""

    def __init__(self) -> None:
        self._evaluations: set[Evaluation] = set()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._evaluations)

    def update(self, evaluation: Evaluation) -> None:
        """Look at the status of an evaluation again."""
        if evaluation.status is Status.FAILED:
            self._evaluations.add(evaluation)
        else:
            self._evaluations.discard(evaluation)

    def drop(self, evaluations: Iterable[Evaluation]) -> None:
        """Leave out evaluations that are not part of the tree any more."""
        self._evaluations.difference_update(evaluations)

    def first(self) -> Claim | None:
        """The claim on the next one.

        Divisions go by round, then by the cell that is divided; within one by axis and side.
        """
        return min(map(_claim, self._evaluations), key=_by_round, default=None)


def _claim(evaluation: Evaluation) -> Claim:
    if evaluation.divider is None:
        return Claim(evaluation.cell)
    found = (e.opened_in for e in evaluation.divider.division)
    opened = min((r for r in found if r is not None), key=lambda r: r.number, default=None)
    return Claim(
        evaluation.cell, evaluation.axis, opened and Round(opened.number, opened.max_depth)
    )


def _by_round(claim: Claim) -> tuple[float, int, Cell, int]:
    number = claim.round.number if claim.round else math.inf
    return number, claim.cell.depth, claim.cell, -1 if claim.axis is None else claim.axis
