"""StoSOO, stochastic simultaneous optimistic optimization [Valko, Carpentier and Munos 2013].

SOO for noisy objectives: a cell is evaluated `k` times before it is divided, and ranks by the
optimistic end of a confidence interval around its mean.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

from optuna_partition.core.claim import WORST, Claim, Rank, Round
from optuna_partition.core.node import Node
from optuna_partition.core.tree import Tree


@dataclass(frozen=True, slots=True)
class Noise:
    """How far a mean of repeats can be trusted.

    Args:
        n_evaluations: Number of evaluations that the search may use, n.
        repeats: Evaluations of a cell before it is divided, k.
        delta: Probability with which the confidence intervals may fail.
        scale: Width of the range of the noisy values at one point, in their own unit.
    """

    n_evaluations: int
    repeats: int
    delta: float
    scale: float

    def margin(self, count: int) -> float:
        """Half-width of the interval of a mean of `count` values.

        `scale * sqrt(log(n k / delta) / (2 count))` for values in a range of that scale.
        """
        n, k = self.n_evaluations, self.repeats
        return self.scale * math.sqrt(math.log(n * k / self.delta) / (2 * count))


def default_repeats(n_evaluations: int) -> int:
    """`n / log(n)**3`, rounded up [Valko et al. 2013]: 2 up to 400 evaluations, 4 at 1,000."""
    return max(2, math.ceil(n_evaluations / math.log(max(n_evaluations, 3)) ** 3))


def default_max_depth(n_evaluations: int, repeats: int) -> int:
    """Deepest level that may be divided, `sqrt(n / k)` [Valko et al. 2013]."""
    return math.floor(math.sqrt(n_evaluations / repeats))


def stosoo(tree: Tree, *, noise: Noise, h_max: int | None = None) -> Claim | None:
    """The next evaluation of StoSOO.

    Args:
        tree: The partition, grouped by `depth` and ordered by `optimistic` with the same noise.
        noise: Repeats and confidence intervals.
        h_max: Deepest level that may be divided; None sets no limit.

    Returns:
        A claim, or None if no evaluation is left to hand out.
    """
    return (
        tree.owed()
        or _continue_sweep(tree, noise)
        or _open_sweep(tree, noise, h_max)
        or tree.speculative()
        or _beyond_the_limit(tree, noise)
        or _without_waiting(tree)
    )


def _continue_sweep(tree: Tree, noise: Noise) -> Claim | None:
    members = tree.members(tree.round)
    if not members:
        return None
    rounds = [member.round for member in members]
    sweep = Round(tree.round, max(round_.max_depth or 0 for round_ in rounds))
    divided = [m.node for m in members if m.node is not None and not m.repeat]
    bound = min((optimistic(node, noise) for node in divided), default=WORST)
    return _next(tree, sweep, noise, 1 + max(round_.level or 0 for round_ in rounds), bound)


def _open_sweep(tree: Tree, noise: Noise, h_max: int | None) -> Claim | None:
    depths = list(tree.groups())
    if not depths:
        return None
    limit = tree.depth if h_max is None else min(tree.depth, h_max)
    sweep = Round(tree.round + 1, max(limit, depths[0]))
    return _next(tree, sweep, noise, 0, WORST)


def _beyond_the_limit(tree: Tree, noise: Noise) -> Claim | None:
    """Any repeat that is still missing."""
    for depth in tree.groups():
        leaf = tree.first(depth, functools.partial(_is_missing, noise=noise))
        if leaf is not None:
            return tree.repeat(leaf, None)
    return None


def _without_waiting(tree: Tree) -> Claim | None:
    """Divide a cell whose last repeats are under way, rather than let a worker idle."""
    for leaf in tree.groups().values():
        return tree.divide(leaf, None)
    return None


def _next(tree: Tree, sweep: Round, noise: Noise, first: int, bound: Rank) -> Claim | None:
    for depth in range(first, (sweep.max_depth or 0) + 1):
        best = tree.first(depth, functools.partial(_is_free, noise=noise))
        if best is None or optimistic(best, noise) > bound:
            continue
        turn = dataclasses.replace(sweep, level=depth)
        return tree.repeat(best, turn) if _is_missing(best, noise) else tree.divide(best, turn)
    return None


def _is_missing(leaf: Node, noise: Noise) -> bool:
    """Whether a repeat of the cell has not been handed out yet."""
    return leaf.evaluation.attempts < noise.repeats


def _is_free(leaf: Node, noise: Noise) -> bool:
    """Whether another repeat is wanted, or all are in: one that runs is waited for elsewhere."""
    return _is_missing(leaf, noise) or not leaf.evaluation.running


def optimistic(leaf: Node, noise: Noise) -> Rank:
    """Lower confidence bound: the best that the cell's center may be worth."""
    evaluation = leaf.evaluation
    violation, value = evaluation.rank
    return violation, value - noise.margin(max(1, evaluation.count))


def answer(tree: Tree) -> Node | None:
    """The cell that StoSOO recommends: the best mean at the deepest divided level.

    None while no cell has been divided; then the best mean of all is as good as any.
    """
    for depth in range(tree.depth, -1, -1):
        known = [node for node in tree.divided(depth) if node.known]
        if known:
            return min(known, key=lambda node: (node.evaluation.rank, node))
    return None
