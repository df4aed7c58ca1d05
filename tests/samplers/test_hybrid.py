"""The hybrid of DIRECT and a Gaussian process in studies."""

from __future__ import annotations

import math
from collections.abc import Callable

import optuna
import pytest
from optuna.samplers import BaseSampler

from optuna_partition import BaMSOOSampler, IMGPOSampler, PartitionGPSampler


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


@pytest.mark.parametrize("sampler", [PartitionGPSampler, BaMSOOSampler, IMGPOSampler])
def test_standard_errors_count_where_their_attribute_is_named(
    sampler: Callable[..., BaseSampler],
) -> None:
    def trials(**settings: str) -> list[dict[str, float]]:
        def noisy(trial: optuna.Trial) -> float:
            trial.set_user_attr("error", 3.0)
            x, y = trial.suggest_float("x", -1.5, 4.0), trial.suggest_float("y", 0.5, 4.0)
            return math.sin(3 * x) + math.cos(2 * y) + 0.1 * x * y

        study = optuna.create_study(sampler=sampler(**settings))
        study.optimize(noisy, n_trials=30)
        return [trial.params for trial in study.trials]

    assert trials() == trials(stderr_attr="other") != trials(stderr_attr="error")
