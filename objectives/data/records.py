"""Records of instruction data: what they are, and reading them from files.

A record is an `Example` (Alpaca: instruction, input, output) or a `Conversation` (chat messages).
Everything that is wrong with one is an error that names the file and the line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from objectives.data.errors import DataError

ROLES: Final = ("system", "user", "assistant")
_ENCODING: Final = "utf-8-sig"  # UTF-8; some programs put a byte-order mark in front
SUFFIXES: Final = (".json", ".jsonl", ".csv", ".parquet")

# Columns of Dolly and of data sets made after it.
_SYNONYMS: Final = {"output": "response", "input": "context"}
_EXPECTED: Final = "records with 'instruction' and 'output', or with 'messages'"


@dataclass(frozen=True, slots=True)
class Example:
    """One record in Alpaca format."""

    instruction: str
    output: str
    input: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; the role is one of `ROLES`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One record of chat messages, at least one of them the assistant's.

    Attributes:
        messages: The turns in order.
        place: File and line, for errors.
    """

    messages: tuple[Message, ...]
    place: str = field(default="", compare=False)


Record = Example | Conversation


def question(record: Record) -> tuple[str, ...]:
    """What a record asks: two records that ask the same must not be parted by a split."""
    if isinstance(record, Example):
        return (record.instruction, record.input)
    last = max(i for i, message in enumerate(record.messages) if message.role == "assistant")
    return tuple(message.content for message in record.messages[:last])


def read_records(path: str | Path, *, limit: int | None = None) -> tuple[Record, ...]:
    """Read a file of records.

    Args:
        path: UTF-8 `.json` (a list), `.jsonl` (an object a line), `.csv` (a header line, then
            records in Alpaca form) or `.parquet`. A record has the keys `instruction`, `output`
            and, if it likes, `input`; or `instruction`, `response`, `context`; or `messages`, a
            list of `{"role": "system" | "user" | "assistant", "content": str}`.
        limit: Keep only the first so many records; all are checked.

    Raises:
        DataError: If the file is missing, malformed or empty; names the line.
    """
    file = Path(path).expanduser()
    if file.suffix not in _READERS:
        raise DataError(
            f"The data file {str(path)!r} ends in {file.suffix!r}, expected one of {SUFFIXES}."
        )
    try:
        found = tuple(
            parse_record(raw, f"{path}:{place}") for place, raw in _READERS[file.suffix](file)
        )
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The data file {str(path)!r} can't be read ({error}); give a file in UTF-8, or "
            "Parquet."
        ) from error
    if not found:
        raise DataError(f"The data file {str(path)!r} holds no record, expected {_EXPECTED}.")
    return found[:limit]


def parse_record(raw: object, place: str) -> Record:
    """A record from the plain values of a file's row.

    Raises:
        DataError: If it is none; begins with `place`.
    """
    if not isinstance(raw, Mapping):
        raise DataError(f"{place}: it is a {type(raw).__name__}, expected an object.")
    if "messages" in raw:
        return Conversation(tuple(_messages(raw["messages"], place)), place)
    values = {
        key: raw.get(key, raw.get(_SYNONYMS.get(key, key)))
        for key in ("instruction", "output", "input")
        if key in raw or _SYNONYMS.get(key) in raw
    }
    for key in ("instruction", "output"):
        if key not in values:
            raise DataError(f"{place}: it has no {key!r}; expected {_EXPECTED}.")
    for key, value in values.items():
        if not isinstance(value, str):
            raise DataError(f"{place}: {key!r} is a {type(value).__name__}, expected text.")
    if not values["instruction"].strip():
        raise DataError(f"{place}: 'instruction' is empty; fill it or take the record out.")
    # An empty output is kept: it teaches the model to stop, and real data sets have some.
    return Example(**values)


def _messages(raw: Any, place: str) -> Iterator[Message]:
    # Parquet gives arrays where JSON gives lists.
    turns = raw if isinstance(raw, str) or not hasattr(raw, "__iter__") else list(raw)
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{place}: 'messages' is {turns!r}, expected a list of messages.")
    roles = [turn.get("role") if isinstance(turn, Mapping) else None for turn in turns]
    if "assistant" not in roles[1:]:
        raise DataError(
            f"{place}: the roles are {roles}, expected an 'assistant' after another role: "
            "there is nothing to learn."
        )
    for number, turn in enumerate(turns, start=1):
        role, content = roles[number - 1], None
        if isinstance(turn, Mapping):
            content = turn.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise DataError(
                f"{place}: message {number} is {turn!r}, expected a 'role' of {ROLES} and a text "
                "as 'content'."
            )
        yield Message(role, content)


def _read_json(file: Path) -> Iterator[tuple[int, object]]:
    text = file.read_text(encoding=_ENCODING)
    if not text.strip():
        raise DataError(f"The data file {str(file)!r} is empty, expected a list of {_EXPECTED}.")
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file}:{error.lineno}: no JSON ({error.msg} at column {error.colno}); expected a "
            f"list of {_EXPECTED}. A file with an object a line is named .jsonl."
        ) from error
    if not isinstance(records, list) or not records:
        what = "an empty list" if isinstance(records, list) else f"a {type(records).__name__}"
        raise DataError(
            f"The data file {str(file)!r} holds {what}, expected a list of {_EXPECTED}."
        )
    yield from zip(_lines_of_elements(text), records, strict=True)


def _lines_of_elements(text: str) -> Iterator[int]:
    """Line, from 1, at which each element of the JSON list in `text` starts."""
    decoder = json.JSONDecoder()
    position, line, counted = text.index("[") + 1, 1, 0
    while True:
        while text[position].isspace():
            position += 1
        if text[position] == "]":
            return
        line, counted = line + text.count("\n", counted, position), position
        yield line
        position = decoder.raw_decode(text, position)[1]
        while text[position].isspace():
            position += 1
        position += text[position] == ","


def _read_json_lines(file: Path) -> Iterator[tuple[int, object]]:
    # Not splitlines: JSON strings may hold U+2028 and other breaks that end no line of the file.
    for number, line in enumerate(file.read_text(encoding=_ENCODING).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{file}:{number}: no JSON ({error.msg} at column {error.colno}); write one object "
                "a line."
            ) from error


def _read_csv(file: Path) -> Iterator[tuple[int, object]]:
    with file.open(encoding=_ENCODING, newline="") as lines:
        rows = csv.DictReader(lines, strict=True)
        start = 2
        try:
            for row in rows:
                if None in row or None in row.values():
                    raise DataError(
                        f"{file}:{start}: the row has not as many fields as the header, "
                        f"{rows.fieldnames}; put texts with commas in double quotes."
                    )
                yield start, row
                start = rows.line_num + 1
        except csv.Error as error:
            raise DataError(f"{file}:{start}: no CSV ({error}).") from error


def _read_parquet(file: Path) -> Iterator[tuple[str, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise DataError(f"The data file {str(file)!r} is no Parquet ({error}).") from error
    for number, row in enumerate(table.to_pylist(), start=1):
        # A column that one record fills is null in all others.
        yield f"row {number}", {key: value for key, value in row.items() if value is not None}


_READERS: Final = {
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
