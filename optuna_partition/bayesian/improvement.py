"""Which acquisition function: expected improvement, of hypervolume for several objectives.

====================  ======================================  ==============================
study                 some point is feasible                  none is
====================  ======================================  ==============================
one objective         `LogExpectedImprovement`                (does not happen)
... with constraints  `LogConstrainedExpectedImprovement`     `LogProbabilityOfFeasibility`
several objectives    `qLogExpectedHypervolumeImprovement`    `LogProbabilityOfFeasibility`
====================  ======================================  ==============================

All models predict minimized values. Improvement is that on posterior means, of feasible points that
are evaluated or under way, so that a lucky draw of a noisy value sets no target.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from botorch.acquisition.analytic import (
    LogConstrainedExpectedImprovement,
    LogExpectedImprovement,
    LogProbabilityOfFeasibility,
)
from botorch.acquisition.multi_objective import logei
from botorch.acquisition.multi_objective.logei import qLogExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import WeightedMCMultiOutputObjective
from botorch.models.model import ModelList
from botorch.sampling.get_sampler import get_sampler
from botorch.utils.multi_objective.box_decompositions.non_dominated import (
    FastNondominatedPartitioning,
)
from botorch.utils.multi_objective.pareto import is_non_dominated
from numpy.typing import NDArray
from torch import Tensor

from optuna_partition.bayesian.model import Surrogate

_INCUMBENTS = 3
_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class Models:
    """What is predicted.

    Args:
        objectives: One model an objective.
        constraints: One model a constraint, feasible at values of 0 or less.
    """

    objectives: Sequence[Surrogate]
    constraints: Sequence[Surrogate] = ()

    def given(self, points: Tensor) -> Models:
        """Conditioned on believers at points (m, d)."""
        return Models(
            [model.given(points) for model in self.objectives],
            [model.given(points) for model in self.constraints],
        )

    @property
    def thresholds(self) -> list[float]:
        """Where a constraint is 0 on its model's scale."""
        return [float(model.warp(np.zeros(1))[0]) for model in self.constraints]

    def feasible(self, points: Tensor) -> NDArray[np.bool_]:
        """(n,) whether points (n, d) are expected to violate no constraint."""
        found = np.ones(len(points), bool)
        for model, threshold in zip(self.constraints, self.thresholds, strict=True):
            found &= model.means(points).numpy() <= threshold
        return found


def improvement(
    models: Models, points: Tensor, feasible: NDArray[np.bool_], seed: int
) -> tuple[AcquisitionFunction, Tensor]:
    """The acquisition function, and the best known points (k, d), k > 0.

    Args:
        models: Of objectives and constraints.
        points: (n, d) evaluated points and those under way, n > 0.
        feasible: (n,) whether they violate no constraint, or are not expected to.
        seed: Of the samples for several objectives.
    """
    if not feasible.any():
        return _feasibility(models, points)
    points = points[torch.from_numpy(feasible)]
    if len(models.objectives) > 1:
        return _hypervolume(models, points, seed)
    means = models.objectives[0].means(points)
    best = points[means.argsort(stable=True)[:_INCUMBENTS]]
    if not models.constraints:
        return LogExpectedImprovement(models.objectives[0], means.min(), maximize=False), best
    acquisition = LogConstrainedExpectedImprovement(
        ModelList(models.objectives[0], *models.constraints),
        means.min(),
        objective_index=0,
        constraints={k: (None, limit) for k, limit in enumerate(models.thresholds, start=1)},
        maximize=False,
    )
    return acquisition, best


def _feasibility(models: Models, points: Tensor) -> tuple[AcquisitionFunction, Tensor]:
    acquisition = LogProbabilityOfFeasibility(
        ModelList(*models.constraints),
        {k: (None, limit) for k, limit in enumerate(models.thresholds)},
    )
    order = acquisition(points[:, None, :]).argsort(stable=True, descending=True)
    return acquisition, points[order[:_INCUMBENTS]]


def _hypervolume(models: Models, points: Tensor, seed: int) -> tuple[AcquisitionFunction, Tensor]:
    m = len(models.objectives)
    model = ModelList(*models.objectives, *models.constraints)
    gains = -torch.stack([objective.means(points) for objective in models.objectives], dim=-1)
    front = is_non_dominated(gains)
    reference = _reference(gains)
    with _without_compiler():
        acquisition = qLogExpectedHypervolumeImprovement(
            model,
            reference,
            FastNondominatedPartitioning(reference, gains),  # type: ignore[arg-type]  # its equal
            sampler=get_sampler(
                model.posterior(points[:1]),  # type: ignore[arg-type]  # it takes lists as well
                torch.Size([_SAMPLES]),
                seed=seed,
            ),
            objective=WeightedMCMultiOutputObjective(
                -torch.ones(m, dtype=points.dtype), list(range(m))
            ),
            constraints=[
                partial(_excess, output=m + k, limit=limit)
                for k, limit in enumerate(models.thresholds)
            ]
            or None,
        )
    return acquisition, points[front]


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Keep BoTorch from compiling a C++ extension when it is first asked for a hypervolume.

    That takes a compiler and a minute or two, and rounds in another way than where there is none,
    so that workers would not agree.
    """
    before = logei._load_attempted
    logei._load_attempted = True
    try:
        yield
    finally:
        logei._load_attempted = before


def _reference(gains: Tensor) -> Tensor:
    """A point (m,) a tenth of the range below the worst known gains (n, m).

    One that follows the front alone keeps the search where the first front happened to be.
    """
    worst, best = gains.min(dim=0).values, gains.max(dim=0).values
    return worst - 0.1 * (best - worst)


def _excess(samples: Tensor, *, output: int, limit: float) -> Tensor:
    """Samples of a constraint (...), of samples of all outputs (..., m); above 0: violated."""
    return samples[..., output] - limit
