"""Local refinement: between the divisions, a model of the values near the best one is minimized.

The model is a radial basis function with a cubic kernel and a linear tail, as in derivative-free
trust region methods [Wild and Shoemaker 2011]; the trust region is the leaf around the best point,
so that the partition sets its size. A probe that does not pay makes the next one wait longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optuna_partition.core.box import ChoiceAxis
from optuna_partition.core.claim import Claim, Probe, Rank, Status
from optuna_partition.core.node import Node
from optuna_partition.core.tree import Tree

FloatArray = NDArray[np.float64]

# Probes in a row that miss make the next one wait for 1.5**misses other evaluations.
_PATIENCE, _LONGEST_WAIT = 1.5, 64
# Points of the model a dimension, and how many more are looked at to find the nearest ones.
_POINTS, _MARGIN = 5, 3
# Half-width of the trust region, and the shortest step worth an evaluation, in sides of the leaf.
_RADIUS, _SHORTEST = 0.5, 0.02
# A little smoothing: two values of one place that differ by noise must not tear the model apart.
_RIDGE = 1e-3


def refined(tree: Tree, *, rule: Callable[[Tree], Claim | None]) -> Claim | None:
    """The next evaluation of a rule that probes between the divisions.

    Args:
        tree: The partition, grouped as the rule needs it.
        rule: Chooses the next division.

    Returns:
        A claim, or None if no evaluation is left to hand out.
    """
    return _probe(tree) or rule(tree)


@dataclass(frozen=True, slots=True)
class _Incumbent:
    """The best known point, (d,) in unit-cube lengths, and the leaf that holds it."""

    point: tuple[float, ...]
    rank: Rank
    leaf: Node


def _probe(tree: Tree) -> Claim | None:
    misses = _misses(tree)
    if misses is None:
        return None
    best = _incumbent(tree)
    # Of infeasible and of infinitely bad points nobody makes a model.
    if best is None or best.rank[0] > 0 or not math.isfinite(best.rank[-1]):
        return None
    point = _minimizer(tree, best)
    if point is None:
        return None
    return Claim(best.leaf.cell, probe=Probe(point, best.rank[-1], misses, tree.count))


def _misses(tree: Tree) -> int | None:
    """Probes in a row that have missed; None if it is not the time for another one."""
    if not tree.probes:
        return 0 if tree.count % (2 if tree.count < _LONGEST_WAIT else _LONGEST_WAIT) == 0 else None
    last = tree.probes[max(tree.probes)]
    probe = last.claim.probe
    assert probe is not None
    paid = last.status is Status.KNOWN and last.violation == 0 and last.value < probe.best
    misses = 0 if paid else probe.misses + (last.status is not Status.PENDING)
    return misses if _is_turn(tree.count - probe.count, misses) else None


def _is_turn(waited: int, misses: int) -> bool:
    """Whether to look for a probe; where nothing was found it is looked for ever less often."""
    # Beyond 64 misses the power would only grow until it overflows.
    first = min(math.floor(_PATIENCE ** min(misses, 64)) + 1, _LONGEST_WAIT)
    turns, rest = divmod(waited, first)
    doubled = turns > 0 and rest == 0 and turns.bit_count() == 1
    return doubled or (waited > 0 and waited % _LONGEST_WAIT == 0)


def _incumbent(tree: Tree) -> _Incumbent | None:
    leaves = tree.groups().values()
    leaf = min(leaves, key=lambda node: (node.rank, node), default=None)
    probe = tree.best_probe()
    if probe is not None and (leaf is None or probe.rank < leaf.rank):
        return _Incumbent(probe.point, probe.rank, probe.node)
    if leaf is None:
        return None
    point, rank = min(tree.points_in(leaf), key=lambda item: (item[1], item[0]))
    return _Incumbent(point, rank, leaf)


def _neighbors(tree: Tree, best: _Incumbent, wanted: int) -> tuple[FloatArray, FloatArray]:
    """Points, (n, d), and values, (n,), of the smallest ancestor that holds enough of them."""
    node = best.leaf
    found = tree.points_in(node)
    while len(found) < wanted and node.parent is not None:
        for sibling in node.parent.children:
            if sibling is not node:
                found.extend(tree.points_in(sibling))
        node = node.parent
    usable = [(point, rank) for point, rank in found if rank[0] == 0 and math.isfinite(rank[-1])]
    return np.array([p for p, _ in usable]), np.array([rank[-1] for _, rank in usable])


def _minimizer(tree: Tree, best: _Incumbent) -> tuple[float, ...] | None:
    """Minimizer of the model within the trust region, if it is new; shape (d,)."""
    box, levels, index = tree.box, best.leaf.cell.levels, best.leaf.cell.index
    d = len(box.axes)
    points, values = _neighbors(tree, best, _MARGIN * _POINTS * d)
    if len(values) < 2 * d + 1:
        return None
    center = np.array(best.point)
    sides = np.array([3.0**-level for level in levels])
    moves = np.array(
        [
            axis.splittable(level, i) and not isinstance(axis, ChoiceAxis)
            for axis, level, i in zip(box.axes, levels, index, strict=True)
        ]
    )
    if not moves.any():
        return None
    scale = np.where([isinstance(axis, ChoiceAxis) for axis in box.axes], 1.0, _RADIUS * sides)
    near = (points - center) / scale
    order = np.argsort((near**2).sum(axis=1), kind="stable")[: _POINTS * d]
    model = _fit(near[order], _flattened(values[order]))
    if model is None:
        return None
    low = np.where(moves, np.maximum(-1.0, -center / scale), 0.0)
    high = np.where(moves, np.minimum(1.0, (1.0 - center) / scale), 0.0)
    unit = np.clip(center + _search(model, low, high) * scale, 0.0, 1.0)
    parameters = tuple(box.at(unit.tolist()).values())
    snapped = np.array(box.units(parameters))
    steps = np.abs((points - snapped) / sides)[:, moves].max(axis=1)
    if steps.min() < _SHORTEST or tree.is_tried(parameters):
        return None
    return tuple(unit.tolist())


def _flattened(values: FloatArray) -> FloatArray:
    """Values above the best one in units of their median; larger ones grow like a logarithm."""
    above = values - values.min()
    scaled = above / (np.median(above) or 1.0)
    return np.asarray(np.where(scaled > 1, 1 + np.log(np.maximum(scaled, 1)), scaled))


Model = Callable[[FloatArray], FloatArray]


def _fit(points: FloatArray, values: FloatArray) -> Model | None:
    """The interpolating function, or None if the points determine none.

    `sum_i w_i |x - x_i|**3 + c_0 + c x`, where the weights are orthogonal to all linear functions.
    """
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
    weights, constant, slope = solution[:n], solution[n], solution[n + 1 :]

    def model(x: FloatArray) -> FloatArray:
        return np.asarray(_cubic(x, points) @ weights + constant + x[:, varying] @ slope)

    return model


def _cubic(x: FloatArray, y: FloatArray) -> FloatArray:
    """Cubed distances, (n, m), of points (n, d) and (m, d)."""
    squared = ((x[:, None, :] - y[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(squared * np.sqrt(squared))


def _search(model: Model, low: FloatArray, high: FloatArray) -> FloatArray:
    """Minimizer of a model in a box by steps along the axes that are halved; from the origin."""
    d = len(low)
    steps = np.vstack([np.eye(d), -np.eye(d)])
    x = np.zeros(d)
    value, step = model(x[None, :])[0], 0.5
    while step > 0.03:
        around = np.clip(x + step * steps, low, high)
        found = model(around)
        k = int(np.argmin(found))
        if found[k] < value - 1e-12:
            x, value = around[k], found[k]
        else:
            step /= 2
    return x
