"""Points worth an evaluation: those where a Gaussian process expects most improvement."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.optimize
from numpy.random import Generator
from numpy.typing import NDArray

from optuna_partition.core.box import Box, GridAxis
from optuna_partition.core.claim import Status, Trial
from optuna_partition.surrogate.data import (
    Data,
    FloatArray,
    Kind,
    Variable,
    noise_of,
    variables_of,
)
from optuna_partition.surrogate.gaussian_process import MAX_POINTS, fit
from optuna_partition.surrogate.improvement import LogExpectedImprovement
from optuna_partition.surrogate.prior import Prior, long_prior, short_prior

# Candidates spread over the region, and as many near the best points known.
_CANDIDATES, _NEAR = 200, 3
# How far those may lie from them, as powers of ten of the region's sides.
_FARTHEST, _NEAREST = -0.3, -3.0
# Shares of the near candidates that move along a grid by one value, or to another choice.
_NEIGHBORS, _SWITCHES = 0.3, 0.5
# From the best candidates that lie apart, the improvement is followed uphill.
_CLIMBS, _APART, _ITERATIONS = 2, 0.05, 20
_EXCHANGES = 3
# Doubt of a violated constraint, in that of a failure.
_VIOLATION_DOUBT = 0.25
# Neighbors on a grid must be within the region though rounding errors say otherwise.
_SLACK = 1.01


@dataclass(frozen=True, slots=True)
class ProcessProposer:
    """Maximizes the expected improvement of a Gaussian process over a region of the box.

    Trials under way count as their posterior means. Infeasible and failed trials count like the
    worst value, with doubt; while nothing is feasible, violations count as values.

    Args:
        noisy: Whether two evaluations of a point may differ.
        smooth: Whether functions are expected to vary over the whole cube (`long_prior`) instead of
            bending within a part of it (`short_prior`).
    """

    noisy: bool = False
    smooth: bool = False

    def __call__(
        self, box: Box, trials: list[Trial], level: int, seed: tuple[int, int]
    ) -> Iterator[tuple[float, ...]]:
        """Points, (d,) each, by falling expected improvement; they may have been evaluated.

        Args:
            box: The search space.
            trials: What is known, and what is under way.
            level: The region is the cell of side `3**-level` around the point with the best mean;
                grids reach to the next values at least, choices stay. 0 for the whole box.
            seed: Of the candidates.
        """
        variables = variables_of(box)
        d = len(variables)
        known = [trial for trial in trials if trial.status is Status.KNOWN]
        points = np.array([trial.point for trial in known]).reshape(-1, d)
        values, variances = _values(known)
        pending = np.array([trial.point for trial in trials if trial.status is Status.PENDING])
        noise = noise_of(values, variances)
        # A crash may be bad luck; that a constraint is violated is known, but not where it begins.
        noise[[0 < trial.rank[0] < math.inf for trial in known]] *= _VIOLATION_DOUBT**2
        data = Data(variables, points, values, noise)
        process = fit(data, self._prior(d)).given(pending.reshape(-1, d))
        # The best of what the process knows; of thousands of others it would only cost time.
        known_to_it = data.thinned(MAX_POINTS)
        points = known_to_it.points
        means = process.means(points)
        order = np.argsort(
            np.where(np.isfinite(known_to_it.values), means, math.inf), kind="stable"
        )
        improvement = LogExpectedImprovement(process, float(means.min()))
        region = _Region.around(box, variables, points[order[0]], level)
        starts = points[order[: 1 if level else _NEAR]]
        return _best_first(improvement, region, starts, np.random.default_rng(seed))

    def _prior(self, d: int) -> Prior:
        return long_prior(d, noisy=self.noisy) if self.smooth else short_prior(noisy=self.noisy)


def _values(known: list[Trial]) -> tuple[FloatArray, FloatArray]:
    """Values, (n,), and their variances, (n,), NaN where unknown.

    Infeasible trials are +inf; while nothing is feasible, violations are the values.
    """
    found = np.array([t.rank[-1] if t.rank[0] == 0 else math.inf for t in known])
    if np.isfinite(found).any():
        return found, np.array([t.variance for t in known])
    return np.array([t.rank[0] for t in known]), np.full(len(known), math.nan)


@dataclass(frozen=True, slots=True)
class _Region:
    """A part of the box between two corners.

    Args:
        box: The search space.
        variables: Its axes.
        low: (d,) lower corner.
        high: (d,) upper corner.
    """

    box: Box
    variables: tuple[Variable, ...]
    low: FloatArray
    high: FloatArray

    @classmethod
    def around(
        cls, box: Box, variables: tuple[Variable, ...], center: FloatArray, level: int
    ) -> _Region:
        """The cell of the trisected grid that holds a point, as `ProcessProposer` widens it."""
        low, high = np.zeros(len(center)), np.ones(len(center))
        parts = 3**level
        for k, (variable, at) in enumerate(zip(variables, center.tolist(), strict=True)):
            if level == 0:
                continue
            if variable.kind is Kind.CHOICE:
                low[k] = high[k] = at
                continue
            part = min(int(at * parts), parts - 1)
            reach = _SLACK * variable.spacing
            low[k] = max(min(part / parts, at - reach), 0.0)
            high[k] = min(max((part + 1) / parts, at + reach), 1.0)
        return cls(box, variables, low, high)

    @property
    def sides(self) -> FloatArray:
        """(d,) in unit-cube lengths."""
        return self.high - self.low

    @property
    def free(self) -> NDArray[np.bool_]:
        """(d,) whether an axis is continuous."""
        return np.array([variable.kind is Kind.CONTINUOUS for variable in self.variables])

    def clipped(self, points: FloatArray) -> FloatArray:
        """Points (m, d) moved into the region, and onto the grids."""
        found = np.clip(points, self.low, self.high)
        for k, (axis, variable) in enumerate(zip(self.box.axes, self.variables, strict=True)):
            if variable.count:
                found[:, k] = [axis.unit(axis.at(unit)) for unit in found[:, k].tolist()]
        return found

    def candidates(self, starts: FloatArray, rng: Generator) -> FloatArray:
        """Points (m, d) all over the region, and near the starts (n, d)."""
        shape = _CANDIDATES, len(self.low)
        everywhere = self.low + self.sides * rng.uniform(size=shape)
        scales = 10 ** rng.uniform(_NEAREST, _FARTHEST, size=(_CANDIDATES, 1))
        moved = rng.uniform(size=shape) < np.maximum(
            rng.uniform(size=(_CANDIDATES, 1)), 1 / shape[1]
        )
        near = starts[np.arange(_CANDIDATES) % len(starts)]
        near = near + moved * scales * self.sides * rng.normal(size=shape)
        for k, variable in enumerate(self.variables):
            chosen = moved[:, k] & (rng.uniform(size=_CANDIDATES) < self._share(variable))
            if variable.kind is Kind.CHOICE:
                near[chosen, k] = rng.uniform(size=int(chosen.sum()))
            elif variable.count:
                near[chosen, k] += rng.choice([-1, 1], size=int(chosen.sum())) * variable.spacing
        return self.clipped(np.vstack([everywhere, near]))

    def _share(self, variable: Variable) -> float:
        return _SWITCHES if variable.kind is Kind.CHOICE else _NEIGHBORS

    def neighbors(self, point: FloatArray) -> FloatArray:
        """Points (m, d) that differ in one choice, or by one value of a grid."""
        found = []
        for k, (axis, variable) in enumerate(zip(self.box.axes, self.variables, strict=True)):
            units: list[float] = []
            if variable.kind is Kind.CHOICE and self.sides[k] > 0:
                units = [(i + 0.5) / variable.count for i in range(variable.count)]
            elif isinstance(axis, GridAxis):
                here = axis.values.index(axis.at(float(point[k])))
                there = [i for i in (here - 1, here + 1) if 0 <= i < variable.count]
                units = [axis.unit(axis.values[i]) for i in there]
            for unit in units:
                neighbor = point.copy()
                neighbor[k] = unit
                found.append(neighbor)
        return np.array(found).reshape(-1, len(point))


def _best_first(
    improvement: LogExpectedImprovement, region: _Region, starts: FloatArray, rng: Generator
) -> Iterator[tuple[float, ...]]:
    candidates = region.candidates(starts, rng)
    values = improvement(candidates)
    order = np.argsort(-values, kind="stable")
    found = [(float(values[row]), candidates[row]) for row in _apart(candidates, order, region)]
    found += [_climbed(improvement, region, point) for _, point in found]
    found += _exchanged(improvement, region, *max(found, key=lambda item: item[0]))
    found.sort(key=lambda item: -item[0])
    for _, point in found:
        yield tuple(point.tolist())
    for row in order.tolist():
        yield tuple(candidates[row].tolist())


def _apart(candidates: FloatArray, order: NDArray[np.intp], region: _Region) -> list[int]:
    """Rows of the best candidates that do not lie next to each other."""
    chosen: list[int] = []
    least = _APART * float(region.sides.max())
    for row in order.tolist():
        away = np.abs(candidates[chosen] - candidates[row]).max(axis=1, initial=0.0)
        if not chosen or away.min() > least:
            chosen.append(row)
        if len(chosen) == _CLIMBS:
            break
    return chosen


def _climbed(
    improvement: LogExpectedImprovement, region: _Region, start: FloatArray
) -> tuple[float, FloatArray]:
    """A local maximum along the continuous axes, and its value."""
    free = region.free & (region.sides > 0)
    point = start.copy()
    if not free.any():
        return -math.inf, point

    def descent(at: FloatArray) -> tuple[float, FloatArray]:
        point[free] = at
        value, gradient = improvement.gradient(point)
        return -value, -gradient[free]

    ends = scipy.optimize.Bounds(region.low[free], region.high[free])
    found = scipy.optimize.minimize(
        descent,
        start[free],
        jac=True,
        method="L-BFGS-B",
        bounds=ends,
        options={"maxiter": _ITERATIONS},
    )
    point[free] = np.clip(found.x, region.low[free], region.high[free])
    return -float(found.fun), point


def _exchanged(
    improvement: LogExpectedImprovement, region: _Region, value: float, point: FloatArray
) -> list[tuple[float, FloatArray]]:
    """Better points that differ by one value of an axis each time."""
    found: list[tuple[float, FloatArray]] = []
    for _ in range(_EXCHANGES):
        neighbors = region.neighbors(point)
        if not len(neighbors):
            break
        values = improvement(neighbors)
        best = int(np.argmax(values))
        found += zip(values.tolist(), neighbors, strict=True)
        if not values[best] > value:
            break
        value, point = float(values[best]), neighbors[best]
    return found
