"""What a trial of a partition sampler says: which cell it evaluates, and what became of it."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from optuna_partition.core.cell import Cell


@dataclass(frozen=True, slots=True)
class Round:
    """What a sweep (SOO) or an iteration (DIRECT) decided when it opened.

    It depends on the values known at that moment, so that it can't be derived again later.

    Args:
        number: Count of the rounds, from 1.
        max_depth: Deepest level that the sweep visits: the depth of the tree when it opened.
        selected: Cells that the iteration divides, in this order; only the claim that opened the
            round holds them.
    """

    number: int
    max_depth: int | None = None
    selected: tuple[Cell, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """One trial's evaluation.

    Args:
        cell: The cell whose center is evaluated.
        axis: Axis along which its parent is split; None for the root.
        round: The round in which the parent was chosen; None for the root and for a speculative
            choice.
    """

    cell: Cell
    axis: int | None = None
    round: Round | None = None


class Status(enum.Enum):
    """What became of a claim."""

    PENDING = "pending"
    KNOWN = "known"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Record:
    """A claim and what became of it.

    Args:
        claim: The claim.
        status: What became of it.
        value: Minimized value if the status is KNOWN; +inf counts as the worst.
    """

    claim: Claim
    status: Status
    value: float = math.inf
