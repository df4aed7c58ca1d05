"""Scores of a model on multiple-choice tasks, by lm-eval inside the process.

Task objects and their questions are made once and kept, so that scoring a trial costs the
model's forward passes and little else.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import datasets
import lm_eval.api.task
import numpy as np
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from objectives._tasks import (
    LoadedTask,
    QuestionFileError,
    TaskDataError,
    UnknownTaskError,
    UnsupportedTaskError,
    is_file,
    load_task,
)
from objectives.memory import halving

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = [
    "QuestionFileError",
    "Score",
    "Scorer",
    "TaskDataError",
    "UnknownTaskError",
    "UnsupportedTaskError",
]

_METRICS: Final = ("acc_norm", "acc")
_FEWSHOT_SEED: Final = 1234

Answers = dict[tuple[str, ...], tuple[float, bool]]
"""Log-likelihoods of continuations, and whether each is the most likely one."""

_logger = logging.getLogger(__name__)

# lm-eval keeps the requests of a call on the task objects and logs through global loggers.
_lock = threading.RLock()


@dataclass(frozen=True, slots=True)
class Score:
    """Result of one task.

    Attributes:
        task: Name or file as it was requested; for a group that defines no average, the name of
            one of its tasks.
        metric: `"acc_norm"`, accuracy with log-likelihoods divided by the choices' lengths in
            characters, where the task has it, else `"acc"`.
        value: Share of questions answered right, in [0, 1].
        stderr: Standard error of the value over the questions; NaN where the task, or one task of
            the group, has a single question.
        questions: Number of questions asked.
    """

    task: str
    metric: str
    value: float
    stderr: float
    questions: int


class Scorer:
    """Scores models on a fixed list of tasks.

    Calls of several threads wait for each other. The state of Python's, numpy's and torch's
    random generators is the same after a call as before it.

    Args:
        tasks: Names that lm-eval knows (tasks, groups, tags), such as `"hellaswag"` or `"mmlu"`,
            and `.jsonl` files of multiple-choice questions, one
            `{"question": str, "choices": [str, ...], "answer": int}` a line. The model sees the
            question, a space and a choice, as they stand in the file.
        limit: Ask only the first questions of each task (of each subject, for a group).
        ids: Ask exactly these questions, numbered from 0 as in the task's data, by file or name of
            a task (of each subject, for a group); tasks that it leaves out follow `limit`.
        batch_size: Sequences of one forward pass; fewer where memory is too short for them.
        max_length: Tokens of a sequence; longer ones lose their beginning, which is logged.

    Raises:
        UnknownTaskError: If lm-eval has no task of a name.
        UnsupportedTaskError: If a task isn't scored by an accuracy.
        TaskDataError: If the questions of a registered task can't be loaded.
        QuestionFileError: If a file of questions is missing, empty or malformed.
        ValueError: If no task is given, a task is given twice or a number isn't positive.
    """

    def __init__(
        self,
        tasks: Sequence[str | Path],
        *,
        limit: int | None = None,
        ids: Mapping[str, Collection[int]] | None = None,
        batch_size: int = 16,
        max_length: int = 512,
    ) -> None:
        if isinstance(tasks, str) or not tasks:
            raise ValueError(
                f"tasks is {tasks!r}, expected a list with at least one task, such as "
                "['hellaswag'] or ['questions.jsonl']."
            )
        for name, number in (
            ("limit", limit),
            ("batch_size", batch_size),
            ("max_length", max_length),
        ):
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}, expected a positive number.")
        self._given = tuple(tasks)
        self._limit = limit
        self._given_ids = {name: tuple(chosen) for name, chosen in (ids or {}).items()}
        self._batch_size = batch_size
        self._max_length = max_length
        with _undisturbed():
            self._loaded = tuple(load_task(task) for task in tasks)
        self._tasks = _merged(self._loaded)
        self._ids = self._chosen_ids()

    def __reduce__(self) -> tuple[Callable[..., Scorer], tuple[tuple[str | Path, ...]]]:
        # Task objects hold functions that can't be pickled: another process makes its own.
        make = functools.partial(
            Scorer,
            limit=self._limit,
            ids=self._given_ids,
            batch_size=self._batch_size,
            max_length=self._max_length,
        )
        return make, (self._given,)

    @property
    def task_names(self) -> frozenset[str]:
        """All names the tasks go by: as requested, of a group's tasks, and absolute file paths."""
        requested = {str(task) for task in self._given if not is_file(task)}
        groups = {name for loaded in self._loaded for name in loaded.groups}
        return frozenset(requested | groups | self._tasks.keys())

    @functools.cached_property
    def questions(self) -> frozenset[str]:
        """A fingerprint of every question that is asked, made of its text and its choices.

        Two scorers with no fingerprint in common ask different questions, whatever the tasks or
        files are called.
        """
        with _undisturbed():
            return frozenset(
                _fingerprint(task, doc)
                for name, task in self._tasks.items()
                for _, doc in task.doc_iterator(samples=self._ids[name])
            )

    def _chosen_ids(self) -> dict[str, Sequence[int]]:
        """The questions to ask, by lm-eval's name of the task."""
        names = {name: name for name in self._tasks}
        names |= {item.label: next(iter(item.tasks)) for item in self._loaded if _is_single(item)}
        given: dict[str, tuple[int, ...]] = {}
        for label, chosen in self._given_ids.items():
            if label not in names:
                raise ValueError(
                    f"There are question ids for {label!r}, expected one of {sorted(names)}."
                )
            given[names[label]] = chosen
        return {
            name: _checked_ids(name, given.get(name), len(task.eval_docs), self._limit)
            for name, task in self._tasks.items()
        }

    def points(self, shares: Sequence[float]) -> tuple[int, ...]:
        """Numbers of questions of shares, ascending, and of all of them; equal ones once."""
        return tuple(sum(map(len, ids.values())) for ids in self._stages(shares))

    def __call__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        shares: Sequence[float] = (),
        report: Callable[[int, tuple[Score, ...]], None] | None = None,
    ) -> tuple[Score, ...]:
        """Score a model, on the device where it is.

        Args:
            model: A causal language model; its weights and its training mode are left as they are.
            tokenizer: The model's tokenizer, with a padding token.
            shares: Shares of each task's questions, ascending, in (0, 1), that are answered first;
                at least one question of each. They are drawn once for all models, a larger share
                holds the smaller ones, and no question is asked twice.
            report: Called with the number of questions answered so far and the scores on them,
                after each share and at the end; may raise to stop.

        Returns:
            One score a requested task, in the given order; one score a member of a tag, or of a
            group that defines no average.

        Raises:
            FloatingPointError: If the model gives log-likelihoods that aren't finite.
            OutOfMemoryError: If memory is too short for one sequence at a time.
        """
        training = model.training
        answers: Answers = {}
        scores: tuple[Score, ...] = ()
        for ids in self._stages(shares):
            evaluated = functools.partial(self._evaluated, model, tokenizer, ids, answers)
            try:
                with _undisturbed():
                    results = halving(evaluated, size=self._batch_size)
            finally:
                model.train(training)
            scores = tuple(score for item in self._loaded for score in _scores(item, results))
            if report is not None:
                report(sum(map(len, ids.values())), scores)
        return scores

    def _stages(self, shares: Sequence[float]) -> list[dict[str, Sequence[int]]]:
        """Questions by task after each share, and all of them; each stage holds the ones before."""
        stages = [
            {name: _first(name, chosen, share) for name, chosen in self._ids.items()}
            for share in shares
        ]
        grown: list[dict[str, Sequence[int]]] = []
        for stage in [*stages, dict(self._ids)]:
            if not grown or any(len(stage[name]) > len(grown[-1][name]) for name in stage):
                grown.append(stage)
        return grown

    def _evaluated(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        ids: Mapping[str, Sequence[int]],
        answers: Answers,
        batch_size: int,
    ) -> Mapping[str, Mapping[str, Any]]:
        for task in self._tasks.values():
            task.set_fewshot_seed(_FEWSHOT_SEED)
        results: Mapping[str, Mapping[str, Any]] = evaluate(
            _LanguageModel(
                pretrained=model,
                tokenizer=tokenizer,
                backend="causal",
                batch_size=batch_size,
                max_length=min(self._max_length, model.config.max_position_embeddings),
                answers=answers,
            ),
            task_dict={
                "tasks": dict(self._tasks),
                "groups": {k: v for item in self._loaded for k, v in item.groups.items()},
            },
            samples=dict(ids),
            bootstrap_iters=1,  # 0 would leave out the standard errors, closed forms here
            log_samples=False,
        )["results"]
        return results


class _LanguageModel(HFLM):  # type: ignore[misc]  # lm-eval has no type information
    """lm-eval's wrapper of a transformers model: silent, wary, and without needless work.

    Args:
        answers: What the model has answered, by context and continuation; is added to.
        **settings: Of lm-eval's class.
    """

    _shortest_context = 1

    def __init__(self, *, answers: Answers, **settings: Any) -> None:
        super().__init__(**settings)
        self._answers = answers

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
        asked = [request for request in requests if request.args not in self._answers]
        results: list[Any] = super().loglikelihood(asked, disable_tqdm=disable_tqdm)
        # lm-eval would count the first choice as the answer where all are NaN.
        if not all(math.isfinite(likelihood) for likelihood, _ in results):
            raise FloatingPointError(
                "The model gives log-likelihoods that aren't finite, so it has no score; its "
                "training has probably diverged: lower the learning rate."
            )
        self._answers.update(zip((request.args for request in asked), results, strict=True))
        return [self._answers[request.args] for request in requests]

    def _loglikelihood_tokens(self, requests: list[Any], **options: Any) -> list[Any]:
        cut = sum(
            len(context) + len(choice) > self.max_length + 1 for _, context, choice in requests
        )
        if cut:
            _logger.warning(
                "%d of %d sequences are longer than max_length=%d tokens and lose their beginning.",
                cut,
                len(requests),
                self.max_length,
            )
        self._shortest_context = min(
            min(len(context), self.max_length + 1 - len(choice)) for _, context, choice in requests
        )
        results: list[Any] = super()._loglikelihood_tokens(requests, **options)
        return results

    def _model_call(self, inps: torch.Tensor, **_: Any) -> torch.Tensor:
        # Choices are scored from the context's last position on, so the vocabulary's logits of
        # earlier ones, a sixth of the work on short questions, aren't made. lm-eval counts
        # positions from the end where a model returns fewer than it was given.
        keep = inps.shape[1] - self._shortest_context + 1
        with torch.inference_mode():
            output = self.model(inps, use_cache=False, logits_to_keep=keep)
        logits: torch.Tensor = output.logits
        return logits


def _first(name: str, ids: Sequence[int], share: float) -> Sequence[int]:
    """A share of a task's questions, in the order in which they are asked."""
    order = random.Random(f"questions of {name}").sample(ids, len(ids))
    return sorted(order[: max(math.ceil(share * len(ids)), 1)])


def _is_single(loaded: LoadedTask) -> bool:
    """Whether a requested name stands for one task, so that the name is the task's."""
    return len(loaded.tasks) == 1


def _checked_ids(
    name: str, chosen: Collection[int] | None, count: int, limit: int | None
) -> Sequence[int]:
    if chosen is None:  # a range, in which lm-eval finds a number at once
        return range(count if limit is None else min(limit, count))
    unique = frozenset(chosen)
    if not unique or len(unique) != len(chosen) or not unique <= set(range(count)):
        raise ValueError(
            f"The question ids of {name!r} are {sorted(chosen)}, expected different numbers from "
            f"0 to {count - 1}, at least one."
        )
    return sorted(unique)  # in the order in which they are asked


def _merged(loaded: Sequence[LoadedTask]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for item in loaded:
        if twice := merged.keys() & item.tasks.keys():
            raise ValueError(
                f"The task {min(twice)!r} is asked for twice, the second time by {item.label!r}; "
                "give every task once."
            )
        merged.update(item.tasks)
    return merged


def _scores(loaded: LoadedTask, results: Mapping[str, Mapping[str, Any]]) -> Iterator[Score]:
    counts = {name: int(results[name]["sample_len"]) for name in loaded.tasks}
    if loaded.label in loaded.groups and _metric(results[loaded.label]) is not None:
        yield _score(loaded.label, results[loaded.label], sum(counts.values()))
        return
    for name, count in counts.items():
        yield _score(loaded.label if _is_single(loaded) else name, results[name], count)


def _score(label: str, result: Mapping[str, Any], questions: int) -> Score:
    found = _metric(result)
    assert found is not None, sorted(result)  # tasks are checked when they are loaded
    metric, filter_name = found
    stderr = result[f"{metric}_stderr,{filter_name}"]
    return Score(
        task=label,
        metric=metric,
        value=float(result[f"{metric},{filter_name}"]),
        stderr=math.nan if stderr == "N/A" else float(stderr),
        questions=questions,
    )


def _metric(result: Mapping[str, Any]) -> tuple[str, str] | None:
    """The metric and lm-eval's name of its filter, from keys such as `acc_norm,none`."""
    for metric in _METRICS:
        for key in result:
            name, _, filter_name = key.partition(",")
            if name == metric:
                return metric, filter_name
    return None


def _fingerprint(task: Any, doc: Any) -> str:
    choices = task.doc_to_choice(doc) if task.OUTPUT_TYPE == "multiple_choice" else None
    text = json.dumps([task.doc_to_text(doc), choices])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Run lm-eval without progress bars, notices and a trace in the random generators."""
    logger = logging.getLogger("lm_eval")
    with _lock:
        level = logger.level
        bars = not datasets.are_progress_bars_disabled()
        python_state = random.getstate()
        numpy_state = np.random.get_state()  # noqa: NPY002 (the global generator is meant)
        torch_state = torch.get_rng_state()
        tqdm = lm_eval.api.task.tqdm
        lm_eval.api.task.tqdm = functools.partial(tqdm, disable=True)
        logger.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            lm_eval.api.task.tqdm = tqdm
            logger.setLevel(level)
            if bars:
                datasets.enable_progress_bars()
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            torch.set_rng_state(torch_state)
