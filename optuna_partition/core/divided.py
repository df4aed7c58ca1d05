"""The divided nodes of a tree, by depth and rank."""

from __future__ import annotations

import bisect
from collections.abc import Set

from optuna_partition.core.claim import Rank
from optuna_partition.core.node import Node


class Divided:
    """An index over the divided nodes."""

    def __init__(self) -> None:
        self._nodes: dict[int, set[Node]] = {}
        # Made when a rule asks for them, and kept as long as nothing leaves and no rank changes.
        self._ranked: dict[int, list[tuple[Rank, Node]]] = {}

    def __len__(self) -> int:
        """Number of divided nodes."""
        return sum(len(nodes) for nodes in self._nodes.values())

    def add(self, node: Node) -> None:
        """Take a node in."""
        nodes = self._nodes.setdefault(node.depth, set())
        ranked = self._ranked.get(node.depth)
        if ranked is not None and node not in nodes:
            bisect.insort(ranked, (node.rank, node))
        nodes.add(node)

    def discard(self, node: Node) -> None:
        """Leave out a node that is not divided any more, or not part of the tree."""
        self._nodes.get(node.depth, set()).discard(node)
        self._ranked.pop(node.depth, None)

    def changed(self) -> None:
        """Note that the ranks of divided nodes have changed."""
        self._ranked.clear()

    def at(self, depth: int) -> Set[Node]:
        """The nodes of a depth; not to be modified."""
        return self._nodes.get(depth, set())

    def before(self, node: Node) -> int:
        """Number of nodes of the same depth that rank before this one."""
        ranked = self._ranked.get(node.depth)
        if ranked is None:
            ranked = sorted((other.rank, other) for other in self.at(node.depth))
            self._ranked[node.depth] = ranked
        return bisect.bisect_left(ranked, (node.rank, node))
