"""Pruners on learning curves: they save work, and every sampler still finds the minimum."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.trial import TrialState

from objectives import SearchSpace
from objectives.tuning import SAMPLERS, make_pruner, make_sampler

SPACE = SearchSpace.of({"learning_rate": [1e-5, 1e-1], "alpha": [3, 64], "dropout": [0.0, 0.5]})
REPORTS = 9
SAMPLES = 81
TRIALS = 30
LOWEST = 2.0 + 1.5 * math.exp(-4)
OURS = [name for name in SAMPLERS if name not in ("mosoo", "tpe", "gp", "cmaes", "nsga2", "random")]


def loss(trial: optuna.Trial, share: float) -> float:
    """Of a run after a share of its samples; all runs start near 3.5 and fall alike."""
    off: float = (math.log10(trial.params["learning_rate"] / 4e-3) / 2) ** 2
    off += ((trial.params["alpha"] - 40) / 40) ** 2 + (trial.params["dropout"] - 0.1) ** 2
    return 2.0 + off + (1.5 - off / 2) * math.exp(-4 * share)


def objective(trial: optuna.Trial) -> float:
    SPACE.suggest(trial)
    for report in range(1, REPORTS + 1):
        trial.report(loss(trial, report / REPORTS), report * SAMPLES // REPORTS)
        if report < REPORTS and trial.should_prune():
            raise optuna.TrialPruned
    return loss(trial, 1.0)


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
@pytest.mark.parametrize("sampler", OURS)
def test_pruners_save_work(sampler: str, pruner: str) -> None:
    settings = {"repeats": 1} if sampler == "stosoo" else {}
    study = optuna.create_study(
        study_name="curves",  # Hyperband draws its brackets by this name
        sampler=make_sampler(sampler, settings, space=SPACE, n_trials=TRIALS, seed=0),
        pruner=make_pruner(pruner, first=SAMPLES // REPORTS, last=SAMPLES),
    )
    study.optimize(objective, n_trials=TRIALS)
    states = [trial.state for trial in study.trials]
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    reports = sum(len(trial.intermediate_values) for trial in study.trials)
    assert reports < 0.95 * TRIALS * REPORTS
    assert study.best_value < LOWEST + 0.06  # the median of random points is 0.5 above
    assert len({tuple(trial.params.values()) for trial in study.trials}) == TRIALS
