"""IMGPO as an Optuna sampler."""

from __future__ import annotations

import functools
from typing import final

from optuna.samplers import BaseSampler

from optuna_partition.core.cell import depth, one_longest_side
from optuna_partition.core.imgpo import imgpo, theory
from optuna_partition.samplers._geometry import TreeGeometry
from optuna_partition.samplers._partition import PartitionSampler
from optuna_partition.samplers._space import SearchSpace
from optuna_partition.samplers.bamsoo import Beta, width_of
from optuna_partition.surrogate.bounds import ProcessModel
from optuna_partition.surrogate.prior import short_prior
from optuna_partition.surrogate.threads import on_one_thread


@final
class IMGPOSampler(PartitionSampler):
    """Infinite-metric Gaussian process optimization [Kawaguchi, Kaelbling, Lozano-Perez 2015].

    Like `BaMSOOSampler`, but a cell that was passed over counts by its lower confidence bound and
    is evaluated before it is divided, and a cell is divided only if the Gaussian process sees
    something below it that may be better than what is known there. Deterministic, without a seed.
    Any number of workers can share a study.

    Args:
        beta: Width of the confidence bounds, in standard deviations. "theory" is the published
            `sqrt(2 log(pi**2 M**2 / (12 eta)))`, where M counts the evaluations that were spared.
        eta: Probability with which the bounds of "theory" may fail; else it is not used.
        deterministic_objective: Whether two trials of the same parameters have the same value.
        stderr_attr: User attribute of a trial that holds the standard error of its value, for the
            process: a known noise on top of the inferred one. For a trial without one, the median
            of the known ones stands in. None ignores it: errors that all trials share, as those of
            one set of validation records or questions, are no noise between them.
        search_space: Parameters to search, most important first. None infers them from completed
            trials.
        max_retries: How often the cell of a failed trial is handed out again before it counts as
            the worst.
        claim_timeout: Seconds after which a running trial is taken for dead and its cell is free
            again; None for never.
        independent_sampler: Samples parameters outside the search space; None: uniformly.
        warn_independent_sampling: Whether to log a warning when that happens.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        ```python
        study = optuna.create_study(sampler=IMGPOSampler())
        study.optimize(lambda trial: trial.suggest_float("x", -1.0, 2.0) ** 2, n_trials=50)
        ```
    """

    def __init__(
        self,
        *,
        beta: Beta = 1.0,
        eta: float = 0.05,
        deterministic_objective: bool = False,
        stderr_attr: str | None = None,
        search_space: SearchSpace | None = None,
        max_retries: int = 1,
        claim_timeout: float | None = 86_400.0,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
    ) -> None:
        model = ProcessModel(short_prior(noisy=not deterministic_objective))
        width = width_of(beta, eta, formula=theory)
        super().__init__(
            rule=on_one_thread(functools.partial(imgpo, model=model, width=width)),
            geometry=TreeGeometry(one_longest_side, depth, max_retries),
            search_space=search_space,
            max_retries=max_retries,
            claim_timeout=claim_timeout,
            independent_sampler=independent_sampler,
            warn_independent_sampling=warn_independent_sampling,
            stderr_attr=stderr_attr,
        )
