"""Evaluations that trials passed over, as records under numbers of their own."""

from __future__ import annotations

import itertools

from optuna_partition.core.claim import Claim, Record, Skip, Status

MAX_SKIPS = 64
"""How many evaluations one claim can pass over."""
NOBODY = -(2**40)
"""Who passes over evaluations before the claim is made."""
# The skips of trial n have numbers of their own, far below those of trials: 64 n + k - 2**62.
_FIRST = -(2**62)


def is_skip(number: int) -> bool:
    """Whether a number is that of a skip, not of a trial."""
    return number < NOBODY


class Skips:
    """What each trial passes over."""

    def __init__(self) -> None:
        self._skips: dict[int, tuple[Skip, ...]] = {}

    def __bool__(self) -> bool:
        """Whether anything is passed over."""
        return bool(self._skips)

    def replace(
        self, number: int, skips: tuple[Skip, ...]
    ) -> tuple[list[int], list[tuple[int, Record]]]:
        """Set what a trial passes over.

        Returns:
            Numbers to take back, and numbers with records to add, in this order.
        """
        before = self._skips.pop(number, ())
        if skips:
            self._skips[number] = skips
        first = _FIRST + MAX_SKIPS * number
        pairs = zip(before, skips, strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        gone = [first + k for k in reversed(range(same, len(before)))]
        new = [(first + k, _record(skip)) for k, skip in enumerate(skips[same:], start=same)]
        return gone, new


def _record(skip: Skip) -> Record:
    claim = Claim(skip.cell, skip.axis, skip.round)
    return Record(claim, Status.SUBSTITUTED, skip.value, skip.violation)
