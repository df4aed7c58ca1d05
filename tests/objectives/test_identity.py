from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from objectives import FineTuneConfig, FineTuneObjective, SearchSpace, identity

MakeConfig = Callable[..., FineTuneConfig]


def run_one(config: FineTuneConfig, study: optuna.Study | None = None) -> optuna.Study:
    study = study or optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    study.optimize(FineTuneObjective(config), n_trials=1)
    return study


def test_a_trial_can_be_made_again_from_what_the_study_holds(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    space = SearchSpace.preset("demo").override(rank=(2, 16), dropout=0.1)
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    made = run_one(
        make_config(search_space=space, seed=5, max_train_samples=30, targets=("key", "mlp")),
        optuna.create_study(storage=storage, study_name="s"),
    )
    study = optuna.load_study(storage=storage, study_name="s")
    origin = study.user_attrs["reproduction"]
    assert origin["versions"].keys() >= {"python", "optuna", "torch", "litgpt", "transformers"}
    assert origin["versions"]["optuna"] == optuna.__version__
    assert origin["device"] == "cpu"
    assert origin["data"].keys() == {"training", "validation"}

    config = FineTuneConfig(**origin["config"])
    assert config.space() == space
    objective = FineTuneObjective(config)
    objective.register(study)
    assert objective.run(study.best_params).value == made.best_value  # bit for bit


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"max_length": 32}, "max_length"),
        ({"search_space": SearchSpace.preset("demo").override(rank=(2, 16), dropout=0)}, "fixed"),
    ],
)
def test_a_study_goes_on_with_the_same_settings_only(
    make_config: MakeConfig, changes: dict[str, Any], name: str
) -> None:
    study = run_one(make_config())
    with pytest.raises(ValueError, match=rf"was made with {name} .* can't be compared"):
        run_one(make_config(**changes), study)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL]


def test_what_values_do_not_depend_on_may_change(make_config: MakeConfig, tmp_path: Path) -> None:
    study = run_one(make_config())
    space = SearchSpace.preset("demo").override(rank=(2, 32))
    run_one(make_config(output_dir=tmp_path / "other", search_space=space, memory_limit=9), study)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2


def test_other_data_are_not_compared(make_config: MakeConfig) -> None:
    study = optuna.create_study()
    objective = FineTuneObjective(make_config())
    loaded = objective._resources()
    data = dict(loaded.fingerprints)
    identity.register(study, objective.config, data=data, device=loaded.device)
    data["validation"] = "another"
    with pytest.raises(ValueError, match="validation data are not those"):
        identity.register(study, objective.config, data=data, device=loaded.device)


def test_other_versions_are_reported(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = run_one(make_config())
    before = study.user_attrs["reproduction"]["versions"]["torch"]
    monkeypatch.setattr(identity, "version", lambda name: "9.9")
    with caplog.at_level(logging.WARNING):
        run_one(make_config(), study)
    assert f"torch {before}, now 9.9" in caplog.text
    assert study.trials[1].state == TrialState.COMPLETE


def test_a_run_takes_what_the_space_holds_fixed(make_config: MakeConfig) -> None:
    space = SearchSpace.preset("recommended").override(rank=(2, 16), alpha_per_rank=2, dropout=0.3)
    objective = FineTuneObjective(make_config(search_space=space))
    result = objective.run({"rank": 4})
    assert (result.parameters.alpha, result.parameters.dropout) == (8, 0.3)
    assert objective.run({"rank": 4, "alpha": 3}).parameters.alpha == 3
