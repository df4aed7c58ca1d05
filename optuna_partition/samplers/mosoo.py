"""MO-SOO as an Optuna sampler."""

from __future__ import annotations

from typing import final

from optuna.samplers import BaseSampler

from optuna_partition.core.cell import depth, one_longest_side
from optuna_partition.core.mosoo import mosoo
from optuna_partition.samplers._geometry import TreeGeometry
from optuna_partition.samplers._partition import PartitionSampler
from optuna_partition.samplers._space import SearchSpace


@final
class MOSOOSampler(PartitionSampler):
    """MO-SOO, partition search for several objectives [Al-Dujaili and Suresh 2018].

    Deterministic, without a seed. Each sweep divides, size by size, all cells that no cell of the
    same size and none that it has divided before dominates. Any number of workers can share a
    study.

    Args:
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
        study = optuna.create_study(directions=["minimize", "maximize"], sampler=MOSOOSampler())
        study.optimize(lambda trial: (trial.suggest_float("x", 0.5, 2.0), trial.params["x"] ** 2))
        ```
    """

    def __init__(
        self,
        *,
        search_space: SearchSpace | None = None,
        max_retries: int = 1,
        claim_timeout: float | None = 86_400.0,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
    ) -> None:
        super().__init__(
            rule=mosoo,
            geometry=TreeGeometry(one_longest_side, depth, max_retries),
            multi_objective=True,
            search_space=search_space,
            max_retries=max_retries,
            claim_timeout=claim_timeout,
            independent_sampler=independent_sampler,
            warn_independent_sampling=warn_independent_sampling,
        )
