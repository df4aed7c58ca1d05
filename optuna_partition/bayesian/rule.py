"""Which point to evaluate next: quasi-random ones, then those that promise most improvement.

A rule is a function of the points that a study knows and of its seed. Points under way count as
evaluated with their posterior means (believers). Random numbers depend on the seed and on how many
points there are, so that a resumed study goes on as the uninterrupted one would.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from optuna_partition.bayesian.acquisition import Effort, maximize
from optuna_partition.bayesian.improvement import Models, improvement
from optuna_partition.bayesian.lattice import Lattice
from optuna_partition.bayesian.model import FitError, fit
from optuna_partition.core.box import Box
from optuna_partition.core.claim import Status
from optuna_partition.core.evaluations import Evaluation, Evaluations, Point
from optuna_partition.surrogate.data import CEILING, HIGH_CEILING, Data, FloatArray, variables_of

# Quasi-random points that are taken are skipped so often.
_TRIES = 100


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Models of the evaluated points."""

    evaluations: list[Evaluation]
    models: Models


@dataclass
class BayesianRule:
    """Chooses the next point of a study.

    Args:
        seed: Of the quasi-random points and of the search for a maximizer.
        n_startup_trials: Number of values before a model is fitted.
        deterministic: Whether evaluations of one point never differ.
        n_threads: Threads of torch while it chooses; None leaves them as they are.
        effort: How thoroughly the acquisition function is maximized.
    """

    seed: int
    n_startup_trials: int
    deterministic: bool
    n_threads: int | None
    effort: Effort
    _lattice: Lattice | None = field(default=None, init=False)
    _fitted: _Fitted | None = field(default=None, init=False)
    _warned: bool = field(default=False, init=False)

    def __getstate__(self) -> dict[str, object]:
        """All but the caches."""
        return {**self.__dict__, "_lattice": None, "_fitted": None, "_warned": False}

    def __call__(self, study: Evaluations) -> Point | None:
        """The next point of the unit cube; None if the box is exhausted."""
        if study.exhausted:
            return None
        if self._lattice is None or self._lattice.box is not study.box:
            self._lattice, self._fitted = Lattice(study.box), None
        with threads(self.n_threads):
            found = self._modeled(study, self._lattice)
            if found is None:
                found = self._quasi_random(study, self._lattice)
        return None if found is None else tuple(found.tolist())

    def _modeled(self, study: Evaluations, lattice: Lattice) -> FloatArray | None:
        evaluations = study.by_trial()
        ended = [e for e in evaluations if e.status is not Status.PENDING]
        known = [e for e in ended if e.status is Status.KNOWN]
        if len(known) < max(self.n_startup_trials, 1):
            return None
        known_points = _rows([e.point for e in known], lattice)
        pending = _rows([e.point for e in evaluations if e.status is Status.PENDING], lattice)
        try:
            models = self._models(study, ended).given(pending)
        except FitError as error:
            self._warn(error)
            return None
        rng = np.random.default_rng([self.seed, len(study)])
        # Points under way count as reached: else the next one would be aimed at the same gain.
        acquisition, incumbents = improvement(
            models,
            torch.cat([known_points, pending]),
            np.concatenate([[_feasible(e) for e in known], models.feasible(pending)]),
            seed=int(rng.integers(2**31)),
        )
        return maximize(
            acquisition,
            lattice,
            incumbents.numpy(),
            lambda point: study.is_free(lattice.key(point)),
            rng,
            self.effort,
        )

    def _models(self, study: Evaluations, ended: list[Evaluation]) -> Models:
        """Models of all that has ended: fitted when it changes, not for each choice."""
        if self._fitted is None or self._fitted.evaluations != ended:
            self._fitted = _Fitted(ended, self._fit(study.box, ended))
        return self._fitted.models

    def _fit(self, box: Box, ended: Sequence[Evaluation]) -> Models:
        variables, rows = variables_of(box), np.array([e.point for e in ended])
        columns = _columns(ended)
        fitted = functools.partial(fit, noisy=not self.deterministic, ceiling=HIGH_CEILING)
        # A standard error is that of the only objective.
        variances = np.array([e.variance for e in ended]) if len(columns) == 1 else np.empty(0)
        # The ends of a front are poor in all objectives but one, and must be told apart there.
        ceiling = CEILING if len(columns) == 1 else HIGH_CEILING
        return Models(
            [
                fitted(Data(variables, rows, column, variances), ceiling=ceiling)
                for column in columns
            ],
            [fitted(Data(variables, rows, column)) for column in _constraint_columns(ended)],
        )

    def _warn(self, error: FitError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{error} A quasi-random point is evaluated instead. Others like it are not "
                "reported.",
                stacklevel=2,
            )

    def _quasi_random(self, study: Evaluations, lattice: Lattice) -> FloatArray | None:
        """The center first, then a scrambled Sobol sequence: point k is for the k-th trial."""
        sobol = torch.quasirandom.SobolEngine(len(study.box.axes), scramble=True, seed=self.seed)
        sobol.fast_forward(len(study))
        drawn = lattice.snap(sobol.draw(_TRIES, dtype=torch.float64).numpy())
        center = np.array([study.box.units(tuple(study.box.center().values()))])
        candidates = np.concatenate([center, drawn]) if len(study) == 0 else drawn
        rest = lattice.shuffled(np.random.default_rng([self.seed, len(study)]))
        both = (point for source in (candidates, rest) for point in source)
        return next((point for point in both if study.is_free(lattice.key(point))), None)


def _rows(points: Sequence[Point], lattice: Lattice) -> torch.Tensor:
    """Points as a tensor (n, d)."""
    return torch.tensor(points, dtype=torch.float64).reshape(-1, len(lattice.box.axes))


def _columns(evaluations: Sequence[Evaluation]) -> list[FloatArray]:
    """Values (n,) of each objective.

    A failed trial is as bad as the worst known one: what crashed there may crash nearby.
    """
    known = [e for e in evaluations if e.status is Status.KNOWN]
    worst = (math.inf,) * len(known[0].objectives)
    values = [e.objectives if e.status is Status.KNOWN else worst for e in evaluations]
    return [np.array(column) for column in zip(*values, strict=True)]


def _constraint_columns(evaluations: Sequence[Evaluation]) -> list[FloatArray]:
    """Values (n,) of each constraint, by name; NaN where a trial does not tell."""
    names = sorted({name for e in evaluations for name in e.constraints})
    return [np.array([e.constraints.get(name, math.nan) for e in evaluations]) for name in names]


def _feasible(evaluation: Evaluation) -> bool:
    return all(value <= 0 for value in evaluation.constraints.values())


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Give torch so many threads for a while; None leaves them as they are.

    At these sizes more than one thread costs more than it brings, above all when several workers
    share a machine.
    """
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
