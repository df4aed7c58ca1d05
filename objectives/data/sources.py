"""Data by name or file, and its parts: training, validation, shares."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from objectives.data.errors import DataError
from objectives.data.records import SUFFIXES, Record, parse_record, question, read_records

DATASETS: Final = {
    "alpaca": "tatsu-lab/alpaca",
    "alpaca-cleaned": "yahma/alpaca-cleaned",
    "dolly": "databricks/databricks-dolly-15k",
}
"""Names of public data sets and where the Hugging Face hub keeps them."""

_REPOSITORY: Final = re.compile(r"[\w.-]+/[\w.-]+")


def load_records(source: str | Path, *, limit: int | None = None) -> tuple[Record, ...]:
    """Records of a file, of a data set by name, or of one of the hub.

    Args:
        source: A file that `read_records` reads, a name in `DATASETS`, or the hub's
            `organization/name` of a data set with a split "train".
        limit: Keep only the first so many records.

    Raises:
        DataError: If there is no such data or a record is malformed.
    """
    name = DATASETS.get(str(source), str(source))
    if Path(source).suffix in SUFFIXES:
        return read_records(source, limit=limit)
    if isinstance(source, str) and _REPOSITORY.fullmatch(name):
        return _load_dataset(name)[:limit]
    raise DataError(
        f"The data is {str(source)!r}, expected one of {sorted(DATASETS)}, a data set of the hub "
        f"as 'organization/name', or a file that ends in one of {SUFFIXES}."
    )


def _load_dataset(name: str) -> tuple[Record, ...]:
    import datasets

    try:
        rows = datasets.load_dataset(name, split="train")
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"The data set {name!r} can't be loaded ({type(error).__name__}: {error}). It comes "
            "from the Hugging Face hub: connect, unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE, or "
            "load it once on a connected machine and copy its Hugging Face cache; offline, give a "
            "file."
        ) from error
    return tuple(
        parse_record(
            {key: value for key, value in row.items() if value is not None}, f"{name}: row {number}"
        )
        for number, row in enumerate(rows, start=1)
    )


def split(
    records: Sequence[Record], *, validation: float, seed: int
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Part records into training and validation, each in its old order.

    Records that ask the same question stay together, so that none is in both parts.

    Args:
        records: At least two different questions.
        validation: Share of the questions, in (0, 1), that goes to the validation; at least one.
        seed: Of the choice; independent of the seed of the training.

    Raises:
        DataError: If there is only one question.
    """
    questions = list(dict.fromkeys(question(record) for record in records))
    if len(questions) < 2:
        raise DataError(
            "The data has one question only and can't be split into training and validation; "
            "give validation_data."
        )
    count = min(max(round(validation * len(questions)), 1), len(questions) - 1)
    held_out = {questions[index] for index in _permutation(len(questions), seed)[:count]}
    train = tuple(record for record in records if question(record) not in held_out)
    return train, tuple(record for record in records if question(record) in held_out)


def take_share(records: Sequence[Record], share: float, *, seed: int) -> tuple[Record, ...]:
    """A random part of the records, in their old order; at least one.

    A smaller share of the same seed is part of a larger one, as low fidelities should be.
    """
    count = max(round(share * len(records)), 1)
    return tuple(records[index] for index in sorted(_permutation(len(records), seed)[:count]))


def _permutation(length: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(
        length, generator=torch.Generator().manual_seed(seed)
    ).tolist()
    return order
