"""Points that no claim asked for: enqueued, added, chosen by other samplers, fixed; constraints."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import PartialFixedSampler, RandomSampler
from optuna.trial import TrialState, create_trial

from optuna_partition import DIRECTSampler, FDASampler, MOSOOSampler, SOOSampler, StoSOOSampler
from optuna_partition.samplers import PartitionSampler
from optuna_partition.samplers._journal import read_entry

Factory = Callable[..., PartitionSampler]

GRID: dict[str, BaseDistribution] = {
    "n": IntDistribution(3, 6),
    "kind": CategoricalDistribution(["a", "b", "c"]),
}
PLANE: dict[str, BaseDistribution] = {
    "x": FloatDistribution(-1.5, 4.0),
    "y": FloatDistribution(2.0, 9.0),
}


def grid(trial: optuna.Trial) -> float:
    n, kind = trial.suggest_int("n", 3, 6), trial.suggest_categorical("kind", ["a", "b", "c"])
    return float(abs(n - 5) + "bca".index(kind))


def plane(trial: optuna.Trial) -> float:
    x, y = trial.suggest_float("x", -1.5, 4.0), trial.suggest_float("y", 2.0, 9.0)
    return (x - 2.71) ** 2 + 0.3 * (y - 3.14) ** 2


def points(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [tuple(trial.params.values()) for trial in study.trials]


@pytest.mark.parametrize("own", [0, 1, 5])
def test_no_point_of_a_finite_space_is_evaluated_twice_whoever_chose_it(
    factory: Factory, own: int
) -> None:
    study = optuna.create_study(sampler=factory(search_space=GRID))
    study.optimize(grid, n_trials=own)
    taken = set(points(study))
    for n, kind in itertools.product((3, 6), ("b", "c")):
        if (n, kind) not in taken:
            study.add_trial(
                create_trial(params={"n": n, "kind": kind}, distributions=GRID, value=1.0)
            )
    study.enqueue_trial({"n": 4, "kind": "a"}, skip_if_exists=True)
    study.optimize(grid, n_trials=50)
    assert len(study.trials) == 12
    assert len(set(points(study))) == 12


def test_a_space_that_was_enumerated_elsewhere_is_over_at_once(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory(search_space=GRID))
    for n, kind in itertools.product(range(3, 7), "abc"):
        study.add_trial(create_trial(params={"n": n, "kind": kind}, distributions=GRID, value=1.0))
    study.optimize(grid, n_trials=5)
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 12


def test_a_waiting_trial_holds_its_point(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory(search_space=GRID))
    study.enqueue_trial({"n": 5, "kind": "a"})  # the center, which would be the first
    other = optuna.create_study(sampler=factory(search_space=GRID))
    other.optimize(grid, n_trials=1)
    assert points(other) == [(5, "a")]
    waiting = study.ask()  # pops the enqueued one, and does not finish
    study.optimize(grid, n_trials=50)
    study.tell(waiting, grid(waiting))
    assert len(set(points(study))) == len(study.trials) == 12


def test_a_known_good_point_draws_the_search(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory(search_space=PLANE))
    study.add_trial(create_trial(params={"x": 2.6, "y": 3.2}, distributions=PLANE, value=0.013))
    study.optimize(plane, n_trials=16)
    near = [t for t in study.trials[1:] if abs(t.params["x"] - 2.6) < 1 and t.params["y"] < 4.4]
    assert near


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_warm_start_from_another_study_repeats_nothing(
    factory: Factory, direction: Literal["minimize", "maximize"]
) -> None:
    first = optuna.create_study(direction=direction, sampler=factory(search_space=PLANE))
    first.optimize(plane, n_trials=15)
    second = optuna.create_study(direction=direction, sampler=factory(search_space=PLANE))
    second.add_trials(
        [create_trial(params=t.params, distributions=PLANE, value=t.value) for t in first.trials]
    )
    second.optimize(plane, n_trials=15)
    assert len(set(points(second))) == 30


def test_a_study_goes_on_in_a_larger_space(factory: Factory) -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1.5, high)
        return (x - 6.1) ** 2 + trial.suggest_float("y", 2.0, 9.0)

    study = optuna.create_study(sampler=factory(search_space=PLANE))
    high = 4.0
    study.optimize(objective, n_trials=12)
    high = 9.5
    study.sampler = factory(search_space={**PLANE, "x": FloatDistribution(-1.5, high)})
    study.optimize(objective, n_trials=40)
    assert len(set(points(study))) == 52
    assert study.best_params["x"] > 4.0


def test_values_under_other_fixed_parameters_say_nothing() -> None:
    def objective(trial: optuna.Trial) -> float:
        n = trial.suggest_int("n", 3, 6)
        return float(n * "abc".index(trial.suggest_categorical("kind", ["a", "b", "c"])))

    study = optuna.create_study()
    for kind in ("a", "b", "c"):
        sampler = SOOSampler(search_space=GRID)
        study.sampler = PartialFixedSampler({"kind": kind}, sampler)
        study.optimize(objective, n_trials=4)
    assert len(set(points(study))) == len(study.trials) == 12


def test_numbers_in_order_are_one_axis_and_names_are_not() -> None:
    sizes = {"batch": CategoricalDistribution([8, 16, 32, 64, 128])}
    study = optuna.create_study(sampler=SOOSampler(search_space=sizes))
    study.optimize(lambda t: -t.suggest_categorical("batch", [8, 16, 32, 64, 128]), n_trials=3)
    assert study.trials[0].params["batch"] == 32  # the middle one, not the first
    names = {"kind": CategoricalDistribution(["a", "b", "c"])}
    study = optuna.create_study(sampler=SOOSampler(search_space=names))
    study.optimize(lambda t: len(t.suggest_categorical("kind", ["a", "b", "c"])), n_trials=1)
    assert study.trials[0].params["kind"] == "a"


def test_trials_that_started_before_the_space_was_known_are_observations() -> None:
    study = optuna.create_study(sampler=SOOSampler())
    trials = [study.ask() for _ in range(4)]
    for trial in trials:
        study.tell(trial, plane(trial))
    study.optimize(plane, n_trials=20)
    assert len(set(points(study))) == 24


class TestConstraints:
    @staticmethod
    def constrained(trial: optuna.Trial) -> float:
        value = plane(trial)  # its minimum lies at x = 2.71
        trial.set_constraint("memory", trial.params["x"] - 0.4)
        return value

    def test_the_search_stays_where_the_constraints_hold(self, factory: Factory) -> None:
        study = optuna.create_study(sampler=factory(search_space=PLANE))
        study.optimize(self.constrained, n_trials=60)
        assert -1.5 <= study.best_params["x"] <= 0.4
        feasible = [t for t in study.trials if t.params["x"] <= 0.4]
        assert len(feasible) > 30  # a third of the box

    def test_the_smallest_violation_leads_while_nothing_is_feasible(self) -> None:
        def objective(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", -1.5, 4.0)
            trial.set_constraint("bound", 1.0 + abs(x - 3.3))
            return -abs(x - 3.3)  # the value alone would lead away

        study = optuna.create_study(
            sampler=SOOSampler(search_space={"x": FloatDistribution(-1.5, 4.0)})
        )
        study.optimize(objective, n_trials=25)
        assert min(abs(t.params["x"] - 3.3) for t in study.trials) < 0.02

    def test_several_objectives(self) -> None:
        def objective(trial: optuna.Trial) -> tuple[float, float]:
            x, y = trial.suggest_float("x", -1.5, 4.0), trial.suggest_float("y", 2.0, 9.0)
            trial.set_constraint("bound", 1.0 - x)
            return x, y

        study = optuna.create_study(
            directions=["minimize", "maximize"], sampler=MOSOOSampler(search_space=PLANE)
        )
        study.optimize(objective, n_trials=60)
        assert all(trial.params["x"] >= 1.0 for trial in study.best_trials)
        assert max(trial.values[1] for trial in study.best_trials) > 8.5


class TestStoSOO:
    @staticmethod
    def noisy(trial: optuna.Trial) -> float:
        noise = (0.7548776662466927 * (trial.number + 1)) % 1 - 0.5
        return plane(trial) + 2 * noise

    def test_a_cell_is_repeated_before_it_is_divided(self) -> None:
        sampler = StoSOOSampler(n_trials=90, scale=2.0, repeats=3, search_space=PLANE)
        study = optuna.create_study(sampler=sampler)
        study.optimize(self.noisy, n_trials=90)
        counts = {p: points(study).count(p) for p in points(study)}
        assert max(counts.values()) == 3
        tree = sampler.partition_of(study)
        divided = [node for depth in range(tree.depth) for node in tree.divided(depth)]
        assert divided
        assert all(node.evaluation.count == 3 for node in divided)
        mean = sum(t.value or 0.0 for t in study.trials[:1])
        assert counts[tuple(study.trials[0].params.values())] == 3
        assert mean != tree.value(tree.root)  # the root's value is the mean of its repeats

    def test_a_trial_at_the_center_of_a_cell_is_its_first_repeat(self) -> None:
        sampler = StoSOOSampler(n_trials=90, scale=2.0, repeats=3, search_space=PLANE)
        study = optuna.create_study(sampler=sampler)
        center = sampler.partition_of(study).box.at((0.5, 0.5))
        study.enqueue_trial(center)
        study.optimize(self.noisy, n_trials=4)
        assert points(study)[:3] == [tuple(center.values())] * 3
        assert points(study)[3] != points(study)[0]

    def test_the_answer_is_a_mean_and_not_the_luckiest_trial(self) -> None:
        sampler = StoSOOSampler(n_trials=120, scale=2.0, repeats=2, search_space=PLANE)
        study = optuna.create_study(sampler=sampler)
        with pytest.raises(ValueError, match="no cell has been divided"):
            sampler.recommend(study)
        study.optimize(self.noisy, n_trials=120)
        answer = sampler.recommend(study)
        true = (answer["x"] - 2.71) ** 2 + 0.3 * (answer["y"] - 3.14) ** 2
        assert true < 0.5
        assert points(study).count(tuple(answer.values())) == 2

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"n_trials": 0}, "n_trials is 0"),
            ({"n_trials": 9, "scale": 0.0}, "scale is 0.0"),
            ({"n_trials": 9, "repeats": 0}, "repeats is 0"),
            ({"n_trials": 9, "delta": 1.0}, "delta is 1.0"),
            ({"n_trials": 9, "h_max": -1}, "h_max is -1"),
        ],
    )
    def test_bad_arguments(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            StoSOOSampler(**arguments)


def test_probes_lie_off_the_centers_and_say_so() -> None:
    study = optuna.create_study(sampler=DIRECTSampler(search_space=PLANE))
    study.optimize(plane, n_trials=30)
    entries = [entry for entry in map(read_entry, study.trials) if entry is not None]
    probes = [
        trial for trial, entry in zip(study.trials, entries, strict=True) if "probe" in entry.claim
    ]
    assert 3 <= len(probes) <= 15
    assert study.best_trial in probes
    assert study.best_value < 1e-3


def test_random_trials_are_refined() -> None:
    study = optuna.create_study(sampler=RandomSampler(seed=5))
    study.optimize(plane, n_trials=12)
    before = study.best_value
    study.sampler = DIRECTSampler(search_space=PLANE)
    study.optimize(plane, n_trials=12)
    assert study.best_value < 0.2 * before


class TestFDA:
    """Spheres are no cells, but nobody evaluates a point of theirs twice either."""

    def test_every_trial_has_a_point_of_its_own(self) -> None:
        study = optuna.create_study(sampler=FDASampler(search_space=PLANE))
        study.optimize(plane, n_trials=80)
        assert len(set(points(study))) == 80
        assert study.best_value < 0.01

    def test_a_finite_space_is_enumerated_whoever_began(self) -> None:
        study = optuna.create_study(sampler=SOOSampler(search_space=GRID))
        study.optimize(grid, n_trials=4)
        study.sampler = FDASampler(search_space=GRID)
        with pytest.warns(UserWarning, match="in another way"):
            study.optimize(grid, n_trials=50)
        assert len(set(points(study))) == len(study.trials) == 12

    def test_constraints(self) -> None:
        study = optuna.create_study(sampler=FDASampler(search_space=PLANE))
        study.optimize(TestConstraints.constrained, n_trials=60)
        assert -1.5 <= study.best_params["x"] <= 0.4
