from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from benchmarks import overhead
from benchmarks._samplers import Entry

Command = Callable[..., Any]


class Hoarder(optuna.samplers.RandomSampler):
    """Holds 3 KiB a trial as soon as it is asked."""

    def sample_relative(self, study: optuna.Study, *arguments: Any) -> dict[str, Any]:
        self.hoard = bytearray(3 * 1024 * len(study.get_trials(deepcopy=False)))
        return super().sample_relative(study, *arguments)


def test_memory_of_a_sampler_is_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    entry = Entry(lambda space, n_trials, seed: Hoarder(seed=seed))
    monkeypatch.setattr(overhead, "SINGLE", {"hoarder": entry})
    study = overhead.new_study("hoarder", 300)
    overhead.run(study, 300)
    _, memory = overhead.rebuild("hoarder", study)
    assert memory == pytest.approx(3.0, rel=0.05)


def test_the_objective_suggests_what_the_space_says() -> None:
    trial = optuna.create_study().ask()
    overhead.objective(trial)
    assert trial.distributions == overhead.SPACE


def test_the_command_measures_in_memory_and_draws(command: Command, tmp_path: Path) -> None:
    picture = tmp_path / "overhead.html"
    ask, rebuild = command(
        "overhead.py", "--parts", "ask", "rebuild", "--sizes", "60", "20", "--tpe-trials", "20",
        "--blocks", "3", "--block-size", "3", "--samplers", "SOO", "TPE", "random",
        "--output", picture,
    )  # fmt: skip
    assert ask["",] == ["ms per trial after", "20", "60"]
    assert all(0 < float(cell) < 1000 for cell in ask["SOO",])
    assert float(ask["TPE",][0]) > float(ask["random",][0])
    assert ask["TPE",][1] == ""
    assert list(rebuild) == [("",), ("SOO",)]
    trials, milliseconds, memory = rebuild["SOO",]
    assert trials == "69"
    assert float(milliseconds) > 0
    assert 0.1 < float(memory) < 20
    assert "SOO" in picture.read_text()


def test_the_command_measures_samplers_with_a_model(command: Command, tmp_path: Path) -> None:
    picture = tmp_path / "models.html"
    (table,) = command(
        "overhead.py", "--parts", "models", "--model-sizes", "20", "10", "--model-trials", "2",
        "--models", "PartitionGP", "TPE", "--give-up", "0.0001", "--model-output", picture,
    )  # fmt: skip
    assert table["",] == ["ms per trial after", "10", "20"]
    assert 0 < float(table["PartitionGP",][0]) < 10_000
    assert table["PartitionGP",][1] == ""  # it took longer than 0.1 ms
    assert "TPE" in picture.read_text()


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(["sqlite", "journal"], id="files"),
        pytest.param(["postgresql"], id="postgresql", marks=pytest.mark.postgres),
    ],
)
def test_the_command_measures_on_storages(kinds: list[str], command: Command) -> None:
    (table,) = command(
        "overhead.py", "--parts", "storage", "--storages", *kinds, "--warm-up", "5", "--blocks",
        "3", "--block-size", "2", "--samplers", "random", "SOO",
    )  # fmt: skip
    assert table["",] == ["client CPU per trial", *kinds]
    assert all(cell.endswith(" ms") and float(cell[:-3]) > 0 for cell in table["random",])
    assert all(cell.endswith(" x") and 0.3 < float(cell[:-2]) < 30 for cell in table["SOO",])
