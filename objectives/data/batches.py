"""From tokens to batches, which are the same for every trial."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from objectives.data.tokens import Tokens

IGNORE: Final = -100
"""Target of a position that does not count; the default of `torch.nn.functional.cross_entropy`."""


_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Batch:
    """Records, one a row or several packed into a row, padded on the right.

    Attributes:
        input_ids: (rows, length) int64 token ids.
        targets: (rows, length) int64; the id that should follow each position, or `IGNORE`.
        samples: How many records the batch holds.
        target_tokens: How many targets count.
        lengths: (rows,) how many input ids of each row are no padding.
        documents: (rows, length) int64, from 1, which of a row's records each position is of, 0
            for padding; None if every row is one record. Attention must not cross records.
    """

    input_ids: torch.Tensor
    targets: torch.Tensor
    samples: int
    target_tokens: int
    lengths: tuple[int, ...]
    documents: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """How many input ids are no padding."""
        return sum(self.lengths)

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; on the same device without a copy."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            targets=self.targets.to(device),
            documents=None if self.documents is None else self.documents.to(device),
        )

    def pieces(self, rows: int) -> tuple[Batch, ...]:
        """The batch in parts of at most `rows` rows, each no wider than its longest row."""
        if rows >= self.rows:
            return (self,)
        starts = range(0, self.rows, rows)
        return tuple(self._part(slice(start, start + rows)) for start in starts)

    def every(self, step: int, *, start: int) -> Batch | None:
        """Each `step`-th row from `start` on, no wider than the longest; None without rows.

        Rows of a batch may stand in the order of their lengths, so that all starts have about as
        much to compute.
        """
        if step == 1 and start == 0:
            return self
        return self._part(slice(start, None, step)) if start < self.rows else None

    def _part(self, rows: slice) -> Batch:
        lengths = self.lengths[rows]
        part = (rows, slice(max(lengths)))
        targets = self.targets[part]
        documents = None if self.documents is None else self.documents[part]
        samples = len(lengths) if documents is None else int(documents.amax(dim=1).sum())
        return Batch(
            self.input_ids[part],
            targets,
            samples=samples,
            target_tokens=int((targets != IGNORE).sum()),
            lengths=lengths,
            documents=documents,
        )


def attention_mask(documents: torch.Tensor) -> torch.Tensor:
    """Which positions see which: (rows, 1, length, length) bool, causal within each record.

    Args:
        documents: As in `Batch`; padding sees padding, so that no row of the softmax is empty.
    """
    same = documents[:, :, None] == documents[:, None, :]
    return same.tril()[:, None]


def bucket(
    records: Sequence[Tokens], *, batch_size: int, pad_id: int, seed: int | None = None
) -> tuple[Batch, ...]:
    """Batches of records of similar length, so that little is spent on padding.

    Args:
        records: Tokenized records.
        batch_size: Records in a batch; the last batch may hold fewer.
        pad_id: Token id that fills up short records.
        seed: Shuffles the order of the batches; without it they go from short to long.
    """
    rows = [[record] for record in sorted(records, key=len)]
    batches = _collate_all(rows, batch_size, lambda part: _collate(part, pad_id))
    return batches if seed is None else _shuffled(batches, seed)


def pack(
    records: Sequence[Tokens], *, batch_size: int, max_length: int, pad_id: int, seed: int
) -> tuple[Batch, ...]:
    """Batches whose rows hold several records each, so that nearly nothing is padding.

    Rows are filled first-fit, the longest records first.

    Args:
        records: Tokenized records.
        batch_size: Rows in a batch; the last batch may hold fewer.
        max_length: Tokens of a row.
        pad_id: Token id that fills up rows.
        seed: Shuffles the rows into batches.
    """
    rows: list[list[Tokens]] = []
    room: list[int] = []
    for record in sorted(records, key=len, reverse=True):
        size = len(record) - 1  # the last token is a target but no input
        fitting = next((k for k, left in enumerate(room) if left >= size), None)
        if fitting is None:
            rows.append([record])
            room.append(max_length - size)
        else:
            rows[fitting].append(record)
            room[fitting] -= size
    return _collate_all(_shuffled(rows, seed), batch_size, lambda part: _collate(part, pad_id))


def _collate_all(
    rows: Sequence[list[Tokens]], size: int, collate: Callable[[Sequence[list[Tokens]]], Batch]
) -> tuple[Batch, ...]:
    return tuple(collate(rows[start : start + size]) for start in range(0, len(rows), size))


def _shuffled(items: Sequence[_Item], seed: int) -> tuple[_Item, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(items[index] for index in torch.randperm(len(items), generator=generator).tolist())


def _collate(rows: Sequence[Sequence[Tokens]], pad_id: int) -> Batch:
    # The last token of a record has no successor, so it is a target but no input.
    inputs = [np.concatenate([record.ids[:-1] for record in row]) for row in rows]
    targets = [
        np.concatenate([np.where(r.counted[1:], r.ids[1:], IGNORE) for r in row]) for row in rows
    ]
    packed = any(len(row) > 1 for row in rows)
    documents = [
        np.concatenate([np.full(len(r) - 1, k) for k, r in enumerate(row, start=1)]) for row in rows
    ]
    return Batch(
        _padded(inputs, pad_id),
        _padded(targets, IGNORE),
        samples=sum(len(row) for row in rows),
        target_tokens=sum(int(record.counted.sum()) for row in rows for record in row),
        lengths=tuple(len(row) for row in inputs),
        documents=_padded(documents, 0) if packed else None,
    )


def _padded(rows: Sequence[npt.NDArray[Any]], value: int) -> torch.Tensor:
    tensors = [torch.from_numpy(row.astype(np.int64)) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value)
