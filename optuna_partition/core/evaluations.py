"""What a study knows of single points, for rules that model values instead of dividing the box.

`Evaluations` is a fold like `Tree`: a function of claims and observations, in any order. A claim
names a point of the unit cube; two points are the same if they decode to the same parameters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna_partition.core.box import Box, count_of
from optuna_partition.core.claim import Observation, Status

Point = tuple[float, ...]
"""(d,) in unit-cube lengths."""
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class PointRecord:
    """A claimed point and what became of it.

    Args:
        point: The claim.
        status: What became of it.
        value: As in `Record`.
        objectives: As in `Record`.
        constraints: As in `Observation`.
        variance: As in `Observation`.
    """

    point: Point
    status: Status
    value: float = math.inf
    objectives: tuple[float, ...] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    variance: float = math.nan


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One trial's point and what became of it, whoever chose the point.

    Args:
        key: What tells its parameters apart.
        point: Where the parameters lie in the unit cube.
        status: What became of it.
        objectives: Minimized values, one or several; empty unless the status is KNOWN.
        constraints: As in `Observation`.
        variance: As in `Observation`.
    """

    key: Key
    point: Point
    status: Status
    objectives: tuple[float, ...] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    variance: float = math.nan


class Evaluations:
    """The evaluated, running and failed points of a study.

    Args:
        box: The search space.
        max_retries: How often a failed point may be handed out again.
    """

    def __init__(self, box: Box, *, max_retries: int = 1) -> None:
        self.box = box
        self._max_retries = max_retries
        self._evaluations: dict[tuple[int, bool], Evaluation] = {}
        self._holders: dict[Key, set[tuple[int, bool]]] = {}
        self._size = math.prod(map(count_of, box.axes)) if box.finite else math.inf

    def __len__(self) -> int:
        """Number of trials with a point of the box."""
        return len(self._evaluations)

    @property
    def size(self) -> float:
        """Number of points of the box; infinite if an axis is continuous."""
        return self._size

    def by_trial(self) -> list[Evaluation]:
        """What each trial says, by number.

        A failed claim that was not followed counts as what the trial evaluated instead.
        """
        return [
            evaluation
            for source, evaluation in sorted(self._evaluations.items(), key=lambda item: item[0])
            if evaluation.status is not Status.FAILED or (source[0], True) not in self._evaluations
        ]

    def record(self, number: int, record: PointRecord | None) -> bool:
        """Note what trial `number` claims and what became of it; None takes the claim back.

        Returns:
            Whether the point was claimed and has not failed: a failed trial may have evaluated
            another one, as an observation tells.
        """
        if record is None:
            self._set((number, False), None)
            return True
        values = tuple(self.box.at(record.point).values())
        evaluation = Evaluation(
            self.box.key(values),
            self.box.units(values),
            record.status,
            _objectives(record),
            record.constraints,
            record.variance,
        )
        self._set((number, False), evaluation)
        return record.status is not Status.FAILED

    def observe(self, number: int, observation: Observation | None) -> bool:
        """Note a point that no claim asked for; None takes it back.

        Returns:
            Whether the box has the point; one outside of it is left out.
        """
        if observation is None or not self._holds(observation.values):
            self._set((number, True), None)
            return observation is None
        evaluation = Evaluation(
            self.box.key(observation.values),
            self.box.units(observation.values),
            observation.status,
            _objectives(observation),
            observation.constraints,
            observation.variance,
        )
        self._set((number, True), evaluation)
        return True

    def holders(self, point: Point) -> tuple[int, ...]:
        """Trials that hold the same parameters and have not failed, ascending."""
        key = self.box.key(tuple(self.box.at(point).values()))
        held = self._holders.get(key, set())
        return tuple(sorted(s[0] for s in held if self._evaluations[s].status is not Status.FAILED))

    def is_free(self, key: Key) -> bool:
        """Whether parameters may be handed out: nobody holds them, and they did not fail often."""
        statuses = Counter(self._evaluations[s].status for s in self._holders.get(key, ()))
        failures = statuses.pop(Status.FAILED, 0)
        return not statuses and failures <= self._max_retries

    @property
    def exhausted(self) -> bool:
        """Whether no point is left to hand out, now or when running trials end well."""
        if len(self._holders) < self._size:
            return False
        return not any(self.is_free(key) for key in self._holders)

    def _holds(self, values: Sequence[Any]) -> bool:
        return len(values) == len(self.box.axes) and all(
            axis.holds(value) for axis, value in zip(self.box.axes, values, strict=True)
        )

    def _set(self, source: tuple[int, bool], evaluation: Evaluation | None) -> None:
        before = self._evaluations.pop(source, None)
        if before is not None:
            self._holders[before.key].discard(source)
            if not self._holders[before.key]:
                del self._holders[before.key]
        if evaluation is not None:
            self._evaluations[source] = evaluation
            self._holders.setdefault(evaluation.key, set()).add(source)


def _objectives(outcome: PointRecord | Observation) -> tuple[float, ...]:
    if outcome.status is not Status.KNOWN:
        return ()
    return outcome.objectives or (outcome.value,)
