"""The value of every trial and the best value so far."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import optuna

from optuna_partition.visualization import _theme
from optuna_partition.visualization._history import History, Mark, Point, read_history

if TYPE_CHECKING:
    from plotly import graph_objects as go


def plot_convergence(
    study: optuna.Study, *, baseline: float | None = None, baseline_name: str = "untuned model"
) -> go.Figure:
    """Draw every trial's value and the best value so far over the trials.

    Values far off the others, failed trials and pruned ones are marked at the edge of the axis or
    with a symbol of their own. A study without a completed trial gives an empty figure.

    Args:
        study: A study with one objective.
        baseline: Value to compare with, drawn as a dashed line if it is finite.
        baseline_name: What the line is called.

    Raises:
        ImportError: If plotly is not installed; the extra `plot` brings it.
        ValueError: If the study has several objectives.
    """
    go = _theme.graph_objects()
    history = read_history(study, baseline=baseline)
    figure = go.Figure()
    _add_best_so_far(figure, history)
    for mark in Mark:
        _add_points(figure, history, mark)
    _add_best(figure, history)
    _add_baseline(figure, baseline, baseline_name, maximize=history.axis.maximize)
    _theme.style(figure, title="Convergence", height=460)
    figure.update_xaxes(**_theme.trial_axis(history))
    figure.update_yaxes(title={"text": history.value_name}, range=list(history.axis.range))
    _theme.note_if_empty(figure, history)
    return figure


def _add_baseline(figure: go.Figure, baseline: float | None, name: str, *, maximize: bool) -> None:
    """Add a dashed line at the baseline, with its name and value."""
    if baseline is None or not math.isfinite(baseline):
        return
    figure.add_hline(
        y=baseline,
        line={"color": _theme.BASELINE, "width": 2, "dash": "dash"},
        annotation={
            "text": f"{name}: {_theme.number(float(baseline))}",
            "font": {"color": _theme.BASELINE},
            "bgcolor": "rgba(255, 255, 255, 0.8)",
        },
        # On the side of the better values: bad trials crowd at the other edge.
        annotation_position="top right" if maximize else "bottom right",
    )


def _add_best_so_far(figure: go.Figure, history: History) -> None:
    steps = [point for point in history.points if point.improves]
    if not steps:
        return
    last = history.points[-1].number
    figure.add_scatter(
        x=[*(point.number for point in steps), last],
        y=[*(point.y for point in steps), steps[-1].y],
        mode="lines",
        line={"shape": "hv", "color": _theme.BEST, "width": 3},
        name="best so far",
        hoverinfo="skip",
    )


def _add_points(figure: go.Figure, history: History, mark: Mark) -> None:
    points = [point for point in history.points if point.mark is mark]
    if points:
        figure.add_scatter(
            x=[point.number for point in points],
            y=[point.y for point in points],
            mode="markers",
            marker=_theme.marker(mark, maximize=history.axis.maximize),
            name=mark.value,
            text=[_theme.hover(point, history.value_name) for point in points],
            hoverinfo="text",
        )


def _add_best(figure: go.Figure, history: History) -> None:
    best: Point | None = history.best
    if best is None or best.value is None:
        return
    figure.add_scatter(
        x=[best.number],
        y=[best.y],
        mode="markers+text",
        marker={"symbol": "star", "size": 17, "color": _theme.BEST},
        name=f"best (trial {best.number})",
        text=[f"<b>{_theme.number(best.value)}</b>"],
        textposition="bottom center" if not history.axis.maximize else "top center",
        textfont={"color": _theme.BEST},
        hovertext=[_theme.hover(best, history.value_name)],
        hoverinfo="text",
    )
