"""StoSOO as an Optuna sampler."""

from __future__ import annotations

import functools
import math
from typing import Any, final

from optuna.samplers import BaseSampler
from optuna.study import Study

from optuna_partition.core.cell import decode, depth, one_longest_side
from optuna_partition.core.stosoo import Noise, answer, default_repeats, optimistic, stosoo
from optuna_partition.samplers._geometry import TreeGeometry
from optuna_partition.samplers._partition import PartitionSampler, is_count
from optuna_partition.samplers._space import SearchSpace


@final
class StoSOOSampler(PartitionSampler):
    """StoSOO, for noisy objectives [Valko, Carpentier and Munos 2013].

    Deterministic, without a seed. Like `SOOSampler`, but a cell is evaluated `repeats` times before
    it is divided, and ranks by the optimistic end of a confidence interval. `recommend` gives its
    answer: not the luckiest trial, but the best mean among the most deeply divided cells.

    With 50 to 200 trials `repeats` leaves few cells; take it when the noise is as large as the
    differences that matter.

    Args:
        n_trials: Number of trials that the study will have.
        scale: Width of the range of the values at one point, in their own unit.
        repeats: Trials of a cell before it is divided; None: `n / log(n)**3` rounded up, at least
            2.
        delta: Probability with which the confidence intervals may fail; None: `1 / sqrt(n)`.
        h_max: Deepest level that a sweep may divide; None for no limit. The paper has
            `sqrt(n / repeats)`.
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
        study = optuna.create_study(sampler=StoSOOSampler(n_trials=200, scale=0.1))
        study.optimize(noisy_objective, n_trials=200)
        print(study.sampler.recommend(study))
        ```
    """

    def __init__(
        self,
        *,
        n_trials: int,
        scale: float = 1.0,
        repeats: int | None = None,
        delta: float | None = None,
        h_max: int | None = None,
        search_space: SearchSpace | None = None,
        max_retries: int = 1,
        claim_timeout: float | None = 86_400.0,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
    ) -> None:
        noise = _noise(n_trials, scale, repeats, delta)
        if h_max is not None and not is_count(h_max):
            raise ValueError(f"h_max is {h_max!r}, expected None or a number of 0 or more.")
        super().__init__(
            rule=functools.partial(stosoo, noise=noise, h_max=h_max),
            geometry=TreeGeometry(
                one_longest_side,
                depth,
                max_retries,
                functools.partial(optimistic, noise=noise),
            ),
            search_space=search_space,
            max_retries=max_retries,
            claim_timeout=claim_timeout,
            independent_sampler=independent_sampler,
            warn_independent_sampling=warn_independent_sampling,
        )

    def recommend(self, study: Study) -> dict[str, Any]:
        """Parameters of the cell that StoSOO answers with: by its mean, at the deepest level.

        Raises:
            ValueError: If no cell has been divided yet.
        """
        tree = self.partition_of(study)
        node = None if tree is None else answer(tree)
        if tree is None or node is None:
            raise ValueError(
                "no cell has been divided yet, expected more completed trials; until then "
                "study.best_params is all that is known."
            )
        return decode(tree.box, node.evaluation.cell)


def _noise(n_trials: int, scale: float, repeats: int | None, delta: float | None) -> Noise:
    if not is_count(n_trials) or n_trials < 1:
        raise ValueError(f"n_trials is {n_trials!r}, expected the study's number of trials.")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale}, expected a width above 0, in the objective's unit.")
    if repeats is not None and (not is_count(repeats) or repeats < 1):
        raise ValueError(f"repeats is {repeats!r}, expected None or a number of 1 or more.")
    if delta is not None and not 0 < delta < 1:
        raise ValueError(f"delta is {delta}, expected a probability in (0, 1).")
    return Noise(
        n_evaluations=n_trials,
        repeats=repeats or default_repeats(n_trials),
        delta=delta or 1 / math.sqrt(n_trials + 1),
        scale=scale,
    )
