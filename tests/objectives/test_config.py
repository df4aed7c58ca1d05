from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from objectives import FineTuneConfig, SearchSpace

MINIMAL: dict[str, Any] = {"model": "m", "train_data": "t.json", "validation_data": "v.json"}


def test_defaults_are_a_valid_configuration() -> None:
    config = FineTuneConfig(**MINIMAL)
    assert config.mask_prompt
    assert config.metric == "val_loss"
    assert config.space() == SearchSpace.preset("demo")


def test_a_space_can_be_given_as_an_object() -> None:
    space = SearchSpace.preset("davouse2024").override(rank=(2, 100))
    assert FineTuneConfig(**MINIMAL, search_space=space).space() is space


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FineTuneConfig(**MINIMAL).seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search_space": "large"}, "search space is 'large'"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0, expected a whole number of at least 1"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"max_length": 1}, "max_length is 1, expected a whole number of at least 2"),
        ({"max_train_samples": 0}, "max_train_samples is 0"),
        ({"question_limit": 0}, "question_limit is 0"),
        ({"reports_per_epoch": 0}, "reports_per_epoch is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"warmup_fraction": 1.0}, r"warmup_fraction is 1.0, expected a value in \[0, 1\)"),
        ({"gradient_clip": 0.0}, "gradient_clip is 0.0, expected a finite norm above 0"),
        ({"gradient_clip": math.inf}, "gradient_clip is inf"),
        ({"optimizer": "sgd"}, r"optimizer is 'sgd', expected one of \('adamw', 'adamw_fused'"),
        ({"schedule": "linear"}, r"expected one of \('cosine', 'constant'\)"),
        ({"validation_split": 1.0}, r"validation_split is 1.0, expected a share in \(0, 1\)"),
        ({"train_share": 0.0}, r"train_share is 0.0, expected a share in \(0, 1\]"),
        ({"warmup_fraction": "0.1"}, "warmup_fraction is '0.1', expected a number"),
        ({"train_share": None}, "train_share is None, expected a number"),
        ({"packing": "no"}, "packing is 'no', expected True or False"),
        ({"question_ids": [1, 2]}, r"question_ids is \[1, 2\], expected numbers by task"),
        ({"search_space": None}, "search space is None, expected the name of a preset"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"targets": ()}, "targets is empty"),
        ({"targets": "query"}, "targets is 'query', expected names in a tuple"),
        ({"targets": ("query", "gate")}, "targets has 'gate'"),
        ({"targets": ("query", "query")}, "every name only once"),
        ({"tasks": "hellaswag"}, "tasks is 'hellaswag', expected names in a tuple"),
        ({"metric": "hellaswag"}, "add 'hellaswag' to tasks"),
    ],
)
def test_bad_values_are_explained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineTuneConfig(**(MINIMAL | changes))


def test_a_tuning_task_can_not_be_the_final_test() -> None:
    with pytest.raises(ValueError, match="'mmlu' is used for tuning"):
        FineTuneConfig(**MINIMAL, tasks=("hellaswag", "mmlu"), test_tasks=("mmlu",))


def test_a_question_file_is_the_same_however_its_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="used for tuning"):
        FineTuneConfig(**MINIMAL, tasks=("q.jsonl",), test_tasks=(str(tmp_path / "q.jsonl"),))
