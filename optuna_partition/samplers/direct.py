"""DIRECT as an Optuna sampler."""

from __future__ import annotations

import functools
from typing import Literal, final

from optuna.samplers import BaseSampler

from optuna_partition.core.cell import (
    all_longest_sides,
    half_diagonal,
    length,
    longest_side,
    one_longest_side,
    squared_diagonal,
)
from optuna_partition.core.direct import check_epsilon, direct
from optuna_partition.core.refinement import refined
from optuna_partition.samplers._geometry import TreeGeometry
from optuna_partition.samplers._partition import PartitionSampler
from optuna_partition.samplers._space import SearchSpace

Variant = Literal["one_side", "jones1993", "locally_biased"]

# Division, size of a cell as an integer, its length, whether one cell of a size is taken instead of
# all ties.
_VARIANTS = {
    "one_side": (one_longest_side, longest_side, length, False),
    "jones1993": (all_longest_sides, squared_diagonal, half_diagonal, False),
    "locally_biased": (all_longest_sides, longest_side, length, True),
}


@final
class DIRECTSampler(PartitionSampler):
    """DIRECT, dividing rectangles [Jones, Perttunen and Stuckman 1993], and two variants.

    Deterministic, without a seed. Each iteration divides all cells that are potentially optimal:
    best for some balance between a low value and a large size. Any number of workers can share a
    study.

    Args:
        variant: "one_side" divides a cell along one of its longest sides [Jones 2001] and measures
            it by its longest side; the default, as it needs the fewest evaluations. "jones1993"
            divides along all longest sides, measured by the half diagonal. "locally_biased" is
            DIRECT-L [Gablonsky and Kelley 2001]: all longest sides, measured by the longest, one
            cell of each size. With the last two the shape of a cell is open until 2 values a side
            are in; workers that find all cells in that state sample uniformly.
        refine: Whether to probe between the divisions: the minimizer of a model of the nearest
            values, in a trust region around the best point, off the centers. None: with "one_side",
            and not with the two published variants.
        epsilon: Relative improvement over the best value that a cell must promise (dimensionless).
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
        study = optuna.create_study(sampler=DIRECTSampler())
        study.optimize(lambda trial: trial.suggest_float("x", -1.0, 2.0) ** 2, n_trials=50)
        ```
    """

    def __init__(
        self,
        *,
        variant: Variant = "one_side",
        refine: bool | None = None,
        epsilon: float = 1e-4,
        search_space: SearchSpace | None = None,
        max_retries: int = 1,
        claim_timeout: float | None = 86_400.0,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
    ) -> None:
        if variant not in _VARIANTS:
            raise ValueError(f"variant is {variant!r}, expected one of {sorted(_VARIANTS)}.")
        check_epsilon(epsilon)
        division, group, size, one_per_size = _VARIANTS[variant]
        rule = functools.partial(direct, size=size, epsilon=epsilon, one_per_size=one_per_size)
        if refine is None:
            refine = variant == "one_side"
        super().__init__(
            rule=functools.partial(refined, rule=rule) if refine else rule,
            geometry=TreeGeometry(division, group, max_retries),
            search_space=search_space,
            max_retries=max_retries,
            claim_timeout=claim_timeout,
            independent_sampler=independent_sampler,
            warn_independent_sampling=warn_independent_sampling,
        )
