from __future__ import annotations

import json
import os
import time
from pathlib import Path

import optuna
import pytest

from objectives.adapters import ABANDONED, AdapterStore, check_writable, worth_keeping

PARAMETERS = {"learning_rate": 0.1 + 0.2, "rank": 3}


def export(folder: Path) -> None:
    (folder / "weights").write_text("w", encoding="utf-8")


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


def study_with(*values: float, maximize: bool = False) -> optuna.Study:
    direction = optuna.study.StudyDirection.MAXIMIZE if maximize else None
    study = optuna.create_study(direction=direction, study_name="s")
    for value in values:
        study.add_trial(optuna.trial.create_trial(value=value))
    return study


def folders(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "adapters").iterdir())


def test_what_is_saved_is_found(store: AdapterStore, tmp_path: Path) -> None:
    path = store.save("s", 4, PARAMETERS, value=1.5, export=export)
    assert path == tmp_path / "adapters" / "trial-4"
    assert AdapterStore(tmp_path / "adapters").find("s", 4, PARAMETERS) == path
    assert sorted(file.name for file in path.iterdir()) == ["trial.json", "weights"]
    assert json.loads((path / "trial.json").read_text())["value"] == 1.5


@pytest.mark.parametrize(
    ("study", "number", "parameters"),
    [("s", 5, PARAMETERS), ("other", 4, PARAMETERS), ("s", 4, PARAMETERS | {"rank": 4})],
)
def test_another_trials_adapter_is_not_found(
    store: AdapterStore, study: str, number: int, parameters: dict[str, float]
) -> None:
    store.save("s", 4, PARAMETERS, value=1.5, export=export)
    assert store.find(study, number, parameters) is None


def test_a_failed_export_leaves_nothing(store: AdapterStore, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        export(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.save("s", 0, PARAMETERS, value=1.0, export=fail)
    assert folders(tmp_path) == []


def test_an_old_adapter_is_replaced(store: AdapterStore) -> None:
    store.save("old", 0, PARAMETERS, value=1.0, export=export)
    store.save("s", 0, PARAMETERS, value=2.0, export=export)
    assert store.find("old", 0, PARAMETERS) is None
    assert store.find("s", 0, PARAMETERS) is not None


def test_only_the_best_and_the_running_are_kept(store: AdapterStore, tmp_path: Path) -> None:
    study = study_with(3.0, 2.0, 4.0)
    running = study.ask()
    for number in range(3):
        store.save("s", number, PARAMETERS, value=0.0, export=export)
    store.save("s", running.number, PARAMETERS, value=0.0, export=export)
    store.save("other", 9, PARAMETERS, value=0.0, export=export)
    store.remove_beaten(study)
    assert folders(tmp_path) == ["trial-1", "trial-3", "trial-9"]
    study.tell(running, 1.0)
    store.remove_beaten(study)
    assert folders(tmp_path) == ["trial-3", "trial-9"]


@pytest.mark.parametrize(
    ("values", "maximize", "keep", "value", "expected"),
    [
        ((), False, 1, 99.0, True),
        ((3.0, 2.0), False, 1, 1.9, True),
        ((3.0, 2.0), False, 1, 2.0, False),
        ((3.0, 2.0), True, 1, 3.1, True),
        ((3.0, 2.0), True, 1, 2.5, False),
        ((3.0, 2.0), True, 2, 2.5, True),
        ((3.0, 2.0, 1.0), False, 2, 2.0, False),
        ((3.0, 2.0, 1.0), False, 3, 2.0, True),
        ((3.0, 2.0, 1.0), False, 4, 9.0, True),
    ],
)
def test_the_best_few_are_worth_keeping(
    values: tuple[float, ...], maximize: bool, keep: int, value: float, expected: bool
) -> None:
    study = study_with(*values, maximize=maximize)
    assert worth_keeping(study, [value], keep=keep) == expected


def test_the_first_of_a_study_is_worth_keeping() -> None:
    study = study_with()
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    assert worth_keeping(study, [99.0], keep=1)


def test_as_many_are_kept_as_asked_for(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path / "adapters", keep=2)
    for number in range(4):
        store.save("s", number, PARAMETERS, value=0.0, export=export)
    store.remove_beaten(study_with(3.0, 1.0, 4.0, 2.0))
    assert folders(tmp_path) == ["trial-1", "trial-3"]


def test_what_a_killed_process_left_is_removed(store: AdapterStore, tmp_path: Path) -> None:
    store.save("s", 0, PARAMETERS, value=0.0, export=export)
    for name in (".trial-1-old", ".trial-2-new"):
        (tmp_path / "adapters" / name).mkdir()
    os.utime(tmp_path / "adapters" / ".trial-1-old", times=(time.time() - ABANDONED - 1,) * 2)
    store.remove_beaten(study_with(3.0))
    assert folders(tmp_path) == [".trial-2-new", "trial-0"]


def test_a_folder_below_a_file_can_not_be_written(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "results")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="file' is no folder; give another"):
        check_writable(tmp_path / "file" / "results")


def test_a_folder_without_permission_can_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ValueError, match="can't be written; give another"):
        check_writable(tmp_path)
