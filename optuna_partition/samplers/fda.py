"""Fractal decomposition as an Optuna sampler."""

from __future__ import annotations

from typing import final

from optuna.samplers import BaseSampler

from optuna_partition.core.fda import fda
from optuna_partition.core.fractal import check_settings
from optuna_partition.samplers._geometry import FractalGeometry
from optuna_partition.samplers._partition import PartitionSampler, is_count
from optuna_partition.samplers._space import SearchSpace


@final
class FDASampler(PartitionSampler):
    """Fractal decomposition algorithm [Nakib, Ouchraa, Shvai, Souquet and Talbi 2017].

    Deterministic, without a seed. Spheres instead of cells: the most promising one is decomposed
    into two smaller ones along every parameter, `depth` times, and the last ones are searched step
    by step, one parameter after the other. Made for many parameters and many trials. Any number of
    workers can share a study.

    Args:
        search_space: Parameters to search, most important first. None infers them from completed
            trials.
        depth: How often spheres are decomposed before the steps begin. Each level after the first
            costs six trials a parameter: 2 is the best from 100 to 200 trials, 1 below that. Public
            implementations have 5.
        inflation: Factor of the radius of the smaller spheres, in [1, 2.414), so that they overlap.
            1.75 leaves no gaps between them with one or two parameters.
        min_step: Step below which a local search ends, as a share of a parameter's range (of its
            logarithm, for one on a log scale).
        max_retries: How often the point of a failed trial is handed out again before it counts as
            the worst.
        claim_timeout: Seconds after which a running trial is taken for dead and its point is free
            again; None for never.
        independent_sampler: Samples parameters outside the search space; None: uniformly.
        warn_independent_sampling: Whether to log a warning when that happens.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        ```python
        study = optuna.create_study(sampler=FDASampler())
        study.optimize(lambda trial: trial.suggest_float("x", -1.0, 2.0) ** 2, n_trials=50)
        ```
    """

    def __init__(
        self,
        *,
        search_space: SearchSpace | None = None,
        depth: int = 2,
        inflation: float = 1.75,
        min_step: float = 1e-4,
        max_retries: int = 1,
        claim_timeout: float | None = 86_400.0,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
    ) -> None:
        if not is_count(depth):
            raise ValueError(f"depth is {depth!r}, expected an integer of 1 or more; try 2.")
        check_settings(depth, inflation, min_step)
        super().__init__(
            rule=fda,
            geometry=FractalGeometry(max_retries, depth, inflation, min_step),
            search_space=search_space,
            max_retries=max_retries,
            claim_timeout=claim_timeout,
            independent_sampler=independent_sampler,
            warn_independent_sampling=warn_independent_sampling,
        )
