from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from objectives import FineTuneConfig, FineTuneObjective
from objectives.checkpoints import ABANDONED, CheckpointFile, removed_at_the_end
from objectives.training import LoraTraining

MakeConfig = Callable[..., FineTuneConfig]

POINT: dict[str, float] = {
    "learning_rate": 5e-3,
    "alpha": 24.0,
    "grad_batches": 3,  # reports come inside windows
    "rank": 4,
    "dropout": 0.2,
    "weight_decay": 0.01,
}


class Interrupt(Callback):
    """Raises Ctrl-C behind a number of micro-batches, once."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.trained = 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        self.trained += 1
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def study_at(point: dict[str, float], trials: int) -> optuna.Study:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(trials):
        study.enqueue_trial(point)
    return study


def files(config: FineTuneConfig) -> list[Path]:
    return list((Path(config.output_dir) / "checkpoints").glob("*"))


@pytest.mark.parametrize(
    ("changes", "point", "position"),
    [
        ({}, {}, 9),  # the report at batch 8 comes inside a window, which ends with batch 9
        ({"checkpoint_every": 3}, {}, 9),
        ({"checkpoint_every": 2}, {"grad_batches": 1}, 10),
        ({"gradient_clip": 0.1, "backend": "peft"}, {}, 9),
        ({"precision": "fp16", "optimizer": "adamw_8bit"}, {}, 9),
    ],
)
def test_an_interrupted_trial_ends_as_if_it_was_not(
    make_config: MakeConfig, changes: dict[str, Any], point: dict[str, float], position: int
) -> None:
    config = make_config(**changes)
    expected = study_at(POINT | point, 1)
    expected.optimize(FineTuneObjective(config), n_trials=1)
    assert files(config) == []

    interrupt = Interrupt(after=11)
    objective = FineTuneObjective(config, callbacks=(interrupt,))
    study = study_at(POINT | point, 2)
    with pytest.raises(KeyboardInterrupt):
        study.optimize(objective, n_trials=1)
    assert len(files(config)) == 1
    study.optimize(objective, n_trials=1)
    trial = study.trials[1]
    assert trial.value == expected.best_value  # bit for bit
    assert trial.intermediate_values == expected.best_trial.intermediate_values
    assert trial.user_attrs["resumed_at"] == 4 * position
    assert interrupt.trained == 11 + 16 - position
    assert trial.user_attrs["stderr"] == expected.best_trial.user_attrs["stderr"]
    assert files(config) == []


def test_other_hyperparameters_begin_anew(make_config: MakeConfig) -> None:
    config = make_config()
    objective = FineTuneObjective(config, callbacks=(Interrupt(after=11),))
    study = study_at(POINT, 1)
    study.enqueue_trial(POINT | {"rank": 5})
    with pytest.raises(KeyboardInterrupt):
        study.optimize(objective, n_trials=1)
    study.optimize(objective, n_trials=1)
    assert "resumed_at" not in study.trials[1].user_attrs
    assert len(files(config)) == 1


def test_checkpoints_can_be_switched_off(make_config: MakeConfig) -> None:
    config = make_config(checkpoint_every="never")
    objective = FineTuneObjective(config, callbacks=(Interrupt(after=11),))
    with pytest.raises(KeyboardInterrupt):
        study_at(POINT, 1).optimize(objective, n_trials=1)
    assert files(config) == []


@pytest.mark.parametrize("every", [0, True, "step", 1.5])
def test_a_bad_interval_is_an_error(make_config: MakeConfig, every: Any) -> None:
    with pytest.raises(ValueError, match="checkpoint_every"):
        make_config(checkpoint_every=every)


class Fail(Callback):
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LoraTraining)
        raise RuntimeError("an error of its own")


def test_a_failed_trial_leaves_no_checkpoint(make_config: MakeConfig) -> None:
    config = make_config()
    study = study_at(POINT, 1)
    study.optimize(FineTuneObjective(config, callbacks=(Fail(),)), n_trials=1, catch=RuntimeError)
    assert study.trials[0].state == TrialState.FAIL
    assert files(config) == []


def test_a_damaged_checkpoint_is_left_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = CheckpointFile(tmp_path, "key")
    assert file.load() is None
    file.save({"weights": [torch.ones(2)]})
    (path,) = tmp_path.iterdir()
    assert file.load() == {"weights": [pytest.approx(torch.ones(2))]}
    path.write_bytes(path.read_bytes()[:-200])
    with caplog.at_level(logging.WARNING):
        assert file.load() is None
    assert "can't be read" in caplog.text


def test_a_folder_that_can_not_be_written_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "results").write_text("a file", encoding="utf-8")
    file = CheckpointFile(tmp_path / "results" / "checkpoints", "key")
    with caplog.at_level(logging.WARNING):
        file.save({})
        file.save({})
    assert caplog.text.count("Checkpoints can't be kept in") == 1
    file.remove()


def test_abandoned_checkpoints_are_removed(tmp_path: Path) -> None:
    old, new, own = (CheckpointFile(tmp_path, name) for name in ("old", "new", "own"))
    for file in (old, new, own):
        file.save({})
    os.utime(tmp_path / "old.ckpt", times=(time.time() - ABANDONED - 1,) * 2)
    with removed_at_the_end(own):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["new.ckpt"]


KILLED = """
import os, pickle, signal, sys, optuna
from lightning.pytorch.callbacks import LambdaCallback
from optuna.storages import RDBStorage
storage = RDBStorage(sys.argv[2], heartbeat_interval=1, grace_period=1)
study = optuna.load_study(study_name="killed", storage=storage)
def kill(trainer, module, outputs, batch, index):
    if index == 10:
        os.kill(os.getpid(), signal.SIGKILL)
objective = pickle.loads(bytes.fromhex(sys.argv[1]))
objective._callbacks = (LambdaCallback(on_train_batch_end=kill),)
study.optimize(objective, n_trials=1)
"""


@pytest.mark.slow
def test_a_killed_trial_is_run_again_from_its_checkpoint(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config()
    objective = FineTuneObjective(config)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = RDBStorage(
        url,
        heartbeat_interval=1,
        grace_period=1,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(
            inherit_intermediate_values=True  # reported by the killed one
        ),
    )
    study = optuna.create_study(study_name="killed", storage=storage)
    study.enqueue_trial(POINT)
    child = subprocess.run(
        [sys.executable, "-c", KILLED, pickle.dumps(objective).hex(), url],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert study.trials[0].state == TrialState.RUNNING
    time.sleep(3)  # behind the grace period
    study.optimize(objective, n_trials=1)
    killed, retried = study.trials
    assert (killed.state, retried.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert RetryHeartbeatStaleTrialCallback.retried_trial_number(retried) == 0
    assert retried.user_attrs["resumed_at"] == 36
    assert retried.value == objective.run(POINT).value  # bit for bit
    assert list(retried.intermediate_values) == [16, 32, 48, 64]
    assert files(config) == []
