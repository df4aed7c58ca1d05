from __future__ import annotations

import math
import pickle
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from objectives import HyperParameters, SearchSpace


def test_davouse2024_has_the_published_ranges() -> None:
    assert SearchSpace.preset("davouse2024").distributions == {
        "learning_rate": FloatDistribution(math.exp(-10), math.exp(-1), log=True),
        "weight_decay": FloatDistribution(math.exp(-5), math.exp(1), log=True),
        "rank": IntDistribution(2, 500),
        "alpha": FloatDistribution(1, 64),
        "dropout": FloatDistribution(0, 1),
        "grad_batches": IntDistribution(1, 32),
    }


def test_demo_is_bounded_for_small_models() -> None:
    demo = SearchSpace.preset("demo")
    assert demo["rank"] == IntDistribution(2, 64, log=True)
    assert demo["learning_rate"] == FloatDistribution(1e-5, 1e-1, log=True)
    assert set(demo) == set(SearchSpace.preset("davouse2024"))


def test_unknown_preset_names_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'huge'.*davouse2024.*demo"):
        SearchSpace.preset("huge")


def test_recommended_searches_the_scale_of_the_update() -> None:
    space = SearchSpace.preset("recommended")
    assert next(iter(space)) == "learning_rate"
    assert all(space.distributions[name].log for name in space if name != "dropout")
    values = space.suggest(
        optuna.trial.FixedTrial({name: d.high for name, d in space.ranges.items()})
    )
    assert HyperParameters.from_mapping(values).alpha == 8.0 * 128


def test_wide_holds_davouse2024() -> None:
    wide = SearchSpace.preset("wide")
    for name, inner in SearchSpace.preset("davouse2024").ranges.items():
        assert wide.ranges[name].low <= inner.low
        assert wide.ranges[name].high >= inner.high


def test_a_space_from_plain_data() -> None:
    space = SearchSpace.of(
        {
            "preset": "demo",
            "learning_rate": {"low": 1e-4, "high": 1e-2},
            "rank": {"low": 2, "high": 10, "log": False, "step": 4},
            "alpha": [8, 32],
            "dropout": 0,
        }
    )
    assert space["learning_rate"] == FloatDistribution(1e-4, 1e-2, log=True)
    assert space["rank"] == IntDistribution(2, 10, step=4)
    assert space["alpha"] == FloatDistribution(8, 32)
    assert space["weight_decay"] == SearchSpace.preset("demo")["weight_decay"]
    assert space.fixed == {"dropout": 0.0}
    assert SearchSpace.of(space.as_data()) == space
    assert SearchSpace.of(space.distributions).distributions == space.distributions


def test_without_a_preset_only_what_is_named_is_searched() -> None:
    assert set(SearchSpace.of({"learning_rate": [1e-5, 1e-2], "rank": 4})) == {"learning_rate"}


def test_alpha_and_its_ratio_take_each_others_place() -> None:
    space = SearchSpace.preset("recommended").override(alpha=16)
    assert "alpha_per_rank" not in space
    assert "alpha" not in space.override(alpha_per_rank=(1, 2)).fixed
    with pytest.raises(ValueError, match="both given"):
        HyperParameters.from_mapping({"alpha": 1.0, "alpha_per_rank": 1.0})


def test_suggest_asks_the_trial_and_adds_fixed_values() -> None:
    space = SearchSpace.preset("demo").override(rank=4, dropout=0)
    study = optuna.create_study()
    trial = study.ask()
    values = space.suggest(trial)
    assert values["rank"] == 4
    assert type(values["rank"]) is int
    assert values["dropout"] == 0.0
    assert trial.params == {name: values[name] for name in space}
    assert trial.distributions == space.distributions
    assert HyperParameters.from_mapping(values).as_dict() == values


def test_override_keeps_the_kind_of_an_axis() -> None:
    space = SearchSpace.preset("demo").override(learning_rate=(1e-6, 1e-2), rank=(3, 9))
    assert space["learning_rate"] == FloatDistribution(1e-6, 1e-2, log=True)
    assert space["rank"] == IntDistribution(3, 9, log=True)
    assert space["alpha"] == SearchSpace.preset("demo")["alpha"]


def test_override_leaves_the_original_alone() -> None:
    original = SearchSpace.preset("demo")
    original.override(alpha=(2, 3))
    assert original == SearchSpace.preset("demo")


def test_a_fixed_hyperparameter_can_be_searched_again() -> None:
    space = SearchSpace.preset("demo").override(alpha=16).override(alpha=(8, 32))
    assert space["alpha"] == FloatDistribution(8, 32)
    assert "alpha" not in space.fixed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": (1, 2)}, "'lr' is no hyperparameter"),
        ({"alpha": (4, 4)}, "low 4 and high 4"),
        ({"alpha": (8, 4)}, "low 8 and high 4"),
        ({"learning_rate": (0, 0.1)}, "logarithmic"),
        ({"rank": (-2, 8)}, "logarithmic"),
        ({"rank": (1.5, 8)}, "whole number"),
        ({"rank": 0}, "rank is 0"),
        ({"dropout": (0.0, 1.2)}, r"dropout is 1.2, expected a value in \[0.0, 1.0\]"),
        ({"alpha": (1, 2, 3)}, r"expected \(low, high\)"),
        ({"alpha": "high"}, "expected a number"),
        ({"alpha": {"low": 1, "hi": 2}}, "alpha has 'hi', expected only"),
        ({"alpha": {"low": 1}}, "alpha has no 'high'"),
        ({"rank": {"low": 2, "high": 8, "step": 2}}, "logarithmic and has no steps"),
        ({"rank": {"low": 2, "high": 8, "log": "no"}}, "rank has log 'no', expected true or false"),
        ({"rank": {"low": 2, "high": 8, "step": 2}}, "give log: false, or no step"),
        ({"rank": {"low": 2, "high": 8, "log": False, "step": 1.5}}, "step of rank is 1.5.*whole"),
        ({"dropout": {"low": 0, "high": 1, "step": "x"}}, "the step of dropout is 'x'"),
        ({"dropout": {"low": 0, "high": 1, "step": -0.1}}, "the step of dropout is -0.1"),
        ({"alpha": 1, "alpha_per_rank": 2}, "both given"),
        ({"alpha": math.nan}, "finite"),
        ({"grad_batches": True}, "expected a number"),
    ],
)
def test_override_explains_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSpace.preset("demo").override(**change)


def test_a_space_needs_something_to_search() -> None:
    defaults = HyperParameters().as_dict()
    with pytest.raises(ValueError, match="no range to search"):
        SearchSpace.preset("demo").override(**defaults)


def test_a_name_is_searched_or_fixed() -> None:
    with pytest.raises(ValueError, match="alpha is both"):
        SearchSpace({"alpha": FloatDistribution(1, 2)}, {"alpha": 1.0})


def test_highest_knows_searched_fixed_and_default_values() -> None:
    space = SearchSpace({"rank": IntDistribution(2, 7)}, {"alpha": 3.0})
    assert (space.highest("rank"), space.highest("alpha")) == (7, 3.0)
    assert space.highest("dropout") == HyperParameters().dropout


def test_a_space_survives_pickling() -> None:
    space = SearchSpace.preset("demo").override(rank=8)
    assert pickle.loads(pickle.dumps(space)) == space


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0.0}, r"learning_rate is 0.0, expected a value in \(0.0, inf\]"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": 2.5}, "whole number"),
        ({"dropout": 1.01}, "dropout is 1.01"),
        ({"grad_batches": 0}, "grad_batches is 0"),
        ({"momentum": 0.9}, "'momentum' is no hyperparameter"),
    ],
)
def test_hyperparameters_are_checked(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HyperParameters.from_mapping(values)


def test_whole_floats_become_ints() -> None:
    assert HyperParameters.from_mapping({"rank": 4.0}).rank == 4
    assert type(HyperParameters.from_mapping({"rank": 4.0}).rank) is int
