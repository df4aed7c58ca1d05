"""One test for each private Optuna name that the samplers use."""

from __future__ import annotations

import optuna
import pytest

from optuna_partition import SOOSampler
from optuna_partition.samplers import _compat


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study()


def test_the_storage_and_the_studys_id(study: optuna.Study) -> None:
    storage, study_id = _compat.storage_of(study)
    assert storage.get_study_name_from_id(study_id) == study.study_name


def test_trials_are_read_afresh(sqlite: str) -> None:
    study = optuna.create_study(study_name="s", storage=sqlite)
    other = optuna.load_study(study_name="s", storage=sqlite)
    trial = study.ask()
    assert [t.system_attrs for t in _compat.read_trials(other)] == [{}]
    _compat.write_attribute(study, _compat.read_trials(study)[0], "key", {"a": [1]})
    assert _compat.read_trials(other)[0].system_attrs == {"key": {"a": [1]}}
    study.tell(trial, 1.0)
    assert _compat.read_trials(other)[0].value == 1.0


def test_an_attribute_can_be_written_while_the_trial_runs_only(study: optuna.Study) -> None:
    study.tell(study.ask(), 1.0)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        _compat.write_attribute(study, study.trials[0], "key", 1)


def test_the_number_of_objectives(study: optuna.Study) -> None:
    assert not _compat.is_multi_objective(study)
    assert _compat.is_multi_objective(optuna.create_study(directions=["minimize", "maximize"]))


def test_the_warning_is_optunas(study: optuna.Study) -> None:
    study.ask()
    text = _compat.independent_sampling_warning(
        SOOSampler(), optuna.samplers.RandomSampler(), study.trials[0], "x"
    )
    assert "`x` in Trial#0 is sampled independently using `RandomSampler`" in text
    assert "`SOOSampler`" in text


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
def test_what_was_read_before_is_brought_up_to_date(
    storage: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("sqlite") if storage == "sqlite" else None
    study = optuna.create_study(storage=url)
    trials = [study.ask() for _ in range(3)]
    known = _compat.refreshed(study, [], ())
    study.tell(trials[1], 1.0)
    trials[0].suggest_float("x", 0, 1)
    trials.append(study.ask())
    known = _compat.refreshed(study, known, (0, 1, 2))
    assert known == _compat.read_trials(study)
    assert [t.state.is_finished() for t in known] == [False, True, False, False]
    assert _compat.refreshed(study, known, (0, 2, 3)) == _compat.read_trials(study)
