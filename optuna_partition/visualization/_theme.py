"""Colors, symbols and layout that all figures share, and the late import of plotly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

from optuna_partition.visualization._history import History, Mark, Point

if TYPE_CHECKING:
    from plotly import graph_objects as go

INK: Final = "#1f2937"
MUTED: Final = "#6b7280"
GRID: Final = "#e5e7eb"
BEST: Final = "#2563eb"
BASELINE: Final = "#b45309"
FAILED: Final = "#dc2626"
FONT: Final = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
# Dark is good: the best trials stand out on a white page.
SCALE: Final = "Viridis"
BOTTOM: Final = 56  # pixels below the plots, for the ticks and the title of the axis

_SYMBOLS: Final = {
    Mark.COMPLETE: ("circle", MUTED),
    Mark.INFEASIBLE: ("square-open", MUTED),
    Mark.PRUNED: ("circle-open", MUTED),
    Mark.CLIPPED: ("triangle-up", FAILED),
    Mark.FAILED: ("x-thin-open", FAILED),
}


def graph_objects() -> ModuleType:
    """The module `plotly.graph_objects`, or an ImportError that names the extra."""
    with _plotly_needed():
        from plotly import graph_objects
    return cast("ModuleType", graph_objects)


def subplots() -> ModuleType:
    """The module `plotly.subplots`, or an ImportError that names the extra."""
    with _plotly_needed():
        from plotly import subplots
    return cast("ModuleType", subplots)


def offline() -> ModuleType:
    """The module `plotly.offline`, or an ImportError that names the extra."""
    with _plotly_needed():
        from plotly import offline
    return cast("ModuleType", offline)


def colors() -> ModuleType:
    """The module `plotly.colors`, or an ImportError that names the extra."""
    with _plotly_needed():
        from plotly import colors
    return cast("ModuleType", colors)


@contextmanager
def _plotly_needed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            "Figures need plotly, which is not installed. Install the extra that brings it: "
            "pip install 'optuna-partition[plot]'"
        ) from error


def marker(mark: Mark, *, maximize: bool) -> dict[str, Any]:
    """Marker of a trial, as plotly takes it."""
    symbol, color = _SYMBOLS[mark]
    if mark is Mark.CLIPPED and maximize:
        symbol = "triangle-down"
    return {"symbol": symbol, "color": color, "size": 9, "line": {"width": 2, "color": color}}


def hover(point: Point, value_name: str) -> str:
    """Text shown when the pointer is over a trial."""
    value = "no value" if point.value is None else f"{value_name} {number(point.value)}"
    params = [f"{name} = {number(param)}" for name, param in point.params.items()]
    return "<br>".join([f"<b>trial {point.number}</b>, {point.mark.value}", value, *params])


def number(value: object) -> str:
    """A value with four significant digits; integers and texts as they are."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def style(figure: go.Figure, *, title: str, height: int, top: int = 90) -> go.Figure:
    """Apply the common layout, in place, and return the figure.

    Args:
        figure: What to lay out.
        title: Its title, above the legend.
        height: Its height in pixels.
        top: Height in pixels above the plots, for title, legend and the subplots' titles.
    """
    plots = height - top - BOTTOM
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0, "xref": "paper", "y": 1 - 24 / height},
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 70, "r": 24, "t": top, "b": BOTTOM},
        legend={"orientation": "h", "x": 0, "y": 1 + (top - 84) / plots, "yanchor": "bottom"},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"family": FONT}},
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=GRID, ticks="outside")
    figure.update_yaxes(gridcolor=GRID, zeroline=False, linecolor=GRID, ticks="outside")
    return figure


def trial_axis(history: History, *, titled: bool = True) -> dict[str, Any]:
    """Axis of the trial numbers: whole numbers only, also for one trial."""
    last = history.points[-1].number if history.points else 0
    return {
        "title": {"text": "trial" if titled else None},
        "range": [-0.5, max(last, 1) + 0.5],
        "dtick": 1 if last <= 20 else None,
        "tickformat": "d",
    }


def note_if_empty(figure: go.Figure, history: History) -> None:
    """Say in the figure that there is nothing to see yet, and why."""
    if history.best is not None:
        return
    text = "No trial has finished yet" if not history.points else "No trial has completed"
    figure.add_annotation(
        text=text,
        x=0.5,
        y=0.7,
        xref="paper",
        yref="paper",
        showarrow=False,
        font={"size": 18, "color": MUTED},
    )
