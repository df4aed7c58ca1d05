"""LOGO as an Optuna sampler."""

from __future__ import annotations

import functools
from typing import Literal, final

from optuna.samplers import BaseSampler

from optuna_partition.core.cell import depth, one_longest_side
from optuna_partition.core.logo import WIDTHS, logo
from optuna_partition.core.refinement import refined
from optuna_partition.samplers._geometry import TreeGeometry
from optuna_partition.samplers._partition import PartitionSampler, is_count
from optuna_partition.samplers._space import SearchSpace


@final
class LOGOSampler(PartitionSampler):
    """LOGO, locally oriented global optimization [Kawaguchi, Maruyama and Zheng 2016].

    Deterministic, without a seed. Like `SOOSampler`, but a sweep takes one cell of every `width`
    sizes and so spends more of its evaluations near the best point.

    Args:
        width: Number of levels that are taken together: 1 is SOO, the number of parameters is a
            good choice. "adaptive" walks through 3, 4, 5, 6, 8 and 30, up after a sweep that
            improved the best value and down after one that did not.
        refine: Whether to probe between the divisions: the minimizer of a model of the nearest
            values, in a trust region around the best point, off the centers.
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
        study = optuna.create_study(sampler=LOGOSampler())
        study.optimize(lambda trial: trial.suggest_float("x", -1.0, 2.0) ** 2, n_trials=50)
        ```
    """

    def __init__(
        self,
        *,
        width: int | Literal["adaptive"] = "adaptive",
        refine: bool = False,
        search_space: SearchSpace | None = None,
        max_retries: int = 1,
        claim_timeout: float | None = 86_400.0,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
    ) -> None:
        if width != "adaptive" and (not is_count(width) or width < 1):
            raise ValueError(f'width is {width!r}, expected "adaptive" or a number of 1 or more.')
        rule = functools.partial(logo, widths=WIDTHS if width == "adaptive" else (width,))
        super().__init__(
            rule=functools.partial(refined, rule=rule) if refine else rule,
            geometry=TreeGeometry(one_longest_side, depth, max_retries),
            search_space=search_space,
            max_retries=max_retries,
            claim_timeout=claim_timeout,
            independent_sampler=independent_sampler,
            warn_independent_sampling=warn_independent_sampling,
        )
