"""Confidence bounds of what a partition knows, for rules that ask a model before they evaluate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from optuna_partition.core.box import Box
from optuna_partition.core.claim import Status, Trial
from optuna_partition.surrogate.data import Data, noise_of, variables_of
from optuna_partition.surrogate.gaussian_process import GaussianProcess, fit
from optuna_partition.surrogate.prior import Prior, short_prior


@dataclass(frozen=True, slots=True)
class ProcessBounds:
    """Bounds of a Gaussian process, in the unit of the values."""

    process: GaussianProcess

    def __call__(
        self, points: Sequence[tuple[float, ...]], width: float
    ) -> list[tuple[float, float]]:
        """Lower and upper bounds, `width` standard deviations from the mean, at points (d,)."""
        mean, sd = self.process.posterior(np.array(points))
        lower = self.process.warp.inverse(mean - width * sd)
        upper = self.process.warp.inverse(mean + width * sd)
        return list(zip(lower.tolist(), upper.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class ProcessModel:
    """A Gaussian process of all known trials, given those under way at their posterior means.

    Args:
        prior: Of the hyperparameters.
    """

    prior: Prior = field(default_factory=short_prior)

    def __call__(self, box: Box, trials: list[Trial]) -> ProcessBounds:
        """Fit it to the trials; infeasible ones count like the worst value, with doubt.

        By their values alone the best places would lie where the constraints are violated.
        """
        known = [trial for trial in trials if trial.status is Status.KNOWN]
        pending = [trial.point for trial in trials if trial.status is Status.PENDING]
        d = len(box.axes)
        points = np.array([trial.point for trial in known]).reshape(-1, d)
        values = np.array([t.rank[-1] if t.rank[0] == 0 else math.inf for t in known])
        variances = noise_of(values, np.array([trial.variance for trial in known]))
        data = Data(variables_of(box), points, values, variances)
        process = fit(data, self.prior).given(np.array(pending).reshape(-1, d))
        return ProcessBounds(process)
