"""BaMSOO in studies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from optuna_partition import BaMSOOSampler, SOOSampler
from optuna_partition.samplers._journal import KEY
from optuna_partition.samplers.bamsoo import Beta

Space = dict[str, BaseDistribution]
Objective = Callable[[optuna.Trial], float]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": -1.0}, "beta is -1.0, expected .*; try 2"),
        ({"beta": math.nan}, "beta is nan"),
        ({"beta": "theory", "eta": 0.0}, "eta is 0.0, expected a probability"),
        ({"h_max": -2}, "h_max is -2"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BaMSOOSampler(**arguments)


def test_long_claims_survive_a_database(sqlite: str, space: Space, objective: Objective) -> None:
    whole = optuna.create_study(sampler=BaMSOOSampler(search_space=space, beta=0.5))
    whole.optimize(objective, n_trials=30)
    study = optuna.create_study(storage=sqlite, study_name="cut", sampler=BaMSOOSampler())
    for _ in range(3):
        sampler = BaMSOOSampler(search_space=space, beta=0.5)
        study = optuna.load_study(study_name="cut", storage=sqlite, sampler=sampler)
        study.optimize(objective, n_trials=10)
    assert [t.params for t in study.trials] == [t.params for t in whole.trials]
    assert any(f"{KEY}:1" in t.system_attrs for t in study.trials)


def test_soo_goes_on_with_its_cells(space: Space, objective: Objective) -> None:
    study = optuna.create_study(sampler=BaMSOOSampler(search_space=space, beta=0.5))
    study.optimize(objective, n_trials=30)
    tree: Any = BaMSOOSampler(search_space=space).partition_of(study)
    assert tree.skipped > 10
    other: Any = SOOSampler(search_space=space)
    assert other.partition_of(study).leaves == tree.leaves
    study.sampler = other
    study.optimize(objective, n_trials=20)
    points = [tuple(t.params.values()) for t in study.trials]
    assert len(set(points)) == 50


def test_a_finite_space_is_evaluated_to_its_last_point() -> None:
    space: Space = {
        "n": IntDistribution(3, 9),
        "kind": CategoricalDistribution(["a", "b", "c"]),
    }

    def objective(trial: optuna.Trial) -> float:
        offset = {"a": 0.0, "b": 40.0, "c": 90.0}[
            trial.suggest_categorical("kind", ["a", "b", "c"])
        ]
        return float(trial.suggest_int("n", 3, 9)) + offset

    sampler = BaMSOOSampler(search_space=space, beta=0.1)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=100)
    assert len(study.trials) == 21
    tree: Any = sampler.partition_of(study)
    assert tree.skipped > 0
    # What can't be the best one comes last.
    assert study.best_trial.number < 10


def test_an_open_gate_makes_it_soo_trial_for_trial(space: Space, objective: Objective) -> None:
    for refine in (False, True):
        made = []
        gated = BaMSOOSampler(search_space=space, beta=1e6, refine=refine)
        for sampler in (gated, SOOSampler(search_space=space, refine=refine)):
            study = optuna.create_study(sampler=sampler)
            study.optimize(objective, n_trials=40)
            made.append([trial.params for trial in study.trials])
        assert made[0] == made[1]


def test_the_published_width_passes_less_over(space: Space, objective: Objective) -> None:
    skipped = []
    betas: list[Beta] = [1.0, "theory"]
    for beta in betas:
        sampler = BaMSOOSampler(search_space=space, beta=beta)
        study = optuna.create_study(sampler=sampler)
        study.optimize(objective, n_trials=30)
        tree: Any = sampler.partition_of(study)
        skipped.append(tree.skipped)
    assert skipped[0] > skipped[1]
