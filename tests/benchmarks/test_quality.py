from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import scipy.stats
from optuna.trial import TrialState

from benchmarks import _quality_tables, _results, _workers, quality
from benchmarks._results import Key, Row
from benchmarks._samplers import MODELS, Entry
from benchmarks._tasks import TASKS

Command = Callable[..., Any]

CHEAP = [name for name in MODELS if name != "BoTorchSampler"]


@pytest.fixture(autouse=True)
def _silence() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def row(sampler: str, task: str, seed: int, *regrets: float, workers: int = 1) -> Row:
    return Row(Key(sampler, "1", task, seed, workers), regrets, 0.5)


def test_regret_is_that_of_the_best_told_value() -> None:
    instance = TASKS["mixed_ackley"].instance(0)
    unit = instance.median - instance.minimum
    true = [instance.minimum + unit * share for share in (0.9, 0.5, 0.7, 0.1)]
    told = [math.nan, 5.0, 4.0, 6.0]
    assert quality.incumbents(instance, told, true).tolist() == pytest.approx([100, 50, 70, 70])


def test_one_worker_is_an_ordinary_study() -> None:
    regrets = quality.run("branin", quality.SAMPLERS["SOO"].make, seed=1, trials=20)
    instance = TASKS["branin"].instance(1)
    study = optuna.create_study(sampler=quality.SAMPLERS["SOO"].make(instance.space, 20, 1))
    values = []
    for _ in range(20):
        trial = study.ask(instance.space)
        values.append(instance.true(trial.params))
        study.tell(trial, values[-1])
    best = np.minimum.accumulate(values)
    assert regrets.tolist() == pytest.approx([instance.regret(value) for value in best])


def test_noise_depends_on_task_seed_and_trial_alone() -> None:
    def first(task: str, seed: int, number: int) -> float:
        return float(quality._noise(task, seed, number).normal())

    draws = [
        first("branin", 0, 0),
        first("branin", 0, 1),
        first("branin", 1, 0),
        first("kc1", 0, 0),
    ]
    assert len(set(draws)) == 4
    assert draws == [
        first("branin", 0, 0), first("branin", 0, 1), first("branin", 1, 0), first("kc1", 0, 0)
    ]  # fmt: skip
    make = quality.SAMPLERS["random"].make
    runs = [quality.run("noisy_branin", make, seed=s, workers=3, trials=30) for s in (2, 2, 3)]
    assert runs[0].tolist() == runs[1].tolist() != runs[2].tolist()


def test_a_diverged_trial_fails() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        return math.nan if trial.number % 2 else float(trial.number)

    done = list(_workers.finished(study, objective, workers=3, n=9, seed=0))
    assert [math.isnan(end.value) for end in done] == [end.number % 2 == 1 for end in done]
    states = {end.number: study.trials[end.number].state for end in done}
    assert {n % 2: state for n, state in states.items()} == {
        0: TrialState.COMPLETE,
        1: TrialState.FAIL,
    }


def test_a_sampler_that_plans_is_run_once_for_each_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []

    def make(space: Any, trials: int, seed: int) -> optuna.samplers.BaseSampler:
        planned.append(trials)
        return optuna.samplers.RandomSampler(seed=trials)

    monkeypatch.setitem(quality.SAMPLERS, "planner", Entry(make, budgeted=True))
    found = quality.compute(Key("planner", "1", "branin", 0, 1), (25, 50))
    assert planned == [25, 50]
    assert list(found.regrets) == [
        pytest.approx(quality.run("branin", make, seed=0, trials=n)[-1]) for n in (25, 50)
    ]


@pytest.mark.parametrize("task", ["mixed_choices", "lora_nan"])
@pytest.mark.parametrize("sampler", [*CHEAP, quality.SCIPY])
def test_peers_run_on_choices_and_on_trials_that_fail(sampler: str, task: str) -> None:
    workers = 1 if sampler == quality.SCIPY else 4
    key = Key(sampler, quality.version_of(sampler), task, 0, workers)
    found = quality.compute(key, (5, 12))  # 10 of them at random
    assert all(0 < regret <= 100 for regret in found.regrets)
    assert found.cpu > 0


def test_runs_are_stored_at_once_and_the_longer_one_counts(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    name = 'SOO, h_max="sqrt"'
    short, long = row(name, "branin", 0, 3.0, 2.0), row(name, "branin", 0, 3.0, 2.0, 1e-7)
    other = row(name, "branin", 1, 0.12345, 0.0, 0.0, workers=8)
    for one in (long, short, other):
        _results.append(one, folder)
    assert [path.name for path in folder.iterdir()] == ["SOO_h_max_sqrt.csv"]
    stored = dataclasses.replace(other, regrets=(0.123, 0.0, 0.0))
    assert _results.load([name, "never run"], folder) == [long, stored]


def test_no_two_samplers_share_a_file(tmp_path: Path) -> None:
    paths = {_results.path_of(name, tmp_path) for name in quality.NAMES}
    assert len(paths) == len(quality.NAMES)


def test_a_file_with_another_heading_is_refused(tmp_path: Path) -> None:
    _results.path_of("SOO", tmp_path).write_text("task,seed\nbranin,0\n")
    with pytest.raises(ValueError, match="move it away"):
        _results.load(["SOO"], tmp_path)


def test_only_what_is_missing_is_wanted_the_first_seed_first() -> None:
    keys = quality.wanted(["SOO", quality.SCIPY], ["branin", "levy8"], [0, 1], [1, 8])
    assert len(keys) == 2 * (2 * 2 + 2)
    assert [key.seed for key in keys] == [0] * 6 + [1] * 6
    assert all(key.workers == 1 for key in keys if key.sampler == quality.SCIPY)
    stored = [Row(keys[0], (1.0, 1.0), 0.1), Row(keys[1], (1.0,), 0.1)]
    assert quality.missing(keys, stored, (25, 50)) == keys[1:]
    old = dataclasses.replace(keys[2], version="0")
    assert keys[2] in quality.missing(keys, [Row(old, (1.0, 1.0), 0.1)], (25, 50))


def test_means_are_over_runs_and_then_over_tasks() -> None:
    values = {("a", 0): 1.0, ("a", 1): 3.0, ("b", 0): 10.0, ("b", 1): 10.0, ("b", 2): 13.0}
    center, error = _quality_tables.mean(values, ["a", "b"])
    assert center == pytest.approx((2 + 11) / 2)
    assert error == pytest.approx(math.sqrt(2 / 2 + 3 / 3) / 2)
    assert np.isnan(_quality_tables.mean(values, ["a", "c"])).all()
    alone = _quality_tables.mean({("a", 0): 1.0, ("b", 0): 2.0}, ["a", "b"])
    assert alone[0] == 1.5
    assert math.isnan(alone[1])


def test_differences_are_paired_and_tested_over_tasks() -> None:
    rng = np.random.default_rng(0)
    tasks = [f"t{k}" for k in range(12)]
    of = {(task, seed): float(rng.normal()) for task in tasks for seed in range(3)}
    against = {run: value + float(rng.normal(0.5, 1)) for run, value in of.items()}
    against |= {("t0", 9): 1000.0}  # without a partner
    each = [np.mean([of[t, s] - against[t, s] for s in range(3)]) for t in tasks]
    center, error, p = _quality_tables.difference(of, against, tasks)
    assert center == pytest.approx(np.mean(each))
    assert error == pytest.approx(scipy.stats.sem(each))
    assert p == pytest.approx(scipy.stats.wilcoxon(each).pvalue)
    assert _quality_tables.difference(of, of, tasks) == (0, 0, 1)


def test_ranks_are_among_runs_that_all_have() -> None:
    rows = [
        row("x", "branin", 0, 1.0, 5.0), row("y", "branin", 0, 2.0, 5.0),
        row("z", "branin", 0, 3.0), row("x", "branin", 1, 9.0, 1.0),
        row("y", "branin", 1, 1.0, 2.0),
    ]  # fmt: skip
    found = _quality_tables.group(rows, ["x", "y", "z"], ["branin"], 1)
    assert _quality_tables.ranks(found, 25) == {"x": 1, "y": 2, "z": 3}
    assert _quality_tables.ranks(found, 50) == {"x": 1.25, "y": 1.75}


def test_a_sampler_that_lacks_a_task_is_named_and_left_out() -> None:
    rows = [
        row("x", "branin", 0, 1.0), row("x", "hartmann3", 0, 2.0), row("y", "branin", 0, 3.0),
        row("y", "hartmann3", 0, 2.0, workers=8),
    ]  # fmt: skip
    tables = dict(_quality_tables.tables(rows, ["x", "y"], ["branin", "hartmann3"], "x", [25]))
    first = next(title for title in tables if title.endswith("(incomplete: y has 1)"))
    assert "W = 1" in first
    assert "| x | 1.5 | 1.0 | 2 | 0.5 |" in tables[first]
    assert "| y |" not in tables[first]


def test_the_command_computes_stores_and_draws(command: Command, tmp_path: Path) -> None:
    picture, folder = tmp_path / "quality.html", tmp_path / "results"
    arguments = [
        "quality.py", "--samplers", "random", "SOO", "SequOOL", "--tasks", "hartmann3",
        "mixed_choices", "levy8", "--seeds", "0", "1", "--workers", "1", "8", "--trials", "25",
        "--reference", "random", "--results", folder,
    ]  # fmt: skip
    tables = command(*arguments, "--output", picture)
    assert len(tables) == 12  # two sets, two numbers of workers, three tables
    levels, paired, kinds = tables[:3]
    assert levels["",] == ["regret after", "25", "rank 25", "runs", "CPU s a run"]
    assert list(paired) == [("",), ("SOO",), ("SequOOL",)]
    assert kinds["",] == ["regret after 25", "smooth", "mixed"]
    regret = {name: float(levels[name,][0].split(" ± ")[0]) for name in ("random", "SOO")}
    difference = float(paired["SOO",][0].split(" ± ")[0])
    assert difference == pytest.approx(regret["SOO"] - regret["random"], abs=0.11)
    assert levels["SOO",][2] == "4"
    stored = (folder / "SOO.csv").read_text()
    assert stored.count("\n") == 1 + 3 * 2 * 2
    assert "SequOOL" in picture.read_text()
    # Nothing is missing, so that nothing is computed, and the tables are the same.
    assert command(*arguments, "--budget-minutes", "0") == tables
    assert (folder / "SOO.csv").read_text() == stored


def test_the_stored_runs_are_of_tasks_and_samplers_that_exist() -> None:
    files = sorted(_results.FOLDER.glob("*.csv"))
    of_path = {_results.path_of(name, _results.FOLDER): name for name in quality.NAMES}
    assert {of_path[path] for path in files} >= {"random", "TPE", "CMA-ES", "SOO"}
    rows = _results.load([of_path[path] for path in files], _results.FOLDER)
    assert {found.key.task for found in rows} <= set(TASKS)
    assert all(len(found.regrets) in (2, 3) and min(found.regrets) >= 0 for found in rows)
    assert sum(path.stat().st_size for path in files) < 400_000


def test_a_stored_run_can_be_repeated() -> None:
    rows = _results.load(["SOO", "random"], _results.FOLDER)
    of = {found.key: found for found in rows}
    for sampler, task, workers in (("SOO", "hartmann3", 1), ("random", "mixed_choices", 8)):
        key = Key(sampler, quality.version_of(sampler), task, 0, workers)
        again = quality.compute(key, _results.BUDGETS)
        assert again.regrets == pytest.approx(of[key].regrets, rel=0.01, abs=1e-6)
