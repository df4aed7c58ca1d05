"""The leaves of a tree, as rules look for them: the best of a group, and those without a value."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter

from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import WORST, Rank
from optuna_partition.core.node import Node

# Entries of a group that are pushed between two looks for stale ones; what was divided was the best
# of its group, and lies on top.
_SWEEP = 16

Order = Callable[[Node], Rank]
by_rank: Order = attrgetter("rank")


class Leaves:
    """An index over the leaves; it holds those that can be split by group and rank.

    A heap keeps what was once pushed: an entry counts while the node is a leaf of that very rank.

    Args:
        group: Key of the group that a cell belongs to.
        order: Rank by which the leaves of a group are ordered.
    """

    def __init__(self, group: Callable[[Cell], int], order: Order) -> None:
        self._group = group
        self._order = order
        self._heaps: dict[int, list[tuple[Rank, Node]]] = {}
        self._nodes: dict[Cell, Node] = {}
        self._depths: Counter[int] = Counter()
        self._unknown: set[Node] = set()

    def add(self, node: Node) -> None:
        """Take a leaf in."""
        self._nodes[node.cell] = node
        self._depths[node.depth] += 1
        self.update(node)

    def drop(self, node: Node) -> None:
        """Leave out a node that is no leaf any more."""
        del self._nodes[node.cell]
        self._unknown.discard(node)
        depth = node.depth
        self._depths[depth] -= 1
        if not self._depths[depth]:
            del self._depths[depth]

    def update(self, node: Node) -> None:
        """Look at the rank of a leaf again."""
        if not node.evaluation.known:
            if node.axes:
                self._unknown.add(node)
            return
        self._unknown.discard(node)
        if node.axes:
            key = self._group(node.cell)
            heap = self._heaps.setdefault(key, [])
            heapq.heappush(heap, (self._order(node), node))
            if not len(heap) % _SWEEP:
                self.best(key)

    def __iter__(self) -> Iterator[Node]:
        """All leaves, in no particular order."""
        return iter(self._nodes.values())

    def at(self, cell: Cell) -> Node | None:
        """The leaf of a cell."""
        return self._nodes.get(cell)

    @property
    def depth(self) -> int:
        """Depth of the deepest leaf."""
        return max(self._depths, default=0)

    @property
    def exhausted(self) -> bool:
        """Whether no leaf can be split, now or when running trials end well."""
        return not (self._unknown or any(self.best(key) for key in list(self._heaps)))

    def best(self, key: int) -> Node | None:
        """The best leaf of a group that is known and can be split; the lowest cell on ties."""
        heap = self._heaps.get(key, [])
        while heap and not self._is_current(*heap[0]):
            heapq.heappop(heap)
        if not heap:
            self._heaps.pop(key, None)
            return None
        return heap[0][1]

    def candidates(self, key: int) -> list[Node]:
        """All leaves of a group that are known and can be split, ascending."""
        return sorted({n for rank, n in self._heaps.get(key, ()) if self._is_current(rank, n)})

    def first(self, key: int, condition: Callable[[Node], bool]) -> Node | None:
        """The best leaf of a group that is known, can be split and meets a condition."""
        passed: set[Node] = set()
        while (best := self.best(key)) and not condition(best):
            passed.add(heapq.heappop(self._heaps[key])[1])
        self._restore(passed)
        return best

    def ties(self, key: int) -> list[Node]:
        """All leaves of a group that share its best rank, ascending."""
        found: set[Node] = set()
        best = self.best(key)
        rank = None if best is None else self._order(best)
        while best is not None and (top := self.best(key)) and self._order(top) == rank:
            found.add(heapq.heappop(self._heaps[key])[1])
        self._restore(found)
        return sorted(found)

    def _restore(self, popped: Iterable[Node]) -> None:
        for node in popped:
            self.update(node)

    def groups(self) -> dict[int, Node]:
        """The best leaf of every group that has one, by ascending key."""
        found = {key: self.best(key) for key in sorted(self._heaps)}
        return {key: best for key, best in found.items() if best is not None}

    def promising(self) -> Node | None:
        """A leaf without a value that can be split: the shallowest, then the best surrounded."""
        return min(self._unknown, key=lambda n: (n.depth, _ancestor_rank(n), n.cell), default=None)

    def _is_current(self, rank: Rank, node: Node) -> bool:
        is_leaf = node.is_leaf and node.known and node.evaluation.leaf is node
        return is_leaf and self._order(node) == rank


def _ancestors(node: Node) -> Iterator[Node]:
    above = node.parent
    while above is not None:
        yield above
        above = above.parent


def _ancestor_rank(node: Node) -> Rank:
    """Rank of the nearest known node above."""
    return next((above.rank for above in _ancestors(node) if above.known), WORST)
