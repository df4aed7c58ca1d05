"""What each trial holds: a part in an evaluation, or a record that waits for its cell."""

from __future__ import annotations

from collections.abc import Iterator

from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import Record
from optuna_partition.core.node import Sample, record_of
from optuna_partition.core.rounds import Rounds


class Holdings:
    """Samples and records by trial number, and the rounds of their claims.

    A record waits if nobody has made the cell yet that it divides.
    """

    def __init__(self) -> None:
        self._held: dict[int, Sample | Record] = {}
        self._waiting: dict[Cell, dict[int, Record]] = {}
        self.rounds = Rounds(self._held)

    def __len__(self) -> int:
        """Number of trials."""
        return len(self._held)

    def __contains__(self, number: object) -> bool:
        """Whether a trial holds anything."""
        return number in self._held

    def __iter__(self) -> Iterator[int]:
        """Trial numbers, in no particular order."""
        return iter(self._held)

    def of(self, number: int) -> Sample | Record | None:
        """What a trial holds."""
        return self._held.get(number)

    def records(self) -> dict[int, Record]:
        """What was recorded, by ascending trial number."""
        return {number: record_of(held) for number, held in sorted(self._held.items())}

    def keep(self, sample: Sample) -> None:
        """Let a trial hold a part in an evaluation."""
        self._held[sample.number] = sample
        self.rounds.add(sample.number, sample.round)

    def wait(self, number: int, record: Record, divided: Cell) -> None:
        """Let a trial wait for the cell that its claim divides."""
        self._held[number] = record
        self._waiting.setdefault(divided, {})[number] = record
        self.rounds.add(number, record.claim.round)

    def suspend(self, sample: Sample, divided: Cell) -> None:
        """Let a trial wait again for a cell that is not part of the tree any more."""
        record = record_of(sample)
        self._held[sample.number] = record
        self._waiting.setdefault(divided, {})[sample.number] = record

    def take(self, divided: Cell) -> dict[int, Record] | None:
        """The records that waited for a cell, and wait no longer; None if there are none."""
        return self._waiting.pop(divided, None) if self._waiting else None

    def waiting(self) -> Iterator[tuple[int, Record]]:
        """All records that wait."""
        for records in self._waiting.values():
            yield from records.items()

    def drop(self, number: int) -> Sample | Record:
        """Take from a trial what it holds."""
        held = self._held.pop(number)
        if isinstance(held, Sample):
            self.rounds.remove(number, held.round)
            return held
        self.rounds.remove(number, held.claim.round)
        for cell, waiting in list(self._waiting.items()):
            if waiting.pop(number, None) is not None and not waiting:
                del self._waiting[cell]
        return held
