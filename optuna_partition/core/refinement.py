"""Local refinement: between the divisions, a model of the values near the best one is minimized.

The model is a radial basis function with a cubic kernel and a linear tail, as in derivative-free
trust region methods [Wild and Shoemaker 2011]. The trust region is a cube around the best point
that doubles after a probe that paid and halves after one that did not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optuna_partition.core.box import Axis, ChoiceAxis, GridAxis
from optuna_partition.core.claim import Claim, Probe, Record, Status
from optuna_partition.core.points import spread
from optuna_partition.core.tree import Tree

FloatArray = NDArray[np.float64]

# Half-width of the trust region: at first, at least and at most; in unit-cube lengths.
_FIRST_WIDTH, _LEAST_WIDTH, _LARGEST_WIDTH = 1 / 3, 1e-4, 1.0
# Workers that probe at the same time take the whole width and half of it in turn.
_SHARES = (1.0, 0.5)
# So many of the latest probes decide on the width: those of many workers, and one that never ends
# counts for a while only.
_RECENT = 32
# How often one ask halves the region when its minimizer lies within this part of it of a known
# point.
_HALVINGS, _CLOSE = 3, 0.1
# Every second evaluation is a probe; where none was found it is looked for ever less often, but
# every 64 evaluations.
_TURN, _LONGEST_WAIT = 2, 64
# The model takes this many points a dimension, and so many more.
_POINTS, _MORE_POINTS = 4, 4
# A little smoothing: two values of one place that differ by noise must not tear the model apart.
_RIDGE = 1e-6
# Where the search for the model's minimizer looks first, how many steps it makes at most, sweeps
# over the axes in a step, and parts of a step that it tries.
_STARTS, _STEPS, _SWEEPS = 24, 3, 4
_PARTS = np.array([1.0, 0.5, 0.25, 0.1])[:, None]


def refined(tree: Tree, *, rule: Callable[[Tree], Claim | None]) -> Claim | None:
    """The next evaluation of a rule that probes between the divisions.

    Args:
        tree: The partition, grouped as the rule needs it.
        rule: Chooses the next division.

    Returns:
        A claim, or None if no evaluation is left to hand out.
    """
    latest = next(tree.latest_probes(), None)
    before = None if latest is None else latest.claim.probe
    is_turn = _is_turn(tree.count - (before.count if before else 0))
    return (trust_region_probe(tree) if is_turn else None) or rule(tree)


def trust_region_probe(tree: Tree) -> Claim | None:
    """The minimizer of the model in the trust region, if there is a new one."""
    values = tree.points.values
    d = len(tree.box.axes)
    if np.count_nonzero(~np.isnan(values)) < d + 2:
        return None
    keys = tree.points.keys
    best = min(np.flatnonzero(values == np.nanmin(values)), key=lambda row: int(keys[row]))
    return _probe_around(tree, int(best), _width(tree))


def _is_turn(waited: int) -> bool:
    turns, rest = divmod(waited, _TURN)
    return rest == 0 and turns > 0 and (turns.bit_count() == 1 or waited % _LONGEST_WAIT == 0)


def _width(tree: Tree) -> float:
    """Half-width of the trust region after the probes so far.

    Of the latest ones, as many as there are workers that probe, the best that paid decides; if none
    has paid, the widest. With one worker that is the last one.
    """
    latest = itertools.islice(tree.latest_probes(), _RECENT)
    found = [(record, record.claim.probe) for record in latest if record.claim.probe is not None]
    found = [(record, probe) for record, probe in found if probe.width > 0]
    pending = sum(record.status is Status.PENDING for record, _ in found)
    ended = [(r, probe) for r, probe in found if r.status is not Status.PENDING][: pending + 1]
    paid = [(record.value, probe.width) for record, probe in ended if _has_paid(record, probe)]
    if paid:
        width = 2.0 * min(paid, key=lambda item: item[0])[1]
    else:
        width = max((0.5 * probe.width for _, probe in ended), default=_FIRST_WIDTH)
    return min(max(width * _SHARES[pending % len(_SHARES)], _LEAST_WIDTH), _LARGEST_WIDTH)


def _has_paid(record: Record, probe: Probe) -> bool:
    """Whether a probe found what it was meant to."""
    feasible = record.status is Status.KNOWN and record.violation == 0
    return feasible and (probe.best is None or record.value < probe.best)


def _probe_around(tree: Tree, best: int, width: float) -> Claim | None:
    """The probe in the cube around the best point, given by its row, or in a smaller one."""
    box, points, values = tree.box, tree.points.points, tree.points.values
    center, value = points[best], float(values[best])
    parameters = tuple(box.at(center.tolist()).values())
    is_choice = np.array([isinstance(axis, ChoiceAxis) for axis in box.axes])
    # The model knows of choices whether they are the best point's.
    offsets = np.where(is_choice, points != center, points - center)
    model = _model_near(tree, offsets)
    if model is None:
        return None
    for halvings in range(_HALVINGS + 1):
        half = width / 2**halvings
        if half < _LEAST_WIDTH:
            return None
        low, high = np.array(
            [
                _reach(axis, parameter, at, half)
                for axis, parameter, at in zip(box.axes, parameters, center.tolist(), strict=True)
            ]
        ).T
        unit = np.clip(center + model.minimizer(low, high), 0.0, 1.0).tolist()
        found = tuple(box.at(unit).values())
        snapped = np.array(box.units(found))
        steps = np.abs(np.where(is_choice, snapped != center, snapped - center) - offsets)
        if steps.max(axis=1).min() > _CLOSE * half and not tree.is_tried(found):
            probe = Probe(tuple(unit), value, half, tree.count)
            return Claim(tree.place_of(found).cell, probe=probe)
    return None


def _reach(axis: Axis, parameter: Any, at: float, half: float) -> tuple[float, float]:
    """How far a step may go below and above a position; on a grid as far as the neighbors."""
    if isinstance(axis, ChoiceAxis):
        return 0.0, 0.0
    low, high = max(-half, -at), min(half, 1.0 - at)
    if isinstance(axis, GridAxis):
        k, last = axis.values.index(parameter), len(axis.values) - 1
        low = min(low, axis.unit(axis.values[max(k - 1, 0)]) - at)
        high = max(high, axis.unit(axis.values[min(k + 1, last)]) - at)
    return low, high


@dataclass(frozen=True, slots=True)
class _Model:
    """A cubic radial basis function with a linear tail, up to a constant.

    `sum_i w_i |x - x_i|**3 + b x`, where the weights are orthogonal to all linear functions.

    Args:
        points: (n, d) points x_i as offsets from the best one, in units of `scale`.
        weights: (n,).
        slope: (d,).
        scale: Unit-cube length.
    """

    points: FloatArray
    weights: FloatArray
    slope: FloatArray
    scale: float

    def minimizer(self, low: FloatArray, high: FloatArray) -> FloatArray:
        """Offset (d,) with a low value between two corners (d,): Newton's steps in a box."""
        low, high = low / self.scale, high / self.scale
        starts = low + (high - low) * spread(_STARTS, len(low))
        x, value = self._best(np.vstack([np.zeros(len(low)), starts]))
        for _ in range(_STEPS):
            gradient, hessian = self.derivatives(x)
            step = _quadratic_minimizer(gradient, hessian, low - x, high - x)
            following, reached = self._best(x + _PARTS * step)
            if not reached < value:
                break
            x, value = following, reached
        return np.asarray(x * self.scale)

    def values(self, x: FloatArray) -> FloatArray:
        """Values (m,) at x, (m, d), up to a constant."""
        return np.asarray(_cubic(x, self.points) @ self.weights + x @ self.slope)

    def _best(self, x: FloatArray) -> tuple[FloatArray, float]:
        """The row of x, (m, d), with the lowest value."""
        found = self.values(x)
        row = int(np.argmin(found))
        return x[row], float(found[row])

    def derivatives(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient (d,) and Hessian (d, d) at x, (d,)."""
        offsets = x - self.points
        distances = np.sqrt((offsets**2).sum(axis=1))
        pulls = 3 * self.weights * distances
        # The cube of a distance has no curvature at its origin.
        bends = np.divide(
            3 * self.weights, distances, out=np.zeros_like(distances), where=distances > 0
        )
        hessian = (bends[:, None] * offsets).T @ offsets + pulls.sum() * np.eye(len(x))
        return pulls @ offsets + self.slope, hessian


def _model_near(tree: Tree, offsets: FloatArray) -> _Model | None:
    """The model of the usable points nearest to the origin of the offsets (n, d)."""
    keys, values = tree.points.keys, tree.points.values
    # On a grid many points are equally far; rounding errors must not choose among them.
    squared = (offsets**2).sum(axis=1).astype(np.float32)
    squared[np.isnan(values)] = math.inf
    wanted = min(_POINTS * offsets.shape[1] + _MORE_POINTS, np.count_nonzero(squared < math.inf))
    farthest = np.partition(squared, wanted - 1)[wanted - 1]
    near = np.flatnonzero(squared <= farthest)
    # The arrays have no order of their own, but a model must not depend on who read what when.
    near = near[np.lexsort((keys[near], squared[near]))][:wanted]
    return _fit(offsets[near], _flattened(values[near]), scale=math.sqrt(float(farthest)))


def _flattened(values: FloatArray) -> FloatArray:
    """Values above the best one in units of their median; larger ones grow like a logarithm."""
    above = values - values.min()
    scaled = above / (np.median(above) or 1.0)
    return np.asarray(np.where(scaled > 1, 1 + np.log(np.maximum(scaled, 1)), scaled))


def _fit(points: FloatArray, values: FloatArray, *, scale: float) -> _Model | None:
    """The interpolating model, or None if the points determine none."""
    if scale == 0:
        return None
    points = points / scale
    n = len(points)
    varying = np.ptp(points, axis=0) > 0
    tail = np.hstack([np.ones((n, 1)), points[:, varying]])
    width = tail.shape[1]
    system = np.zeros((n + width, n + width))
    system[:n, :n] = _cubic(points, points) + _RIDGE * np.eye(n)
    system[:n, n:], system[n:, :n] = tail, tail.T
    try:
        solution = np.linalg.solve(system, np.concatenate([values, np.zeros(width)]))
    except np.linalg.LinAlgError:
        return None
    slope = np.zeros(points.shape[1])
    slope[varying] = solution[n + 1 :]
    return _Model(points, solution[:n], slope, scale)


def _cubic(x: FloatArray, y: FloatArray) -> FloatArray:
    """Cubed distances, (n, m), of points (n, d) and (m, d)."""
    squared = ((x[:, None, :] - y[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(squared * np.sqrt(squared))


def _quadratic_minimizer(
    gradient: FloatArray, hessian: FloatArray, low: FloatArray, high: FloatArray
) -> FloatArray:
    """Step (d,) towards the minimizer of a quadratic in a box, one axis after the other."""
    step = [0.0] * len(low)
    g, rows, lows, highs = gradient.tolist(), hessian.tolist(), low.tolist(), high.tolist()
    for _ in range(_SWEEPS):
        for j, row in enumerate(rows):
            curvature = row[j]
            slope = g[j] + sum(h * p for h, p in zip(row, step, strict=True)) - curvature * step[j]
            if curvature > 0:
                step[j] = min(max(-slope / curvature, lows[j]), highs[j])
            else:  # bent downwards: the end of the axis where the quadratic is lower
                change = highs[j] - lows[j]
                rise = change * (slope + curvature * (highs[j] + lows[j]) / 2)
                step[j] = lows[j] if rise > 0 else highs[j]
    return np.array(step)
