"""Claims in trial attributes, and how workers agree on who has which cell.

This module alone writes to the storage. No Optuna storage offers compare-and-swap on an attribute,
so a worker writes its claim, reads all trials again, and withdraws if somebody else holds the cell
with a better right (`Journal.claim`).
"""

from __future__ import annotations

import datetime
import functools
import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_partition.core import cell as cells
from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import Claim, Record, Round, Status
from optuna_partition.core.tree import Tree
from optuna_partition.samplers._compat import read_trials, write_attribute
from optuna_partition.samplers._space import SearchSpace, fingerprint, same_parameters

Rule = Callable[[Tree], Claim | None]

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


class ClaimFormatError(ValueError):
    """A claim attribute that this version can't read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A claim with the box that its coordinates belong to.

    Args:
        claim: The claim.
        box: Fingerprint of the search space; None for a root that was claimed before any space was
            known.
        division: Name of the rule by which cells are divided.
        names: Parameter names in the box's order; the root's entry holds them.
    """

    claim: Claim
    box: str | None
    division: str
    names: tuple[str, ...] = ()


def write_entry(study: Study, trial: FrozenTrial, entry: Entry | None) -> None:
    """Write the trial's claim, in pieces if it is long; None withdraws it."""
    if entry is None:
        write_attribute(study, trial, KEY, None)
        return
    text = json.dumps(_to_json(entry), separators=(",", ":"))
    pieces = [text[i : i + _PIECE] for i in range(0, len(text), _PIECE)]
    for i, piece in enumerate(pieces[1:], start=1):
        write_attribute(study, trial, f"{KEY}:{i}", piece)
    # The first piece comes last and holds their number: a claim is never seen half-written.
    write_attribute(study, trial, KEY, f"{len(pieces)};{pieces[0]}")


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
        rest = [trial.system_attrs[f"{KEY}:{i}"] for i in range(1, int(count))]
        return _from_json(json.loads(piece + "".join(rest)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ClaimFormatError(
            f"attribute {KEY!r} of trial {trial.number} is {first!r}, expected a claim."
        ) from error


def _to_json(entry: Entry) -> dict[str, Any]:
    claim, round_ = entry.claim, entry.claim.round
    found: dict[str, Any] = {
        "box": entry.box,
        "division": entry.division,
        "cell": [claim.cell.levels, claim.cell.index],
        "axis": claim.axis,
    }
    if entry.names:
        found["names"] = entry.names
    if round_ is not None:
        found["round"] = round_.number
        if round_.max_depth is not None:
            found["max_depth"] = round_.max_depth
        if round_.selected:
            found["selected"] = [[cell.levels, cell.index] for cell in round_.selected]
    return found


def _from_json(found: Mapping[str, Any]) -> Entry:
    round_ = None
    if "round" in found:
        selected = tuple(_cell(cell) for cell in found.get("selected", ()))
        round_ = Round(int(found["round"]), found.get("max_depth"), selected)
    claim = Claim(_cell(found["cell"]), found["axis"], round_)
    return Entry(claim, found["box"], str(found["division"]), tuple(found.get("names", ())))


def _cell(found: Any) -> Cell:
    levels, index = found
    return Cell(tuple(int(level) for level in levels), tuple(int(i) for i in index))


class Follower:
    """Walks a growing list of trials: each one until it has finished, and never again."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._seen = 0

    def news(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Trials that can have changed since the last call, by number."""
        numbers = sorted(self._open.union(range(self._seen, len(trials))))
        # A list read before the last one is shorter; what it lacks stays open.
        found = [trials[number] for number in numbers if number < len(trials)]
        self._open = {n for n in numbers if n >= len(trials) or not trials[n].state.is_finished()}
        self._seen = max(self._seen, len(trials))
        return found


def is_stale(trial: FrozenTrial, claim_timeout: float | None) -> bool:
    """Whether a running trial is so old, in seconds, that its worker is taken for dead."""
    if claim_timeout is None or trial.datetime_start is None or trial.state.is_finished():
        return False
    return _age(trial) > claim_timeout


def _age(trial: FrozenTrial) -> float:
    start = trial.datetime_start or datetime.datetime.now()
    return (datetime.datetime.now() - start).total_seconds()


class Journal:
    """The tree of one box in one study, kept up to date from the storage.

    Args:
        space: The search space.
        tree: An empty tree over its box.
        division: Name of the tree's division.
        direction: Direction of the study.
        claim_timeout: Seconds after which the claim of a running trial is free again; None for
            never.
    """

    def __init__(
        self,
        space: SearchSpace,
        tree: Tree,
        *,
        division: str,
        direction: StudyDirection,
        claim_timeout: float | None,
    ) -> None:
        self.tree = tree
        self._box = fingerprint(space)
        self._names = tuple(space)
        self._division = division
        self._sign = -1.0 if direction is StudyDirection.MAXIMIZE else 1.0
        self._claim_timeout = claim_timeout
        self._follower = Follower()
        self._warned = False

    def sync(self, trials: list[FrozenTrial]) -> None:
        """Bring the tree up to date."""
        for trial in self._follower.news(trials):
            self.tree.record(trial.number, self._record(trial))

    def _record(self, trial: FrozenTrial) -> Record | None:
        try:
            entry = read_entry(trial)
        except ClaimFormatError as error:
            self._warn(f"{error} It is ignored")
            return None
        claim = None if entry is None else self._in_this_box(entry)
        if entry is None or claim is None:
            return None
        if not cells.fits(self.tree.box, claim.cell):
            self._warn(
                f"trial {trial.number} claims {claim.cell}, which this box lacks; it is ignored"
            )
            return None
        if entry.division != self._division and claim.axis is not None:
            self._warn(
                f"trial {trial.number} was chosen by a sampler that divides cells in another way; "
                "only the points that both partitions share are used"
            )
        if not same_parameters(trial.params, cells.decode(self.tree.box, claim.cell)):
            return self._not_followed(trial, entry, claim)
        return self._outcome(trial, claim)

    def _not_followed(self, trial: FrozenTrial, entry: Entry, claim: Claim) -> Record | None:
        """The trial observed another point than it claims: out of range, or fixed afterwards."""
        if entry.box is None or not trial.state.is_finished():
            return None
        self._warn(
            f"trial {trial.number} has other parameters than its cell {claim.cell}; if the ranges "
            "in the objective differ from search_space=, make them equal"
        )
        # As a failure it is handed out again, but not for ever.
        return Record(claim, Status.FAILED)

    def _in_this_box(self, entry: Entry) -> Claim | None:
        if entry.box is None:
            return Claim(self.tree.root)
        return entry.claim if entry.box == self._box else None

    def _outcome(self, trial: FrozenTrial, claim: Claim) -> Record | None:
        match trial.state:
            case TrialState.FAIL if trial.user_attrs.get(INTERRUPTED):
                return None
            case TrialState.COMPLETE:
                return Record(claim, Status.KNOWN, self._sign * (trial.value or 0.0))
            case TrialState.PRUNED:
                return Record(claim, Status.KNOWN, self._last_report(trial))
            case TrialState.FAIL:
                return Record(claim, Status.FAILED)
        stale = is_stale(trial, self._claim_timeout)
        return Record(claim, Status.FAILED if stale else Status.PENDING)

    def _last_report(self, trial: FrozenTrial) -> float:
        step = trial.last_step
        return float("inf") if step is None else self._sign * trial.intermediate_values[step]

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"{what}. Others like it are not reported.", stacklevel=2)

    def claim(
        self, study: Study, trial: FrozenTrial, rule: Rule, trials: list[FrozenTrial]
    ) -> Claim | None:
        """Agree with all other workers on a cell for this trial.

        Of two workers that claim the same cell at least one sees the other when it reads again. It
        keeps the cell only if no rival has finished, has parameters already or has a lower number;
        a worker that saw nobody never gives its cell up.

        Args:
            study: The study.
            trial: A running trial without a claim.
            rule: Chooses the next cell.
            trials: All trials as just read.

        Returns:
            The claim, or None if the rule has nothing to hand out.
        """
        self.sync(trials)
        while True:
            claim = self.preview(rule, skip=_number_choosing(trials, trial))
            if claim is None:
                return None
            write_entry(study, trial, self._entry(claim))
            trials = read_trials(study)
            self.sync(trials)
            rivals_in = functools.partial(self._rivals, trial=trial, claim=claim)
            if resolve(study, trial, trials, rivals_in):
                return claim
            write_entry(study, trial, None)
            trials = read_trials(study)
            self.sync(trials)

    def preview(self, rule: Rule, *, skip: int = 0) -> Claim | None:
        """The claim that the rule makes after `skip` others, or its last one if there are fewer."""
        claim: Claim | None = None
        reserved: list[int] = []
        for number in range(-1, -2 - skip, -1):
            following = rule(self.tree)
            if following is None:
                break
            claim = following
            self.tree.record(number, Record(claim, Status.PENDING))
            reserved.append(number)
        for number in reserved:
            self.tree.record(number, None)
        return claim

    def is_last(self, trial: FrozenTrial, *, failed: bool) -> bool:
        """Whether nothing is left to hand out once this running trial has ended."""
        before = self._record(trial)
        if before is not None:
            ended = Record(before.claim, Status.FAILED if failed else Status.KNOWN)
            self.tree.record(trial.number, ended)
        found = self.tree.exhausted
        self.tree.record(trial.number, before)
        return found

    def _entry(self, claim: Claim) -> Entry:
        names = self._names if claim.axis is None else ()
        return Entry(claim, self._box, self._division, names)

    def _rivals(
        self, trials: list[FrozenTrial], *, trial: FrozenTrial, claim: Claim
    ) -> list[FrozenTrial]:
        self.sync(trials)
        return [trials[n] for n in self.tree.holders(claim.cell) if n != trial.number]


def resolve(
    study: Study,
    trial: FrozenTrial,
    trials: list[FrozenTrial],
    rivals_in: Callable[[list[FrozenTrial]], list[FrozenTrial]],
) -> bool:
    """Whether the cell that the trial has just claimed is its own, or it has to withdraw.

    Args:
        study: The study.
        trial: The claiming trial.
        trials: All trials, read after the claim was written.
        rivals_in: The other holders of the same cell among all trials.
    """
    deadline = time.monotonic() + _RESOLVE_SECONDS
    pause = _FIRST_PAUSE
    while rivals := rivals_in(trials):
        if time.monotonic() > deadline or any(
            rival.state.is_finished() or rival.params or rival.number < trial.number
            for rival in rivals
        ):
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
        trials = read_trials(study)
    return True


def _number_choosing(trials: list[FrozenTrial], trial: FrozenTrial) -> int:
    """How many earlier trials are about to choose: a hint that keeps workers off the same cell."""
    return sum(
        other.number < trial.number
        and other.state is TrialState.RUNNING
        and other.system_attrs.get(KEY) is None
        and not other.params
        and not fixed_parameters(other)
        and _age(other) < _CHOOSING_SECONDS
        for other in trials[max(0, trial.number - 256) : trial.number]
    )


def fixed_parameters(trial: FrozenTrial) -> Mapping[str, Any]:
    """Parameters that `study.enqueue_trial` set."""
    found: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
    return found
