"""The trials of a study: read no more often than needed, and looked at once when finished."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_partition.samplers._compat import read_trial, refreshed


class Follower:
    """Walks a growing list of trials: each one until it has finished, and never again."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._seen = 0

    @property
    def unfinished(self) -> tuple[int, ...]:
        """Trials that had not finished when they were last looked at, ascending."""
        return tuple(sorted(self._open))

    def news(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Trials that can have changed since the last call, by number."""
        numbers = sorted(self._open.union(range(self._seen, len(trials))))
        # A list read before the last one is shorter; what it lacks stays open.
        found = [trials[number] for number in numbers if number < len(trials)]
        self._open = {n for n in numbers if n >= len(trials) or not trials[n].state.is_finished()}
        self._seen = max(self._seen, len(trials))
        return found


class Reader:
    """Reads a study's trials for those who choose, and spares the reads that tell nothing new.

    Finished trials never change. With one worker all trials before the one that chooses have
    finished, and the last of them in this very process: no read from the storage is needed, which
    costs a database's client as much as two writes.
    """

    def __init__(self) -> None:
        self._trials: list[FrozenTrial] = []
        self._follower = Follower()
        self._told: set[int] = set()
        self._served: int | None = None

    def told(self, trial: FrozenTrial) -> None:
        """Note that this process ends a trial; its state may still have to be written."""
        self._told.add(trial.number)

    def fresh(self, study: Study) -> list[FrozenTrial]:
        """All trials as the storage has them now, by number."""
        self._trials = refreshed(study, self._trials, self._follower.unfinished)
        self._follower.news(self._trials)
        self._told.intersection_update(self._follower.unfinished)
        self._served = None
        return self._trials

    def before(self, study: Study, trial: FrozenTrial) -> list[FrozenTrial]:
        """What a trial chooses by: all earlier ones as they are now, later ones as last seen.

        The trial's second call gets what its first one got, unless somebody else read meanwhile.
        """
        if self._served != trial.number and not self._knows_all_before(study, trial.number):
            self.fresh(study)
        self._served = trial.number
        return self._trials

    def _knows_all_before(self, study: Study, number: int) -> bool:
        """Whether all trials below a number have finished, by what was read of them."""
        earlier = {n for n in self._follower.unfinished if n < number}
        if len(self._trials) < number or not earlier <= self._told:
            return False
        for n in earlier:
            self._trials[n] = read_trial(study, self._trials[n])
        self._told -= earlier
        self._follower.news(self._trials)
        return all(self._trials[n].state.is_finished() for n in earlier)


def is_stale(trial: FrozenTrial, claim_timeout: float | None) -> bool:
    """Whether a running trial is so old, in seconds, that its worker is taken for dead."""
    if claim_timeout is None or trial.datetime_start is None or trial.state.is_finished():
        return False
    return age(trial) > claim_timeout


def age(trial: FrozenTrial) -> float:
    """Seconds since a trial started, by the local clock; 0 if it has not."""
    start = trial.datetime_start or datetime.datetime.now()
    return (datetime.datetime.now() - start).total_seconds()


def fixed_parameters(trial: FrozenTrial) -> Mapping[str, Any]:
    """Parameters that `study.enqueue_trial` set."""
    found: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
    return found
