from __future__ import annotations

import pickle

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from objectives import synthetic
from objectives.synthetic import Problem, by_name

NAMES = [
    *synthetic.FIXED,
    *(f"{family}{d}" for family in synthetic.FAMILIES for d in (2, 5)),
    "levy1",
    "ackley7",
]

# Values as the literature gives them, to the digits it prints: Dixon and Szegö 1978 as listed by
# Surjanovic and Bingham 2013; Shubert and six-hump camel likewise.
PUBLISHED = {
    "branin": 0.397887,
    "six_hump_camel": -1.0316,
    "goldstein_price": 3.0,
    "shubert": -186.7309,
    "hartmann3": -3.86278,
    "hartmann6": -3.32237,
    "shekel5": -10.1532,
    "shekel7": -10.4029,
    "shekel10": -10.5364,
    "styblinski_tang5": -39.16599 * 5,
}


@pytest.fixture(params=NAMES)
def problem(request: pytest.FixtureRequest) -> Problem:
    return by_name(request.param)


def test_the_minimum_is_attained_at_every_minimizer(problem: Problem) -> None:
    assert problem(problem.minimizers) == pytest.approx(problem.minimum, abs=1e-11, rel=1e-12)


def test_no_local_search_from_a_minimizer_finds_less(problem: Problem) -> None:
    bounds = list(zip(problem.low, problem.high, strict=True))
    for minimizer in problem.minimizers:
        found = minimize(lambda x: float(problem(x)), minimizer, method="L-BFGS-B", bounds=bounds)
        assert found.fun >= problem.minimum - 1e-11 * max(1, abs(problem.minimum))


def test_a_minimizer_is_a_strict_minimum_around_itself(problem: Problem) -> None:
    rng = np.random.default_rng(0)
    step = 1e-3 * (problem.high - problem.low)
    for minimizer in problem.minimizers:
        around = minimizer + step * rng.uniform(-1, 1, (200, problem.dimension))
        assert np.all(problem(around) > problem.minimum)


def test_no_random_point_lies_below_the_minimum(problem: Problem) -> None:
    points = problem.from_unit(np.random.default_rng(1).random((20_000, problem.dimension)))
    assert problem(points).min() > problem.minimum


@pytest.mark.parametrize(("name", "value"), PUBLISHED.items())
def test_the_minimum_is_the_published_one(name: str, value: float) -> None:
    assert by_name(name).minimum == pytest.approx(value, rel=1e-5, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "starts", "count"),
    [("branin", 60, 3), ("six_hump_camel", 60, 2), ("shubert", 900, 18)],
)
def test_multistart_search_finds_all_minimizers_and_no_other(
    name: str, starts: int, count: int
) -> None:
    problem = by_name(name)
    bounds = list(zip(problem.low, problem.high, strict=True))
    found = set()
    for x0 in problem.from_unit(np.random.default_rng(2).random((starts, 2))):
        end = minimize(lambda x: float(problem(x)), x0, method="L-BFGS-B", bounds=bounds)
        if end.fun < problem.minimum + 1e-6:
            nearest = np.linalg.norm(problem.minimizers - end.x, axis=1)
            assert nearest.min() < 1e-3
            found.add(int(nearest.argmin()))
    assert len(problem.minimizers) == count
    assert found == set(range(count))


def test_values_at_known_points() -> None:
    # By hand: Branin at 0 is 36 + 10 (1 - 1/(8 pi)) + 10; Goldstein-Price at 0 is 20 * 30; a
    # Shekel well adds 1/c at its own center; Rosenbrock at 0 has d - 1 terms of 1.
    assert by_name("branin")([0, 0]) == pytest.approx(56 - 10 / (8 * np.pi))
    assert by_name("goldstein_price")([0, 0]) == 600
    assert by_name("six_hump_camel")([1, 1]) == pytest.approx(4 - 2.1 + 1 / 3 + 1)
    assert by_name("rosenbrock5")(np.zeros(5)) == 4
    assert by_name("styblinski_tang3")(np.ones(3)) == -15
    assert by_name("shekel5")([1, 1, 1, 1]) < -5


@pytest.mark.parametrize("name", ["rastrigin", "ackley", "levy"])
@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
def test_the_first_points_of_a_partition_miss_a_shifted_minimum(name: str, dimension: int) -> None:
    problem = by_name(f"{name}{dimension}")
    center = np.full(dimension, 0.5)
    steps = np.vstack([np.zeros(dimension), np.eye(dimension) / 3, -np.eye(dimension) / 3])
    assert problem(problem.from_unit(center + steps)).min() > 0.1


def test_values_do_not_depend_on_the_batch_shape(problem: Problem) -> None:
    points = problem.from_unit(np.random.default_rng(3).random((2, 3, problem.dimension)))
    values = problem(points)
    assert values.shape == (2, 3)
    assert values.dtype == np.float64
    assert values[1, 2] == pytest.approx(float(problem(points[1, 2])), rel=1e-12)


def test_objective_suggests_the_search_space_and_returns_the_value(problem: Problem) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(problem.objective, n_trials=3)
    for trial in study.trials:
        assert trial.distributions == problem.search_space
        assert trial.value == float(
            problem([trial.params[f"x{k}"] for k in range(len(trial.params))])
        )
    assert isinstance(study.best_value, float)


def test_a_problem_survives_pickling(problem: Problem) -> None:
    copy = pickle.loads(pickle.dumps(problem))
    assert copy(problem.low) == problem(problem.low)
    assert copy.minimum == problem.minimum


def test_arrays_are_frozen_copies() -> None:
    low = np.array([0.0, 0.0])
    problem = Problem("p", lambda x: x[..., 0], low, np.ones(2), 0.0, np.zeros((1, 2)))
    low[0] = 7
    assert problem.low[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        problem.low[0] = 1


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_from_unit_spans_the_box(u: list[float]) -> None:
    problem = by_name("branin")
    x = problem.from_unit(u)
    assert np.all(x >= problem.low)
    assert np.all(x <= problem.high)
    assert (x - problem.low) / (problem.high - problem.low) == pytest.approx(np.array(u))


def test_within_keeps_the_minimizers_that_remain() -> None:
    smaller = by_name("branin").within([-4, 1], [9, 14])
    assert smaller.minimizers.tolist() == [[-np.pi, 12.275], [np.pi, 2.275]]
    assert smaller.minimum == by_name("branin").minimum
    with pytest.raises(ValueError, match="minimizers within"):
        by_name("branin").within([5, 5], [6, 6])
    with pytest.raises(ValueError, match="not inside the box of branin"):
        by_name("branin").within([-6, 1], [9, 14])


def test_regret_is_never_negative() -> None:
    problem = by_name("hartmann6")
    assert problem.regret(problem.minimum - 1e-15) == 0
    assert problem.regret(-3.0) == pytest.approx(0.322368011415515)


@pytest.mark.parametrize("name", ["brannin", "levy", "levy0", "rosenbrock1", "shekel6", "", "5"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected (one of branin|at least)"):
        by_name(name)


def test_points_of_the_wrong_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(\.\.\., 2\)"):
        by_name("branin")([1, 2, 3])
    with pytest.raises(ValueError, match=r"shape \(\), expected \(\.\.\., 2\)"):
        by_name("branin")(1)


@pytest.mark.parametrize(
    ("low", "high", "minimizers", "message"),
    [
        ([0, 0], [1, 1, 1], [[0, 0]], "shapes"),
        ([0, 1], [1, 1], [[0, 1]], "not below high"),
        ([0, 0], [1, 1], [[0, 2]], "minimizers within"),
        ([0, 0], [1, 1], np.zeros((0, 2)), "minimizers within"),
    ],
)
def test_a_contradictory_problem_is_refused(
    low: list[float], high: list[float], minimizers: list[list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Problem("p", lambda x: x[..., 0], np.array(low), np.array(high), 0.0, np.array(minimizers))
