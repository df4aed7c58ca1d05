from __future__ import annotations

import math
from typing import Any

import pytest

from objectives import FineTuneConfig
from objectives.metric import cost, measured
from objectives.scoring import Score
from objectives.training import Estimate

LOSS = Estimate(2.0, 0.1)
SCORES = (
    Score("hellaswag", "acc_norm", value=0.5, stderr=0.03, questions=100),
    Score("mmlu", "acc", value=0.3, stderr=0.01, questions=200),
)


def config(**changes: Any) -> FineTuneConfig:
    tasks = ("hellaswag", "mmlu")
    return FineTuneConfig(model="m", train_data="t.json", tasks=tasks, **changes)


def test_one_measure_is_taken_as_it_is() -> None:
    assert measured(config(), LOSS, SCORES) == LOSS
    assert measured(config(metric="mmlu"), LOSS, SCORES) == Estimate(0.3, 0.01)


def test_scores_are_summed_by_their_weights() -> None:
    both = measured(config(metric={"hellaswag": 2.0, "mmlu": 0.5}), LOSS, SCORES)
    assert both.value == pytest.approx(2 * 0.5 + 0.5 * 0.3)
    assert both.stderr == pytest.approx(math.sqrt((2 * 0.03) ** 2 + (0.5 * 0.01) ** 2))


def test_a_weight_of_one_task_alone_is_that_task() -> None:
    assert measured(config(metric={"mmlu": 1.0}), LOSS, SCORES) == Estimate(0.3, 0.01)


def test_a_task_without_a_score_of_its_own_is_named() -> None:
    with pytest.raises(ValueError, match=r"'mmlu', which has no score.*\['hellaswag'\]"):
        measured(config(metric={"mmlu": 1.0}), LOSS, SCORES[:1])


def test_the_cost_is_the_size_or_the_time_of_training() -> None:
    seconds = {"build": 1.0, "train": 7.0}
    assert cost(config(), seconds=seconds, parameters=5) is None
    assert cost(config(cost="seconds"), seconds=seconds, parameters=5) == 7.0
    assert cost(config(cost="trainable_parameters"), seconds=seconds, parameters=5) == 5.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": {"hellaswag": 0.0}}, "weight 0.0, expected a number above 0"),
        ({"metric": {"arc": 1.0}}, "add 'arc' to tasks"),
        ({"metric": {}}, "no weights"),
        ({"cost": "tokens"}, "cost is 'tokens', expected one of"),
    ],
)
def test_bad_metrics_are_explained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)
