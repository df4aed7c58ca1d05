"""Which hyperparameters want a larger range: the best trials against the bounds of the search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from optuna_partition.visualization import _theme
from optuna_partition.visualization._history import History, Mark, Point, read_history
from optuna_partition.visualization._variables import Variable, variable_of

if TYPE_CHECKING:
    from optuna.study import Study
    from plotly import graph_objects as go

Limits = Mapping[str, tuple[float, float]]
Numeric = FloatDistribution | IntDistribution

_MARGIN: Final = 0.1  # of a range: as near as this a trial lies at the bound
_GROWTH: Final = 0.5  # of a range, on the scale on which it is searched
_FEWEST: Final = 3  # trials that say something
_SHARE: Final = 0.1  # of the completed trials that count as the best
_NEARER_TO_0: Final = 10.0  # a positive linear range gets a low end this many times lower at most
_ROW: Final = 56  # pixels


@dataclass(frozen=True, slots=True)
class Bound:
    """Where the best trials lie in the range of one parameter.

    Attributes:
        name: Name of the parameter.
        distribution: Its range: the one of the latest trial that has it.
        positions: Of the best trials, best first, on the scale on which it is searched: 0 is the
            low end, 1 the high end.
        pressed: The bound that the best trials lie at, if they do.
        proposed: The range to go on with; the same one if no bound is pressed, or a hard limit
            allows no other.
    """

    name: str
    distribution: Numeric
    positions: tuple[float, ...]
    pressed: Literal["lower", "upper"] | None
    proposed: Numeric

    def __str__(self) -> str:
        """A line for a person."""
        if self.pressed is None:
            return f"{self.name}: inside {_interval(self.distribution)}"
        found = f"{self.name}: at the {self.pressed} bound of {_interval(self.distribution)}"
        if self.proposed == self.distribution:
            return f"{found}, which is its limit"
        return f"{found}, try {_interval(self.proposed)}"


@dataclass(frozen=True, slots=True)
class BoundsReport:
    """Every numeric parameter against its bounds, and the space to go on with.

    Attributes:
        bounds: One for each numeric parameter, in the order of the trials' suggestions.
        space: Distributions of all parameters, for a sampler's `search_space`: those of the study,
            enlarged where a bound is pressed.
        best: Numbers of the trials that count as the best, best first.
    """

    bounds: tuple[Bound, ...]
    space: dict[str, BaseDistribution]
    best: tuple[int, ...]
    _history: History = field(repr=False)

    @property
    def pressed(self) -> tuple[Bound, ...]:
        """Those parameters whose best trials lie at a bound."""
        return tuple(bound for bound in self.bounds if bound.pressed is not None)

    def __str__(self) -> str:
        """A line a parameter."""
        return "\n".join(map(str, self.bounds))

    def figure(self) -> go.Figure:
        """Draw all finished trials in the ranges of their parameters, and the best ones on top.

        Raises:
            ImportError: If plotly is not installed; the extra `plot` brings it.
        """
        go = _theme.graph_objects()
        figure = go.Figure()
        chosen = set(self.best)
        points = self._history.points
        others = [point for point in points if point.number not in chosen]
        best = [point for number in self.best for point in points if point.number == number]
        for name, drawn, marker in (
            ("other trials", others, {"color": _theme.MUTED, "size": 7, "opacity": 0.35}),
            ("best trials", best, {"color": _theme.BEST, "size": 10, "opacity": 0.7}),
        ):
            x, y, text = zip(*self._drawn(drawn), strict=True) if drawn else ((), (), ())
            figure.add_scatter(
                x=x, y=y, text=text, name=name, mode="markers", marker=marker, hoverinfo="text"
            )
        for low, high in ((0.0, _MARGIN), (1 - _MARGIN, 1.0)):
            figure.add_vrect(x0=low, x1=high, fillcolor=_theme.GRID, opacity=0.4, line_width=0)
        _theme.style(
            figure,
            title="Best trials against the bounds of the search",
            height=160 + _ROW * len(self.bounds),
        )
        figure.update_xaxes(
            range=[-0.03, 1.03], tickvals=[0, 0.5, 1], ticktext=["low", "middle", "high"]
        )
        figure.update_yaxes(
            tickvals=list(range(len(self.bounds))),
            ticktext=[self._label(bound) for bound in self.bounds],
            range=[len(self.bounds) - 0.5, -0.5],
            automargin=True,
        )
        return figure

    def _drawn(self, points: Sequence[Point]) -> Iterator[tuple[float, int, str]]:
        for row, bound in enumerate(self.bounds):
            variable = variable_of(bound.name, [bound.distribution])
            for point in points:
                if bound.name in point.params:
                    value = point.params[bound.name]
                    text = f"trial {point.number}: {bound.name} {_theme.number(value)}"
                    yield variable.unit(float(value)), row, text

    @staticmethod
    def _label(bound: Bound) -> str:
        mark = {"lower": "\N{LEFTWARDS ARROW} ", "upper": "\N{RIGHTWARDS ARROW} ", None: ""}
        return f"{mark[bound.pressed]}{bound.name}<br>{_interval(bound.distribution)}"


def bounds_report(
    study: Study, *, limits: Limits | None = None, best: int | None = None
) -> BoundsReport:
    """Say which parameters press against their bounds, and propose a larger space.

    A bound is pressed if the best trial and at least half of the best trials lie within a tenth of
    the range of it, on the scale on which the parameter is searched. The range then grows by half
    of itself, on that scale, beyond the bound. A range that starts above 0 stays above it, an
    integer one keeps its grid, choices stay as they are.

    A partition sampler evaluates the centers of cells and never a bound itself, but its best trials
    come within a tenth of it when it has divided the axis twice.

    Args:
        study: A study with one objective.
        limits: Lowest and highest value that a parameter can take at all, by name, such as
            `objectives.HARD_LIMITS`.
        best: Number of trials that count as the best; by default a tenth of the completed ones, at
            least three.

    Raises:
        ValueError: If the study has several objectives, or fewer than three completed trials.
    """
    history = read_history(study)
    points = [point for point in history.points if point.mark is Mark.COMPLETE]
    if len(points) < _FEWEST:
        raise ValueError(
            f"The study has {len(points)} completed trials whose values can be compared, expected "
            f"{_FEWEST} or more."
        )
    sign = -1.0 if history.axis.maximize else 1.0
    points.sort(key=lambda point: (sign * _value(point), point.number))
    count = max(_FEWEST, math.ceil(_SHARE * len(points))) if best is None else best
    chosen = points[:count]
    bounds, space = [], {}
    for name, known in history.distributions.items():
        space[name] = distribution = known[-1]
        if isinstance(distribution, Numeric) and not distribution.single():
            bound = _bound(name, distribution, chosen, (limits or {}).get(name))
            bounds.append(bound)
            space[name] = bound.proposed
    return BoundsReport(tuple(bounds), space, tuple(p.number for p in chosen), history)


def _bound(
    name: str, distribution: Numeric, chosen: list[Point], limits: tuple[float, float] | None
) -> Bound:
    variable = variable_of(name, [distribution])
    values = [float(point.params[name]) for point in chosen if name in point.params]
    positions = tuple(map(variable.unit, values))
    pressed = _pressed(positions)
    proposed = distribution
    if pressed is not None:
        proposed = _enlarged(variable, distribution, pressed, limits or (-math.inf, math.inf))
    return Bound(name, distribution, positions, pressed, proposed)


def _pressed(positions: tuple[float, ...]) -> Literal["lower", "upper"] | None:
    sides: tuple[tuple[Literal["lower", "upper"], list[float]], ...] = (
        ("lower", list(positions)),
        ("upper", [1 - position for position in positions]),
    )
    for side, distances in sides:
        near = [distance <= _MARGIN for distance in distances]
        if near and near[0] and 2 * sum(near) >= len(near):
            return side
    return None


def _enlarged(
    variable: Variable,
    distribution: Numeric,
    pressed: Literal["lower", "upper"],
    limits: tuple[float, float],
) -> Numeric:
    low, high = variable.low, variable.high
    if variable.log:
        factor = (high / low) ** _GROWTH
        lower, upper = low / factor, high * factor
    else:
        growth = _GROWTH * (high - low)
        floor = low / _NEARER_TO_0 if low > 0 else 0.0 if low == 0 else -math.inf
        lower, upper = max(low - growth, floor), high + growth
    if pressed == "lower":
        return _with_low(distribution, min(max(lower, limits[0]), low))
    return _with_high(distribution, max(min(upper, limits[1]), high))


def _with_low(distribution: Numeric, low: float) -> Numeric:
    if distribution.step is not None and not distribution.log:
        steps = _whole((distribution.low - low) / distribution.step)
        low = _moved(distribution.low, -steps, distribution.step)
    return _replaced(distribution, low, distribution.high)


def _with_high(distribution: Numeric, high: float) -> Numeric:
    if distribution.step is not None and not distribution.log:
        steps = _whole((high - distribution.high) / distribution.step)
        high = _moved(distribution.high, steps, distribution.step)
    return _replaced(distribution, distribution.low, high)


def _whole(steps: float) -> int:
    return math.floor(steps + 1e-9)  # 0.5 / 0.1 may be a little less than 5


def _moved(end: float, steps: int, step: float) -> float:
    """An end of a grid after whole steps, in decimals: 0.5 + 3 * 0.1 is 0.8."""
    return float(Decimal(str(end)) + steps * Decimal(str(step)))


def _replaced(distribution: Numeric, low: float, high: float) -> Numeric:
    log = distribution.log
    if isinstance(distribution, IntDistribution):
        return IntDistribution(math.ceil(low), math.floor(high), log=log, step=distribution.step)
    return FloatDistribution(low, high, log=log, step=distribution.step)


def _value(point: Point) -> float:
    assert point.value is not None  # the trial has completed
    return point.value


def _interval(distribution: Numeric) -> str:
    return f"{_theme.number(distribution.low)} to {_theme.number(distribution.high)}"
