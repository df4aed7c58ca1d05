"""The hybrid of DIRECT and a Gaussian process in studies."""

from __future__ import annotations

import math

import optuna
import pytest

from optuna_partition import PartitionGPSampler


@pytest.mark.parametrize("seed", [-1, 1.5, True, None])
def test_a_bad_seed_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=r"seed is .*, expected an integer of 0 or more"):
        PartitionGPSampler(seed=seed)


def test_the_same_seed_gives_the_same_trials_and_another_one_others() -> None:
    def points(seed: int) -> list[dict[str, float]]:
        study = optuna.create_study(sampler=PartitionGPSampler(seed=seed))
        study.optimize(lambda trial: trial.suggest_float("x", -1.5, 4.0) ** 2, n_trials=12)
        return [trial.params for trial in study.trials]

    assert points(1) == points(1) != points(2)


def test_scattered_failures_do_not_hide_the_optimum() -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1.0, 2.0)
        rate = trial.suggest_float("rate", 1e-5, 1.0, log=True)
        kind = trial.suggest_categorical("kind", ["a", "b"])
        if trial.number % 7 == 3:
            return math.nan
        if trial.number % 11 == 5:
            raise optuna.TrialPruned
        return float(x * x + (math.log10(rate) + 2.5) ** 2 + (kind == "a"))

    study = optuna.create_study(sampler=PartitionGPSampler())
    study.optimize(objective, n_trials=60)
    assert study.best_value < 1e-3
