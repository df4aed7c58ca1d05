"""SequOOL as an Optuna sampler."""

from __future__ import annotations

import functools
from typing import final

from optuna.samplers import BaseSampler

from optuna_partition.core.cell import depth, one_longest_side
from optuna_partition.core.sequool import sequool
from optuna_partition.samplers._geometry import TreeGeometry
from optuna_partition.samplers._partition import PartitionSampler, is_count
from optuna_partition.samplers._space import SearchSpace


@final
class SequOOLSampler(PartitionSampler):
    """SequOOL, for a number of trials that is known [Bartlett, Gabillon and Valko 2019].

    Deterministic, without a seed. It visits every size of cell once, from the whole box downwards,
    and divides fewer and fewer of the best cells. With the right `n_trials` and one worker it comes
    closest to the optimum of all partition samplers; it never goes back to a size, so that a coarse
    ranking that misleads is final, and stopped early it is worse than the others. When the budget
    is spent it goes on like `SOOSampler`.

    Args:
        n_trials: Number of trials that the study will have.
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
        study = optuna.create_study(sampler=SequOOLSampler(n_trials=50))
        study.optimize(lambda trial: trial.suggest_float("x", -1.0, 2.0) ** 2, n_trials=50)
        ```
    """

    def __init__(
        self,
        *,
        n_trials: int,
        search_space: SearchSpace | None = None,
        max_retries: int = 1,
        claim_timeout: float | None = 86_400.0,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
    ) -> None:
        if not is_count(n_trials) or n_trials < 1:
            raise ValueError(f"n_trials is {n_trials!r}, expected the study's number of trials.")
        super().__init__(
            rule=functools.partial(sequool, n_evaluations=n_trials),
            geometry=TreeGeometry(one_longest_side, depth, max_retries),
            search_space=search_space,
            max_retries=max_retries,
            claim_timeout=claim_timeout,
            independent_sampler=independent_sampler,
            warn_independent_sampling=warn_independent_sampling,
        )
