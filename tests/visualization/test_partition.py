from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from optuna_partition import DIRECTSampler, SOOSampler
from optuna_partition.visualization import plot_partition

SPACE: dict[str, Any] = {
    "learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
    "rank": IntDistribution(2, 64, log=True),
    "schedule": CategoricalDistribution(["cosine", "constant", "linear"]),
}


def objective(trial: optuna.Trial) -> float:
    learning_rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    rank = trial.suggest_int("rank", 2, 64, log=True)
    schedule = trial.suggest_categorical("schedule", ["cosine", "constant", "linear"])
    return abs(learning_rate - 3e-3) + rank / 64 + len(schedule) / 10


@pytest.fixture(params=["minimize", "maximize"])
def study(request: pytest.FixtureRequest) -> optuna.Study:
    sign = 1.0 if request.param == "minimize" else -1.0
    study = optuna.create_study(sampler=SOOSampler(search_space=SPACE), direction=request.param)
    study.optimize(lambda trial: sign * objective(trial), n_trials=40)
    return study


@pytest.mark.parametrize(
    "params",
    [None, ("rank", "learning_rate"), ("schedule", "rank"), ("learning_rate", "schedule")],
)
def test_the_slice_tiles_the_plane_of_two_variables(
    study: optuna.Study, params: tuple[str, str] | None
) -> None:
    figure = plot_partition(study, params=params)
    names = params or ("learning_rate", "rank")
    rectangles = figure.layout.shapes
    area = sum(extent(names[0], r.x0, r.x1) * extent(names[1], r.y0, r.y1) for r in rectangles)
    assert area == pytest.approx(1.0)
    assert len(figure.data[0].x) == len(rectangles)


def extent(name: str, low: float, high: float) -> float:
    """Share of a variable's range, in the units in which cells tile it."""
    if name == "learning_rate":
        return (math.log10(high) - math.log10(low)) / 4
    return (high - low) / (63 if name == "rank" else 3)


def test_the_best_point_is_in_the_slice(study: optuna.Study) -> None:
    figure = plot_partition(study)
    points = zip(figure.data[0].x, figure.data[0].y, strict=True)
    best = study.best_params
    assert any(x == pytest.approx(best["learning_rate"]) and y == best["rank"] for x, y in points)
    values = figure.data[0].marker.color
    assert (min if study.direction.name == "MINIMIZE" else max)(values) == study.best_value


def test_one_variable_is_a_strip() -> None:
    study = optuna.create_study(sampler=DIRECTSampler())
    study.optimize(lambda trial: trial.suggest_float("x", -1, 2) ** 2, n_trials=12)
    figure = plot_partition(study)
    assert not figure.layout.yaxis.visible
    assert sum(r.x1 - r.x0 for r in figure.layout.shapes) == pytest.approx(3.0)


def test_cells_without_a_value_are_drawn_empty() -> None:
    study = optuna.create_study(sampler=SOOSampler(search_space=SPACE))
    study.optimize(objective, n_trials=3)
    for _ in range(4):
        study.ask(SPACE)
    figure = plot_partition(study)
    fills = [shape.fillcolor for shape in figure.layout.shapes]
    assert "#ffffff" in fills
    assert len(figure.data[0].x) < len(fills)


def test_a_study_without_a_result_yet() -> None:
    study = optuna.create_study(sampler=SOOSampler(search_space=SPACE))
    study.ask(SPACE)
    figure = plot_partition(study, search_space=SPACE)
    assert len(figure.layout.shapes) == 1
    with pytest.raises(ValueError, match="no completed trial shows the search space yet"):
        plot_partition(study)


def test_bad_names_are_refused(study: optuna.Study) -> None:
    with pytest.raises(ValueError, match="expected two different names of"):
        plot_partition(study, params=("rank", "alpha"))
    with pytest.raises(ValueError, match="expected two different names of"):
        plot_partition(study, params=("rank", "rank"))
