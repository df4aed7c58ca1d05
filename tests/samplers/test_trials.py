from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from unittest import mock

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_partition import SOOSampler
from optuna_partition.samplers import _trials
from optuna_partition.samplers._compat import read_trials, refreshed
from optuna_partition.samplers._trials import Follower, Reader, is_stale

Space = dict[str, BaseDistribution]


def new_trial(study: optuna.Study) -> FrozenTrial:
    number = study.ask().number
    return study.trials[number]


@pytest.fixture
def reads() -> Iterator[mock.Mock]:
    with mock.patch.object(_trials, "refreshed", side_effect=refreshed) as counted:
        yield counted


def test_a_follower_looks_at_each_finished_trial_once() -> None:
    study = optuna.create_study()
    follower = Follower()
    trials = [study.ask() for _ in range(3)]
    assert [t.number for t in follower.news(read_trials(study))] == [0, 1, 2]
    study.tell(trials[1], 1.0)
    assert [t.number for t in follower.news(read_trials(study))] == [0, 1, 2]
    study.ask()
    assert [t.number for t in follower.news(read_trials(study))] == [0, 2, 3]


def test_a_claim_grows_stale_only_while_its_trial_runs() -> None:
    start = datetime.datetime.now() - datetime.timedelta(seconds=100)
    running = optuna.create_study().ask()
    trial = read_trials(running.study)[0]
    trial.datetime_start = start
    assert is_stale(trial, 99.0)
    assert not is_stale(trial, 1000.0)
    assert not is_stale(trial, None)
    trial.state = TrialState.COMPLETE
    assert not is_stale(trial, 99.0)


@pytest.mark.parametrize("given", [True, False])
def test_one_worker_reads_once_a_trial(
    given: bool, space: Space, objective: Callable[[optuna.Trial], float], reads: mock.Mock
) -> None:
    sampler = SOOSampler(search_space=space if given else None)
    optuna.create_study(sampler=sampler).optimize(objective, n_trials=20)
    assert reads.call_count <= 20 + 2  # the first choice has nothing to go by


def test_a_trial_is_not_read_again_where_all_earlier_ones_were_told_here(reads: mock.Mock) -> None:
    study = optuna.create_study()
    reader = Reader()
    study.ask()
    reader.told(reader.fresh(study)[0])
    study.tell(0, 1.5)
    trial = new_trial(study)
    assert [t.value for t in reader.before(study, trial)] == [1.5]
    assert reads.call_count == 1


def test_what_somebody_else_did_is_read(reads: mock.Mock) -> None:
    study = optuna.create_study()
    reader = Reader()
    study.ask()
    reader.fresh(study)
    study.tell(0, 1.5)
    study.add_trial(optuna.trial.create_trial(value=2.5))
    trial = new_trial(study)
    assert [t.value for t in reader.before(study, trial)] == [1.5, 2.5, None]
    assert reads.call_count == 2


def test_a_trial_whose_state_is_not_written_yet_is_read_again(reads: mock.Mock) -> None:
    study = optuna.create_study()
    reader = Reader()
    study.ask()
    reader.told(reader.fresh(study)[0])
    trial = new_trial(study)
    assert not reader.before(study, trial)[0].state.is_finished()
    study.tell(0, 1.5)
    trial = new_trial(study)
    assert reader.before(study, trial)[0].value == 1.5
    assert reads.call_count == 3


def test_a_trial_gets_one_list_unless_another_one_reads(reads: mock.Mock) -> None:
    study = optuna.create_study()
    reader = Reader()
    trials = [new_trial(study) for _ in range(2)]
    assert reader.before(study, trials[1]) is reader.before(study, trials[1])
    assert reads.call_count == 1
    reader.before(study, trials[0])
    reader.fresh(study)
    reader.before(study, trials[1])
    assert reads.call_count == 3
