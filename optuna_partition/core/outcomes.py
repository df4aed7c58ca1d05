"""Where all trials of a tree lie and what became of them: what models are fitted to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from optuna_partition.core.box import Box
from optuna_partition.core.cell import fits
from optuna_partition.core.claim import WORST, Rank, Status, Trial, rank
from optuna_partition.core.holdings import Holdings
from optuna_partition.core.node import Guest, Sample
from optuna_partition.core.points import Points
from optuna_partition.core.skips import is_skip

# A trial, and whether by what it claimed or by what it was observed to evaluate.
Key = tuple[int, bool]


class Outcomes:
    """Points and values of all trials, kept up to date once somebody has asked for them.

    Args:
        box: The search space.
        holdings: What each trial holds now.
        guests: Points off the centers, by trial and whether it claimed them.
        variances: Of the values at centers, by trial, where they are known.
        is_given_up: Whether failures at a point were so many that it counts as the worst.
    """

    def __init__(
        self,
        box: Box,
        holdings: Callable[[], Holdings],
        guests: Mapping[Key, Guest],
        variances: Mapping[int, float],
        is_given_up: Callable[[tuple[Any, ...]], bool],
    ) -> None:
        self._box = box
        self._holdings = holdings
        self._guests = guests
        self._variances = variances
        self._is_given_up = is_given_up
        self._points: Points | None = None
        self._moved: set[Key] = set()
        # Trials that have a value of their own, by key of the points.
        self._known: dict[int, Trial] = {}

    def moved(self, number: int, *, claimed: bool) -> None:
        """Note that a trial has to be looked at again."""
        if self._points is not None:
            self._moved.add((number, claimed))
            self._known.pop(_key(number, claimed=claimed), None)

    @property
    def points(self) -> Points:
        """Where all trials lie, also those that run or failed; a trial has one key or two."""
        if self._points is None:
            self._points = Points(len(self._box.axes))
            self._moved = {(number, True) for number in self._holdings()}.union(self._guests)
        for number, claimed in self._moved:
            where = self._where(number, claimed=claimed)
            key = _key(number, claimed=claimed)
            if where is None:
                self._points.drop(key)
            else:
                self._points.put(key, *where)
        self._moved.clear()
        return self._points

    def trials(self) -> list[Trial]:
        """All trials that have not failed, by number."""
        points = self.points
        rows = {key: row for row, key in enumerate(points.keys.tolist())}
        found = [self._known.get(key) or self._trial(key, rows[key]) for key in sorted(rows)]
        return [trial for trial in found if trial.status is not Status.FAILED]

    def _trial(self, key: int, row: int) -> Trial:
        trial = Trial(tuple(self.points.points[row].tolist()), *self._outcome(*divmod(key, 2)))
        # What else became of a trial can change with others: with what they share, or how often
        # they fail.
        if trial.status is Status.KNOWN and trial.rank != WORST:
            self._known[key] = trial
        return trial

    def _outcome(self, number: int, claimed: int) -> tuple[Status, Rank, float]:
        """Status, rank and variance of a trial that has a point."""
        guest = self._guests.get((number, bool(claimed)))
        if guest is not None:
            concluded = guest.failed and self._is_given_up(guest.observation.values)
            status = Status.KNOWN if concluded else guest.observation.status
            return status, guest.rank, guest.observation.variance
        held = self._holdings().of(number)
        assert held is not None
        variance = self._variances.get(number, math.nan)
        if not isinstance(held, Sample):
            return held.status, rank(held), variance
        concluded = held.status is Status.FAILED and held.evaluation.status is Status.KNOWN
        return Status.KNOWN if concluded else held.status, held.rank, variance

    def _where(self, number: int, *, claimed: bool) -> tuple[tuple[float, ...], float] | None:
        """Point and value of what a trial claimed, or was observed to evaluate."""
        guest = self._guests.get((number, claimed))
        if guest is not None:
            return guest.point, _usable(guest.observation.status, guest.rank)
        held = self._holdings().of(number) if claimed else None
        if held is None or is_skip(number):
            return None
        if isinstance(held, Sample):
            cell, found = held.evaluation.cell, held.rank
        else:
            cell, found = held.claim.cell, rank(held)
            if not fits(self._box, cell):
                return None
        return self._box.middle(cell.levels, cell.index), _usable(held.status, found)


def _key(number: int, *, claimed: bool) -> int:
    return 2 * number + claimed


def _usable(status: Status, found: Rank) -> float:
    """The value that a model may use; NaN if there is none."""
    violation, value = found[0], found[-1]
    usable = status is Status.KNOWN and violation == 0 and math.isfinite(value)
    return value if usable else math.nan
