"""Studies from one Python call, a YAML file or the command line, on the tiny model."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from objectives import FineTuneConfig, LostDeviceError, SearchSpace, training
from objectives.tuning import (
    PRUNERS,
    SAMPLERS,
    StudySettings,
    make_pruner,
    make_sampler,
    open_tuning,
    tune,
)
from objectives.tuning.cli import main
from objectives.tuning.workers import start_workers

ASSETS = Path(__file__).resolve().parents[1] / "assets"
QUESTIONS = ASSETS / "questions.jsonl"
SPACE = {"preset": "demo", "rank": [2, 16], "dropout": 0}
SMALL: dict[str, Any] = {
    "model": str(ASSETS / "tiny_llama"),
    "train_data": str(ASSETS / "alpaca_train.json"),
    "validation_data": str(ASSETS / "alpaca_validation.json"),
    "prompt_style": "plain",
    "max_length": 64,
    "max_train_samples": 16,
    "max_validation_samples": 8,
    "search_space": SPACE,
}
STUDY: dict[str, Any] = {
    "sampler": "tpe",
    "sampler_settings": {"n_startup_trials": 2},
    "n_trials": 4,
}


def yaml_file(folder: Path, **changes: Any) -> Path:
    file = folder / "settings.yaml"
    values = SMALL | STUDY | {"output_dir": str(folder / "out")} | changes
    file.write_text(json.dumps(values))  # JSON is YAML
    return file


def trials_in(output: Path, name: str = "lora") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{output / 'study.db'}").trials


def test_a_call_a_file_and_a_command_line_make_the_same_study(tmp_path: Path) -> None:
    config = FineTuneConfig(**SMALL, output_dir=tmp_path / "call")
    study = tune(config, StudySettings(**STUDY))
    expected = [(trial.params, trial.value) for trial in study.trials]
    assert len({json.dumps(params) for params, _ in expected}) == 4

    assert main(["tune", str(yaml_file(tmp_path))]) == 0
    values = SMALL | STUDY | {"output_dir": tmp_path / "line", "search_space": json.dumps(SPACE)}
    values |= {"sampler_settings": json.dumps(STUDY["sampler_settings"])}
    options = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    assert main(["tune", *options]) == 0
    for output in (tmp_path / "out", tmp_path / "line"):
        assert [(trial.params, trial.value) for trial in trials_in(output)] == expected


def test_the_command_line_changes_what_the_file_says(tmp_path: Path) -> None:
    file = yaml_file(tmp_path)
    options = ["--n_trials", "1", "--sampler", "direct", "--sampler_settings", "{}"]
    options += ["--search_space.rank", "7"]
    assert main(["tune", str(file), *options]) == 0
    [trial] = trials_in(tmp_path / "out")
    assert "rank" not in trial.params
    assert trial.params["learning_rate"] == pytest.approx(1e-3)


def test_a_dry_run_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = yaml_file(
        tmp_path, sampler="partition_gp", sampler_settings={}, test_tasks=[str(QUESTIONS)]
    )
    assert main(["tune", str(file), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "2 steps at the highest rank, one batch of validation data, 4 questions" in printed
    assert "rank 16" in printed  # the largest, for its memory
    assert "questions acc_norm (4 questions)" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]


def test_a_dry_run_changes_no_study_and_finds_that_it_is_another_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(yaml_file(tmp_path, n_trials=1))
    assert main(["tune", file]) == 0
    assert main(["tune", file, "--dry-run", "--n_trials", "9"]) == 0
    assert len(trials_in(tmp_path / "out")) == 1
    assert main(["tune", file, "--dry-run", "--max_length", "32"]) == 2
    assert "was made with max_length 64, not 32" in capsys.readouterr().err


def test_the_best_trial_is_tested_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(yaml_file(tmp_path, n_trials=1))
    given = ["--test_tasks", json.dumps([str(QUESTIONS)]), "--test_question_limit", "8"]
    assert main(["test", file, *given]) == 2
    assert "tune first" in capsys.readouterr().err
    assert main(["tune", file]) == 0
    capsys.readouterr()
    assert main(["test", file, *given]) == 0
    printed = capsys.readouterr().out
    assert "best, trial 0" in printed
    assert "questions acc_norm (8 questions)" in printed
    assert main(["test", file]) == 2
    assert "test_tasks is empty" in capsys.readouterr().err
    assert main(["export", file]) == 2
    assert "--to" in capsys.readouterr().err
    assert main(["export", file, "--to", str(tmp_path / "hf"), "--form", "hf"]) == 0
    assert f"Trial 0 as hf: {tmp_path / 'hf'}" in capsys.readouterr().out
    assert (tmp_path / "hf" / "config.json").exists()


def test_memory_is_estimated_at_both_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", str(yaml_file(tmp_path))]) == 0
    low, high = capsys.readouterr().out.splitlines()
    assert low.startswith("rank 2: ")
    assert high.startswith("rank 16: ")
    assert "base weights" in high
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samplr", "tpe"], "--samplr is no setting; did you mean 'sampler'?"),
        (["--sampler", "direkt"], "did you mean 'direct'?"),
        (["--pruner", "hyperbandd"], "did you mean 'hyperband'?"),
        (["--sampler_settings.n_startup_trial", "3"], "did you mean 'n_startup_trials'?"),
        (["--n_trials", "many"], "n_trials is 'many', expected a whole number."),
        (["--timeout", "soon"], "timeout is 'soon', expected a number or null."),
        (["--backend=pefft"], "backend is 'pefft', expected one of ('litgpt', 'peft')."),
        (["--tasks", "hellaswag"], "tasks is 'hellaswag', expected a list in brackets."),
        (["--four_bit", "maybe"], "four_bit is 'maybe', expected true or false."),
        (["--n_trials", "0"], "n_trials is 0"),
        (["--timeout", "0"], "timeout is 0"),
        (["--search_space.learning_rat", "1"], "'learning_rat' is no hyperparameter"),
        (["--search_space", "hug"], "The search space is 'hug'"),
        (["--train_data", "missing.json"], "missing.json"),
        (["--cost", "seconds", "--sampler", "cmaes", "--sampler_settings", "{}"], "nsga2"),
        (["--pruner", "median", "--reports_per_epoch", "1"], "reports_per_epoch: 4"),
        (["--memory_limit", "1e-6", "--dry-run"], "even with one row at a time"),
        (["--storage", "nonsense"], "can't open the storage nonsense"),
        (["--sampler_settings.n_startup_trials", "few"], "with which 'tpe' fails: TypeError"),
        (["--sampler_settings.n_ei_candidates", "0"], "{'n_startup_trials': 2, 'n_ei_candidates'"),
        (
            ["--pruner", "hyperband", "--pruner_settings.reduction_factor", "1"],
            "{'reduction_factor': 1}, with which 'hyperband' fails: ZeroDivisionError",
        ),
        (["--pruner=percentile", "--pruner_settings.percentile", "101"], "can't be made"),
        (
            ["--pruner", "halving", "--pruner_settings.min_resource", "13"],
            "last judged at 12 and ends at 16, so that none would be pruned; give 12 or less.",
        ),
        (
            ["--pruner=hyperband", "--pruner_settings", '{"min_resource": 9, "max_resource": 3}'],
            "min_resource 9 above max_resource 3",
        ),
        (
            ["--sampler_settings", '{"n_startup_trials": 20, "n_ei_candidates": 0}'],
            "with which 'tpe' fails",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_errors_are_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["tune", str(yaml_file(tmp_path)), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_folder_that_can_not_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permissions of a root user say nothing about a file system that takes no folder."""
    make, out = Path.mkdir, tmp_path / "out"

    def mkdir(self: Path, *rest: Any, **named: Any) -> None:
        if self == out:
            raise OSError(errno.EPERM, "Operation not permitted")
        make(self, *rest, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert main(["tune", str(yaml_file(tmp_path))]) == 2
    expected = f"output_dir is {str(out)!r}, which can't be made (Operation not permitted)"
    assert expected in capsys.readouterr().err


def test_a_database_without_room_loses_no_trial(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    files_up_to: Callable[[int], AbstractContextManager[None]],
) -> None:
    file = str(yaml_file(tmp_path, sampler="direct", sampler_settings={}, n_trials=1))
    assert main(["tune", file]) == 0
    size = (tmp_path / "out" / "study.db").stat().st_size
    with files_up_to(size):
        assert main(["tune", file, "--n_trials", "60"]) == 2
    assert "error: the study's database failed (" in capsys.readouterr().err
    done = [trial.value for trial in trials_in(tmp_path / "out") if trial.value is not None]
    assert main(["tune", file, "--n_trials", str(len(done) + 1)]) == 0
    again = [trial.value for trial in trials_in(tmp_path / "out") if trial.value is not None]
    assert again[:-1] == done


def test_a_wrong_key_in_a_file_is_named_with_the_nearest_right_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = yaml_file(tmp_path, max_train_sample=3)
    assert main(["tune", str(file)]) == 2
    expected = f"error: {file}: 'max_train_sample' is no setting; did you mean 'max_train_samples'?"
    assert capsys.readouterr().err.strip() == expected
    assert main(["tune", str(tmp_path / "none.yaml")]) == 2
    assert f"there is no file {str(tmp_path / 'none.yaml')!r}" in capsys.readouterr().err
    assert main(["tune", "--model", "m"]) == 2
    assert "train_data is not given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", " is empty, expected settings, one a line, such as n_trials: 50."),
        ("- model", " holds a list, expected settings"),
        ("model: m\nmodel: n\n", ":2: 'model' is given twice."),
        ("model: m\ntasks: [a\nseed: 0\n", ":3: expected ',' or ']'"),
        ("model: m\ncost: second\n", "cost is 'second', expected one of ('trainable_param"),
        ("model: m\nmetric: {a: b}\n", "metric is {'a': 'b'}, expected a text or values by name"),
        ("model: m\ntrain_data: d\nsearch_space: null\n", "The search space is None, expected"),
    ],
)
def test_a_file_that_says_nothing_clear_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    assert main(["tune", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert str(file) in error or not message.startswith((" ", ":"))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_made_by_name_and_finds_something(name: str) -> None:
    space = SearchSpace.of({"learning_rate": [1e-5, 1e-1], "alpha": [1, 64]})
    settings = {"repeats": 1} if name == "stosoo" else {}
    sampler = make_sampler(name, settings, space=space, n_trials=12, seed=0)
    assert isinstance(sampler, BaseSampler)
    low, high = optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE
    directions = [low, high] if name == "mosoo" else [low]
    study = optuna.create_study(directions=directions, sampler=sampler)

    def objective(trial: optuna.Trial) -> float | list[float]:
        values = space.suggest(trial)
        value = abs(values["learning_rate"] - 1e-3) + values["alpha"]
        return [value, -value] if name == "mosoo" else value

    study.optimize(objective, n_trials=6)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 6


def test_settings_reach_the_class() -> None:
    space = SearchSpace.of({"learning_rate": [1e-5, 1e-1]})
    with pytest.raises(ValueError, match="n_trials is 0"):  # in the place of 50
        make_sampler("sequool", {"n_trials": 0}, space=space, n_trials=50, seed=0)
    pruner = make_pruner("hyperband", {"reduction_factor": 2}, first=16, last=64)
    assert (pruner._min_resource, pruner._max_resource) == (16, 64)  # type: ignore[attr-defined]
    assert all(make_pruner(name, first=1, last=4) is not None for name in PRUNERS)
    with pytest.raises(
        ValueError, match=r"pruner_settings are .*'median' can't be made: Number of"
    ):
        make_pruner("median", {"n_startup_trials": -1}, first=1, last=4)


def test_the_trial_of_a_killed_process_is_made_again(tmp_path: Path) -> None:
    config = FineTuneConfig(**SMALL, output_dir=tmp_path)
    settings = StudySettings(sampler="random", n_trials=1)
    open_tuning(config, settings)
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    killed = optuna.load_study(study_name="lora", storage=storage).ask(dict(config.space()))
    storage.record_heartbeat(killed._trial_id)
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as database, database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    first, second = tune(config, settings).trials
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert second.params == killed.params


def test_our_samplers_go_on_as_if_the_study_was_not_cut() -> None:
    space = SearchSpace.of({"learning_rate": [1e-5, 1e-1], "alpha": [1, 64]})

    def points(*pieces: int) -> list[Any]:
        study = optuna.create_study()
        for piece in pieces:
            stream = (len(study.trials),)
            study.sampler = make_sampler(
                "partition_gp", space=space, n_trials=8, seed=3, stream=stream
            )
            study.optimize(lambda trial: space.suggest(trial)["alpha"], n_trials=piece)
        return [trial.params for trial in study.trials]

    assert points(8) == points(3, 5)


def test_random_samplers_draw_other_numbers_in_another_run() -> None:
    space = SearchSpace.of({"learning_rate": [1e-5, 1e-1]})
    first, again, later = (
        make_sampler("random", space=space, n_trials=1, seed=0, stream=stream)
        for stream in ((0, 0), (0, 0), (1, 0))
    )
    assert isinstance(first, RandomSampler)

    def draw(sampler: BaseSampler) -> Any:
        return optuna.create_study(sampler=sampler).ask(dict(space)).params

    one, same, other = map(draw, (first, again, later))
    assert one == same != other


@pytest.mark.slow
def test_two_workers_share_the_trials(tmp_path: Path) -> None:
    config = FineTuneConfig(**SMALL, output_dir=tmp_path)
    study = tune(config, StudySettings(sampler="direct", n_trials=6, workers=2))
    done = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert len(done) in (6, 7)  # both may be in their last trial when the sixth ends
    assert len({tuple(trial.params.values()) for trial in done}) == len(done)


@pytest.mark.parametrize("sampler", ["mosoo", "nsga2"])
def test_two_objectives_have_a_front_of_best_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sampler: str
) -> None:
    file = yaml_file(tmp_path, sampler=sampler, sampler_settings={}, cost="trainable_parameters")
    assert main(["tune", str(file), "--n_trials", "6"]) == 0
    study = optuna.load_study(study_name="lora", storage=f"sqlite:///{tmp_path / 'out/study.db'}")
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE"]
    assert study.metric_names == ["validation loss", "trainable_parameters"]
    for trial in study.trials:
        assert trial.values[1] == trial.user_attrs["trainable_parameters"]
        assert trial.values[1] % trial.params["rank"] == 0
    kept = {path.name for path in (tmp_path / "out" / "adapters").iterdir()}
    assert kept == {f"trial-{trial.number}" for trial in study.best_trials}
    printed = capsys.readouterr().out
    front = printed[printed.index("No other trial beats:") :]
    assert all(f"trial {trial.number}:" in front for trial in study.best_trials)
    last = study.best_trials[-1].number
    given = ["--test_tasks", json.dumps([str(QUESTIONS)]), "--test_question_limit", "4"]
    assert main(["test", str(file), *given]) == 2
    assert "has two objectives and no single best trial; give" in capsys.readouterr().err
    assert main(["test", str(file), *given, "--trial", "99"]) == 2
    assert "Trial 99 of the study 'lora' has not completed" in capsys.readouterr().err
    assert main(["test", str(file), *given, "--trial", str(last)]) == 0
    assert f"untuned        trial {last}" in capsys.readouterr().out
    assert main(["export", str(file), "--to", str(tmp_path / "to"), "--trial", str(last)]) == 0
    assert f"Trial {last} as peft" in capsys.readouterr().out


def wait(path: Path) -> None:
    path.write_text("started")
    time.sleep(600)


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_workers_end_with_the_first_process(
    handler: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = signal.signal(signal.SIGINT, handler)  # jobs in the background ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    file = tmp_path / "worker"

    def work(error: BaseException) -> None:
        with start_workers(1, wait, file):
            while not file.exists():
                time.sleep(0.05)
            raise error

    started = time.monotonic()
    with pytest.raises(RuntimeError, match="end"):
        work(RuntimeError("end"))
    assert time.monotonic() - started < 300


class Terminate(Callback):
    """SIGTERM in the middle of a trial, and again while it stops."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if batch_idx == 3:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)


def test_sigterm_stops_like_ctrl_c_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"sampler": "soo", "sampler_settings": {}, "n_trials": 3, "reports_per_epoch": 4}
    file = str(yaml_file(tmp_path, micro_batch_size=2, **changes))
    assert main(["tune", file, "--n_trials", "1"]) == 0

    def interrupted(*arguments: Any, callbacks: Any) -> None:
        training.fit(*arguments, callbacks=[*callbacks, Terminate()])

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr("objectives.running.fit", interrupted)
        assert main(["tune", file]) == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    assert "Stopped: 1 of 3 trials are done and kept." in capsys.readouterr().out
    assert main(["tune", file]) == 0
    _, stopped, again, _ = trials_in(tmp_path / "out")
    assert stopped.state is TrialState.FAIL
    assert stopped.user_attrs["interrupted"]
    assert again.params == stopped.params
    assert again.user_attrs["resumed_at"] == 6


def test_a_score_is_tuned_with_a_pruner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"metric": str(QUESTIONS), "tasks": [str(QUESTIONS)], "pruner": "halving"}
    file = str(yaml_file(tmp_path, **changes))
    assert main(["tune", file]) == 2
    assert "give question_shares: [0.1, 0.3]" in capsys.readouterr().err
    shares = ["--question_shares", "[0.25, 0.5]"]
    assert main(["tune", file, *shares, "--dry-run"]) == 0
    assert main(["tune", file, *shares]) == 0
    trials = trials_in(tmp_path / "out")
    assert len(trials) == 4
    assert all(set(trial.intermediate_values) <= {6, 12, 24} for trial in trials)
    assert trials[0].intermediate_values[24] == trials[0].value
    assert main(["tune", file, *shares, "--pruner_settings.min_resource", "24"]) == 2
    assert "last judged at 12 and ends at 24, so that none" in capsys.readouterr().err


def test_a_device_that_is_lost_before_the_first_trial_is_an_error_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_: object) -> None:
        raise LostDeviceError("The process of device 1 ended with exit code -9.")

    monkeypatch.setattr("objectives.finetune.validation_loss_untuned", lost)
    assert main(["tune", str(yaml_file(tmp_path))]) == 2
    assert capsys.readouterr().err == "error: The process of device 1 ended with exit code -9.\n"
    assert trials_in(tmp_path / "out") == []


def test_a_larger_space_goes_on_with_the_study(tmp_path: Path) -> None:
    config = FineTuneConfig(**SMALL, output_dir=tmp_path)
    settings = StudySettings(sampler="direct", n_trials=2)
    tune(config, settings)
    larger = dataclasses.replace(config, search_space={**SPACE, "learning_rate": [1e-6, 1.0]})
    study = tune(larger, dataclasses.replace(settings, n_trials=4))
    assert len(study.trials) == 4
    with pytest.raises(ValueError, match="made with fixed"):
        tune(dataclasses.replace(config, search_space={**SPACE, "dropout": 0.1}), settings)
