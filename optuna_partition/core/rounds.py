"""Which trials made their claims in the latest round, for rules that go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optuna_partition.core.claim import Record, Round
from optuna_partition.core.node import Node, Sample


@dataclass(frozen=True, slots=True)
class Member:
    """A claim of a round, as far as its rule needs it.

    Args:
        number: The trial.
        round: What the claim says about the round.
        depth: Depth of the divided cell.
        node: The divided node; None if it is not part of the tree now.
        repeat: Whether the claim evaluates a point once more, and divides nothing.
    """

    number: int
    round: Round
    depth: int
    node: Node | None
    repeat: bool


class Rounds:
    """The latest round and its trials; earlier ones are looked for when they are asked for.

    Args:
        held: What each trial holds.
    """

    def __init__(self, held: Mapping[int, Sample | Record]) -> None:
        self._held = held
        self._latest = 0
        self._numbers: set[int] = set()
        self._members: list[Member] | None = None
        self._shared: Round | None = None

    def add(self, number: int, round_: Round | None) -> None:
        """Take in a trial that holds a claim of a round."""
        if round_ is None or round_.number < self._latest:
            return
        if round_.number > self._latest:
            self._latest, self._numbers, self._members = round_.number, set(), None
        self._numbers.add(number)
        members = self._members
        if members and number > members[-1].number:
            members.append(_member(number, self._held[number]))
        else:
            self._members = None

    def remove(self, number: int, round_: Round | None) -> None:
        """Leave out a trial that was added with this round."""
        if round_ is None or round_.number < self._latest:
            return
        self._members = None
        self._numbers.discard(number)
        if not self._numbers:
            others = {n: r.number for n in self._held if n != number and (r := self._round_of(n))}
            self._latest = max(others.values(), default=0)
            self._numbers = {n for n, latest in others.items() if latest == self._latest}

    def shared(self, round_: Round) -> Round:
        """The equal round that was asked for last, or this one."""
        if self._shared != round_:
            self._shared = round_
        return self._shared

    def moved(self) -> None:
        """Note that nodes have come into the tree or left it."""
        self._members = None

    @property
    def latest(self) -> int:
        """Number of the latest round; 0 before the first."""
        return self._latest

    def members(self, number: int) -> list[Member]:
        """The claims of a round, by trial number."""
        if number != self._latest:
            rounds = {n: r.number for n in self._held if (r := self._round_of(n))}
            return self._made({n for n, of in rounds.items() if of == number})
        if self._members is None:
            self._members = self._made(self._numbers)
        return self._members

    def _made(self, numbers: set[int]) -> list[Member]:
        return [_member(n, self._held[n]) for n in sorted(numbers)]

    def _round_of(self, number: int) -> Round | None:
        held = self._held[number]
        return held.round if isinstance(held, Sample) else held.claim.round


def _member(number: int, held: Sample | Record) -> Member:
    if isinstance(held, Sample):
        evaluation = held.evaluation
        assert held.round is not None
        depth = evaluation.cell.depth - 1
        return Member(number, held.round, depth, evaluation.divider, held.repeat > 0)
    claim = held.claim
    assert claim.round is not None
    return Member(number, claim.round, claim.cell.depth - 1, None, claim.repeat > 0)
