"""What is wrong with a file or a command line, in the words of a person who wrote it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import yaml

from objectives.config import FineTuneConfig
from objectives.tuning.named import did_you_mean
from objectives.tuning.settings import StudySettings

_KINDS: Final = (FineTuneConfig, StudySettings)
_OF_COMMANDS: Final = ("dry_run", "to", "form", "trial")
_UNKNOWN_KEY: Final = re.compile(r"(?:Key|nested key) '([^']+)'(?: is not expected)?")
_UNKNOWN_OPTION: Final = re.compile(r"Unrecognized arguments: --([^\s=]+)")
_BAD_VALUE: Final = re.compile(r'Parser key "([^"]+)":\s*')
_NO_FILE: Final = re.compile(r"File does not exist: '([^']+)'")
_MISSING: Final = re.compile(r'Key "([^"]+)" is required')
_WORDS: Final[Mapping[object, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a text",
    tuple: "a list in brackets",
    Sequence: "a list in brackets",
    Mapping: "values by name, {name: value}",
    NoneType: "null",
}


def check_file(file: Path) -> None:
    """Raise if a YAML file holds no settings, or one of them twice.

    Raises:
        ValueError: With the file and, where YAML knows it, the line.
    """
    if not file.is_file():
        return  # the parser says so
    found = _read(file)
    if not isinstance(found, dict):
        held = "is empty" if found is None else f"holds a {type(found).__name__}"
        raise ValueError(f"{file} {held}, expected settings, one a line, such as n_trials: 50.")


def explained(message: str, arguments: Sequence[str]) -> str:
    """An error of the parser in words that name the file and the nearest setting.

    Args:
        message: The parser's.
        arguments: The command line.
    """
    known = [field.name for kind in _KINDS for field in fields(kind)]
    if found := _UNKNOWN_KEY.search(message):
        name = found[1].rpartition(".")[2]
        files = _files(arguments)
        where = f"{files[-1]}: " if files else ""
        return f"{where}{name!r} is no setting{did_you_mean(name, known)}"
    if found := _UNKNOWN_OPTION.search(message):
        return f"--{found[1]} is no setting{did_you_mean(found[1], [*known, *_OF_COMMANDS])}"
    if found := _MISSING.search(message):
        name = found[1].rpartition(".")[2]
        return f"{name} is not given; add it to the YAML file or the command line."
    if found := _NO_FILE.search(message):
        return f"there is no file {found[1]!r}."
    if found := _BAD_VALUE.search(message):
        name = found[1].partition(".")[0]
        if name in known:
            return f"{name} is {_given(name, arguments)!r}, expected {_expected(name)}."
    return " ".join(message.split())


def _read(file: Path) -> Any:
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error}).") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ValueError(f"{file}{line}: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: no YAML: {' '.join(str(error).split())}.") from error


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no type information
    """Refuses a key that is given twice, of which YAML would take the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = key.value
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name!r} is given twice", key.start_mark
                )
            seen.add(name)
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found


def _files(arguments: Sequence[str]) -> list[str]:
    return [b for a, b in pairwise(arguments) if a == "--config"]


def _given(name: str, arguments: Sequence[str]) -> Any:
    """The value that a setting was given last: by an option, or by a file."""
    for option, value in reversed([*pairwise(arguments)]):
        given, _, inline = option.partition("=")
        if given == f"--{name}" or given.startswith(f"--{name}."):
            return inline or value
    if arguments and arguments[-1].startswith(f"--{name}="):
        return arguments[-1].partition("=")[2]
    for file in reversed(_files(arguments)):
        found = _read(Path(file))
        if name in found:
            return found[name]
    return None


def _expected(name: str) -> str:
    hints = get_type_hints(FineTuneConfig) | get_type_hints(StudySettings)
    return " or ".join(dict.fromkeys(_words(hints[name])))


def _words(hint: Any) -> list[str]:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return [f"one of {parts}"]
    if origin is None or origin in _WORDS:
        word = _WORDS.get(origin or hint)
        return [] if word is None else [word]
    return [word for part in parts for word in _words(part)]
