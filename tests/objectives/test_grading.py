"""Scores on growing shares of the questions, for pruners."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from objectives import FineTuneConfig, FineTuneObjective
from objectives.scoring import Score, Scorer, _LanguageModel

MakeConfig = Callable[..., FineTuneConfig]

FIRST = {"learning_rate": 1e-3, "weight_decay": 0.01, "rank": 4, "alpha": 16.0}
FIRST |= {"dropout": 0.0, "grad_batches": 4}


class EndsAt(BasePruner):
    """Prunes every trial at one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.last_step == self.step


@pytest.fixture
def shared(make_config: MakeConfig, assets: Path) -> FineTuneConfig:
    task = str(assets / "questions.jsonl")
    return make_config(
        metric=task, tasks=(task,), question_shares=(0.25, 0.5), max_train_samples=16
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every context and choice that a model is asked."""
    made: list[str] = []
    tokens = _LanguageModel._loglikelihood_tokens

    def counted(self: Any, requests: list[Any], **options: Any) -> list[Any]:
        made.extend(json.dumps(request[0]) for request in requests)
        found: list[Any] = tokens(self, requests, **options)
        return found

    monkeypatch.setattr(_LanguageModel, "_loglikelihood_tokens", counted)
    return made


def study_of(pruner: BasePruner, *, trials: int = 1) -> optuna.Study:
    # Hyperband draws a trial's bracket by the study's name, and one of its brackets ends nothing.
    study = optuna.create_study(study_name="shares", direction="maximize", pruner=pruner)
    for _ in range(trials):
        study.enqueue_trial(FIRST)
    return study


def test_more_and_more_questions_are_asked_and_none_twice(
    shared: FineTuneConfig, asked: list[str]
) -> None:
    objective = FineTuneObjective(shared)
    assert objective.pruning_points == (6, 12, 24)
    study = study_of(optuna.pruners.NopPruner())
    objective.base_result()
    asked.clear()
    study.optimize(objective, n_trials=1)
    assert len(asked) == len(set(asked)) == 24 * 4
    (trial,) = study.trials
    assert list(trial.intermediate_values) == [6, 12, 24]
    assert trial.intermediate_values[24] == trial.value
    plain = FineTuneObjective(FineTuneConfig(**{**as_dict(shared), "question_shares": ()}))
    assert plain.pruning_points == ()
    assert plain.run(FIRST).value == trial.value


def as_dict(config: FineTuneConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_a_pruned_trial_has_answered_its_share_and_is_comparable(
    shared: FineTuneConfig, asked: list[str]
) -> None:
    objective = FineTuneObjective(shared)
    untuned = objective.base_result()
    study = study_of(EndsAt(12))
    asked.clear()
    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state is TrialState.PRUNED
    assert len(asked) == 12 * 4
    [score] = trial.user_attrs["scores"].values()
    base: dict[int, float] = {}
    scorer: Any = objective._resources().scorer
    scorer(
        objective._resources().backend.untuned().scoring_model(),
        objective._resources().backend.tokenizer,
        shares=(0.5,),
        report=lambda questions, scores: base.__setitem__(questions, scores[0].value),
    )
    assert base[24] == untuned.value
    assert trial.value == pytest.approx(score["value"] + base[24] - base[12])


def test_each_share_holds_the_smaller_ones(assets: Path, tmp_path: Path) -> None:
    lines = (assets / "questions.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    second = tmp_path / "second.jsonl"
    second.write_text("".join(lines[:3]), encoding="utf-8")
    scorer = Scorer([assets / "questions.jsonl", second], ids={str(second): [0, 2]})
    stages = scorer._stages((0.1, 0.3, 0.31, 0.6))
    sizes = [sorted(map(len, stage.values())) for stage in stages]
    assert sizes == [[1, 3], [1, 8], [2, 15], [2, 24]]
    for smaller, larger in pairwise(stages):
        assert all(set(smaller[name]) <= set(larger[name]) for name in smaller)
    assert next(iter(stages[0].values())) != [0, 1, 2]  # drawn, not the first ones of the file
    again = Scorer([assets / "questions.jsonl", second], ids={str(second): [0, 2]})
    assert again._stages((0.1, 0.3, 0.31, 0.6)) == stages
    assert scorer.points((0.1, 0.3, 0.31, 0.6)) == (4, 9, 17, 26)


@pytest.mark.parametrize(
    "pruner",
    [
        optuna.pruners.MedianPruner(n_startup_trials=1),
        optuna.pruners.SuccessiveHalvingPruner(min_resource=6, reduction_factor=2),
        optuna.pruners.HyperbandPruner(min_resource=6, max_resource=24, reduction_factor=2),
    ],
    ids=lambda pruner: type(pruner).__name__,
)
def test_optunas_pruners_end_bad_trials(
    shared: FineTuneConfig, pruner: BasePruner, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = FineTuneObjective(shared)
    objective.base_result()
    score = Scorer.__call__
    worse = iter(range(100))

    def spoiled(self: Scorer, *arguments: Any, report: Any, **named: Any) -> tuple[Score, ...]:
        share = 1 / (1 + next(worse))

        def told(questions: int, scores: tuple[Score, ...]) -> None:
            [found] = scores
            values = {name: getattr(found, name) for name in found.__dataclass_fields__}
            report(questions, (Score(**{**values, "value": found.value * share}),))

        return score(self, *arguments, report=told, **named)

    monkeypatch.setattr(Scorer, "__call__", spoiled)
    study = study_of(pruner, trials=4)
    study.optimize(objective, n_trials=4)
    states = [trial.state for trial in study.trials]
    assert states[0] is TrialState.COMPLETE
    assert TrialState.PRUNED in states


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question_shares": (0.5, 0.25)}, "each larger than the one before"),
        ({"question_shares": (0.0, 0.25)}, "shares between 0 and 1"),
        ({"question_shares": (0.5, 1.0)}, "shares between 0 and 1"),
        ({"question_shares": 0.5}, "question_shares is 0.5"),
        ({"question_shares": ("a",)}, "question_shares is"),
        ({"question_shares": (0.5,), "metric": "val_loss"}, "metric is 'val_loss' and cost"),
        ({"question_shares": (0.5,), "cost": "seconds"}, "cost is 'seconds'"),
    ],
)
def test_shares_that_can_not_be_reported_are_refused(
    shared: FineTuneConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FineTuneConfig(**{**as_dict(shared), **changes})
