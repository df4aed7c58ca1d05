"""The cells of a partition, as a slice along two variables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import optuna

from optuna_partition.core import cell as cells
from optuna_partition.core.box import Axis, ChoiceAxis, FloatAxis, GridAxis
from optuna_partition.core.cell import Cell
from optuna_partition.samplers._reading import Partition, read_partition
from optuna_partition.samplers._space import SearchSpace
from optuna_partition.visualization import _theme
from optuna_partition.visualization._history import ValueAxis, read_history
from optuna_partition.visualization._variables import color_axis, variable_of

if TYPE_CHECKING:
    from plotly import graph_objects as go

_HEIGHT = 620
_UNKNOWN = "#ffffff"


def plot_partition(
    study: optuna.Study,
    *,
    params: tuple[str, str] | None = None,
    search_space: SearchSpace | None = None,
) -> go.Figure:
    """Draw the cells of the partition, colored by value, and the points that were evaluated.

    With more than two variables it is the slice through the best point: the cells that the best
    values of all other variables cross.

    Args:
        study: A study whose trials were chosen by a partition sampler.
        params: The two variables to draw; None: the first two of the search space. A space of one
            variable is drawn as a strip.
        search_space: The space that the sampler was given, if it was given one.

    Raises:
        ImportError: If plotly is not installed; the extra `plot` brings it.
        ValueError: If `params` names another variable, or the study holds no partition.
    """
    graph_objects = _theme.graph_objects()
    partition = read_partition(study, search_space=search_space)
    shown = _shown(partition, params)
    sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
    history = read_history(study)
    slice_ = _slice(partition, shown)
    figure = graph_objects.Figure()
    colors = _Colors(history.axis, sign)
    for cell in slice_:
        figure.add_shape(
            **_rectangle(partition, cell, shown), **colors.fill(partition.tree.value(cell))
        )
    known = {c: sign * v for c in slice_ if (v := partition.tree.value(c)) is not None}
    figure.add_scatter(**_points(partition, known, shown, history.value_name))
    _theme.style(figure, title=_title(partition, shown), height=_HEIGHT)
    by_name = {name: variable_of(name, (d,)) for name, d in partition.space.items()}
    for update, k in zip((figure.update_xaxes, figure.update_yaxes), shown, strict=False):
        name = partition.tree.box.axes[k].name
        update(**by_name[name].layout, title={"text": name}, showgrid=False)
    if len(shown) == 1:
        figure.update_yaxes(visible=False)
    limits = (history.axis.low, history.axis.high)
    color_axis(figure, history.value_name, limits, dark_is_high=history.axis.maximize)
    return figure


@dataclass(frozen=True, slots=True)
class _Colors:
    """Fill of a cell by its minimized value, on the scale of the points."""

    axis: ValueAxis
    sign: float

    def fill(self, value: float | None) -> dict[str, Any]:
        if value is None:
            return {"fillcolor": _UNKNOWN}
        span = self.axis.high - self.axis.low
        share = (min(max(self.sign * value, self.axis.low), self.axis.high) - self.axis.low) / span
        # The scale runs from dark to light; dark is best.
        share = 1 - share if self.axis.maximize else share
        (color,) = _theme.colors().sample_colorscale(_theme.SCALE, [share])
        return {"fillcolor": color, "opacity": 0.6}


def _shown(partition: Partition, params: tuple[str, str] | None) -> tuple[int, ...]:
    names = list(partition.space)
    if params is None:
        return tuple(range(min(2, len(names))))
    if len(set(params)) != 2 or not set(params) <= set(names):
        raise ValueError(f"params is {params!r}, expected two different names of {names}.")
    return tuple(names.index(name) for name in params)


def _title(partition: Partition, shown: tuple[int, ...]) -> str:
    if len(partition.space) <= len(shown):
        return "Cells of the partition"
    return "Cells of the partition, in a slice through the best point"


def _slice(partition: Partition, shown: tuple[int, ...]) -> list[Cell]:
    """The cells that the best leaf's center crosses along the variables that are not shown."""
    tree = partition.tree
    nodes = tree.leaves + tree.open_divisions
    best = min(nodes, key=lambda c: math.inf if (v := tree.value(c)) is None else v)
    others = [k for k in range(len(partition.space)) if k not in shown]
    at: dict[int, Fraction] = {}
    for k in others:
        low, high = cells.intervals(tree.box, best)[k]
        at[k] = (low + high) / 2
    found = []
    for cell in nodes:
        edges = cells.intervals(tree.box, cell)
        if all(edges[k][0] <= at[k] < edges[k][1] for k in others):
            found.append(cell)
    return found


def _edges(axis: Axis, level: int, index: int) -> tuple[float, float]:
    """Where a cell begins and ends, in the variable's own units; a choice takes its position."""
    low, high = axis.interval(level, index)
    match axis:
        case FloatAxis():
            return axis.at(float(low)), axis.at(float(high))
        case GridAxis():
            first, last = int(low * len(axis.values)), int(high * len(axis.values)) - 1
            step = axis.values[1] - axis.values[0] if len(axis.values) > 1 else 1
            return axis.values[first] - step / 2, axis.values[last] + step / 2
        case ChoiceAxis():
            count = len(axis.choices)
            return float(low * count) - 0.5, float(high * count) - 0.5
    raise TypeError(f"axis is {axis!r}, expected a float, grid or choice axis.")


def _position(axis: Axis, level: int, index: int) -> float:
    value = axis.value(level, index)
    return float(axis.choices.index(value)) if isinstance(axis, ChoiceAxis) else float(value)


def _rectangle(partition: Partition, cell: Cell, shown: tuple[int, ...]) -> dict[str, Any]:
    axes = partition.tree.box.axes
    sides = [_edges(axes[k], cell.levels[k], cell.index[k]) for k in shown]
    x, y = (*sides, (-0.5, 0.5))[:2]
    return {
        "type": "rect",
        "x0": x[0],
        "x1": x[1],
        "y0": y[0],
        "y1": y[1],
        "line": {"color": "white", "width": 1},
        "layer": "below",
    }


def _points(
    partition: Partition, known: dict[Cell, float], shown: tuple[int, ...], value_name: str
) -> dict[str, Any]:
    axes = partition.tree.box.axes
    at = [[_position(axes[k], c.levels[k], c.index[k]) for c in known] for k in shown]
    texts = [
        "<br>".join(
            [f"{value_name} {_theme.number(value)}"]
            + [f"{name} = {_theme.number(v)}" for name, v in _decoded(partition, cell).items()]
        )
        for cell, value in known.items()
    ]
    return {
        "x": at[0],
        "y": at[1] if len(at) > 1 else [0.0] * len(known),
        "mode": "markers",
        "marker": {
            "size": 8,
            "color": list(known.values()),
            "coloraxis": "coloraxis",
            "line": {"width": 1, "color": "white"},
        },
        "hovertext": texts,
        "hoverinfo": "text",
        "showlegend": False,
    }


def _decoded(partition: Partition, cell: Cell) -> dict[str, Any]:
    return cells.decode(partition.tree.box, cell)
