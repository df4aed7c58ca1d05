"""The hybrid of partition and models: divisions, probes and proposals take turns.

A rule divides cells: it explores, needs no model, and hands every worker a cell of its own. Between
its divisions a trust region closes in on the best point, and a global model proposes points: three
ways to err, and what one of them finds all others know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
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

# The steps in turn: a division, a probe in the trust region, or the level of a proposal; 0 is the
# whole box, and 1 stands in for a probe where there is none.
_DIVISION, _PROBE = -1, -2
_STEPS: Final = (0, _DIVISION, _PROBE, _DIVISION, 1, _DIVISION, _PROBE, _DIVISION)


def hybrid(
    tree: Tree, *, rule: Callable[[Tree], Claim | None], propose: Proposer, seed: int = 0
) -> Claim | None:
    """The next evaluation of a rule and models that take turns.

    Args:
        tree: The partition, grouped as the rule needs it.
        rule: Chooses the divisions.
        propose: The global model.
        seed: Moves the first points, and the model's search for the best proposal.

    Returns:
        A claim, or None if no evaluation is left to hand out.
    """
    owed = tree.owed_probe()
    if owed is not None:
        return owed
    count = tree.count
    step = _STEPS[count % len(_STEPS)]
    if count == 0 or step == _DIVISION:
        return rule(tree)
    if step == _PROBE:
        return trust_region_probe(tree) or _proposal(tree, propose, 1, seed) or rule(tree)
    return _proposal(tree, propose, step, seed) or rule(tree)


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
