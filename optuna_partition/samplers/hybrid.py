"""The hybrid of DIRECT, a trust region and a Gaussian process as an Optuna sampler."""

from __future__ import annotations

import functools
from typing import final

from optuna.samplers import BaseSampler

from optuna_partition.core.cell import length, longest_side, one_longest_side
from optuna_partition.core.direct import direct
from optuna_partition.core.hybrid import Proposers, hybrid
from optuna_partition.samplers._geometry import TreeGeometry
from optuna_partition.samplers._partition import PartitionSampler, is_count
from optuna_partition.samplers._space import SearchSpace
from optuna_partition.surrogate.proposal import ProcessProposer
from optuna_partition.surrogate.threads import on_one_thread


@final
class PartitionGPSampler(PartitionSampler):
    """DIRECT, a trust region and Gaussian processes that take turns.

    Of the first 24 trials every second divides a cell of the partition, later every fourth: that
    explores whatever a model believes, and crosses plateaus and cliffs on which a model misleads.
    Every fourth is a probe in a trust region around the best point, as `DIRECTSampler` makes them:
    it follows valleys with few neighbors to learn from. The others go where a process expects most
    improvement (log-EI), in the cell around the best point or in the whole space; there a process
    with a prior of short lengthscales and one of long lengthscales take turns after those 24. All
    learn from all trials. Any number of workers can share a study, and no two of them evaluate the
    same parameters; trials under way count for a process as their posterior means.

    The first trial is the center of the space. Of more than 300 trials the process knows a choice:
    the best, the nearest to the best and the latest. An ask takes 6 ms of CPU after 100 trials, and
    12 ms after 1,000.

    Args:
        seed: Moves the spread points and the candidates of the search for the most improvement. The
            same seed and the same results give the same suggestion.
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
        study = optuna.create_study(sampler=PartitionGPSampler())
        study.optimize(lambda trial: trial.suggest_float("x", -1.0, 2.0) ** 2, n_trials=50)
        ```
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        deterministic_objective: bool = False,
        stderr_attr: str | None = None,
        search_space: SearchSpace | None = None,
        max_retries: int = 1,
        claim_timeout: float | None = 86_400.0,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
    ) -> None:
        if not is_count(seed):
            raise ValueError(f"seed is {seed!r}, expected an integer of 0 or more.")
        noisy = not deterministic_objective
        models = Proposers(ProcessProposer(noisy), ProcessProposer(noisy, smooth=True))
        rule = functools.partial(direct, size=length)
        super().__init__(
            rule=on_one_thread(functools.partial(hybrid, rule=rule, models=models, seed=seed)),
            geometry=TreeGeometry(one_longest_side, longest_side, max_retries),
            search_space=search_space,
            max_retries=max_retries,
            claim_timeout=claim_timeout,
            independent_sampler=independent_sampler,
            warn_independent_sampling=warn_independent_sampling,
            stderr_attr=stderr_attr,
        )
