"""The value of a trial: one measure, or a weighted sum of scores, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from objectives.config import VALIDATION_LOSS
from objectives.training import Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from objectives.config import FineTuneConfig
    from objectives.scoring import Score


def measured(config: FineTuneConfig, loss: Estimate, scores: Sequence[Score]) -> Estimate:
    """The metric and its standard error.

    Tasks ask different questions, so that the errors of a weighted sum are independent.

    Args:
        config: Says which measure it is.
        loss: On the validation records.
        scores: On the tuning tasks.

    Raises:
        ValueError: If a task of the metric has no score of its own.
    """
    if config.metric == VALIDATION_LOSS:
        return loss
    if isinstance(config.metric, str):
        return _score(config.metric, scores)
    terms = [(weight, _score(task, scores)) for task, weight in config.metric.items()]
    return Estimate(
        math.fsum(weight * term.value for weight, term in terms),
        math.hypot(*(weight * term.stderr for weight, term in terms)),
    )


def cost(config: FineTuneConfig, *, seconds: Mapping[str, float], parameters: int) -> float | None:
    """The second objective, None if there is none.

    Args:
        config: Says what it is.
        seconds: Of a trial, by phase.
        parameters: Numbers in its adapter.
    """
    if config.cost is None:
        return None
    return float(parameters) if config.cost == "trainable_parameters" else seconds["train"]


def _score(task: str, scores: Sequence[Score]) -> Estimate:
    for score in scores:
        if score.task == task:
            return Estimate(score.value, score.stderr)
    raise ValueError(
        f"metric is {task!r}, which has no score of its own; give one of "
        f"{[score.task for score in scores]} as a task and as the metric."
    )
