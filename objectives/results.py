"""What runs reach and cost, and how studies keep it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from objectives.scoring import Score
    from objectives.search_space import HyperParameters


@dataclass(frozen=True, slots=True)
class BaseResult:
    """What the untuned model reaches.

    Attributes:
        val_loss: Cross-entropy on the validation data, nats per token.
        scores: Scores on the tuning tasks.
        value: The metric.
    """

    val_loss: float
    scores: tuple[Score, ...]
    value: float


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What one run reached, and what it cost.

    Attributes:
        value: The metric: validation loss or the score of a task.
        val_loss: Cross-entropy on the validation data at the end, nats per token.
        stderr: Standard error of the value: of the loss over the validation records, of a score
            over its questions; NaN where there is one only.
        scores: Scores on the tuning tasks.
        parameters: The hyperparameters of the run.
        seconds: Wall-clock seconds by phase: "build", "train", "validate", "score", "other".
        tokens_per_second: Training tokens, without padding, per second of training.
        trainable_parameters: Numbers in the adapter.
        cost: The second objective, None if there is none.
        micro_batch_size: The most rows that went through the model at once at the end of training,
            on all devices together; fewer than configured where memory was short.
    """

    value: float
    val_loss: float
    stderr: float
    scores: tuple[Score, ...]
    parameters: HyperParameters
    seconds: Mapping[str, float]
    tokens_per_second: float
    trainable_parameters: int
    cost: float | None
    micro_batch_size: int


@dataclass(frozen=True, slots=True)
class FinalComparison:
    """Scores on the test tasks, which no trial has seen."""

    base: tuple[Score, ...]
    tuned: tuple[Score, ...]

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """As a study keeps it."""
        return {"base": _to_json(self.base), "tuned": _to_json(self.tuned)}

    @classmethod
    def from_json(cls, kept: Mapping[str, Sequence[Mapping[str, Any]]]) -> FinalComparison:
        """Of `to_json`."""
        return cls(_from_json(kept["base"]), _from_json(kept["tuned"]))


def finite(number: float) -> float | None:
    """A number as JSON has it: the standard error of one question is none."""
    return number if math.isfinite(number) else None


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds by phase, to the millisecond."""
    return {phase: round(value, 3) for phase, value in seconds.items()}


def score_attribute(scores: Sequence[Score]) -> dict[str, dict[str, float | None]]:
    """Scores as an attribute of a trial."""
    return {
        f"{score.task} {score.metric}": {"value": score.value, "stderr": finite(score.stderr)}
        for score in scores
    }


def _to_json(scores: Sequence[Score]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(score) | {"stderr": finite(score.stderr)} for score in scores]


def _from_json(kept: Sequence[Mapping[str, Any]]) -> tuple[Score, ...]:
    from objectives.scoring import Score

    return tuple(
        Score(**{**score, "stderr": math.nan if score["stderr"] is None else score["stderr"]})
        for score in kept
    )
