"""Simultaneous optimistic optimization as an Optuna sampler."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, final

from optuna.samplers import BaseSampler

from optuna_partition.core.cell import depth, one_longest_side
from optuna_partition.core.refinement import refined
from optuna_partition.core.soo import soo
from optuna_partition.samplers._geometry import TreeGeometry
from optuna_partition.samplers._partition import PartitionSampler, is_count
from optuna_partition.samplers._space import SearchSpace

DepthLimit = Callable[[int], float] | int | Literal["sqrt"] | None


@final
class SOOSampler(PartitionSampler):
    """Simultaneous optimistic optimization [Munos 2011].

    Deterministic, without a seed or a setting to tune. Each sweep divides the best cell of every
    size, from the whole box down to the smallest cells, so that it searches everywhere and still
    closes in on the best point. Any number of workers can share a study.

    Args:
        search_space: Parameters to search, most important first. None infers them from completed
            trials.
        h_max: Deepest level that a sweep may divide: None for no limit (the default, and by far the
            best below 200 trials), "sqrt" for the square root of the number of divided cells as in
            the paper, a number, or a function of the number of divided cells.
        refine: Whether to probe between the divisions: the minimizer of a model of the nearest
            values, in a trust region around the best point, off the centers.
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
        study = optuna.create_study(sampler=SOOSampler())
        study.optimize(lambda trial: trial.suggest_float("x", -1.0, 2.0) ** 2, n_trials=50)
        ```
    """

    def __init__(
        self,
        *,
        search_space: SearchSpace | None = None,
        h_max: DepthLimit = None,
        refine: bool = False,
        max_retries: int = 1,
        claim_timeout: float | None = 86_400.0,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
    ) -> None:
        rule = functools.partial(soo, h_max=depth_limit(h_max))
        super().__init__(
            rule=functools.partial(refined, rule=rule) if refine else rule,
            geometry=TreeGeometry(one_longest_side, depth, max_retries),
            search_space=search_space,
            max_retries=max_retries,
            claim_timeout=claim_timeout,
            independent_sampler=independent_sampler,
            warn_independent_sampling=warn_independent_sampling,
        )


def depth_limit(h_max: DepthLimit) -> Callable[[int], float] | None:
    """The deepest level that may be divided, by the number of divided cells; None: no limit."""
    if h_max is None or callable(h_max):
        return h_max
    if h_max == "sqrt":
        return math.sqrt
    if is_count(h_max):
        return functools.partial(_constant, h_max)
    raise ValueError(
        f'h_max is {h_max!r}, expected None, "sqrt", a number of 0 or more, or a function of the '
        "number of divided cells."
    )


def _constant(limit: int, expansions: int) -> float:
    return limit
