from __future__ import annotations

import math
from collections.abc import Callable

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from optuna_partition.visualization._history import Mark, ValueAxis, read_history, value_axis

MakeStudy = Callable[..., optuna.Study]
Finite = st.floats(-1e9, 1e9)


def test_every_trial_gets_the_mark_of_what_became_of_it(mixed: optuna.Study) -> None:
    history = read_history(mixed)
    assert [point.mark for point in history.points] == [
        Mark.COMPLETE,
        Mark.COMPLETE,
        Mark.FAILED,
        Mark.PRUNED,
        Mark.CLIPPED,
        Mark.CLIPPED,
        Mark.COMPLETE,
        Mark.COMPLETE,
        Mark.PRUNED,
    ]
    assert history.unfinished == 1
    assert history.count(Mark.CLIPPED, Mark.FAILED) == 3
    assert history.value_name == "validation loss"


def test_the_best_point_is_optunas_best_trial(mixed: optuna.Study) -> None:
    history = read_history(mixed)
    assert history.best is not None
    assert history.best.number == mixed.best_trial.number == 7
    assert [point.number for point in history.points if point.improves] == [0, 1, 7]


def test_a_pruned_trial_is_drawn_at_its_last_report(mixed: optuna.Study) -> None:
    points = read_history(mixed).points
    assert points[3].y == points[3].value == 3.9
    assert points[8].value is None


def test_trials_without_a_value_lie_beyond_the_worst_one(mixed: optuna.Study) -> None:
    history = read_history(mixed)
    low, high = history.axis.range
    assert (history.axis.low, history.axis.high) == (3.1, 4.0)
    for number in (2, 4, 5, 8):
        assert history.axis.high < history.points[number].y < high
    assert low < 3.1


def test_maximization_mirrors_everything(study_of: MakeStudy) -> None:
    losses = [4.0, 3.5, 1e6, 3.7, 3.1, math.inf]
    down = read_history(study_of(*losses), baseline=4.2)
    up = read_history(study_of(*(-v for v in losses), direction="maximize"), baseline=-4.2)
    assert [p.mark for p in up.points] == [p.mark for p in down.points]
    assert [p.improves for p in up.points] == [p.improves for p in down.points]
    assert [p.y for p in up.points] == pytest.approx([-p.y for p in down.points])
    assert up.axis.range == pytest.approx((-down.axis.range[1], -down.axis.range[0]))


@pytest.mark.parametrize(
    ("values", "show", "low", "high"),
    [
        ([3.0, 3.2, 3.1, 1e6], None, 3.0, 3.2),
        ([3.0, 3.2, 3.1, 1e6], 4.19, 3.0, 4.19),
        ([3.0, 3.2, 1e6, 1e6, 2e6], None, 3.0, 3.2),  # three of five diverged
        ([3.0, 3.1, 3.5, 4.2, 4.4], None, 3.0, 4.4),  # nothing to gain by clipping
        ([3.0, 3.0, 3.0, 3.1, 1e6], None, 3.0, 3.1),  # ties with the best
        ([math.inf, 3.0, 4.0, -math.inf], None, 3.0, 4.0),
        ([math.nan, 3.0, 4.0], math.nan, 3.0, 4.0),
        ([3.0, 1e6], None, 3.0, 1e6),  # of two, neither is the typical one
        ([], 4.19, 4.19 * 0.95, 4.19 * 1.05),
        ([2.0, 2.0], None, 1.9, 2.1),
        ([0.0], None, -0.5, 0.5),
        ([], None, 0.0, 1.0),
        ([math.inf], math.inf, 0.0, 1.0),
    ],
)
def test_value_axis(values: list[float], show: float | None, low: float, high: float) -> None:
    axis = value_axis(values, show=show)
    assert (axis.low, axis.high) == pytest.approx((low, high))


@given(st.lists(Finite, min_size=1, max_size=30), Finite, st.booleans())
def test_the_best_value_and_the_baseline_are_never_clipped(
    values: list[float], show: float, maximize: bool
) -> None:
    axis = value_axis(values, maximize=maximize, show=show)
    assert axis.holds(max(values) if maximize else min(values))
    assert axis.holds(show)
    assert axis.low < axis.high


@given(st.lists(Finite, min_size=1, max_size=30), st.floats(allow_nan=True), st.booleans())
def test_every_value_is_drawn_within_the_axis(
    values: list[float], value: float, maximize: bool
) -> None:
    axis = value_axis(values, maximize=maximize)
    low, high = axis.range
    assert low <= axis.y(value) <= high
    assert low <= axis.y(None) <= high
    if axis.holds(value):
        assert axis.y(value) == value


@given(st.lists(Finite, min_size=2, max_size=30))
def test_two_fifths_of_the_trials_stay_on_the_axis(values: list[float]) -> None:
    axis = value_axis(values)
    kept = sum(axis.holds(value) for value in values)
    assert kept >= 0.4 * len(values)


def test_better_than_the_axis_is_drawn_at_the_better_edge() -> None:
    axis = ValueAxis(3.0, 4.0, maximize=False)
    assert axis.y(-math.inf) < 3.0
    assert axis.y(math.inf) == axis.y(math.nan) == axis.y(None) == axis.worst > 4.0
    assert ValueAxis(3.0, 4.0, maximize=True).worst < 3.0


def test_infeasible_trials_are_never_the_best() -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.5, 1.5)
        trial.set_constraint("budget", 1.0 if trial.number == 1 else -1.0)
        return x - trial.number

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=2)
    history = read_history(study)
    assert [point.mark for point in history.points] == [Mark.COMPLETE, Mark.INFEASIBLE]
    assert history.best is not None
    assert history.best.number == study.best_trial.number == 0


def test_several_objectives_are_refused() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    with pytest.raises(ValueError, match="2 objectives, expected one"):
        read_history(study)


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED])
def test_a_study_of_failures_has_no_best(
    study_of: MakeStudy, add: Callable[..., None], state: TrialState
) -> None:
    study = study_of()
    add(study, None, state)
    history = read_history(study)
    assert history.best is None
    assert history.points[0].y == history.axis.worst
