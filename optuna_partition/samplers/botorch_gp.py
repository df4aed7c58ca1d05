"""Bayesian optimization on BoTorch as an Optuna sampler."""

from __future__ import annotations

from typing import final

from optuna.samplers import BaseSampler

from optuna_partition.bayesian.acquisition import Effort
from optuna_partition.bayesian.rule import BayesianRule
from optuna_partition.samplers._geometry import PointGeometry
from optuna_partition.samplers._partition import PartitionSampler, is_count
from optuna_partition.samplers._space import SearchSpace


@final
class BoTorchGPSampler(PartitionSampler):
    """Expected improvement under a Gaussian process, on BoTorch; needs the extra `gp`.

    Start with quasi-random points (the center of the box, then a scrambled Sobol sequence); then
    each trial evaluates the maximizer of log expected improvement [Ament et al. 2023] under a
    Gaussian process with BoTorch's dimension-scaled prior [Hvarfner et al. 2024]. Running trials
    of all workers count as evaluated with what the model expects of them. Several objectives:
    log expected hypervolume improvement [Daulton et al. 2020]. Constraints
    (`trial.set_constraint`) are modeled one by one.

    Deterministic for a study and a seed: workers need no generator of their own, and a study that
    is resumed goes on with the trials that it would have made anyway. No parameters are evaluated
    twice, whoever chose them; a finite `search_space=` is enumerated, and then the study stops.

    Values above the median are compressed logarithmically, so that a diverged trial does not hide
    the differences between good ones. A failed trial counts as the worst value so far.

    Args:
        search_space: Parameters to search. None infers them from completed trials.
        seed: Any integer of 0 or more. Workers that share a study need the same one.
        n_startup_trials: Number of values before the first model.
        deterministic: Whether two evaluations of one point never differ. By default noise is
            inferred.
        stderr_attr: User attribute of a trial that holds the standard error of its value: a known
            noise instead of an inferred one. For a trial without one, the median of the known ones
            stands in. Counts for one objective only.
        n_threads: Threads of torch while a point is chosen, after which the setting of the process
            is restored; None leaves it alone. More than one rarely help, and several workers on one
            machine get in each other's way with them. Threads of one process choose one after the
            other, and other work of torch in the process runs with the same setting meanwhile.
        max_retries: How often the point of a failed trial may be handed out again.
        claim_timeout: Seconds after which a running trial is taken for dead and its point is free
            again; None for never.
        independent_sampler: Samples parameters outside the search space; None: uniformly.
        warn_independent_sampling: Whether to log a warning when that happens.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        ```python
        study = optuna.create_study(sampler=BoTorchGPSampler(seed=1))
        study.optimize(lambda trial: trial.suggest_float("x", -1.5, 4.0) ** 2, n_trials=30)
        ```
    """

    def __init__(
        self,
        *,
        search_space: SearchSpace | None = None,
        seed: int = 0,
        n_startup_trials: int = 10,
        deterministic: bool = False,
        stderr_attr: str | None = "stderr",
        n_threads: int | None = 1,
        max_retries: int = 1,
        claim_timeout: float | None = 86_400.0,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
    ) -> None:
        for name, count, least in (
            ("seed", seed, 0),
            ("n_startup_trials", n_startup_trials, 1),
            ("n_threads", 1 if n_threads is None else n_threads, 1),
        ):
            if not is_count(count) or count < least:
                raise ValueError(f"{name} is {count!r}, expected an integer of {least} or more.")
        super().__init__(
            rule=BayesianRule(seed, n_startup_trials, deterministic, n_threads, Effort()),
            geometry=PointGeometry(max_retries),
            multi_objective=True,
            search_space=search_space,
            max_retries=max_retries,
            claim_timeout=claim_timeout,
            independent_sampler=independent_sampler,
            warn_independent_sampling=warn_independent_sampling,
            stderr_attr=stderr_attr,
        )
