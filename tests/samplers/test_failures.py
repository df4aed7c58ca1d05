"""Failures that say nothing of the place where they happened, met by samplers with a model."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.samplers import BaseSampler

from optuna_partition import BaMSOOSampler, BoTorchGPSampler, PartitionGPSampler


@pytest.mark.parametrize(
    ("sampler", "reached"),
    [(PartitionGPSampler(), 1e-3), (BoTorchGPSampler(), 1e-3), (BaMSOOSampler(), 1e-2)],
    ids=lambda value: type(value).__name__,
)
def test_scattered_failures_do_not_hide_the_optimum(sampler: BaseSampler, reached: float) -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1.0, 2.0)
        rate = trial.suggest_float("rate", 1e-5, 1.0, log=True)
        kind = trial.suggest_categorical("kind", ["a", "b"])
        if trial.number % 7 == 3:
            return math.nan
        if trial.number % 11 == 5:
            raise optuna.TrialPruned
        return float(x * x + (math.log10(rate) + 2.5) ** 2 + (kind == "a"))

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=40)
    assert study.best_value < reached
