from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(4e-5, 0.4, log=True),
    "rank": IntDistribution(2, 64, log=True),
    "dropout": FloatDistribution(0.1, 0.7),
    "scheduler": CategoricalDistribution(["cosine", None, True]),
}


def _params(k: int) -> dict[str, Any]:
    return {
        "learning_rate": 4e-5 * 10 ** (k % 4),
        "rank": 2 + k % 63,
        "dropout": 0.1 + 0.6 * (k % 7) / 7,
        "scheduler": ["cosine", None, True][k % 3],
    }


def _add(
    study: optuna.Study,
    value: float | None,
    state: TrialState = TrialState.COMPLETE,
    reported: Sequence[float] = (),
) -> None:
    study.add_trial(
        create_trial(
            state=state,
            value=value,
            params=_params(len(study.trials)),
            distributions=SPACE,
            intermediate_values=dict(enumerate(reported)),
        )
    )


def _study_of(
    *values: float, direction: Literal["minimize", "maximize"] = "minimize"
) -> optuna.Study:
    study = optuna.create_study(direction=direction, study_name="losses")
    for value in values:
        _add(study, value)
    return study


@pytest.fixture
def add() -> Callable[..., None]:
    """Add a trial: its value, state and reported values; its parameters follow its number."""
    return _add


@pytest.fixture
def study_of() -> Callable[..., optuna.Study]:
    """Make a study of completed trials with these values."""
    return _study_of


@pytest.fixture
def mixed() -> optuna.Study:
    """Trials 0 to 9: every state, a diverged loss and an infinite one; the best is trial 7."""
    study = _study_of(4.0, 3.5)
    study.set_metric_names(["validation loss"])
    _add(study, None, TrialState.FAIL)
    _add(study, None, TrialState.PRUNED, [5.0, 3.9])
    _add(study, 1e6, reported=[6.0, 1e6])
    _add(study, float("inf"))
    _add(study, 3.7, reported=[4.5, 3.7])
    _add(study, 3.1, reported=[4.0, 3.1])
    _add(study, None, TrialState.PRUNED)
    study.enqueue_trial({"rank": 3})
    return study
