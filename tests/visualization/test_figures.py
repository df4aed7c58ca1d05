from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from optuna_partition.visualization import (
    plot_convergence,
    plot_learning_curves,
    plot_variables,
    plot_variables_over_trials,
    write_report,
)
from optuna_partition.visualization._history import read_history
from optuna_partition.visualization._variables import variables

MakeStudy = Callable[..., optuna.Study]
Plot = Callable[[optuna.Study], Any]
PLOTS: list[Plot] = [
    plot_convergence,
    plot_variables,
    plot_variables_over_trials,
    plot_learning_curves,
]


def traces(figure: Any, name: str) -> list[Any]:
    return [trace for trace in figure.data if trace.name == name]


def trace(figure: Any, name: str) -> Any:
    (found,) = traces(figure, name)
    return found


def test_convergence_shows_each_trial_once(mixed: optuna.Study) -> None:
    figure = plot_convergence(mixed)
    names = ("complete", "pruned", "off the axis", "failed")
    drawn = {name: list(trace(figure, name).x) for name in names}
    assert drawn == {
        "complete": [0, 1, 6, 7],
        "pruned": [3, 8],
        "off the axis": [4, 5],
        "failed": [2],
    }


def test_convergence_follows_the_best_so_far(mixed: optuna.Study) -> None:
    line = trace(plot_convergence(mixed), "best so far")
    assert list(line.x) == [0, 1, 7, 8]
    assert list(line.y) == [4.0, 3.5, 3.1, 3.1]
    assert line.line.shape == "hv"


def test_convergence_axis_is_not_ruined_by_a_diverged_trial(mixed: optuna.Study) -> None:
    figure = plot_convergence(mixed, baseline=4.19)
    low, high = figure.layout.yaxis.range
    assert 3.0 < low < 3.1
    assert 4.19 < high < 4.4
    assert figure.layout.yaxis.title.text == "validation loss"
    assert "1e+06" in trace(figure, "off the axis").text[0]
    assert "inf" in trace(figure, "off the axis").text[1]


def test_convergence_draws_the_baseline(mixed: optuna.Study) -> None:
    figure = plot_convergence(mixed, baseline=4.19, baseline_name="base")
    (line,) = figure.layout.shapes
    assert line.y0 == line.y1 == 4.19
    assert figure.layout.annotations[0].text == "base: 4.19"
    assert not plot_convergence(mixed, baseline=math.nan).layout.shapes


def test_clipped_trials_point_away_from_the_better_side(study_of: MakeStudy) -> None:
    losses = [3.0, 3.1, 3.2, 1e6]
    up = study_of(*(-v for v in losses), direction="maximize")
    assert trace(plot_convergence(study_of(*losses)), "off the axis").marker.symbol == "triangle-up"
    assert trace(plot_convergence(up), "off the axis").marker.symbol == "triangle-down"


def test_variables_put_each_parameter_on_its_own_axis(mixed: optuna.Study) -> None:
    figure = plot_variables(mixed, baseline=4.19)
    layout = figure.layout
    assert [a.text for a in layout.annotations][:4] == list(mixed.trials[0].params)
    assert layout.xaxis.type == layout.xaxis2.type == "log"
    assert layout.xaxis3.type is None
    assert layout.xaxis.range == pytest.approx((math.log10(4e-5) - 0.16, math.log10(0.4) + 0.16))
    assert list(layout.xaxis4.ticktext) == ["cosine", "None", "True"]
    bounds = sorted(s.x0 for s in layout.shapes if s.xref == "x3")
    assert bounds == [0.1, 0.7]
    assert "20" in layout.xaxis2.ticktext  # plotly's own label would be "2"


def test_variables_draw_value_against_parameter(mixed: optuna.Study) -> None:
    complete = traces(plot_variables(mixed), "complete")
    assert list(complete[1].x) == [mixed.trials[n].params["rank"] for n in (0, 1, 6, 7)]
    assert list(complete[1].y) == [4.0, 3.5, 3.7, 3.1]
    assert list(complete[1].marker.color) == [0, 1, 6, 7]
    assert list(complete[3].x) == [0, 1, 0, 1]  # cosine, None, cosine, None
    best = traces(plot_variables(mixed), "best (trial 7)")
    assert [star.x[0] for star in best] == pytest.approx([0.04, 9, 0.1, 1])


def test_variables_over_trials_color_by_value(mixed: optuna.Study) -> None:
    figure = plot_variables_over_trials(mixed)
    complete = traces(figure, "complete")[1]
    assert list(complete.x) == [0, 1, 6, 7]
    assert list(complete.y) == [2, 3, 8, 9]
    assert list(complete.marker.color) == [4.0, 3.5, 3.7, 3.1]
    scale = figure.layout.coloraxis
    assert (scale.cmin, scale.cmax) == (3.1, 4.0)
    assert scale.reversescale is False  # the scale starts dark: small is good
    line = traces(figure, "best so far")[1]
    assert list(line.x) == [0, 1, 7, 8]
    assert list(line.y) == [2, 3, 9, 9]


def test_good_trials_are_dark_when_maximizing_too(study_of: MakeStudy) -> None:
    study = study_of(1.0, 2.0, direction="maximize")
    assert plot_variables_over_trials(study).layout.coloraxis.reversescale is True


def test_learning_curves_put_the_best_in_front(mixed: optuna.Study) -> None:
    figure = plot_learning_curves(mixed)
    assert [t.name for t in figure.data] == ["trial 3", "trial 4", "trial 6", "best (trial 7)"]
    assert list(figure.data[-1].y) == [4.0, 3.1]
    assert figure.layout.yaxis.range[1] < 7


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize(
    "values", [(), (3.0,), (math.inf,), (-math.inf, 3.0), (3.0, 3.0), (1e6, 3.0, 3.1, 1e-300)]
)
def test_every_figure_can_be_drawn_of_any_values(
    plot: Plot, values: tuple[float, ...], study_of: MakeStudy
) -> None:
    assert plot(study_of(*values)).to_json()


@pytest.mark.parametrize("plot", PLOTS)
def test_every_figure_can_be_drawn_when_all_failed(
    plot: Plot, study_of: MakeStudy, add: Callable[..., None]
) -> None:
    study = study_of()
    add(study, None, TrialState.FAIL)
    add(study, None, TrialState.FAIL)
    figure = plot(study)
    assert figure.to_json()
    if plot is not plot_learning_curves:
        assert "No trial has completed" in [a.text for a in figure.layout.annotations]
        assert traces(figure, "failed")


@pytest.mark.parametrize("plot", PLOTS)
def test_several_objectives_are_refused(plot: Plot) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.raises(ValueError, match="2 objectives"):
        plot(study)


def test_bounds_that_grew_during_the_study_are_all_shown() -> None:
    study = optuna.create_study()
    spaces: list[BaseDistribution] = [
        FloatDistribution(1e-3, 1e-1, log=True),
        FloatDistribution(1e-4, 1.0, log=True),
    ]
    for value, space in enumerate(spaces):
        study.add_trial(create_trial(value=value, params={"x": 0.05}, distributions={"x": space}))
    (variable,) = variables(read_history(study))
    assert (variable.low, variable.high, variable.log) == (1e-4, 1.0, True)


def test_a_conditional_variable_is_drawn_for_the_trials_that_have_it() -> None:
    study = optuna.create_study()
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(1, 3), "k": IntDistribution(1, 9)}
    study.add_trial(create_trial(value=1.0, params={"x": 2.0, "k": 5}, distributions=space))
    study.add_trial(create_trial(value=0.5, params={"x": 1.5}, distributions={"x": space["x"]}))
    figure = plot_variables(study)
    by_axis = {t.xaxis: list(t.x) for t in traces(figure, "complete")}
    assert by_axis == {"x": [2.0, 1.5], "x2": [5.0]}
    assert [star.xaxis for star in traces(figure, "best (trial 1)")] == ["x"]


def test_a_variable_with_one_value_has_an_axis() -> None:
    study = optuna.create_study()
    space: dict[str, BaseDistribution] = {"k": IntDistribution(4, 4, log=True)}
    study.add_trial(create_trial(value=1.0, params={"k": 4}, distributions=space))
    low, high = plot_variables(study).layout.xaxis.range
    assert low < math.log10(4) < high


@pytest.mark.parametrize(
    "draw", [*PLOTS, lambda s: write_report(s, "/nonexistent/report.html", title="t")]
)
def test_without_plotly_the_error_names_the_extra(
    draw: Plot, mixed: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plotly", *(m for m in sys.modules if m.startswith("plotly."))):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'optuna-partition\[plot\]'"):
        draw(mixed)
