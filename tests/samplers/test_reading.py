from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution

from optuna_partition.samplers import PartitionSampler
from optuna_partition.samplers._reading import read_partition

Factory = Callable[..., PartitionSampler]
Objective = Callable[[optuna.Trial], float]


def test_the_partition_holds_every_value(factory: Factory, objective: Objective) -> None:
    study = optuna.create_study(sampler=factory(), direction="maximize")
    study.optimize(lambda trial: -objective(trial), n_trials=40)
    partition = read_partition(study)
    assert list(partition.space) == sorted(study.best_params)
    known = {v for v in partition.values().values() if v is not None}
    divided = {partition.tree.value(cell) for cell in partition.tree.open_divisions}
    probes = {record.value for record in partition.tree.probes.values()}
    assert {trial.value for trial in study.trials} >= {-v for v in known}
    assert min(known | probes | {v for v in divided if v is not None}) == -study.best_value


def test_the_order_of_a_given_space_is_found(
    factory: Factory, objective: Objective, space: dict[str, BaseDistribution]
) -> None:
    study = optuna.create_study(sampler=factory(search_space=space))
    study.optimize(objective, n_trials=10)
    assert list(read_partition(study).space) == list(space)


def test_a_running_first_trial(factory: Factory, space: dict[str, BaseDistribution]) -> None:
    study = optuna.create_study(sampler=factory(search_space=space))
    study.ask(space)
    partition = read_partition(study, search_space=space)
    assert partition.values() == {partition.tree.root: None}


def test_bad_input_is_refused(
    factory: Factory, objective: Objective, space: dict[str, Any]
) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=2)
    with pytest.raises(ValueError, match="no trial of the study holds a claim"):
        read_partition(study)
    study.sampler = factory(search_space=space)
    study.optimize(objective, n_trials=2)
    with pytest.raises(ValueError, match="give search_space= as the sampler was given it"):
        read_partition(study, search_space={"rank": space["rank"]})
    several = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.raises(ValueError, match="2 objectives, expected one"):
        read_partition(several)
