"""What the figures need to know of a study: its trials as points, and a value axis that shows them.

A training that diverges may return 1e6 among losses of 3, or infinity. Such values are clipped to
the edge of the axis and marked, so that they neither hide the others nor vanish themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState


class Mark(Enum):
    """How a trial is drawn."""

    COMPLETE = "complete"
    INFEASIBLE = "infeasible"
    PRUNED = "pruned"
    CLIPPED = "off the axis"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Point:
    """One finished trial.

    Args:
        number: The trial's number.
        value: Its value, the last reported one if it was pruned; None if there is none.
        mark: How it is drawn.
        y: Where it is drawn on the value axis, in units of the value.
        improves: Whether it was the best one when it is reached in the order of the numbers.
        params: Its parameters.
    """

    number: int
    value: float | None
    mark: Mark
    y: float
    improves: bool
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ValueAxis:
    """Range of the value axis.

    Args:
        low: Smallest value drawn at its own height.
        high: Largest value drawn at its own height.
        maximize: Whether larger is better, so that bad trials lie at the lower edge.
    """

    low: float
    high: float
    maximize: bool

    @property
    def pad(self) -> float:
        """Free space beyond `low` and `high`, in which clipped trials are drawn."""
        return 0.08 * (self.high - self.low)

    @property
    def range(self) -> tuple[float, float]:
        """Ends of the axis."""
        return self.low - self.pad, self.high + self.pad

    @property
    def worst(self) -> float:
        """Height at which trials without a value are drawn."""
        return self.low - self.pad / 2 if self.maximize else self.high + self.pad / 2

    def holds(self, value: float) -> bool:
        """Whether a value is drawn at its own height."""
        return self.low <= value <= self.high

    def y(self, value: float | None) -> float:
        """Height at which a value is drawn."""
        if value is None or math.isnan(value):
            return self.worst
        if self.holds(value):
            return value
        return self.low - self.pad / 2 if value < self.low else self.high + self.pad / 2


@dataclass(frozen=True, slots=True)
class History:
    """A study's finished trials in the order of their numbers, and the axis of their values.

    Args:
        points: The finished trials.
        axis: The value axis that all figures of the study share.
        value_name: Name of the value.
        unfinished: Number of trials that run or wait.
        distributions: The last distribution of every parameter, widened to cover all trials.
    """

    points: tuple[Point, ...]
    axis: ValueAxis
    value_name: str
    unfinished: int
    distributions: Mapping[str, tuple[BaseDistribution, ...]]

    @property
    def best(self) -> Point | None:
        """The best completed trial, None if there is none."""
        return next((point for point in reversed(self.points) if point.improves), None)

    def count(self, *marks: Mark) -> int:
        """Number of points with one of these marks."""
        return sum(point.mark in marks for point in self.points)


def read_history(study: optuna.Study, *, baseline: float | None = None) -> History:
    """Read a study.

    Args:
        study: A study with one objective, in any state.
        baseline: A value that the axis must show whatever the trials' values are.

    Raises:
        ValueError: If the study has several objectives.
    """
    if len(study.directions) != 1:
        raise ValueError(
            f"The study has {len(study.directions)} objectives, expected one; for several use "
            "optuna.visualization.plot_pareto_front."
        )
    maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
    trials = study.get_trials(deepcopy=False)
    finished = sorted((t for t in trials if t.state.is_finished()), key=lambda t: t.number)
    values = [_value(t) for t in finished]
    axis = value_axis([v for v in values if v is not None], maximize=maximize, show=baseline)
    names = study.metric_names
    return History(
        points=_points(finished, values, axis),
        axis=axis,
        value_name=names[0] if names else "value",
        unfinished=len(trials) - len(finished),
        distributions=_distributions(finished),
    )


def value_axis(
    values: Iterable[float], *, maximize: bool = False, show: float | None = None
) -> ValueAxis:
    """An axis on which the good values can be told apart.

    Nothing is clipped unless that frees at least half of the axis: the limit lies ten times as far
    from the best value as the value that two fifths of the trials reach.

    Args:
        values: The values, in any order; those that are not finite do not count.
        maximize: Whether larger is better.
        show: A value that is never clipped, if it is finite.
    """
    sign = -1 if maximize else 1
    shown = [sign * show] if show is not None and math.isfinite(show) else []
    losses = sorted(sign * v for v in values if math.isfinite(v))
    if not losses and not shown:
        return ValueAxis(0.0, 1.0, maximize)
    ordered = sorted(losses + shown)
    best, worst = ordered[0], ordered[-1]
    limit = max([best + 10 * _typical_distance(losses or shown), *shown, *losses[:1]])
    if worst - best > 2 * (limit - best) > 0:
        worst = max(loss for loss in ordered if loss <= limit)
    if best == worst:
        margin = 0.05 * abs(best) or 0.5
        best, worst = best - margin, worst + margin
    low, high = sorted((sign * best, sign * worst))
    return ValueAxis(low, high, maximize)


def _typical_distance(losses: list[float]) -> float:
    """Distance to the best loss that two fifths of the sorted losses keep; 0 if all are equal."""
    distances = [loss - losses[0] for loss in losses]
    start = max(0, math.ceil(0.4 * len(distances)) - 1)
    return next((distance for distance in distances[start:] if distance > 0), 0.0)


def _value(trial: FrozenTrial) -> float | None:
    if trial.state == TrialState.COMPLETE:
        return trial.value
    if trial.state == TrialState.PRUNED and trial.last_step is not None:
        return trial.intermediate_values[trial.last_step]
    return None


def _points(
    trials: list[FrozenTrial], values: list[float | None], axis: ValueAxis
) -> tuple[Point, ...]:
    points: list[Point] = []
    best: float | None = None
    for trial, value in zip(trials, values, strict=True):
        feasible = all(c <= 0 for c in (trial.constraints or {}).values())
        improves = (
            trial.state == TrialState.COMPLETE
            and feasible
            and value is not None
            and (best is None or (value > best if axis.maximize else value < best))
        )
        best = value if improves else best
        mark = _mark(trial, value, axis, feasible=feasible)
        points.append(Point(trial.number, value, mark, axis.y(value), improves, trial.params))
    return tuple(points)


def _mark(trial: FrozenTrial, value: float | None, axis: ValueAxis, *, feasible: bool) -> Mark:
    if trial.state == TrialState.FAIL:
        return Mark.FAILED
    if value is not None and not axis.holds(value):
        return Mark.CLIPPED
    if trial.state == TrialState.PRUNED:
        return Mark.PRUNED
    return Mark.COMPLETE if feasible else Mark.INFEASIBLE


def _distributions(trials: list[FrozenTrial]) -> dict[str, tuple[BaseDistribution, ...]]:
    """Every parameter's distinct distributions, oldest first: ranges may grow during a study."""
    found: dict[str, list[BaseDistribution]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            known = found.setdefault(name, [])
            if distribution not in known:
                known.append(distribution)
    return {name: tuple(distributions) for name, distributions in found.items()}
