from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import torch.utils.cpp_extension
from botorch.acquisition.multi_objective import logei
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import PartialFixedSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

import optuna_partition
from optuna_partition import BoTorchGPSampler, SOOSampler
from optuna_partition.bayesian import model, rule
from optuna_partition.bayesian.model import FitError, Surrogate
from optuna_partition.bayesian.rule import BayesianRule

SPACE: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "rank": IntDistribution(2, 64, log=True),
    "warmup": FloatDistribution(0.1, 0.5, step=0.1),
    "schedule": CategoricalDistribution(["cosine", "constant"]),
}
FINITE: dict[str, BaseDistribution] = {
    "n": IntDistribution(3, 6),
    "kind": CategoricalDistribution(["a", "b", "c"]),
}


def make(**settings: Any) -> BoTorchGPSampler:
    return BoTorchGPSampler(**{"search_space": SPACE, "n_startup_trials": 4, **settings})


def loss(parameters: dict[str, Any]) -> float:
    value: float = (
        (np.log10(parameters["rate"]) + 2.7) ** 2
        + 0.3 * (np.log2(parameters["rank"]) - 3.1) ** 2
        + abs(parameters["warmup"] - 0.2)
        + 0.4 * (parameters["schedule"] == "cosine")
    )
    return value


def objective(trial: optuna.Trial) -> float:
    trial.suggest_float("rate", 1e-5, 1e-1, log=True)
    trial.suggest_int("rank", 2, 64, log=True)
    trial.suggest_float("warmup", 0.1, 0.5, step=0.1)
    trial.suggest_categorical("schedule", ["cosine", "constant"])
    return loss(trial.params)


def parameters_of(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def optimized(n_trials: int, **settings: Any) -> optuna.Study:
    study = optuna.create_study(sampler=make(**settings))
    study.optimize(objective, n_trials=n_trials)
    return study


def test_the_optimum_of_a_mixed_space_is_found() -> None:
    study = optimized(24)
    assert study.best_value < 0.05
    assert study.best_params["schedule"] == "constant"
    assert study.best_params["rank"] in (8, 9)


def test_a_study_and_a_seed_make_the_same_trials() -> None:
    first, second, other = optimized(9), optimized(9), optimized(9, seed=1)
    assert parameters_of(first) == parameters_of(second)
    assert parameters_of(first)[1:] != parameters_of(other)[1:]


@pytest.mark.parametrize("cut", [2, 7])
def test_an_interrupted_study_goes_on_as_the_uninterrupted_one(cut: int) -> None:
    study = optimized(cut)
    study.sampler = pickle.loads(pickle.dumps(make()))
    study.optimize(objective, n_trials=9 - cut)
    assert parameters_of(study) == parameters_of(optimized(9))


def test_the_first_point_is_the_center_and_start_points_differ() -> None:
    study = optimized(4)
    first = study.trials[0].params
    assert first["rate"] == pytest.approx(1e-3)
    assert len({tuple(p.values()) for p in parameters_of(study)}) == 4


def test_running_trials_are_taken_into_account() -> None:
    study = optimized(10)
    running = [study.ask(SPACE) for _ in range(3)]
    points = [
        np.array([np.log10(t.params["rate"]) / 4, np.log2(t.params["rank"]) / 5]) for t in running
    ]
    choices = [(t.params["warmup"], t.params["schedule"]) for t in running]
    for i, j in itertools.combinations(range(3), 2):
        assert choices[i] != choices[j] or np.abs(points[i] - points[j]).max() > 0.01


def test_a_running_trial_of_another_client_is_seen(sqlite: str) -> None:
    study = optuna.create_study(study_name="s", storage=sqlite, sampler=make(search_space=FINITE))
    other = optuna.load_study(study_name="s", storage=sqlite, sampler=make(search_space=FINITE))
    seen = [s.ask(FINITE).params for _ in range(6) for s in (study, other)]
    assert len({tuple(p.values()) for p in seen}) == 12


WORKER = """
import sys, warnings
warnings.simplefilter("ignore")
import optuna
from optuna.distributions import *
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_partition import BoTorchGPSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)
space = {"n": IntDistribution(0, 9), "x": FloatDistribution(0.5, 2.0)}
study = optuna.load_study(
    study_name="s",
    storage=JournalStorage(JournalFileBackend(sys.argv[1])),
    sampler=BoTorchGPSampler(search_space=space, n_startup_trials=4),
)
for _ in range(10):
    trial = study.ask(space)
    study.tell(trial, (trial.params["n"] - 3.3) ** 2 + (trial.params["x"] - 1.1) ** 2)
"""


@pytest.mark.slow
def test_two_processes_never_evaluate_the_same_point(tmp_path: Path) -> None:
    path = str(tmp_path / "journal.log")
    study = optuna.create_study(study_name="s", storage=JournalStorage(JournalFileBackend(path)))
    command = [sys.executable, "-c", WORKER, path]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors.decode()[-2000:]
    points = [(t.params["n"], t.params["x"]) for t in study.trials]
    assert len(set(points)) == len(points) == 20


@pytest.mark.parametrize("space", [FINITE, {"n": IntDistribution(1, 5)}])
def test_a_finite_space_is_enumerated_once(space: dict[str, BaseDistribution]) -> None:
    study = optuna.create_study(sampler=make(search_space=space))
    study.optimize(
        lambda t: float(sum(map(len, map(str, t.params)))) if suggest(t, space) else 0, 50
    )
    done = study.get_trials(states=(TrialState.COMPLETE,))
    points = {tuple(t.params.values()) for t in done}
    assert len(points) == len(done) == (12 if space is FINITE else 5)


def suggest(trial: optuna.Trial, space: dict[str, BaseDistribution]) -> bool:
    for name, distribution in space.items():
        if isinstance(distribution, IntDistribution):
            trial.suggest_int(name, distribution.low, distribution.high)
        elif isinstance(distribution, CategoricalDistribution):
            trial.suggest_categorical(name, distribution.choices)
    return True


def test_a_point_that_another_sampler_evaluated_is_not_repeated() -> None:
    study = optuna.create_study(sampler=make(search_space=FINITE))
    for n in range(3, 7):
        study.add_trial(
            create_trial(params={"n": n, "kind": "b"}, distributions=FINITE, value=float(n))
        )
    study.enqueue_trial({"n": 4, "kind": "a"})
    study.optimize(lambda t: float(suggest(t, FINITE)), n_trials=50)
    points = [tuple(t.params.values()) for t in study.get_trials(states=(TrialState.COMPLETE,))]
    assert len(points) == len(set(points)) == 12


def test_a_study_of_a_partition_sampler_goes_on() -> None:
    study = optuna.create_study(sampler=SOOSampler(search_space=SPACE))
    study.optimize(objective, n_trials=12)
    study.sampler = make()
    study.optimize(objective, n_trials=12)
    assert len({tuple(p.values()) for p in parameters_of(study)}) == 24
    assert study.best_trial.number >= 12


def test_an_inferred_space_and_a_fixed_parameter() -> None:
    sampler = PartialFixedSampler({"schedule": "cosine"}, make(search_space=None))
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=10)
    assert {p["schedule"] for p in parameters_of(study)} == {"cosine"}
    assert len({tuple(p.values()) for p in parameters_of(study)}) == 10


def test_a_failed_region_is_left() -> None:
    def crashes(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1.5, 4.0)
        if x > 1.0:
            return float("nan")
        return (x - 2.0) ** 2

    study = optuna.create_study(
        sampler=make(search_space={"x": FloatDistribution(-1.5, 4.0)}, n_startup_trials=2)
    )
    study.optimize(crashes, n_trials=25)
    states = [t.state for t in study.trials]
    # The best value lies at the edge of the region, and both of its sides are tried. A model that
    # knew nothing of failures would go on beyond it for ever.
    assert states[-12:].count(TrialState.FAIL) <= 8
    assert study.best_value < 1.1


def test_pruned_and_infinite_values_count() -> None:
    def odd(trial: optuna.Trial) -> float:
        value = objective(trial)
        if trial.number % 4 == 1:
            trial.report(value, 0)
            raise optuna.TrialPruned
        return float("inf") if trial.number % 4 == 2 else value

    study = optuna.create_study(sampler=make())
    study.optimize(odd, n_trials=12)
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_values_are_maximized_as_their_negatives_are_minimized() -> None:
    study = optuna.create_study(direction="maximize", sampler=make())
    study.optimize(lambda trial: -objective(trial), n_trials=9)
    assert parameters_of(study) == parameters_of(optimized(9))


def test_constraints_are_met() -> None:
    def constrained(trial: optuna.Trial) -> float:
        x, y = (trial.suggest_float(name, 0.0, 2.0) for name in "xy")
        trial.set_constraint("sum", 1.7 - x - y)
        trial.set_constraint("x", 0.4 - x)
        return 2 * x + y

    study = optuna.create_study(sampler=make(search_space=None))
    study.optimize(constrained, n_trials=16)
    assert study.best_value == pytest.approx(2.1, abs=0.05)  # at x = 0.4, y = 1.3
    later = study.trials[10:]
    feasible = [max(t.constraints.values()) <= 0.02 for t in later]
    assert sum(feasible) >= len(later) // 2


def test_where_nothing_is_feasible_feasibility_is_looked_for() -> None:
    def constrained(trial: optuna.Trial) -> float:
        x, y = (trial.suggest_float(name, 0.0, 2.0) for name in "xy")
        trial.set_constraint("c", (x - 1.83) ** 2 + (y - 0.17) ** 2 - 0.01)
        return x + y

    study = optuna.create_study(sampler=make(search_space=None))
    study.optimize(constrained, n_trials=15)
    assert study.best_trial.constraints["c"] <= 0


def test_several_objectives_spread_over_the_front() -> None:
    def both(trial: optuna.Trial) -> tuple[float, float]:
        x, y = trial.suggest_float("x", 0.0, 1.0), trial.suggest_int("y", 0, 8)
        trial.set_constraint("c", 0.2 - x)
        return x, -((1 - x) ** 2 + y / 8)

    study = optuna.create_study(
        directions=["minimize", "maximize"], sampler=make(search_space=None)
    )
    study.optimize(both, n_trials=14)
    front = sorted(t.params["x"] for t in study.best_trials)
    assert {t.params["y"] for t in study.best_trials} == {0}
    assert front[0] < 0.3
    assert front[-1] > 0.8
    assert len(front) >= 5


def test_botorch_compiles_nothing_on_our_behalf(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(**_: object) -> None:
        raise AssertionError("a compiler was asked for")

    monkeypatch.setattr(torch.utils.cpp_extension, "load", load)
    monkeypatch.setattr(logei, "_load_attempted", False)
    space = {"x": FloatDistribution(0.0, 1.0)}
    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=make(search_space=space, n_startup_trials=2)
    )
    study.optimize(lambda t: (t.suggest_float("x", 0.0, 1.0), -t.params["x"]), n_trials=3)
    assert logei._load_attempted is False


def test_the_standard_error_of_a_trial_is_its_noise() -> None:
    def noisy(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1.5, 4.0)
        if trial.number % 3:  # the others tell none
            trial.set_user_attr("stderr", 0.5)
        return (x - 2.0) ** 2

    sampler = make(search_space=None)
    study = optuna.create_study(sampler=sampler)
    study.optimize(noisy, n_trials=9)
    study.ask({"x": FloatDistribution(-1.5, 4.0)})
    known = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert isinstance(sampler._rule, BayesianRule)
    assert sampler._rule._fitted is not None
    (surrogate,) = sampler._rule._fitted.models.objectives
    values = np.array([trial.value for trial in known])
    slopes = surrogate.warp.slope(values)
    told = np.array([trial.number % 3 > 0 for trial in known])
    assert surrogate.noise.numpy()[told] == pytest.approx(0.25 * slopes[told] ** 2)


@pytest.mark.parametrize("error", [-1.0, "0.1", float("nan")])
def test_a_standard_error_that_is_none_is_reported(error: object) -> None:
    study = optuna.create_study(sampler=make())
    trial = study.ask(SPACE)
    trial.set_user_attr("stderr", error)
    study.tell(trial, 1.0)
    with pytest.warns(UserWarning, match="standard error 'stderr' of trial 0 is"):
        study.ask(SPACE)


def test_a_failed_fit_is_reported_once_and_the_study_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FitError("no factor.")

    monkeypatch.setattr(rule, "fit", fail)
    study = optuna.create_study(sampler=make())
    with pytest.warns(UserWarning, match="quasi-random point") as caught:
        study.optimize(objective, n_trials=8)
    assert len([w for w in caught if "quasi-random" in str(w.message)]) == 1
    assert len({tuple(p.values()) for p in parameters_of(study)}) == 8


@pytest.mark.parametrize(("n_threads", "expected"), [(1, 1), (None, 2)])
def test_the_number_of_threads_is_restored(
    n_threads: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = torch.get_num_threads(), []

    def fit(*arguments: Any, **settings: Any) -> Surrogate:
        seen.append(torch.get_num_threads())
        return model.fit(*arguments, **settings)

    monkeypatch.setattr(rule, "fit", fit)
    try:
        torch.set_num_threads(2)
        optimized(5, n_threads=n_threads)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {expected}


def test_torchs_own_random_numbers_are_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    optimized(6)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    "settings",
    [{"seed": -1}, {"seed": 1.5}, {"n_startup_trials": 0}, {"n_threads": 0}, {"max_retries": -1}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(settings))} is .*, expected an integer"):
        BoTorchGPSampler(**settings)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )


def test_the_package_alone_imports_no_torch() -> None:
    done = run(
        "import json, sys, optuna_partition, optuna_partition.samplers\n"
        "before = 'torch' in sys.modules\n"
        "from optuna_partition import BoTorchGPSampler\n"
        "print(json.dumps([before, 'torch' in sys.modules]))"
    )
    assert json.loads(done.stdout) == [False, True], done.stderr


@pytest.mark.parametrize("package", ["torch", "gpytorch"])
def test_a_missing_extra_is_named(package: str) -> None:
    done = run(
        f"import sys; sys.modules['{package}'] = None\n"
        "from optuna_partition import BoTorchGPSampler"
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: BoTorchGPSampler needs the package '{package}'")
    assert last.endswith("pip install 'optuna-partition[gp]'")


def test_unknown_names_are_attribute_errors() -> None:
    for module in (optuna_partition, optuna_partition.samplers):
        with pytest.raises(AttributeError, match="no attribute 'Oracle'"):
            _ = module.Oracle
