"""lm-eval tasks by name or from a file of questions, found without lm-eval's long search."""

from __future__ import annotations

import difflib
import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import datasets
import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_TASK_FOLDER: Final = Path(lm_eval.tasks.__file__).parent
_NAME: Final = re.compile(rb"""^["']?(?:task|group)["']?: *["']?([^"'\s#\[]+)""", re.MULTILINE)


class UnknownTaskError(ValueError):
    """lm-eval has no task of this name."""


class UnsupportedTaskError(ValueError):
    """The task has no accuracy, so it gives no score that trials could be compared by."""


class TaskDataError(ValueError):
    """The questions of a registered task can't be had."""


class QuestionFileError(ValueError):
    """A file of questions is missing, empty or malformed."""


@dataclass(frozen=True, slots=True)
class Question:
    """A multiple-choice question.

    Attributes:
        question: Text that the choices continue, after a space.
        choices: At least two different texts.
        answer: Index of the right choice, from 0.
    """

    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """What one requested name stands for.

    Attributes:
        label: The name as it was requested.
        tasks: lm-eval's task objects under their own names, several for a group or a tag.
        groups: lm-eval's group objects, which average their tasks.
    """

    label: str
    tasks: Mapping[str, Any]
    groups: Mapping[str, Any]


def is_file(task: str | Path) -> bool:
    """Whether a task is a file of questions and not a registered name."""
    return isinstance(task, Path) or task.endswith(".jsonl")


def load_task(task: str | Path) -> LoadedTask:
    """The lm-eval objects of a registered name or a file of questions.

    Raises:
        QuestionFileError: If a file is missing or malformed.
        UnknownTaskError: If lm-eval knows no such name.
        UnsupportedTaskError: If the task isn't scored by an accuracy.
        TaskDataError: If the questions of a registered task can't be loaded.
    """
    if is_file(task):
        path = Path(task).expanduser()
        built = _question_task(path, read_questions(path))
        return LoadedTask(str(task), {built.task_name: built}, {})
    return _load_registered(str(task))


def read_questions(path: Path) -> tuple[Question, ...]:
    """The questions of a JSON Lines file, at least one.

    Raises:
        QuestionFileError: If the file is missing, empty or malformed; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionFileError(
            f"The file of questions {str(path)!r} can't be read ({error}); give a UTF-8 file with "
            "one JSON object a line."
        ) from error
    questions = tuple(
        _parse_question(line, f"{path}:{number}")
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    )
    if not questions:
        raise QuestionFileError(
            f"The file of questions {str(path)!r} is empty; expected lines like "
            '{"question": "The capital of France is", "choices": ["Paris", "Rome"], "answer": 0}.'
        )
    return questions


def _parse_question(line: str, place: str) -> Question:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise QuestionFileError(
            f"{place}: no JSON ({error.msg} at column {error.colno}); write one object a line."
        ) from error
    if not isinstance(record, dict):
        raise QuestionFileError(
            f"{place}: a {type(record).__name__}, expected an object with the keys question, "
            "choices and answer."
        )
    question, choices, answer = (record.get(key) for key in ("question", "choices", "answer"))
    if not isinstance(question, str) or not question.strip():
        raise QuestionFileError(f"{place}: question is {question!r}, expected a text.")
    if (
        not isinstance(choices, list)
        or not all(isinstance(choice, str) and choice.strip() for choice in choices)
        or len(set(choices)) != len(choices)
        or len(choices) < 2
    ):
        raise QuestionFileError(
            f"{place}: choices is {choices!r}, expected a list of two or more different texts."
        )
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise QuestionFileError(
            f"{place}: answer is {answer!r}, expected the index of the right choice, from 0 to "
            f"{len(choices) - 1}."
        )
    return Question(question, tuple(choices), answer)


def _question_task(path: Path, questions: Iterable[Question]) -> ConfigurableTask:
    """A task in memory: nothing is written to the cache of `datasets`."""
    rows = [
        {"question": item.question, "choices": list(item.choices), "answer": item.answer}
        for item in questions
    ]
    dataset = datasets.Dataset.from_list(rows)
    return ConfigurableTask(
        config={
            "task": str(path.resolve()),
            "custom_dataset": lambda **_: {"test": dataset},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "question",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "num_fewshot": 0,
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True}
                for metric in ("acc", "acc_norm")
            ],
        }
    )


def _load_registered(name: str) -> LoadedTask:
    manager = _manager(name)
    try:
        loaded = manager.load([name])
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise TaskDataError(
            f"The task {name!r} exists, but its questions can't be loaded "
            f"({type(error).__name__}: {error}). They come from the Hugging Face hub: connect, "
            "unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE, or load the task once on a connected "
            "machine and copy its Hugging Face cache; offline, use a .jsonl file of questions."
        ) from error
    for task in loaded["tasks"].values():
        metrics = set(task.aggregation())
        if not {"acc", "acc_norm"} & metrics:
            raise UnsupportedTaskError(
                f"The task {task.task_name!r} is scored by {', '.join(sorted(metrics))}, "
                "expected acc or acc_norm; choose a multiple-choice task such as hellaswag or mmlu."
            )
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    return LoadedTask(name, loaded["tasks"], loaded.get("groups", {}))


def _manager(name: str) -> TaskManager:
    """A task manager that knows the name and, of a group, all members.

    lm-eval's own scans all of its 14,000 files with a YAML parser (8 to 10 s). Here the file is
    found by a search for its text (0.5 s) and only the folders that matter are parsed.
    """
    places = _registered_folders()
    folders = {places[name]} if name in places else set()
    while folders:
        manager = TaskManager(include_defaults=False, include_path=sorted(folders))
        missing = set(_missing(manager.task_index, name))
        if not missing:
            return manager
        more = {places[member] for member in missing if member in places} - folders
        if not more:
            break  # a tag, whose members are found only by parsing everything
        folders |= more
    # A tag has no file of its own, but it stands in the files of its members.
    if any(name.encode() in content for _, content in _task_files()):
        manager = TaskManager()
        if name in manager.task_index:
            return manager
    near = difflib.get_close_matches(name, places, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UnknownTaskError(
        f"lm-eval has no task {name!r}.{hint} Expected a registered name (see "
        "`lm-eval ls tasks`) or the path of a .jsonl file of questions."
    )


def _missing(index: Mapping[str, Any], name: str) -> Iterator[str]:
    """Names that building `name` needs and the index lacks."""
    entry = index.get(name)
    if entry is None:
        yield name
    elif entry.kind.name == "GROUP":
        for member in _members(entry.cfg.get("task")):
            yield from _missing(index, member)


def _members(items: Any) -> Iterator[str]:
    for item in items if isinstance(items, list) else [items]:
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict) and isinstance(item.get("task"), list):
            yield from _members(item["task"])  # a group defined in place
        elif isinstance(item, dict):
            yield item.get("group") or item["task"]


@functools.cache
def _registered_folders() -> dict[str, Path]:
    """The folder of every name that a task or group file of lm-eval gives itself."""
    return {
        match.decode(): path.parent
        for path, content in _task_files()
        for match in _NAME.findall(content)
    }


def _task_files() -> Iterator[tuple[Path, bytes]]:
    for path in _TASK_FOLDER.rglob("*.yaml"):
        yield path, path.read_bytes()
