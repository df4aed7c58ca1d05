"""Scores of a trial on the tuning tasks, of more and more questions if a pruner is to see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from optuna import TrialPruned

from objectives.metric import measured
from objectives.results import score_attribute
from objectives.training import Estimate

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

    from objectives.config import FineTuneConfig
    from objectives.models.backend import AdaptedModel
    from objectives.resources import Resources
    from objectives.scoring import Score

Report = Callable[[int, "tuple[Score, ...]"], None]

_NO_LOSS = Estimate(float("nan"), float("nan"))


class Grader:
    """Scores models on the tuning tasks.

    With `question_shares` a model answers a first share of the questions, then more of them, none
    twice. What a trial reports after a share is what it may be expected to reach with all of them:
    its score on these questions, plus what all are easier than these for the untuned model. Values
    of trials that were pruned at different shares are comparable then.

    Args:
        config: The objective.
        loaded: Weights, tokenizer and questions.
    """

    def __init__(self, config: FineTuneConfig, loaded: Resources) -> None:
        self._config = config
        self._loaded = loaded
        self._untuned: dict[int, tuple[Score, ...]] | None = None

    @property
    def points(self) -> tuple[int, ...]:
        """Numbers of questions after which a trial reports, the last of all of them."""
        scorer = self._loaded.scorer
        if scorer is None or not self._config.question_shares:
            return ()
        return scorer.points(self._config.question_shares)

    def untuned(self) -> tuple[Score, ...]:
        """The untuned model's scores; computed once."""
        found = self._untuned_by_questions()
        return found[max(found)] if found else ()

    def __call__(self, network: AdaptedModel, report: Report | None = None) -> tuple[Score, ...]:
        """Scores on all questions, one a task; none without tasks.

        Args:
            network: A tuned model.
            report: Called with the number of questions answered so far and the scores on them; may
                raise to stop.
        """
        scorer = self._loaded.scorer
        if scorer is None:
            return ()
        return scorer(
            self.on_device(network.scoring_model()),
            self._loaded.backend.tokenizer,
            shares=self._config.question_shares,
            report=report,
        )

    def reporter(self, trial: BaseTrial) -> Report | None:
        """Reports a trial's scores, and stops it where its pruner says so; None without shares."""
        if not self._config.question_shares or self._loaded.scorer is None:
            return None
        untuned = self._untuned_by_questions()
        every = max(untuned)

        def report(questions: int, scores: tuple[Score, ...]) -> None:
            value = self._value(scores) + self._value(untuned[every])
            value -= self._value(untuned[questions])
            trial.report(value, step=questions)
            if questions < every and trial.should_prune():
                trial.set_user_attr("scores", score_attribute(scores))
                raise TrialPruned(f"Pruned after {questions} questions at {value:.4f}.")

        return report

    def on_device(self, model: Any) -> Any:
        """A model for scoring; it waits on the CPU if its weights are divided for training."""
        return model.to(self._loaded.device) if self._config.strategy == "fsdp" else model

    def _value(self, scores: tuple[Score, ...]) -> float:
        return measured(self._config, _NO_LOSS, scores).value

    def _untuned_by_questions(self) -> dict[int, tuple[Score, ...]]:
        if self._untuned is None:
            found: dict[int, tuple[Score, ...]] = {}
            scores = self(self._loaded.backend.untuned(), found.__setitem__)
            if scores and not found:
                found[sum(score.questions for score in scores)] = scores
            self._untuned = found
        return self._untuned
