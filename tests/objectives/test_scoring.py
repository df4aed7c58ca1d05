from __future__ import annotations

import json
import logging
import math
import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from transformers import LlamaForCausalLM

from objectives import _tasks, scoring
from objectives.models.base import BaseModel
from objectives.scoring import (
    QuestionFileError,
    Scorer,
    TaskDataError,
    UnknownTaskError,
    UnsupportedTaskError,
)

QUESTIONS: list[dict[str, Any]] = [
    {
        "question": 'The noun "hat" means',
        "choices": ["a cover", "the place where people of a town vote", "an odor"],
        "answer": 1,
    },
    {"question": "One", "choices": ["of these", "the quality of being of use"], "answer": 0},
]


@pytest.fixture
def tiny_model(assets: Path) -> Any:
    model: Any = LlamaForCausalLM.from_pretrained(assets / "tiny_llama", dtype=torch.float32)
    return model.eval()


def write_questions(path: Path, questions: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in questions), encoding="utf-8")
    return path


@pytest.fixture
def questions_file(assets: Path) -> Path:
    return assets / "questions.jsonl"


def log_likelihood(model: Any, tokenizer: Any, context: str, text: str) -> float:
    """Natural logarithm of the probability of the text after the context, one token at a time."""
    ids = tokenizer(context + text)["input_ids"]
    start = len(tokenizer(context)["input_ids"])
    total = 0.0
    with torch.inference_mode():
        for position in range(start, len(ids)):
            logits = model(input_ids=torch.tensor([ids[:position]])).logits[0, -1]
            total += float(logits[ids[position]] - torch.logsumexp(logits, dim=0))
    return total


def right_answers(model: Any, tokenizer: Any, questions: list[dict[str, Any]]) -> list[bool]:
    """Whether the choice of the highest log-likelihood per character is the right one."""
    right = []
    for item in questions:
        rates = [
            log_likelihood(model, tokenizer, item["question"], " " + choice) / len(choice)
            for choice in item["choices"]
        ]
        right.append(int(np.argmax(rates)) == item["answer"])
    return right


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("offset", [0, 1])
def test_score_of_a_question_equals_a_hand_computation(
    tiny_model: Any, tiny_base: BaseModel, tmp_path: Path, index: int, offset: int
) -> None:
    item = QUESTIONS[index]
    item = item | {"answer": (item["answer"] + offset) % len(item["choices"])}
    path = write_questions(tmp_path / "one.jsonl", [item])
    (score,) = Scorer([path])(tiny_model, tiny_base.tokenizer)
    (right,) = right_answers(tiny_model, tiny_base.tokenizer, [item])
    assert (score.task, score.metric, score.questions) == (str(path), "acc_norm", 1)
    assert score.value == float(right)
    assert math.isnan(score.stderr)  # one question says nothing about the spread


def test_log_likelihoods_equal_a_hand_computation(
    tiny_model: Any, tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[tuple[str, str], float] = {}
    original = scoring._LanguageModel.loglikelihood

    def record(self: Any, requests: list[Any], **options: Any) -> list[Any]:
        results = original(self, requests, **options)
        for request, (likelihood, _) in zip(requests, results, strict=True):
            seen[request.args] = likelihood
        return results

    monkeypatch.setattr(scoring._LanguageModel, "loglikelihood", record)
    Scorer([write_questions(tmp_path / "two.jsonl", QUESTIONS)])(tiny_model, tiny_base.tokenizer)
    expected = {
        (item["question"], " " + choice): log_likelihood(
            tiny_model, tiny_base.tokenizer, item["question"], " " + choice
        )
        for item in QUESTIONS
        for choice in item["choices"]
    }
    assert seen == pytest.approx(expected, abs=1e-4)
    assert min(expected.values()) < -20  # a difference of 1e-4 is small


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_score_of_a_file_equals_a_hand_computation(
    tiny_model: Any, tiny_base: BaseModel, questions_file: Path, batch_size: int
) -> None:
    lines = questions_file.read_text(encoding="utf-8").splitlines()
    right = right_answers(tiny_model, tiny_base.tokenizer, [json.loads(line) for line in lines])
    (score,) = Scorer([questions_file], batch_size=batch_size)(tiny_model, tiny_base.tokenizer)
    assert score.value == pytest.approx(np.mean(right))
    assert score.stderr == pytest.approx(np.std(right, ddof=1) / math.sqrt(len(right)))
    assert score.questions == len(right) == 24


def test_limit_takes_the_first_questions(
    tiny_model: Any, tiny_base: BaseModel, questions_file: Path
) -> None:
    lines = questions_file.read_text(encoding="utf-8").splitlines()[:5]
    right = right_answers(tiny_model, tiny_base.tokenizer, [json.loads(line) for line in lines])
    scorer = Scorer([questions_file], limit=5)
    (score,) = scorer(tiny_model, tiny_base.tokenizer)
    assert score.questions == 5
    assert score.value == pytest.approx(np.mean(right))
    assert len(scorer.questions) == 5


def test_ids_choose_exactly_these_questions(
    tiny_model: Any, tiny_base: BaseModel, questions_file: Path
) -> None:
    lines = questions_file.read_text(encoding="utf-8").splitlines()
    chosen = [21, 3, 7, 8, 15]
    picked = [json.loads(lines[k]) for k in chosen]
    scorer = Scorer([questions_file], ids={str(questions_file): chosen}, limit=2)
    (score,) = scorer(tiny_model, tiny_base.tokenizer)
    assert score.questions == 5
    assert score.value == np.mean(right_answers(tiny_model, tiny_base.tokenizer, picked))
    others = [k for k in range(24) if k not in chosen]
    rest = Scorer([questions_file], ids={str(questions_file): others})
    assert not scorer.questions & rest.questions
    assert pickle.loads(pickle.dumps(scorer)).questions == scorer.questions


@pytest.mark.parametrize("ids", [[], [24], [-1], [3, 3]])
def test_bad_ids_are_explained(questions_file: Path, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="expected different numbers from 0 to 23"):
        Scorer([questions_file], ids={str(questions_file): ids})


def test_ids_of_another_task_are_an_error(questions_file: Path) -> None:
    with pytest.raises(ValueError, match="question ids for 'mmlu', expected one of"):
        Scorer([questions_file], ids={"mmlu": [1]})


def test_scores_come_in_the_given_order(
    tiny_model: Any, tiny_base: BaseModel, tmp_path: Path, questions_file: Path
) -> None:
    two = write_questions(tmp_path / "two.jsonl", QUESTIONS)
    scores = Scorer([two, str(questions_file)])(tiny_model, tiny_base.tokenizer)
    assert [(score.task, score.questions) for score in scores] == [
        (str(two), 2),
        (str(questions_file), 24),
    ]


def test_model_and_random_generators_are_left_as_they_were(
    tiny_model: Any, tiny_base: BaseModel, questions_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seeding(*arguments: Any, **options: Any) -> Any:
        random.seed(0)  # as the code of a task may do
        np.random.seed(0)  # noqa: NPY002 (the global generator is meant)
        torch.manual_seed(0)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(scoring, "evaluate", seeding)
    tiny_model.train()
    before = {key: tensor.clone() for key, tensor in tiny_model.state_dict().items()}
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    expected = (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    Scorer([questions_file])(tiny_model, tiny_base.tokenizer)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected  # noqa: NPY002
    assert tiny_model.training
    for key, tensor in tiny_model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_nothing_is_printed_logged_or_written(
    tiny_model: Any,
    tiny_base: BaseModel,
    questions_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    work, cache = tmp_path / "work", tmp_path / "cache"
    work.mkdir()
    cache.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    level = logging.getLogger("lm_eval").level
    Scorer([questions_file])(tiny_model, tiny_base.tokenizer)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert not list(work.iterdir())
    assert not list(cache.iterdir())
    assert logging.getLogger("lm_eval").level == level
    assert not datasets.are_progress_bars_disabled()


def test_tasks_are_kept_between_calls(
    tiny_model: Any, tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_questions(tmp_path / "two.jsonl", QUESTIONS)
    scorer = Scorer([path])
    first = scorer(tiny_model, tiny_base.tokenizer)
    path.unlink()
    monkeypatch.setattr(_tasks, "load_task", lambda _: pytest.fail("loaded again"))
    assert repr(scorer(tiny_model, tiny_base.tokenizer)) == repr(first)


def test_threads_take_turns(
    assets: Path, tiny_base: BaseModel, tiny_model: Any, questions_file: Path
) -> None:
    scorer = Scorer([questions_file])
    expected = scorer(tiny_model, tiny_base.tokenizer)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: scorer(tiny_model, tiny_base.tokenizer), range(8)))
    assert results == [expected] * 8
    assert not datasets.are_progress_bars_disabled()


def test_pickled_scorer_gives_the_same_scores(
    tiny_model: Any, tiny_base: BaseModel, questions_file: Path
) -> None:
    scorer = Scorer([questions_file], limit=6, batch_size=3)
    copy = pickle.loads(pickle.dumps(scorer))
    assert copy(tiny_model, tiny_base.tokenizer) == scorer(tiny_model, tiny_base.tokenizer)


def test_diverged_model_has_no_score(
    tiny_model: Any, tiny_base: BaseModel, questions_file: Path
) -> None:
    with torch.no_grad():
        tiny_model.model.norm.weight[0] = math.nan
    with pytest.raises(FloatingPointError, match="aren't finite"):
        Scorer([questions_file])(tiny_model, tiny_base.tokenizer)
    assert not datasets.are_progress_bars_disabled()


def test_sequences_that_are_cut_are_logged(
    tiny_model: Any,
    tiny_base: BaseModel,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    long = {"question": "a place where " * 30, "choices": ["people vote", "a hat"], "answer": 0}
    path = write_questions(tmp_path / "long.jsonl", [*QUESTIONS, long])
    (score,) = Scorer([path], max_length=32)(tiny_model, tiny_base.tokenizer)
    assert score.questions == 3
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 7 sequences are longer than max_length=32 tokens and lose their beginning."
    ]


def test_task_names_are_absolute_for_files(
    questions_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(questions_file.parent)
    assert Scorer(["questions.jsonl"]).task_names == {str(questions_file.resolve())}


def test_same_questions_in_another_file_are_recognized(
    questions_file: Path, tmp_path: Path
) -> None:
    lines = questions_file.read_text(encoding="utf-8").splitlines()
    copy, rest = tmp_path / "copy.jsonl", tmp_path / "rest.jsonl"
    copy.write_text("\n".join(lines[20:]), encoding="utf-8")
    rest.write_text("\n".join(lines[:20]), encoding="utf-8")
    everything = Scorer([questions_file]).questions
    assert len(everything) == 24
    assert Scorer([copy]).questions < everything
    assert not Scorer([copy]).questions & Scorer([rest]).questions


GOOD = '{"question": "q", "choices": ["a", "b"], "answer": 0}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (f"{GOOD}\n{{bad", r"file\.jsonl:2: no JSON \(.* at column 2\)"),
        (f"{GOOD}\n\n[1]", r"file\.jsonl:3: a list, expected an object"),
        ('{"choices": ["a", "b"], "answer": 0}', r":1: question is None"),
        ('{"question": " ", "choices": ["a", "b"], "answer": 0}', r":1: question is ' '"),
        ('{"question": "q", "choices": "ab", "answer": 0}', r":1: choices is 'ab'"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', r":1: choices is \['a'\]"),
        ('{"question": "q", "choices": ["a", "a"], "answer": 0}', r"two or more different"),
        ('{"question": "q", "choices": ["a", 1], "answer": 0}', r":1: choices is \['a', 1\]"),
        (f"{GOOD}\n" + GOOD.replace("0", "2"), r":2: answer is 2, expected .* from 0 to 1"),
        (GOOD.replace("0", "-1"), r":1: answer is -1"),
        (GOOD.replace("0", '"0"'), r":1: answer is '0'"),
        (GOOD.replace("0", "true"), r":1: answer is True"),
    ],
)
def test_bad_file_of_questions_is_refused_with_its_line(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(QuestionFileError, match=message):
        Scorer([path])


def test_missing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QuestionFileError, match=r"'nowhere\.jsonl' can't be read"):
        Scorer(["nowhere.jsonl"])
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QuestionFileError, match="give a UTF-8 file"):
        Scorer([binary])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_length": -1}, "max_length is -1"),
    ],
)
def test_numbers_must_be_positive(
    questions_file: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Scorer([questions_file], **options)


@pytest.mark.parametrize("tasks", [[], "hellaswag"])
def test_tasks_must_be_a_list(tasks: Any) -> None:
    with pytest.raises(ValueError, match="expected a list with at least one task"):
        Scorer(tasks)


def test_task_given_twice_is_refused(questions_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(questions_file.parent)
    with pytest.raises(ValueError, match=r"asked for twice, the second time by 'questions\.jsonl'"):
        Scorer([questions_file, "questions.jsonl"])


def test_unknown_task_gets_near_matches() -> None:
    with pytest.raises(UnknownTaskError, match=r"no task 'hellaswg'\. Did you mean hellaswag"):
        Scorer(["hellaswg"])
    with pytest.raises(UnknownTaskError, match=r"no task 'xqzv'\. Expected a registered name"):
        Scorer(["xqzv"])


# Registered tasks: lm-eval's own files and code, on questions from here instead of the hub.

HellaSwagRow = dict[str, str | list[str]]


def hellaswag_rows() -> list[HellaSwagRow]:
    return [
        {
            "activity_label": "Voting",
            "ctx_a": f"{number} people stand in a line.",
            "ctx_b": "they",
            "endings": ["vote.", "cover a hat.", "odor of use.", "are trousers of a town."],
            "label": str(number % 4),
        }
        for number in range(6)
    ]


def mmlu_rows(subject: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"Which of these is {number} in {subject}?",
            "subject": subject,
            "choices": ["a hat", "an odor", "a town", "a place"],
            "answer": number % 4,
        }
        for number in range(count)
    ]


LoadDataset = Callable[..., dict[str, datasets.Dataset]]


@pytest.fixture
def local_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data sets of the hub, made here."""

    def load(path: str, name: str | None = None, **_: Any) -> dict[str, datasets.Dataset]:
        if path == "Rowan/hellaswag":
            rows = datasets.Dataset.from_list(hellaswag_rows())
            return {"train": rows, "validation": rows}
        if path == "cais/mmlu":
            assert name is not None
            counts = {"dev": 5, "test": 3 if name == "anatomy" else 2}
        elif path == "allenai/ai2_arc":
            choices = {"text": ["a hat", "an odor"], "label": ["A", "B"]}
            row = {"question": f"{name}?", "choices": choices, "answerKey": "A"}
            return dict.fromkeys(
                ("train", "validation", "test"), datasets.Dataset.from_list([row, row])
            )
        else:
            raise ConnectionError(f"Couldn't reach {path!r} on the Hub")
        return {
            split: datasets.Dataset.from_list(mmlu_rows(name, count))
            for split, count in counts.items()
        }

    monkeypatch.setattr(datasets, "load_dataset", load)


@pytest.fixture
def no_full_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(**options: Any) -> TaskManager:
        assert options.get("include_defaults") is False, "lm-eval's scan of all files takes 8 s"
        return TaskManager(**options)

    monkeypatch.setattr(_tasks, "TaskManager", make)


@pytest.mark.usefixtures("local_hub", "no_full_scan")
def test_hellaswag_by_name(tiny_model: Any, tiny_base: BaseModel) -> None:
    scorer = Scorer(["hellaswag"])
    (score,) = scorer(tiny_model, tiny_base.tokenizer)
    rows = [
        {
            "question": f"Voting: {row['ctx_a']} They",
            "choices": row["endings"],
            "answer": int(str(row["label"])),
        }
        for row in hellaswag_rows()
    ]
    right = right_answers(tiny_model, tiny_base.tokenizer, rows)
    assert (score.task, score.metric, score.questions) == ("hellaswag", "acc_norm", 6)
    assert score.value == pytest.approx(np.mean(right))
    assert scorer.task_names == {"hellaswag"}


@pytest.mark.usefixtures("local_hub", "no_full_scan")
def test_mmlu_by_name_is_one_score_over_all_subjects(tiny_model: Any, tiny_base: BaseModel) -> None:
    scorer = Scorer(["mmlu"])
    (score,) = scorer(tiny_model, tiny_base.tokenizer)
    assert (score.task, score.metric) == ("mmlu", "acc")
    assert score.questions == 115  # three of anatomy, two of each of the 56 other subjects
    # A count of right answers over all questions, so the subjects are weighted by their size.
    assert score.value * 115 == pytest.approx(round(score.value * 115), abs=1e-6)
    assert 0 < score.stderr < 0.1
    assert {"mmlu", "mmlu_stem", "mmlu_anatomy"} <= scorer.task_names
    assert len(scorer.questions) == 115


@pytest.mark.usefixtures("local_hub", "no_full_scan")
def test_member_of_a_group_is_a_task_given_twice() -> None:
    with pytest.raises(ValueError, match="'mmlu_anatomy' is asked for twice"):
        Scorer(["mmlu", "mmlu_anatomy"])
    assert Scorer(["mmlu"]).questions > Scorer(["mmlu_anatomy"]).questions


@pytest.mark.usefixtures("local_hub", "no_full_scan")
def test_repeated_calls_draw_the_same_examples(tiny_model: Any, tiny_base: BaseModel) -> None:
    scorer = Scorer(["mmlu_anatomy"])
    assert scorer(tiny_model, tiny_base.tokenizer) == scorer(tiny_model, tiny_base.tokenizer)


@pytest.mark.slow  # the members of a tag are known only after lm-eval's scan of all files
@pytest.mark.usefixtures("local_hub")
def test_tag_gives_one_score_a_member(tiny_model: Any, tiny_base: BaseModel) -> None:
    scores = Scorer(["ai2_arc"])(tiny_model, tiny_base.tokenizer)
    assert {score.task for score in scores} == {"arc_challenge", "arc_easy"}
    assert [score.questions for score in scores] == [2, 2]


@pytest.mark.usefixtures("local_hub", "no_full_scan")
def test_questions_out_of_reach_are_explained() -> None:
    with pytest.raises(TaskDataError) as caught:
        Scorer(["winogrande"])
    for part in ("'winogrande'", "Couldn't reach", "Hugging Face hub", "HF_HUB_OFFLINE", ".jsonl"):
        assert part in str(caught.value)


@pytest.mark.usefixtures("no_full_scan")
def test_task_without_an_accuracy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_list([{"question": "1 + 1?", "answer": "#### 2"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda **_: {"train": rows, "test": rows})
    with pytest.raises(UnsupportedTaskError, match="is scored by exact_match, expected acc"):
        Scorer(["gsm8k"])
