"""Scores and means of the benchmarks, each held against its definition."""

from __future__ import annotations

import statistics
import sys

import numpy as np
import optuna
import pytest

from benchmarks import _fronts, _problems, _samplers, multi_objective, overhead, parallel, rules


@pytest.fixture(autouse=True)
def _silence() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def last_row(printed: str) -> list[float]:
    line = [line for line in printed.splitlines() if line.startswith("|")][-1]
    return [float(cell) for cell in line.strip("|").split("|")[1:]]


def test_equal_time_is_a_share_of_the_evaluations() -> None:
    # After 8 evaluations of one worker; four workers have a quarter of that time.
    regrets = np.logspace(-1, -8, 8)
    alone = parallel.Run(np.arange(1.0, 9.0), regrets, 1.0, 0)
    four = parallel.Run(np.arange(1.0, 9.0) / 2, regrets, 1.0, 0)
    runs = {1: {8: [alone]}, 4: {8: [four]}}
    assert parallel.at_equal_time(runs, 1, 8) == pytest.approx(-8)
    assert parallel.at_equal_time(runs, 4, 8) == pytest.approx(-4)


def test_random_search_is_the_median_of_ten() -> None:
    problem = _problems.problems(copies=1, names=["rosenbrock5"])[1]
    each = []
    for seed in range(10):
        unit = np.random.default_rng(seed).uniform(size=(12, problem.dimension))
        each.append(min(problem(problem.from_unit(unit))) - problem.minimum)
    assert _problems.random_search(problem, 12)[-1] == pytest.approx(statistics.median(each))


def test_a_sampler_with_a_seed_scores_the_mean_of_its_logarithms() -> None:
    problem = _problems.problems(copies=1, names=["hartmann3"])[1]
    entry = _samplers.SINGLE["random"]
    best = [min(rules.optuna_search(problem, 7, entry=entry, seed=seed)) for seed in range(4)]
    logs = rules.log_regrets("random", [problem], [7], seeds=4)
    assert logs[0, -1] == pytest.approx(np.mean(np.log10(np.array(best) - problem.minimum)))


def test_a_score_is_against_random_search(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "rules.py --functions hartmann3 --copies 1 --budgets 9 25 --samplers SOO"
    monkeypatch.setattr(sys, "argv", command.split())
    rules.main()
    found = _problems.problems(copies=1, names=["hartmann3"])
    against = np.log10([_problems.random_search(problem, 25) for problem in found])
    expected = (rules.log_regrets("SOO", found, [9, 25], 1) - against).mean(axis=0)[[8, 24]]
    assert last_row(capsys.readouterr().out) == pytest.approx(expected, abs=0.0051)


def test_a_block_costs_milliseconds_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "run", lambda study, n: 0.002 * n)
    study = optuna.create_study()
    assert overhead.interleaved({"a": study}, 2, 5) == [{"a": pytest.approx(2.0)}] * 2


def test_the_gap_of_a_sampler_with_a_seed_is_a_median() -> None:
    box = next(p for p in _fronts.PROBLEMS if p.name == "DTLZ7, 2 objectives").cut(1)
    most = _fronts.hypervolume(box.front(), box.reference)
    each = [
        1 - _fronts.hypervolume(multi_objective.run(box, "random", 8, seed), box.reference) / most
        for seed in range(5)
    ]
    assert len(set(each)) == 5
    expected = statistics.median(each)
    assert multi_objective.gaps(box, "random", [8], seeds=5) == pytest.approx([expected])


def test_a_score_of_several_objectives_is_against_random_search(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "multi_objective.py --problems ZDT2 --copies 1 --seeds 1 --budgets 30 --samplers TPE"
    monkeypatch.setattr(sys, "argv", command.split())
    multi_objective.main()
    scores, missing = capsys.readouterr().out.split("After 30 evaluations")
    random, tpe = last_row(missing)
    assert last_row(scores) == pytest.approx([np.log10(tpe / random)], abs=0.01)


@pytest.mark.parametrize(
    ("first", "rest", "values"),
    [
        # mean(rest) = 1/16, so g = 1 + 9/2; f1 = 1 - exp(-0.4) sin(0.6 pi)^6; f2 = g - f1^2 / g.
        (0.1, 0.0625, [0.503956046, 5.453823328]),
        # sin(1.5 pi)^6 = 1 and g = 10: f1 = 1 - 1/e.
        (0.25, 1.0, [0.632120559, 9.960042360]),
    ],
)
def test_zdt6_away_from_its_front(first: float, rest: float, values: list[float]) -> None:
    (problem,) = [p for p in _fronts.PROBLEMS if p.name == "ZDT6"]
    assert problem.function(np.array([first] + [rest] * 5)) == pytest.approx(values)
