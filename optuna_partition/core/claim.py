"""What a trial of a partition sampler says: which cell it evaluates, and what became of it."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from optuna_partition.core.cell import Cell

Rank = tuple[float, ...]
"""Violation of the constraints, then the minimized value or values: compared from the left."""

WORST: Rank = (math.inf, math.inf)
"""Rank of a failed evaluation: behind all others."""


@dataclass(frozen=True, slots=True)
class Round:
    """What a sweep (SOO) or an iteration (DIRECT) decided when it opened.

    It depends on the values known at that moment, so that it can't be derived again later.

    Args:
        number: Count of the rounds, from 1.
        max_depth: Deepest level that the sweep visits: the depth of the tree when it opened.
        selected: Cells that the iteration divides, in this order; only the claim that opened the
            round holds them.
        width: Number of levels that the sweep takes together [LOGO].
        best: Best value when the round opened.
        level: Level of the sweep at which the claim was made, where the cell does not tell it.
        reach: How many levels ahead the iteration looks [IMGPO].
    """

    number: int
    max_depth: int | None = None
    selected: tuple[Cell, ...] = ()
    width: int | None = None
    best: float | None = None
    level: int | None = None
    reach: float | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """A point off the centers, chosen by a model of the values near the best one.

    Args:
        point: (d,) in unit-cube lengths.
        best: Value that it was meant to beat; None if there was none.
        width: Half-width of the trust region, in unit-cube lengths; 0 if it is of none.
        count: How many evaluations the tree held.
    """

    point: tuple[float, ...]
    best: float | None
    width: float
    count: int


@dataclass(frozen=True, slots=True)
class Skip:
    """An evaluation that no trial is spent on: the bound of a model stands for its value.

    Args:
        cell: The cell that would be evaluated.
        axis: Axis along which its parent is split.
        round: The round in which the parent was chosen.
        value: Minimized value that the cell counts as.
        violation: Violation of the constraints that it counts as.
    """

    cell: Cell
    axis: int
    round: Round | None
    value: float
    violation: float = 0.0


@dataclass(frozen=True, slots=True)
class Claim:
    """One trial's evaluation.

    Args:
        cell: The cell whose center is evaluated.
        axis: Axis along which its parent is split; None for the root.
        round: The round in which the parent was chosen; None for the root and for a speculative
            choice.
        repeat: How many trials have evaluated the point before, for rules that average noise.
        probe: The point to evaluate instead of the center; the cell then holds it, and nothing is
            divided.
        skips: Evaluations that the rule passed over on its way to this one.
    """

    cell: Cell
    axis: int | None = None
    round: Round | None = None
    repeat: int = 0
    probe: Probe | None = None
    skips: tuple[Skip, ...] = ()


class Status(enum.Enum):
    """What became of a claim."""

    PENDING = "pending"
    KNOWN = "known"
    FAILED = "failed"
    SUBSTITUTED = "substituted"


class Trial(NamedTuple):
    """What a model sees of a trial.

    Args:
        point: (d,) in unit-cube lengths.
        status: What became of it.
        rank: Its rank if it is known.
        variance: Of the value, where a standard error is known; NaN where not.
    """

    point: tuple[float, ...]
    status: Status
    rank: Rank
    variance: float = math.nan


@dataclass(frozen=True, slots=True)
class Record:
    """A claim and what became of it.

    Args:
        claim: The claim.
        status: What became of it.
        value: Minimized value if the status is KNOWN; +inf counts as the worst feasible one.
        violation: By how much the constraints are violated; 0 for a feasible point.
        objectives: Minimized values of several objectives; then `value` is not used.
        variance: Of the value, where a standard error is known; NaN where not.
    """

    claim: Claim
    status: Status
    value: float = math.inf
    violation: float = 0.0
    objectives: tuple[float, ...] = ()
    variance: float = math.nan


@dataclass(frozen=True, slots=True)
class Observation:
    """A point that no claim asked for: enqueued, added, or chosen by another sampler.

    Args:
        values: Parameter values in the order of the box's axes, within their ranges.
        status: PENDING or KNOWN.
        value: As in `Record`.
        violation: As in `Record`.
        objectives: As in `Record`.
        constraints: Values of the constraints by name, feasible where none is above 0.
        variance: Of the value, where a standard error is known; NaN where not.
    """

    values: tuple[Any, ...]
    status: Status
    value: float = math.inf
    violation: float = 0.0
    objectives: tuple[float, ...] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    variance: float = math.nan


def rank_of(violation: float, *values: float) -> Rank:
    """Rank of a known outcome; NaN counts as the worst feasible value."""
    return violation, *[math.inf if value != value else value for value in values]


def rank(outcome: Record | Observation) -> Rank:
    """Rank of a known outcome of one or of several objectives."""
    return rank_of(outcome.violation, *(outcome.objectives or (outcome.value,)))


def same_values(values: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    """Whether two points have equal parameters; a choice of NaN equals itself."""
    return values == others or all(
        a == b or (a != a and b != b) for a, b in zip(values, others, strict=True)
    )
