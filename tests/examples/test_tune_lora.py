"""The tuning example on the tiny model, as a person runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import optuna
import pytest
import torch
from optuna.trial import TrialState
from peft import PeftConfig

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "tests" / "assets"
SCRIPT = ROOT / "examples" / "tune_lora.py"
QUESTIONS = ASSETS / "questions.jsonl"
TINY = {
    "model": ASSETS / "tiny_llama",
    "train_data": ASSETS / "alpaca_train.json",
    "validation_data": ASSETS / "alpaca_validation.json",
    "test_tasks": f'["{QUESTIONS}"]',
    "ranges": '{"rank": [2, 16]}',
    "trials": 4,
    "train_samples": 16,
    "validation_samples": 8,
    "test_questions": 12,
}


def arguments(output: Path, **changes: object) -> list[str]:
    settings = {**TINY, "output": output, **changes}
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tune_lora", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tune_lora"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def trials(output: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name="lora", storage=f"sqlite:///{output / 'study.db'}")
    return study.trials


@pytest.mark.parametrize("sampler", ["partition_gp", "soo", "direct", "tpe"])
def test_a_run_leaves_adapter_report_and_study(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], sampler: str
) -> None:
    output = tmp_path / "out"
    assert example.main(arguments(output, sampler=sampler)) == 0
    printed = capsys.readouterr().out
    assert len(trials(output)) == 4
    best = min(trials(output), key=lambda trial: trial.value or 0.0)
    assert f"best, trial {best.number}" in printed
    assert "questions acc_norm (12 questions)" in printed
    assert "overhead" in printed
    assert "Peak memory" in printed
    assert printed.splitlines()[-1].endswith(f"optuna-dashboard sqlite:///{output}/study.db")
    assert PeftConfig.from_pretrained(str(output / "best-adapter")).r == best.params["rank"]
    page = (output / "report.html").read_text()
    for heading in ("Convergence", "Each variable against", "Each variable over"):
        assert heading in page
    assert ("Cells of the partition" in page) is (sampler != "tpe")


def test_a_second_call_shows_the_same_result_without_training(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example.main(arguments(tmp_path))
    first = capsys.readouterr().out
    assert example.main(arguments(tmp_path)) == 0
    second = capsys.readouterr().out
    assert "All 4 trials of the study 'lora' are done" in second
    table = first[first.index("\nvalidation loss") : first.index("Where the time")]
    assert table in second
    assert len(trials(tmp_path)) == 4


def test_more_trials_go_on_with_the_study(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example.main(arguments(tmp_path, trials=3))
    assert example.main(arguments(tmp_path, trials=6)) == 0
    assert "Going on after 3 of 6 trials" in capsys.readouterr().out
    whole = tmp_path / "whole"
    example.main(arguments(whole, trials=6))
    assert [t.params for t in trials(tmp_path)] == [t.params for t in trials(whole)]
    assert [t.value for t in trials(tmp_path)] == [t.value for t in trials(whole)]


def test_pruning_stops_trials_on_the_way(example: ModuleType, tmp_path: Path) -> None:
    assert example.main(arguments(tmp_path, prune="true", reports=4, trials=12)) == 0
    reports = {
        state: {len(t.intermediate_values) for t in trials(tmp_path) if t.state is state}
        for state in (TrialState.COMPLETE, TrialState.PRUNED)
    }
    assert reports[TrialState.COMPLETE] == {4}
    assert reports[TrialState.PRUNED]
    assert max(reports[TrialState.PRUNED]) < 4


def test_a_configuration_file(example: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    settings = {**TINY, "trials": 2, "output": tmp_path / "out"}
    texts: dict[str, object] = {k: v if isinstance(v, int) else str(v) for k, v in settings.items()}
    texts["test_tasks"] = json.loads(str(TINY["test_tasks"]))
    texts["ranges"] = {"rank": [2, 16], "dropout": 0}
    file.write_text(json.dumps(texts))  # JSON is YAML
    assert example.main(["--config", str(file)]) == 0
    assert ["dropout" in trial.params for trial in trials(tmp_path / "out")] == [False, False]


def test_the_score_of_a_task_can_be_tuned(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = QUESTIONS.read_text().splitlines(keepends=True)
    tuning, test = tmp_path / "tuning.jsonl", tmp_path / "test.jsonl"
    tuning.write_text("".join(lines[:12]))
    test.write_text("".join(lines[12:]))
    changes = {"metric": tuning, "tasks": f'["{tuning}"]', "test_tasks": f'["{test}"]'}
    assert example.main(arguments(tmp_path / "out", **changes)) == 0
    printed = capsys.readouterr().out
    values = [trial.value for trial in trials(tmp_path / "out")]
    # Shares of twelve questions, maximized.
    assert all(
        value is not None and (12 * value) == pytest.approx(round(12 * value)) for value in values
    )
    assert f"best, trial {values.index(max(v for v in values if v is not None))}" in printed
    assert "test acc_norm (12 questions)" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "no-such-model"}, "no-such-model"),
        ({"test_tasks": '["no_such_task"]'}, "no_such_task"),
        ({"test_tasks": '["missing.jsonl"]'}, "missing.jsonl"),
        ({"train_data": "missing.json"}, "missing.json"),
        ({"validation_data": ASSETS / "alpaca_train.json"}, "take them out of one of the files"),
        ({"test_tasks": '["hellaswag"]'}, "hellaswag"),
        ({"ranges": '{"rank": [2, 64]}'}, "rank"),
        ({"ranges": '{"learning_rat": [1e-4, 1e-2]}'}, "learning_rat"),
        ({"ranges": '{"dropout": [0.5, 0.1]}'}, "low < high"),
        ({"search_space": "large"}, "expected one of"),
        ({"storage": "postgresql://nobody@127.0.0.1:1/none"}, "can't open the storage"),
        ({"storage": "nonsense"}, "can't open the storage nonsense"),
        ({"tasks": f'["{QUESTIONS}"]'}, "it can't be the final test"),
        ({"metric": "hellaswag"}, "add 'hellaswag' to tasks"),
        ({"trials": 0}, "n_trials is 0, expected a whole number, 1 or more"),
        ({"prune": "true"}, "needs values on the way"),
        ({"targets": '["queri"]'}, "queri"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_settings_are_an_error_at_once_and_leave_no_study(
    example: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    message: str,
) -> None:
    assert example.main(arguments(tmp_path, **changes)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("[]", "expected a list of records"),
        (
            '[\n{"instruction": "a", "input": "", "output": "b"},\n{"instruction": }\n]',
            "bad.json:3: ",
        ),
        ('[\n{"instruction": "a", "input": "", "output": "b"},\n{"input": "c"}\n]', "bad.json:3: "),
    ],
)
def test_a_bad_data_file_is_named_with_its_line(
    example: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    message: str,
) -> None:
    data = tmp_path / "bad.json"
    data.write_text(content)
    assert example.main(arguments(tmp_path, train_data=data)) == 2
    error = capsys.readouterr().err
    assert "bad.json" in error
    assert message in error


def test_an_unknown_sampler_is_refused_with_the_known_ones(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.main(arguments(tmp_path, sampler="soo2")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: sampler is 'soo2', expected one of ('partition_gp', 'direct',")
    assert "did you mean 'soo'?" in error


def test_a_study_of_other_settings_is_not_continued(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example.main(arguments(tmp_path, trials=1))
    assert example.main(arguments(tmp_path, train_samples=8)) == 2
    assert "was made with max_train_samples 16, not 8" in capsys.readouterr().err
    assert len(trials(tmp_path)) == 1


def test_random_samplers_draw_new_points_when_a_study_goes_on(
    example: ModuleType, tmp_path: Path
) -> None:
    example.main(arguments(tmp_path, sampler="random", trials=2))
    example.main(arguments(tmp_path, sampler="random", trials=4))
    assert len({trial.params["learning_rate"] for trial in trials(tmp_path)}) == 4


def test_a_study_whose_trials_all_fail_ends(
    example: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("objectives.running.fit", fail)
    assert example.main(arguments(tmp_path)) == 1
    printed = capsys.readouterr().out
    assert "does not fit into memory" in printed
    assert "The last 5 trials failed" in printed
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.FAIL] * 5


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(
    example: ModuleType, tmp_path: Path
) -> None:
    # Long enough to be interrupted in the middle of a trial.
    settings = arguments(tmp_path, trials=500, train_samples=64)
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
    )

    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("trial 2") for line in lines), process.communicate()
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "are done and kept. The same command goes on." in printed
    assert "Traceback" not in errors
    done = sum(trial.state is TrialState.COMPLETE for trial in trials(tmp_path))
    changes = {"trials": done + 1, "train_samples": 64}
    assert example.main(arguments(tmp_path, **changes)) == 0
    states = [trial.state for trial in trials(tmp_path)]
    assert states.count(TrialState.COMPLETE) == done + 1
    assert TrialState.RUNNING not in states
