"""Each variable against the value, and each variable over the trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from optuna_partition.visualization import _theme
from optuna_partition.visualization._history import History, Mark, Point, read_history

if TYPE_CHECKING:
    from plotly import graph_objects as go

_COLUMNS = 3
# Pixels: of a row of subplots, between two rows, and above them.
_ROW_HEIGHT, _GAP, _TOP = 260, 76, 130
_MARGIN = 0.04  # of an axis, beyond its bounds, so that points at a bound are seen whole
_SCALED = (Mark.COMPLETE, Mark.INFEASIBLE, Mark.PRUNED)  # their color tells a number


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable's axis.

    Args:
        name: Name of the parameter.
        low: Lower bound; 0 for a categorical variable.
        high: Upper bound; the last choice's position for a categorical variable.
        log: Whether the axis is logarithmic.
        choices: What a categorical variable can be; None for a number.
    """

    name: str
    low: float
    high: float
    log: bool = False
    choices: tuple[Any, ...] | None = None

    def position(self, value: Any) -> float:
        """Where a value of the variable is drawn."""
        return float(self.choices.index(value) if self.choices is not None else value)

    def unit(self, position: float) -> float:
        """Fraction of the axis, from 0 at `low` to 1 at `high`, at a position between them."""
        low, high = self.low, self.high
        if self.log:
            low, high, position = math.log(low), math.log(high), math.log(position)
        return (position - low) / (high - low)

    @property
    def layout(self) -> dict[str, Any]:
        """The axis as plotly takes it."""
        if self.choices is not None:
            labels = [str(choice) for choice in self.choices]
            ticks = {"tickmode": "array", "tickvals": list(range(len(labels))), "ticktext": labels}
            return {"range": [self.low - 0.5, self.high + 0.5], **ticks}
        if self.log:
            return self._log_layout()
        margin = _MARGIN * (self.high - self.low) or 0.5
        return {"range": [self.low - margin, self.high + margin]}

    def _log_layout(self) -> dict[str, Any]:
        low, high = math.log10(self.low), math.log10(self.high)
        margin = _MARGIN * (high - low) or 0.5
        axis: dict[str, Any] = {"type": "log", "range": [low - margin, high + margin]}
        if high - low > 2:
            return axis | {"dtick": 1, "exponentformat": "power"}
        # plotly labels the ticks between decades with their first digit alone: "2" for 20.
        decades = range(math.floor(low), math.ceil(high) + 1)
        ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        labels = [f"{tick:g}" for tick in ticks]
        return axis | {"tickmode": "array", "tickvals": ticks, "ticktext": labels}


@dataclass(frozen=True, slots=True)
class _View:
    """What the axes and the color of a grid of subplots, one a variable, stand for."""

    x: Callable[[Variable, Point], float]
    y: Callable[[Variable, Point], float]
    color: Callable[[Point], float]


def variables(history: History) -> list[Variable]:
    """The variables of a study, in the order in which its trials suggested them."""
    return [variable_of(name, known) for name, known in history.distributions.items()]


def plot_variables(
    study: optuna.Study, *, baseline: float | None = None, baseline_name: str = "untuned model"
) -> go.Figure:
    """Draw each variable against the value, colored by the number of the trial.

    The axis of a variable is logarithmic where its distribution is; dotted lines are the bounds of
    the search, so that a best value at a bound is seen.

    Args:
        study: A study with one objective.
        baseline: Value to compare with, drawn as a dashed line if it is finite.
        baseline_name: What the line is called.

    Raises:
        ImportError: If plotly is not installed; the extra `plot` brings it.
        ValueError: If the study has several objectives.
    """
    history = read_history(study, baseline=baseline)
    shown = variables(history)
    view = _View(
        x=lambda variable, point: variable.position(point.params[variable.name]),
        y=lambda _, point: point.y,
        color=lambda point: point.number,
    )
    figure = _grid(history, shown, view, title="Each variable against the value")
    for variable, cell in zip(shown, _cells(len(shown)), strict=True):
        figure.update_xaxes(**variable.layout, **cell)
        figure.update_yaxes(range=list(history.axis.range), **cell)
        if cell["col"] == 1:
            figure.update_yaxes(title={"text": history.value_name}, **cell)
        for bound in (variable.low, variable.high) if variable.choices is None else ():
            figure.add_vline(x=bound, line=_BOUND, **cell)
    if shown:
        _add_baseline(figure, baseline, baseline_name)
    last = max(history.points[-1].number if history.points else 0, 1)
    color_axis(figure, "trial", (0, last), dark_is_high=True)
    figure.update_layout(coloraxis_colorbar_dtick=math.ceil(last / 5))
    return figure


def plot_variables_over_trials(study: optuna.Study) -> go.Figure:
    """Draw each variable over the trials, colored by the value; a line follows the best so far.

    Args:
        study: A study with one objective.

    Raises:
        ImportError: If plotly is not installed; the extra `plot` brings it.
        ValueError: If the study has several objectives.
    """
    history = read_history(study)
    shown = variables(history)
    view = _View(
        x=lambda _, point: point.number,
        y=lambda variable, point: variable.position(point.params[variable.name]),
        color=lambda point: point.y,
    )
    figure = _grid(history, shown, view, title="Each variable over the trials")
    for index, (variable, cell) in enumerate(zip(shown, _cells(len(shown)), strict=True)):
        lowest = index + _COLUMNS >= len(shown)
        figure.update_xaxes(**_theme.trial_axis(history, titled=lowest), **cell)
        figure.update_yaxes(**variable.layout, **cell)
        for bound in (variable.low, variable.high) if variable.choices is None else ():
            figure.add_hline(y=bound, line=_BOUND, **cell)
        _add_incumbents(figure, history, variable, cell, legend=index == 0)
    limits = (history.axis.low, history.axis.high)
    color_axis(figure, history.value_name, limits, dark_is_high=history.axis.maximize)
    return figure


_BOUND = {"color": _theme.MUTED, "width": 1, "dash": "dot"}


def variable_of(name: str, known: Sequence[BaseDistribution]) -> Variable:
    """One axis for all the distributions that a variable had: its bounds may have been moved."""
    if all(isinstance(d, CategoricalDistribution) for d in known):
        choices = dict.fromkeys(
            choice for d in known if isinstance(d, CategoricalDistribution) for choice in d.choices
        )
        return Variable(name, 0.0, float(len(choices) - 1), choices=tuple(choices))
    numeric = [d for d in known if isinstance(d, FloatDistribution | IntDistribution)]
    low, high = min(d.low for d in numeric), max(d.high for d in numeric)
    return Variable(name, float(low), float(high), log=numeric[-1].log and low > 0)


def _cells(count: int) -> Iterator[dict[str, int]]:
    for index in range(count):
        yield {"row": index // _COLUMNS + 1, "col": index % _COLUMNS + 1}


def _grid(history: History, shown: list[Variable], view: _View, *, title: str) -> go.Figure:
    rows = max(1, math.ceil(len(shown) / _COLUMNS))
    plots = rows * _ROW_HEIGHT + (rows - 1) * _GAP
    figure = _theme.subplots().make_subplots(
        rows=rows,
        cols=min(_COLUMNS, max(1, len(shown))),
        subplot_titles=[variable.name for variable in shown] or None,
        vertical_spacing=_GAP / plots,
        horizontal_spacing=0.08,
    )
    marks = [mark for mark in Mark if history.count(mark)]
    for index, (variable, cell) in enumerate(zip(shown, _cells(len(shown)), strict=True)):
        for mark in marks:
            _add_points(figure, history, variable, view, mark, cell, legend=index == 0)
        _add_best(figure, history, variable, view, cell, legend=index == 0)
    _theme.style(figure, title=title, height=plots + _TOP + _theme.BOTTOM, top=_TOP)
    _theme.note_if_empty(figure, history)
    if not shown:
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
    return figure


def _add_points(
    figure: go.Figure,
    history: History,
    variable: Variable,
    view: _View,
    mark: Mark,
    cell: dict[str, int],
    *,
    legend: bool,
) -> None:
    """Add the trials with this mark that suggested the variable."""
    points = [p for p in history.points if p.mark is mark and variable.name in p.params]
    marker = _theme.marker(mark, maximize=history.axis.maximize)
    if mark in _SCALED:
        colors = [view.color(point) for point in points]
        marker |= {"color": colors, "coloraxis": "coloraxis"}
        marker["line"] = {"width": 1, "color": "white"} if mark is Mark.COMPLETE else {"width": 2}
    figure.add_scatter(
        x=[view.x(variable, point) for point in points],
        y=[view.y(variable, point) for point in points],
        mode="markers",
        marker=marker,
        name=mark.value,
        legendgroup=mark.value,
        showlegend=legend,
        text=[_theme.hover(point, history.value_name) for point in points],
        hoverinfo="text",
        **cell,
    )


def _add_best(
    figure: go.Figure,
    history: History,
    variable: Variable,
    view: _View,
    cell: dict[str, int],
    *,
    legend: bool,
) -> None:
    best = history.best
    if best is None or variable.name not in best.params:
        return
    figure.add_scatter(
        x=[view.x(variable, best)],
        y=[view.y(variable, best)],
        mode="markers",
        marker={
            "symbol": "star",
            "size": 17,
            "color": _theme.BEST,
            "line": {"width": 1, "color": "white"},
        },
        name=f"best (trial {best.number})",
        legendgroup="best",
        showlegend=legend,
        hovertext=[_theme.hover(best, history.value_name)],
        hoverinfo="text",
        **cell,
    )


def _add_incumbents(
    figure: go.Figure, history: History, variable: Variable, cell: dict[str, int], *, legend: bool
) -> None:
    """Add a line through the variable's value in the best trial so far."""
    steps = [p for p in history.points if p.improves and variable.name in p.params]
    if not steps:
        return
    heights = [variable.position(point.params[variable.name]) for point in steps]
    figure.add_scatter(
        x=[*(point.number for point in steps), history.points[-1].number],
        y=[*heights, heights[-1]],
        mode="lines",
        line={"shape": "hv", "color": _theme.BEST, "width": 1.5},
        name="best so far",
        legendgroup="best so far",
        showlegend=legend,
        hoverinfo="skip",
        **cell,
    )


def _add_baseline(figure: go.Figure, baseline: float | None, name: str) -> None:
    """Add the baseline to every subplot, and its value to the legend."""
    if baseline is None or not math.isfinite(baseline):
        return
    line = {"color": _theme.BASELINE, "width": 2, "dash": "dash"}
    figure.add_hline(y=baseline, line=line, row="all", col="all")
    label = f"{name}: {_theme.number(float(baseline))}"
    figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=label, row=1, col=1)


def color_axis(
    figure: go.Figure, title: str, limits: tuple[float, float], *, dark_is_high: bool
) -> None:
    """Add the color scale that points with `coloraxis` share; dark marks high or low values."""
    bar = {
        "title": {"text": title, "side": "right"},
        "thickness": 12,
        "outlinewidth": 0,
        "lenmode": "pixels",
        "len": _ROW_HEIGHT,
        "y": 1,
        "yanchor": "top",
    }
    figure.update_layout(
        coloraxis={
            "colorscale": _theme.SCALE,
            "cmin": limits[0],
            "cmax": limits[1],
            "reversescale": dark_is_high,
            "colorbar": bar,
        }
    )
