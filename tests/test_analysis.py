from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from objectives import HARD_LIMITS
from optuna_partition import (
    BaMSOOSampler,
    DIRECTSampler,
    FDASampler,
    IMGPOSampler,
    LOGOSampler,
    PartitionGPSampler,
    SequOOLSampler,
    SOOSampler,
    StoSOOSampler,
)
from optuna_partition.analysis import BoundsReport, bounds_report
from optuna_partition.samplers._reading import read_partition

SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "direct": DIRECTSampler,
    "jones1993": functools.partial(DIRECTSampler, variant="jones1993"),
    "soo": SOOSampler,
    "logo": LOGOSampler,
    "sequool": functools.partial(SequOOLSampler, n_trials=60),
    "stosoo": functools.partial(StoSOOSampler, n_trials=60, repeats=1),
    "bamsoo": BaMSOOSampler,
    "imgpo": IMGPOSampler,
    "fda": FDASampler,
    "partition_gp": PartitionGPSampler,
}


def study_of(
    name: str, distribution: BaseDistribution, *values: Any, **options: Any
) -> optuna.Study:
    """Trials with these values of one parameter, the best one first."""
    study = optuna.create_study(**options)
    sign = -1 if options.get("direction") == "maximize" else 1
    for rank, value in enumerate(values):
        study.add_trial(
            create_trial(
                params={name: value}, distributions={name: distribution}, value=float(sign * rank)
            )
        )
    return study


def report_of(
    name: str, distribution: BaseDistribution, *values: Any, **limits: Any
) -> BoundsReport:
    return bounds_report(study_of(name, distribution, *values), limits=limits)


@pytest.mark.parametrize(
    ("distribution", "values", "pressed", "proposed"),
    [
        (FloatDistribution(1e-5, 1e-1, log=True), (0.09, 0.05, 1e-3), "upper", (1e-5, 10.0)),
        (FloatDistribution(1e-5, 1e-1, log=True), (1e-5, 2e-5, 1e-3), "lower", (1e-7, 1e-1)),
        (FloatDistribution(1e-5, 1e-1, log=True), (1e-3, 0.1, 0.1), None, (1e-5, 1e-1)),
        (FloatDistribution(1e-5, 1e-1, log=True), (0.1, 1e-3, 1e-4), None, (1e-5, 1e-1)),
        (FloatDistribution(0, 1), (0.02, 0.05, 0.3), "lower", (0, 1)),
        (FloatDistribution(-2, 6), (-1.9, -1.7, 3.0), "lower", (-6, 6)),
        (FloatDistribution(1, 64), (1.5, 2.0, 3.0), "lower", (0.1, 64)),
        (FloatDistribution(0.5, 1.5, step=0.1), (1.5, 1.5, 1.4), "upper", (0.5, 2.0)),
        (IntDistribution(2, 500), (500, 490, 480), "upper", (2, 749)),
        (IntDistribution(2, 64, log=True), (2, 2, 3), "lower", (1, 64)),
        (IntDistribution(8, 64, step=8), (64, 64, 64), "upper", (8, 88)),
    ],
)
def test_a_pressed_bound_moves_by_half_of_the_range_on_its_scale(
    distribution: FloatDistribution | IntDistribution,
    values: tuple[Any, ...],
    pressed: str | None,
    proposed: tuple[float, float],
) -> None:
    [bound] = report_of("x", distribution, *values).bounds
    assert bound.pressed == pressed
    assert (bound.proposed.low, bound.proposed.high) == pytest.approx(proposed)
    assert (bound.proposed.log, bound.proposed.step) == (distribution.log, distribution.step)


def test_hard_limits_end_the_growth() -> None:
    dropout = FloatDistribution(0.0, 0.9)
    found = bounds_report(study_of("dropout", dropout, 0.9, 0.88, 0.85), limits=HARD_LIMITS)
    assert found.space == {"dropout": FloatDistribution(0.0, 0.95)}
    rank = report_of("rank", IntDistribution(1, 9), 1, 1, 1, rank=HARD_LIMITS["rank"])
    assert rank.space == {"rank": IntDistribution(1, 9)}
    assert str(rank) == "rank: at the lower bound of 1 to 9, which is its limit"
    beyond = report_of("x", FloatDistribution(0, 4), 4.0, 4.0, 4.0, x=(0.0, 3.0))
    assert beyond.space == {"x": FloatDistribution(0, 4)}  # never smaller than it was


def test_choices_stay_and_single_values_are_no_bounds() -> None:
    choices = CategoricalDistribution(["a", "b"])
    found = report_of("kind", choices, "a", "a", "a")
    assert (found.bounds, found.space, found.pressed) == ((), {"kind": choices}, ())
    assert report_of("x", FloatDistribution(2, 2), 2.0, 2.0, 2.0).bounds == ()


def test_the_best_trials_follow_the_direction_and_are_a_tenth() -> None:
    values = [0.95, 0.93, 0.99, 0.5, *([0.1] * 36)]
    study = study_of("x", FloatDistribution(0, 1), *values, direction="maximize")
    found = bounds_report(study)
    assert found.best == (0, 1, 2, 3)
    assert [bound.pressed for bound in found.bounds] == ["upper"]
    assert found.bounds[0].positions == (0.95, 0.93, 0.99, 0.5)
    assert bounds_report(study, best=10).pressed == ()


def test_a_line_says_what_to_try() -> None:
    found = report_of("lr", FloatDistribution(1e-5, 1e-1, log=True), 0.09, 0.05, 1e-3)
    assert str(found) == "lr: at the upper bound of 1e-05 to 0.1, try 1e-05 to 10"
    inside = report_of("lr", FloatDistribution(1e-5, 1e-1, log=True), 1e-3, 1e-3, 1e-2)
    assert str(inside) == "lr: inside 1e-05 to 0.1"


def test_the_figure_marks_the_pressed_parameters() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    study.optimize(
        lambda t: -t.suggest_float("x", 1e-4, 1.0, log=True) + t.suggest_int("n", 3, 9) / 99,
        n_trials=40,
    )
    found = bounds_report(study)
    figure = found.figure()
    other, best = figure.data
    assert len(best.x) == 2 * len(found.best)
    assert len(other.x) == 2 * (40 - len(found.best))
    assert all(-1e-9 <= x <= 1 + 1e-9 for x in (*other.x, *best.x))
    assert figure.layout.yaxis.ticktext[0].startswith("\N{RIGHTWARDS ARROW} x")
    assert len(figure.layout.shapes) == 2


def test_the_figure_shows_trials_that_diverged_or_ended_early_too() -> None:
    study = study_of("x", FloatDistribution(0, 10), *[k / 10 for k in range(20)])
    for state, value in ((TrialState.COMPLETE, 1e6), (TrialState.PRUNED, 9.0)):
        study.add_trial(
            create_trial(
                state=state,
                params={"x": 10.0},
                distributions={"x": FloatDistribution(0, 10)},
                value=value,
            )
        )
    other, best = bounds_report(study).figure().data
    assert len(other.x) + len(best.x) == 22
    assert {"trial 20: x 10", "trial 21: x 10"} <= set(other.text)


def test_too_few_trials_and_several_objectives_are_explained() -> None:
    with pytest.raises(ValueError, match=r"2 completed trials.*expected 3 or more"):
        report_of("x", FloatDistribution(0, 1), 0.1, 0.2)
    with pytest.raises(ValueError, match="2 objectives"):
        bounds_report(optuna.create_study(directions=["minimize", "minimize"]))


SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
    "rank": IntDistribution(2, 30, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_goes_on_in_the_enlarged_space_with_all_that_it_knows(sampler: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        at = {
            "learning_rate": trial.suggest_float("learning_rate", low, high, log=True),
            "rank": trial.suggest_int("rank", 2, 30, log=True),
            "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        }
        off = math.log10(at["learning_rate"] / 8e-3)
        return off**2 + (at["dropout"] - 0.1) ** 2 + (at["rank"] - 9) ** 2 / 500

    low, high = 1e-5, 1e-3
    study = optuna.create_study(sampler=SAMPLERS[sampler](search_space=SPACE))
    study.optimize(objective, n_trials=30)
    found = bounds_report(study, limits=HARD_LIMITS)
    assert "learning_rate" in [bound.name for bound in found.pressed]
    before, high = study.best_value, found.bounds[0].proposed.high
    assert high == pytest.approx(1e-2)
    grown = {**SPACE, "learning_rate": FloatDistribution(low, high, log=True)}
    study.sampler = SAMPLERS[sampler](search_space=grown)
    study.optimize(objective, n_trials=30)
    points = [tuple(trial.params[name] for name in SPACE) for trial in study.trials]
    assert len(set(points)) == 60
    assert study.best_value < before
    assert study.best_params["learning_rate"] > 1e-3
    if sampler != "fda":  # spheres, in no tree
        tree = read_partition(study, search_space=grown).tree
        assert all(tree.is_tried(point) for point in points)


@pytest.mark.parametrize("sampler", [DIRECTSampler, SOOSampler, PartitionGPSampler])
def test_axes_of_whole_numbers_and_steps_grow_and_choices_stay(
    sampler: type[DIRECTSampler | SOOSampler | PartitionGPSampler],
) -> None:
    """The optimum of every axis but the choice lies beyond its upper bound."""
    narrow: dict[str, BaseDistribution] = {
        "rate": FloatDistribution(1e-5, 1e-2, log=True),
        "rank": IntDistribution(2, 64, log=True),
        "layers": IntDistribution(4, 24, step=4),
        "method": CategoricalDistribution(["lora", "dora"]),
    }

    def value(params: dict[str, Any]) -> float:
        off: float = (math.log10(params["rate"]) + 1) ** 2 + 0.1 * (params["method"] == "dora")
        off += (math.log2(params["rank"]) - 8) ** 2 / 10 + (params["layers"] - 40) ** 2 / 400
        return off

    study = optuna.create_study()

    def go_on(space: dict[str, BaseDistribution]) -> list[dict[str, Any]]:
        study.sampler = sampler(search_space=space)
        for _ in range(40):
            trial = study.ask(space)
            study.tell(trial, value(trial.params))
        return [trial.params for trial in study.trials]

    before, best = go_on(narrow), study.best_value
    found = bounds_report(study)
    assert {bound.name for bound in found.pressed} == {"rate", "rank", "layers"}
    assert found.space["layers"] == IntDistribution(4, 32, step=4)
    assert found.space["method"] == narrow["method"]
    after = go_on(found.space)
    assert after[:40] == before
    assert len({tuple(sorted(params.items())) for params in after}) == 80
    beyond = [p for p in after[40:] if p["rate"] > 1e-2 or p["rank"] > 64 or p["layers"] > 24]
    assert len(beyond) > 25
    assert study.best_value < best / 2
