"""The hybrid of partition and models: divisions, probes and proposals take turns.

A rule divides cells: it explores, needs no model, and hands every worker a cell of its own. Between
its divisions a trust region closes in on the best point, and global models propose points: several
ways to err, and what one of them finds all others know. Divisions come first, as models have to
learn from something.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from optuna_partition.core.box import Box
from optuna_partition.core.claim import Claim, Probe, Rank, Status, Trial
from optuna_partition.core.points import spread
from optuna_partition.core.refinement import trust_region_probe
from optuna_partition.core.tree import Tree

Proposer = Callable[[Box, list[Trial], int, tuple[int, int]], Iterable[tuple[float, ...]]]
"""Points worth an evaluation, the best one first, of all trials that have a value or are under way;
within the cell of side `3**-level` around the best point, and for a seed."""


class _Step(enum.Enum):
    """Where an evaluation comes from."""

    DIVISION = enum.auto()
    PROBE = enum.auto()
    # Proposals: in the whole box, in the cell around the best point, and of the model that expects
    # smooth functions.
    BOX = enum.auto()
    CELL = enum.auto()
    SMOOTH = enum.auto()


# The steps in turn, at first and after so many trials.
_FIRST: Final = (
    *(_Step.BOX, _Step.DIVISION, _Step.PROBE, _Step.DIVISION),
    *(_Step.CELL, _Step.DIVISION, _Step.PROBE, _Step.DIVISION),
)
_LATER: Final = (
    *(_Step.BOX, _Step.CELL, _Step.PROBE, _Step.DIVISION),
    *(_Step.SMOOTH, _Step.CELL, _Step.PROBE, _Step.DIVISION),
)
_EXPLORED: Final = 24


@dataclass(frozen=True, slots=True)
class Proposers:
    """Global models that differ in what they expect.

    Args:
        rough: Of functions that bend often; proposes in the whole box and around the best point.
        smooth: Of functions that vary slowly; proposes in the whole box.
    """

    rough: Proposer
    smooth: Proposer


def hybrid(
    tree: Tree, *, rule: Callable[[Tree], Claim | None], models: Proposers, seed: int = 0
) -> Claim | None:
    """The next evaluation of a rule and models that take turns.

    Args:
        tree: The partition, grouped as the rule needs it.
        rule: Chooses the divisions.
        models: Propose points.
        seed: Moves the first points, and the models' search for the best proposal.

    Returns:
        A claim, or None if no evaluation is left to hand out.
    """
    owed = tree.owed_probe()
    if owed is not None:
        return owed
    count = tree.count
    steps = _FIRST if count < _EXPLORED else _LATER
    step = steps[count % len(steps)]
    if count == 0 or step is _Step.DIVISION:
        return rule(tree)
    claim = trust_region_probe(tree) if step is _Step.PROBE else None
    propose = models.smooth if step is _Step.SMOOTH else models.rough
    # A proposal near the best point stands in for a probe where there is none.
    level = 1 if step in (_Step.PROBE, _Step.CELL) else 0
    return claim or _proposal(tree, propose, level, seed) or rule(tree)


def _proposal(tree: Tree, propose: Proposer, level: int, seed: int) -> Claim | None:
    trials, count = tree.trials(), tree.count
    known = [trial.rank for trial in trials if trial.status is Status.KNOWN]
    finite = sum(map(math.isfinite, (rank[-1] for rank in known)))
    # Of less than two values nothing is learned.
    if finite < 2:
        points: Iterable[tuple[float, ...]] = [_start(len(tree.box.axes), count, seed)]
    else:
        points = propose(tree.box, trials, level, (seed, count))
    for point in points:
        parameters = tuple(tree.box.at(point).values())
        if not tree.is_tried(parameters):
            best = min(known, default=(0.0, math.inf))
            probe = Probe(point, _finite(best), 0.0, count)
            return Claim(tree.place_of(parameters).cell, probe=probe)
    return None


def _start(d: int, count: int, seed: int) -> tuple[float, ...]:
    shift = np.random.default_rng(seed).uniform(size=d) if seed else np.zeros(d)
    return tuple(((spread(count, d)[-1] + shift) % 1).tolist())


def _finite(best: Rank) -> float | None:
    """The best feasible value, if there is one."""
    return best[-1] if best[0] == 0 and math.isfinite(best[-1]) else None
