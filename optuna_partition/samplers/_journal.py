"""Claims in trial attributes, and how workers agree on who has which cell.

This module alone writes to the storage. No Optuna storage offers compare-and-swap on an attribute,
so a worker writes its claim, reads all trials again, and withdraws if somebody else holds the cell
with a better right (`Journal.claim`).
"""

from __future__ import annotations

import functools
import json
import math
import reprlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_partition.core.claim import Observation, Status
from optuna_partition.samplers._compat import write_attribute
from optuna_partition.samplers._geometry import Geometry, Outcome
from optuna_partition.samplers._space import Space, same_parameters
from optuna_partition.samplers._trials import (
    Follower,
    Reader,
    age,
    fixed_parameters,
    is_stale,
)

Rule = Callable[[Any], Any]
"""Chooses the next claim of a tree, or of another fold over claims; None if it has none."""

KEY = "partition:claim"
INTERRUPTED = "interrupted"
"""User attribute of a failed trial that was stopped by a person: its cell did not fail."""

# An RDB attribute holds 2,045 characters of JSON; quotes inside a piece are escaped, which doubles
# them at worst.
_PIECE = 1000
# How long the trial with the lowest number waits for its rivals to withdraw, and how often it
# looks.
_RESOLVE_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05
# A running trial without a claim is taken to be choosing right now for so long; then it is taken
# for dead.
_CHOOSING_SECONDS = 10.0
_INFINITY = float("inf")
# So many claims are read before the search takes them in: reading and taking in are much code each,
# and a processor's cache holds one of them. It saves a tenth of the time, and 512 lose it again.
_BATCH = 64
# What reading can raise when the attribute holds anything at all: no dictionary where one is due,
# numbers beyond all floats, lists a thousand levels deep.
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class ClaimFormatError(ValueError):
    """A claim attribute that this version can't read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A claim as it is written, with the box that its coordinates belong to.

    Args:
        claim: The claim in JSON, as its geometry writes it.
        box: Fingerprint of the search space; None for a root that was claimed before any space was
            known.
        division: Name of the geometry.
        names: Parameter names in the box's order; the root's entry holds them.
    """

    claim: Mapping[str, Any]
    box: str | None
    division: str
    names: tuple[str, ...] = ()


def write_entry(study: Study, trial: FrozenTrial, entry: Entry | None) -> str | None:
    """Write the trial's claim, in pieces if it is long; None withdraws it.

    Returns:
        The attribute that the claim starts with.
    """
    if entry is None:
        write_attribute(study, trial, KEY, None)
        return None
    text = json.dumps(_to_json(entry), separators=(",", ":"))
    pieces = [text[i : i + _PIECE] for i in range(0, len(text), _PIECE)]
    for i, piece in enumerate(pieces[1:], start=1):
        write_attribute(study, trial, f"{KEY}:{i}", piece)
    # The first piece comes last and holds their number: a claim is never seen half-written.
    first = f"{len(pieces)};{pieces[0]}"
    write_attribute(study, trial, KEY, first)
    return first


def read_entry(trial: FrozenTrial) -> Entry | None:
    """The trial's claim; None if it has none or has withdrawn it.

    Raises:
        ClaimFormatError: If the attribute is not a claim.
    """
    first = trial.system_attrs.get(KEY)
    if first is None:
        return None
    try:
        count, piece = first.split(";", 1)
        if count != "1":
            rest = [trial.system_attrs[f"{KEY}:{i}"] for i in range(1, int(count))]
            piece += "".join(rest)
        return _from_json(json.loads(piece))
    except _UNREADABLE as error:
        raise ClaimFormatError(
            f"attribute {KEY!r} of trial {trial.number} is {reprlib.repr(first)}, expected a claim."
        ) from error


def _to_json(entry: Entry) -> dict[str, Any]:
    names = {"names": entry.names} if entry.names else {}
    return {"box": entry.box, "division": entry.division, **names, **entry.claim}


def _from_json(found: dict[str, Any]) -> Entry:
    box, division, names = found.pop("box"), found.pop("division"), found.pop("names", ())
    if not found or not isinstance(division, str) or not (box is None or isinstance(box, str)):
        raise ValueError("a claim has a cell, a division and a box")
    return Entry(found, box, division, tuple(names))


class Journal:
    """The partition of one box in one study, kept up to date from the storage.

    Args:
        space: The search space, and what is fixed outside of it.
        geometry: How the box is divided.
        directions: Directions of the study.
        claim_timeout: Seconds after which the claim of a running trial is free again; None for
            never.
        stderr_attr: User attribute that holds the standard error of a trial's value; None: none.
    """

    def __init__(
        self,
        space: Space,
        geometry: Geometry,
        *,
        directions: Sequence[StudyDirection],
        claim_timeout: float | None,
        stderr_attr: str | None = None,
    ) -> None:
        self.space = space
        self.search = geometry.search(space.box)
        self._geometry = geometry
        self._maximized = [d is StudyDirection.MAXIMIZE for d in directions]
        self._claim_timeout = claim_timeout
        self._stderr_attr = stderr_attr
        self._follower = Follower()
        self._warned: set[str] = set()
        # The claims of trials that are under way, by the text that they were read from.
        self._read: dict[int, tuple[object, Any]] = {}

    def sync(self, trials: list[FrozenTrial]) -> None:
        """Bring the partition up to date."""
        news = self._follower.news(trials)
        for first in range(0, len(news), _BATCH):
            batch = news[first : first + _BATCH]
            for trial, record in zip(batch, list(map(self._record, batch)), strict=True):
                known = self.search.record(trial.number, record)
                observed = None if record is not None and known else self._observation(trial)
                self.search.observe(trial.number, observed)

    def decode(self, claim: Any) -> dict[str, Any]:
        """Parameter values of a claim."""
        return self._geometry.decode(self.search, claim)

    def _record(self, trial: FrozenTrial) -> Any:
        """The trial's claim in this box, with what became of it; None if it has none."""
        claim = self._claim(trial)
        if claim is None:
            return None
        if trial.params and not same_parameters(trial.params, self.decode(claim)):
            return self._not_followed(trial, claim)
        outcome = self._outcome(trial)
        return None if outcome is None else self._geometry.record(claim, outcome)

    def _claim(self, trial: FrozenTrial) -> Any:
        text = trial.system_attrs.get(KEY)
        known = self._read.pop(trial.number, None)
        if text is None:
            return None
        if known is None or known[0] != text:
            known = text, self._parsed(trial)
        if not trial.state.is_finished():
            self._read[trial.number] = known
        return known[1]

    def _parsed(self, trial: FrozenTrial) -> Any:
        try:
            entry = read_entry(trial)
            if entry is None or entry.box not in (None, self.space.fingerprint):
                return None
            if entry.division != self._geometry.name:
                if not self._geometry.takes_points:
                    self._warn(
                        "division",
                        f"trial {trial.number} was chosen by a sampler that divides the space in "
                        "another way; such trials count as observations",
                    )
                return None
            if entry.box is None:
                return self._geometry.root(self.space.box)
            claim = self._geometry.from_json(entry.claim)
            if not self._geometry.fits(self.search, claim):
                raise ValueError(f"{claim} is not part of the box")
        except _UNREADABLE as error:
            self._warn("format", f"claim of trial {trial.number} is ignored: {error}")
            return None
        return claim

    def _not_followed(self, trial: FrozenTrial, claim: Any) -> Any:
        """The trial observed another point than it claims: out of range, or fixed afterwards."""
        entry = read_entry(trial)
        if entry is None or entry.box is None or not trial.state.is_finished():
            return None
        self._warn(
            "parameters",
            f"trial {trial.number} has other parameters than it claims, "
            f"{self.decode(claim)}; if the ranges in the objective differ from search_space=, "
            "make them equal",
        )
        # As a failure it is handed out again, but not for ever.
        return self._geometry.record(claim, Outcome(Status.FAILED))

    def _observation(self, trial: FrozenTrial) -> Observation | None:
        """The point of a trial that claims none, if it is one of the box."""
        values = self.space.values_of(trial, fixed_parameters(trial))
        outcome = None if values is None else self._outcome(trial)
        if values is None or outcome is None or outcome.status is Status.FAILED:
            return None
        return Observation(
            values,
            outcome.status,
            outcome.value,
            outcome.violation,
            outcome.objectives,
            outcome.constraints,
            outcome.variance,
        )

    def _outcome(self, trial: FrozenTrial) -> Outcome | None:
        match trial.state:
            case TrialState.FAIL if trial.user_attrs.get(INTERRUPTED):
                return None
            case TrialState.COMPLETE:
                signed = zip(self._maximized, trial.values, strict=True)
                return self._known(trial, [-v if flip else v for flip, v in signed])
            case TrialState.PRUNED:
                step = trial.last_step
                if step is None:
                    return self._known(trial, [_INFINITY])
                report = trial.intermediate_values[step]
                return self._known(trial, [-report if self._maximized[0] else report])
            case TrialState.FAIL:
                return Outcome(Status.FAILED)
        stale = is_stale(trial, self._claim_timeout)
        return Outcome(Status.FAILED if stale else Status.PENDING)

    def _known(self, trial: FrozenTrial, values: list[float]) -> Outcome:
        constraints = trial.constraints
        violation = sum([max(0.0, value) for value in constraints.values()], start=0.0)
        objectives = tuple(values) if len(self._maximized) > 1 else ()
        return Outcome(
            Status.KNOWN,
            values[0],
            violation,
            objectives,
            constraints,
            self._variance(trial),
        )

    def _variance(self, trial: FrozenTrial) -> float:
        """Square of the standard error that the trial states; NaN if it states none."""
        error = None if self._stderr_attr is None else trial.user_attrs.get(self._stderr_attr)
        if error is None:
            return math.nan
        if isinstance(error, int | float) and 0 <= error < _INFINITY:
            return float(error) ** 2
        self._warn(
            "stderr",
            f"standard error {self._stderr_attr!r} of trial {trial.number} is {error!r}, expected "
            "a number of 0 or more; it counts as unknown",
        )
        return math.nan

    def _warn(self, kind: str, what: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"{what}. Others like it are not reported.", stacklevel=2)

    def claim(self, study: Study, trial: FrozenTrial, rule: Rule, reader: Reader) -> Any:
        """Agree with all other workers on a cell for this trial.

        Of two workers that claim the same cell at least one sees the other when it reads again. It
        keeps the cell only if no rival has finished, has parameters already or has a lower number;
        a worker that saw nobody never gives its cell up.

        Args:
            study: The study.
            trial: A running trial without a claim.
            rule: Chooses the next cell.
            reader: Reads the study's trials.

        Returns:
            The claim, or None if the rule has nothing to hand out.
        """
        trials = reader.before(study, trial)
        self.sync(trials)
        while True:
            claim = self.preview(rule, skip=self._number_choosing(trials, trial))
            if claim is None:
                return None
            self._read[trial.number] = write_entry(study, trial, self._entry(claim)), claim
            rivals_in = functools.partial(self._rivals, trial=trial, claim=claim)
            if resolve(study, trial, reader, rivals_in):
                return claim
            write_entry(study, trial, None)
            trials = reader.fresh(study)
            self.sync(trials)

    def preview(self, rule: Rule, *, skip: int = 0) -> Any:
        """The claim that the rule makes after `skip` others, or its last one if there are fewer."""
        claim = rule(self.search)
        pending = Outcome(Status.PENDING)
        reserved: list[int] = []
        for number in range(-1, -1 - skip, -1):
            if claim is None:
                break
            self.search.record(number, self._geometry.record(claim, pending))
            reserved.append(number)
            claim = rule(self.search) or claim
        for number in reversed(reserved):
            self.search.record(number, None)
        return claim

    def is_last(self, trial: FrozenTrial, *, failed: bool) -> bool:
        """Whether nothing is left to hand out once this running trial has ended."""
        claim = self._claim(trial)
        if claim is not None:
            ended = Outcome(Status.FAILED if failed else Status.KNOWN)
            self.search.record(trial.number, self._geometry.record(claim, ended))
        elif failed:
            self.search.observe(trial.number, None)
        found: bool = self.search.exhausted
        self.search.record(trial.number, self._record(trial))
        if claim is None:
            self.search.observe(trial.number, self._observation(trial))
        return found

    def _entry(self, claim: Any) -> Entry:
        names = self.space.names if self._geometry.is_root(claim) else ()
        return Entry(
            self._geometry.to_json(claim), self.space.fingerprint, self._geometry.name, names
        )

    def _rivals(
        self, trials: list[FrozenTrial], *, trial: FrozenTrial, claim: Any
    ) -> list[FrozenTrial]:
        self.sync(trials)
        return [trials[n] for n in self.search.holders(claim) if n != trial.number]

    def _number_choosing(self, trials: list[FrozenTrial], trial: FrozenTrial) -> int:
        """How many earlier trials are about to choose: a hint that keeps workers off one cell."""
        earlier = [trials[n] for n in self._follower.unfinished if n < trial.number]
        return sum(
            other.state is TrialState.RUNNING
            and other.system_attrs.get(KEY) is None
            and not other.params
            and not fixed_parameters(other)
            and age(other) < _CHOOSING_SECONDS
            for other in earlier
        )


def resolve(
    study: Study,
    trial: FrozenTrial,
    reader: Reader,
    rivals_in: Callable[[list[FrozenTrial]], list[FrozenTrial]],
) -> bool:
    """Whether the cell that the trial has just claimed is its own, or it has to withdraw.

    Args:
        study: The study.
        trial: The trial, its claim written.
        reader: Reads the study's trials.
        rivals_in: The other holders of the same cell among all trials.
    """
    deadline = time.monotonic() + _RESOLVE_SECONDS
    pause = _FIRST_PAUSE
    while rivals := rivals_in(reader.fresh(study)):
        if time.monotonic() > deadline or any(
            rival.state.is_finished() or rival.params or rival.number < trial.number
            for rival in rivals
        ):
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return True
