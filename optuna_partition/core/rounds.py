"""Which trials made their claims in which round, for rules that go on with the latest one."""

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
    """The trials of each round.

    Args:
        held: What each trial holds; it is looked at when the members of a round are asked for.
    """

    def __init__(self, held: Mapping[int, Sample | Record]) -> None:
        self._held = held
        self._numbers: dict[int, tuple[int, ...]] = {}
        self._latest = 0
        self._members: tuple[int, list[Member]] | None = None

    def add(self, number: int, round_: Round | None) -> None:
        """Take in a trial that holds a claim of a round."""
        if round_ is None:
            return
        self._numbers[round_.number] = (*self._numbers.get(round_.number, ()), number)
        self._latest = max(self._latest, round_.number)
        known = self._members
        if known is None or known[0] != round_.number:
            return
        if known[1] and number > known[1][-1].number:
            known[1].append(_member(number, self._held[number]))
        else:
            self._members = None

    def remove(self, number: int, round_: Round | None) -> None:
        """Leave out a trial that was added with this round."""
        if round_ is None:
            return
        self._members = None
        rest = tuple(n for n in self._numbers.pop(round_.number) if n != number)
        if rest:
            self._numbers[round_.number] = rest
        elif round_.number == self._latest:
            self._latest = max(self._numbers, default=0)

    def shared(self, round_: Round) -> Round:
        """The equal round that the latest trial of the same number holds, if there is one."""
        numbers = self._numbers.get(round_.number)
        held = self._held[numbers[-1]] if numbers else None
        return held.round if isinstance(held, Sample) and held.round == round_ else round_

    def moved(self) -> None:
        """Note that nodes have come into the tree or left it."""
        self._members = None

    @property
    def latest(self) -> int:
        """Number of the latest round; 0 before the first."""
        return self._latest

    def members(self, number: int) -> list[Member]:
        """The claims of a round, by trial number."""
        if self._members is None or self._members[0] != number:
            numbers = sorted(self._numbers.get(number, ()))
            self._members = number, [_member(n, self._held[n]) for n in numbers]
        return self._members[1]


def _member(number: int, held: Sample | Record) -> Member:
    if isinstance(held, Sample):
        evaluation = held.evaluation
        assert held.round is not None
        depth = evaluation.cell.depth - 1
        return Member(number, held.round, depth, evaluation.divider, held.repeat > 0)
    claim = held.claim
    assert claim.round is not None
    return Member(number, claim.round, claim.cell.depth - 1, None, claim.repeat > 0)
