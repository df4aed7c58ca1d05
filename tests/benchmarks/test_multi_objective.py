from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import _fronts, _samplers, multi_objective
from benchmarks._fronts import Problem

Command = Callable[..., Any]

BY_NAME = {problem.name: problem for problem in _fronts.PROBLEMS}
# BoTorch has no ZDT4 and ZDT6, and its ZDT3 is another function.
IN_BOTORCH = [name for name in BY_NAME if name not in ("ZDT3", "ZDT4", "ZDT6")]

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.script, within gpytorch
    import torch
    from botorch.test_functions import multi_objective as botorch_problems
    from botorch.utils.multi_objective.hypervolume import Hypervolume


@pytest.mark.parametrize("name", IN_BOTORCH)
def test_functions_and_reference_points_are_those_of_botorch(name: str) -> None:
    problem = BY_NAME[name]
    kind = getattr(botorch_problems, name.split(",")[0])
    other = kind(dim=6, num_objectives=problem.objectives)
    points = np.random.default_rng(0).uniform(size=(40, 6))
    expected = other.evaluate_true(torch.tensor(points)).numpy()
    assert problem.function(points) == pytest.approx(expected)
    assert other.ref_point.tolist() == problem.reference.tolist()


@pytest.mark.parametrize(
    ("name", "point", "values"),
    [
        # The definitions by hand: g = 5.5; then 5.5 (1 - sqrt(0.25/5.5) - 0.25/5.5 sin(2.5 pi)).
        ("ZDT3", [0.25] + [0.5] * 5, [0.25, 4.077396223]),
        # At the best distance g = 1, and a sine of 6 pi / 12 is 1: f1 = 1 - exp(-1/3).
        ("ZDT6", [1 / 12] + [0.0] * 5, [0.283468689, 0.919645502]),
        # One variable at 0.5: g = 1 + 0.25 + 10 - 10 cos(2 pi).
        ("ZDT4", [0.36, 0.5] + [0.0] * 4, [0.36, 0.579179607]),
    ],
)
def test_functions_that_botorch_lacks(name: str, point: list[float], values: list[float]) -> None:
    assert BY_NAME[name].function(np.array(point)) == pytest.approx(values)


@given(
    st.integers(2, 3).flatmap(
        lambda m: st.lists(st.lists(st.integers(-8, 4), min_size=m, max_size=m), max_size=25)
    )
)
def test_hypervolume_is_that_of_botorch(points: list[list[int]]) -> None:
    m = len(points[0]) if points else 2
    values = np.array(points, dtype=np.float64).reshape(-1, m) / 3
    reference = np.array([1.0, 0.7, 1.2][:m])
    expected = Hypervolume(torch.tensor(-reference)).compute(torch.tensor(-values))
    assert _fronts.hypervolume(values, reference) == pytest.approx(expected)


def test_hypervolume_refuses_one_and_four_objectives() -> None:
    for m in (1, 4):
        with pytest.raises(ValueError, match="m = 2 or 3"):
            _fronts.hypervolume(np.zeros((3, m)), np.ones(m))


@pytest.mark.parametrize("problem", _fronts.PROBLEMS, ids=list(BY_NAME))
@pytest.mark.parametrize("copy", [1, 3])
def test_nothing_in_the_box_lies_beyond_the_front(problem: Problem, copy: int) -> None:
    box = problem.cut(copy)
    rng = np.random.default_rng(copy)
    points = rng.uniform(box.low, box.high, size=(300, 6))
    near = points.copy()
    near[:, box.objectives - 1 :] = np.clip(
        rng.normal(box.best, 1e-3, size=near[:, box.objectives - 1 :].shape),
        box.low[box.objectives - 1 :],
        box.high[box.objectives - 1 :],
    )
    front = box.front()
    most = _fronts.hypervolume(front, box.reference)
    both = np.concatenate([front, box.function(points), box.function(near)])
    # The sampled front leaves gaps between its points, which is all that there is to gain.
    tolerance = 1e-3 if box.objectives == 2 else 1e-2
    reached = _fronts.hypervolume(both, box.reference)
    assert most * (1 - 1e-12) <= reached <= most * (1 + tolerance)
    assert _fronts.hypervolume(box.function(points), box.reference) < most


@pytest.mark.parametrize("problem", _fronts.PROBLEMS, ids=list(BY_NAME))
def test_cut_boxes_keep_the_best_values(problem: Problem) -> None:
    box = problem.cut(2)
    distance = slice(problem.objectives - 1, None)
    assert np.all(box.low[distance] <= box.best)
    assert np.all(box.best < box.high[distance])
    assert np.all((box.low >= problem.low) & (box.high < problem.high))
    center = (box.low + box.high)[distance] / 2
    assert np.all(np.abs(center - box.best) > 1e-3)


def test_a_sampler_that_plans_is_run_once_for_each_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    planned = []

    def make(space: _samplers.Space, n_trials: int, seed: int) -> optuna.samplers.BaseSampler:
        planned.append(n_trials)
        return optuna.samplers.RandomSampler(seed=seed)

    entry = _samplers.Entry(make, budgeted=True)
    monkeypatch.setattr(multi_objective, "MULTI", {"planner": entry})
    box = BY_NAME["DTLZ2, 2 objectives"].cut(1)
    few, many = multi_objective.gaps(box, "planner", [5, 60], seeds=7)
    assert set(planned) == {5, 60}
    assert 1 >= few > many > 0


def test_the_command_prints_its_tables_and_draws(command: Command, tmp_path: Path) -> None:
    picture = tmp_path / "multi.html"
    names = ["ZDT1", "DTLZ5, 3 objectives"]
    scores, missing = command(
        "multi_objective.py", "--problems", *names, "--copies", "1", "--seeds", "2", "--budgets",
        "60", "20", "--samplers", "TPE", "random", "--output", picture,
    )  # fmt: skip
    assert scores["",] == ["score after", "20", "60"]
    assert list(scores) == [("",), ("TPE",)]
    assert float(scores["TPE",][1]) < -0.05
    assert list(missing) == [("",), *((name,) for name in names)]
    assert missing["",][1:] == ["random", "TPE"]
    for name in names:
        random, tpe = map(float, missing[name,])
        assert 0 < tpe < random < 100
    assert "TPE" in picture.read_text()
