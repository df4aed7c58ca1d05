"""Simulated workers that share one study in memory through ask and tell.

An evaluation takes a log-normal time with mean 1 and sigma 0.5 (of its logarithm), the same for all
samplers; a worker that has told its value asks for the next point at once, and asking takes no
time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

SIGMA: Final = 0.5  # standard deviation of the logarithm of a duration


@dataclass(frozen=True, slots=True)
class Finished:
    """An evaluation that ended.

    Args:
        number: The trial's.
        time: When, in mean evaluations from the start.
        length: How long it took.
        value: What the study was told; NaN of a trial that failed.
    """

    number: int
    time: float
    length: float
    value: float


def durations(n: int, seed: int) -> NDArray[np.float64]:
    """(n,) log-normal durations with mean 1."""
    rng = np.random.default_rng(seed)
    return rng.lognormal(-(SIGMA**2) / 2, SIGMA, size=n)


def finished(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], float],
    *,
    workers: int,
    n: int,
    seed: int,
    space: dict[str, BaseDistribution] | None = None,
) -> Iterator[Finished]:
    """The first n evaluations of `workers` workers that finish, in the order of their ends.

    Args:
        study: A new study; it is told a value when the evaluation ends.
        objective: Evaluates a trial when it has been asked for. NaN fails the trial.
        workers: How many evaluations go on at any time.
        n: How many to finish.
        seed: Seed of the durations.
        space: What to suggest before the objective is called, if it does not do so itself.
    """
    lengths = durations(n + workers, seed)
    # Evaluations under way, the first to finish on top: time, trial number, value.
    queue: list[tuple[float, int, float]] = []
    trials: dict[int, optuna.Trial] = {}
    now = 0.0
    for _ in range(n):
        while len(queue) < workers:
            trial = study.ask(space)
            trials[trial.number] = trial
            end = now + lengths[trial.number]
            heapq.heappush(queue, (end, trial.number, objective(trial)))
        now, number, value = heapq.heappop(queue)
        if math.isnan(value):
            study.tell(trials.pop(number), state=TrialState.FAIL)
        else:
            study.tell(trials.pop(number), value)
        yield Finished(number, now, float(lengths[number]), value)
