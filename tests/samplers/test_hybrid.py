"""The hybrid of DIRECT and a Gaussian process in studies."""

from __future__ import annotations

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
