from __future__ import annotations

import heapq
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from benchmarks import _problems, _workers, parallel
from benchmarks._samplers import SINGLE, Entry

Command = Callable[..., Any]

PROBLEM = _problems.problems(copies=1, names=["hartmann3"])[1]


def test_durations_have_mean_one_and_the_stated_spread() -> None:
    found = _workers.durations(200_000, seed=3)
    assert np.mean(found) == pytest.approx(1.0, abs=0.01)
    assert np.std(np.log(found)) == pytest.approx(0.5, abs=0.01)


def test_one_worker_is_an_ordinary_study() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    run = parallel.simulate(PROBLEM, SINGLE["SOO"], workers=1, n=30, seed=5)
    study = optuna.create_study(sampler=SINGLE["SOO"].make(PROBLEM.search_space, 30, 0))
    study.optimize(PROBLEM.objective, n_trials=30)
    values = [trial.value for trial in study.trials if trial.value is not None]
    assert run.regrets.tolist() == _problems.regrets(values, PROBLEM, 30).tolist()
    assert run.times.tolist() == pytest.approx(np.cumsum(_workers.durations(31, 5))[:30].tolist())
    assert run.efficiency == pytest.approx(1.0)
    assert run.duplicates == 0


@pytest.mark.parametrize("workers", [2, 7, 40])
def test_workers_are_never_idle(workers: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    n = 25
    run = parallel.simulate(PROBLEM, SINGLE["SOO"], workers=workers, n=n, seed=2)
    free = [0.0] * workers
    finished, lengths = [], _workers.durations(n + workers, 2)
    for length in lengths:
        end = heapq.heappop(free) + length
        finished.append((end, length))
        heapq.heappush(free, end)
    expected = sorted(finished)[:n]
    assert run.times.tolist() == pytest.approx([end for end, _ in expected])
    spent = sum(length for _, length in expected)
    assert run.efficiency == pytest.approx(spent / (workers * expected[-1][0]))


def test_duplicates_are_counted() -> None:
    def make(space: object, n_trials: int, seed: int) -> optuna.samplers.BaseSampler:
        fixed = {f"x{k}": float(low) + 0.1 for k, low in enumerate(PROBLEM.low)}
        return optuna.samplers.PartialFixedSampler(fixed, optuna.samplers.RandomSampler(seed=0))

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    run = parallel.simulate(PROBLEM, Entry(make), workers=3, n=12, seed=0)
    assert run.duplicates == 11


def test_regret_by_evaluations_and_by_time() -> None:
    run = parallel.Run(np.array([0.5, 1.5, 4.0]), np.array([10.0, 1.0, 0.1]), 1.0, 0)
    assert [run.after(n) for n in (1, 2, 3, 9)] == pytest.approx([1, 0, -1, -1])
    assert [run.at(t) for t in (0.1, 0.5, 1.4, 1.5, 3.9, 4.0)] == pytest.approx([1, 1, 1, 0, 0, -1])


def test_the_command_prints_its_tables_and_draws(command: Command, tmp_path: Path) -> None:
    picture = tmp_path / "parallel.html"
    changes, levels = command(
        "parallel.py", "--functions", "branin", "--copies", "0", "--workers", "4", "--budgets",
        "10", "20", "--samplers", "SOO", "random", "--seeds", "2", "--output", picture,
    )  # fmt: skip
    assert changes["",][1:] == [
        "W", "efficiency", "duplicates", "10 evaluations", "20 evaluations", "time 10/W",
        "time 20/W",
    ]  # fmt: skip
    assert changes["SOO", "1"] == ["1", "1.00", "0", *["0"] * 4]
    assert 0.7 < float(changes["SOO", "4"][1]) < 1
    assert changes["SOO", "4"][2] == "0"
    difference = float(levels["SOO",][1]) - float(levels["SOO",][0])
    assert float(changes["SOO", "4"][4]) == pytest.approx(difference, abs=0.011)
    assert "W = 4" in picture.read_text()
