from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nlopt
import numpy as np
import optuna
import pytest

from benchmarks import _problems, _samplers, rules
from objectives import synthetic

Command = Callable[..., Any]

NLOPT = {"NLopt GN_ORIG_DIRECT": 193, "NLopt GN_DIRECT": 186, "NLopt GN_DIRECT_L": 148}
SCIPY = {"SciPy direct": 253, "SciPy direct, locally biased": 173}


@pytest.mark.parametrize(("name", "evaluations"), [*NLOPT.items(), *SCIPY.items()])
def test_other_directs_reach_branins_minimum_in_the_known_number_of_evaluations(
    name: str, evaluations: int
) -> None:
    # To 0.01 % of the minimum, measured with SciPy 1.17.1 and NLopt 2.11.0; Jones, Perttunen and
    # Stuckman (1993) need 195.
    problem = synthetic.BRANIN
    values = np.array(rules.OTHERS[name](problem, 400))
    reached = np.flatnonzero(values - problem.minimum <= 1e-4 * problem.minimum)
    assert reached[0] + 1 == evaluations


@pytest.mark.parametrize("name", rules.OTHERS)
@pytest.mark.parametrize("budget", [1, 37])
def test_other_directs_spend_their_budget_and_start_at_the_center(name: str, budget: int) -> None:
    problem = _problems.problems(copies=1, names=["hartmann3"])[1]
    values = rules.OTHERS[name](problem, budget)
    assert len(values) == budget
    assert values[0] == pytest.approx(float(problem(problem.from_unit(np.full(3, 0.5)))))


def test_nlopt_is_called_for_a_minimum() -> None:
    problem = synthetic.rosenbrock(2)
    values = rules.nlopt_direct(problem, 200, algorithm=nlopt.GN_DIRECT_L)
    assert min(values) < 0.5 < np.median(values)


def test_a_sampler_that_plans_is_run_once_for_each_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []

    def make(space: _samplers.Space, n_trials: int, seed: int) -> optuna.samplers.BaseSampler:
        planned.append(n_trials)
        return optuna.samplers.RandomSampler(seed=seed)

    entry = _samplers.Entry(make, budgeted=True)
    monkeypatch.setattr(rules, "SINGLE", {"planner": entry})
    logs = rules.log_regrets("planner", [synthetic.BRANIN], [4, 9], seeds=5)
    assert planned == [4, 9]
    assert np.flatnonzero(np.isfinite(logs[0])).tolist() == [3, 8]
    values = rules.optuna_search(synthetic.BRANIN, 9, entry=entry)
    expected = np.log10(min(values) - synthetic.BRANIN.minimum)
    assert logs[0, 8] == pytest.approx(expected)


def test_regrets_never_rise_stop_at_the_floor_and_outlive_a_search_that_ended() -> None:
    problem = synthetic.rosenbrock(2)  # minimum 0
    found = _problems.regrets([3.0, 4.0, 1.0, 0.0], problem, 6)
    assert found.tolist() == [3.0, 3.0, 1.0, 1e-5, 1e-5, 1e-5]
    assert _problems.regrets([3.0, 2.0, 1.0], problem, 2).tolist() == [3.0, 2.0]


def test_55_problems_with_off_center_minima() -> None:
    found = _problems.problems(copies=4)
    assert len(found) == 55
    for problem in found:
        unit = (problem.minimizers - problem.low) / (problem.high - problem.low)
        assert np.all(np.max(np.abs(unit - 0.5), axis=1) > 0.02)
        assert problem(problem.minimizers[0]) == pytest.approx(problem.minimum, abs=1e-6)


def test_the_command_prints_both_tables_and_draws(command: Command, tmp_path: Path) -> None:
    picture = tmp_path / "pictures" / "rules.html"
    names = ["DIRECT", "random", "NLopt GN_DIRECT_L"]
    functions, problems = command(
        "rules.py", "--functions", "branin", "levy5", "--copies", "1", "--seeds", "2",
        "--budgets", "40", "15", "--samplers", *names, "--output", picture,
    )  # fmt: skip
    assert functions["",] == ["score after", "15", "40"]
    assert list(functions) == list(problems) == [("",), *((name,) for name in names)]
    assert functions != problems
    direct, random = functions["DIRECT",], functions["random",]
    assert float(direct[1]) < -0.5
    assert abs(float(random[1])) < 0.5  # against the median of other random searches
    assert all(name in picture.read_text() for name in names)
