"""Maximize an acquisition function over the points of a box.

Floats move by L-BFGS-B, all starts at once (`gen_candidates_scipy`); integers, steps and choices
stay on their values and move by exchange, one axis at a time. The two alternate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from botorch.generation.gen import gen_candidates_scipy

from optuna_partition.bayesian.lattice import Lattice
from optuna_partition.bayesian.model import quiet_optimizer
from optuna_partition.surrogate.data import FloatArray

_ROUNDS = 3
_MAX_EXCHANGES = 8
# Starts closer than this along every axis would climb the same hill.
_APART = 0.05
_GAIN = 1e-9


@dataclass(frozen=True, slots=True)
class Effort:
    """How thoroughly an acquisition function is maximized.

    Args:
        candidates: Random points, half as many of them again near the best known points.
        starts: How many of the best candidates are improved.
        iterations: Of L-BFGS-B in each round.
        enumerated: Boxes of at most so many points are searched completely.
    """

    candidates: int = 256
    starts: int = 3
    iterations: int = 30
    enumerated: int = 1024


def maximize(
    acquisition: AcquisitionFunction,
    lattice: Lattice,
    incumbents: FloatArray,
    is_free: Callable[[FloatArray], bool],
    rng: np.random.Generator,
    effort: Effort,
) -> FloatArray | None:
    """The best free point (d,) that the search comes across; None if it finds none.

    Args:
        acquisition: Values (b,) of points (b, 1, d), with gradients.
        lattice: The points of the box.
        incumbents: (k, d) the best known points, k > 0.
        is_free: Whether a point (d,) may be handed out.
        rng: Random numbers.
        effort: How long to search.
    """
    if lattice.size <= effort.enumerated:
        points = lattice.all()
        values = _values(acquisition, points)
    else:
        points = lattice.snap(_candidates(lattice, incumbents, rng, effort.candidates))
        values = _values(acquisition, points)
        starts = _spread(points[np.argsort(-values, kind="stable")], effort.starts)
        found = _improved(acquisition, lattice, starts, effort.iterations)
        points = np.concatenate([found, points])
        values = np.concatenate([_values(acquisition, found), values])
    order = np.argsort(-values, kind="stable")
    return next((points[k] for k in order if np.isfinite(values[k]) and is_free(points[k])), None)


def _values(acquisition: AcquisitionFunction, points: FloatArray) -> FloatArray:
    with torch.no_grad():
        found: FloatArray = acquisition(torch.from_numpy(points)[:, None, :]).numpy()
    return found


def _candidates(
    lattice: Lattice, incumbents: FloatArray, rng: np.random.Generator, count: int
) -> FloatArray:
    """Points (n, d) over the whole cube, and around the incumbents at all scales."""
    d = incumbents.shape[1]
    sobol = torch.quasirandom.SobolEngine(d, scramble=True, seed=int(rng.integers(2**31)))
    everywhere = sobol.draw(count, dtype=torch.float64).numpy()
    near = incumbents[np.arange(count // 2) % len(incumbents)]
    moves = rng.random(near.shape) < max(0.5, 1 / d)
    scales = 10.0 ** rng.uniform(-3.0, -0.3, (len(near), 1))
    moved = near + np.where(moves, scales * rng.standard_normal(near.shape), 0.0)
    for k in lattice.choices:  # the positions of choices have no order
        other = moves[:, k] & (rng.random(len(near)) < 0.5)
        moved[:, k] = np.where(other, rng.random(len(near)), near[:, k])
    return np.concatenate([everywhere, moved])


def _spread(points: FloatArray, count: int) -> FloatArray:
    """The first points (m, d), m <= count, that are not close to each other."""
    chosen = [points[0]]
    for point in points[1:]:
        if len(chosen) == count:
            break
        if np.abs(np.array(chosen) - point).max(axis=1).min() > _APART:
            chosen.append(point)
    return np.array(chosen)


def _improved(
    acquisition: AcquisitionFunction, lattice: Lattice, points: FloatArray, iterations: int
) -> FloatArray:
    """Local maximizers (m, d) reached from points (m, d)."""
    if not lattice.continuous:
        return _exchanged(acquisition, lattice, points)
    for _ in range(_ROUNDS):
        points = _climbed(acquisition, lattice, points, iterations)
        exchanged = _exchanged(acquisition, lattice, points)
        if np.array_equal(exchanged, points):
            break
        points = exchanged
    return points


def _climbed(
    acquisition: AcquisitionFunction, lattice: Lattice, points: FloatArray, iterations: int
) -> FloatArray:
    d = points.shape[1]
    starts = torch.from_numpy(points)[:, None, :]
    fixed = {k: starts[:, 0, k] for k in range(d) if k not in lattice.continuous}
    with quiet_optimizer():
        found, _ = gen_candidates_scipy(
            starts,
            acquisition,
            torch.zeros(d, dtype=starts.dtype),
            torch.ones(d, dtype=starts.dtype),
            options={"maxiter": iterations},
            fixed_features=fixed or None,
        )
    climbed: FloatArray = found[:, 0].detach().numpy()
    return climbed


def _exchanged(
    acquisition: AcquisitionFunction, lattice: Lattice, points: FloatArray
) -> FloatArray:
    """Points (m, d) that no neighbor improves, or after the last exchange."""
    points, values = points.copy(), _values(acquisition, points)
    active = list(range(len(points)))
    for _ in range(_MAX_EXCHANGES):
        groups = [lattice.neighbors(points[k]) for k in active]
        sizes = [len(group) for group in groups]
        if not sum(sizes):
            break
        parts = np.split(_values(acquisition, np.concatenate(groups)), np.cumsum(sizes)[:-1])
        improved = []
        for k, group, part in zip(active, groups, parts, strict=True):
            best = int(part.argmax())
            if part[best] > values[k] + _GAIN:
                points[k], values[k] = group[best], part[best]
                improved.append(k)
        active = improved
        if not active:
            break
    return points
