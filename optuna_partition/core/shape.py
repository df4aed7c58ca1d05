"""The cells of a tree: how they grow, what divides them, and who sits in them.

A *guest* is an observed point that nobody claimed: the leaf around it ranks by the better of its
center and its guests, and a guest at the very center of a cell is that cell's evaluation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

from optuna_partition.core.box import Box
from optuna_partition.core.cell import Cell, center, children, root
from optuna_partition.core.claim import Claim, Record, Round, same_values
from optuna_partition.core.descent import node_of, part_with
from optuna_partition.core.divided import Divided
from optuna_partition.core.holdings import Holdings
from optuna_partition.core.leaves import Leaves, Order
from optuna_partition.core.node import Evaluation, Guest, Node, sample_of
from optuna_partition.core.owed import Owed

Division = Callable[[Box, Cell], tuple[int, ...]]
Group = Callable[[Box, Cell], int]


class Shape:
    """Nodes and evaluations, and indexes over them.

    Args:
        box: The search space.
        division: Axes along which a cell is divided.
        group: Key by which leaves are grouped.
        order: Rank by which the leaves of a group are ordered; a function of the node's rank and
            of the number of repeats that it comes from.
        max_retries: How often a failed evaluation is handed out again before it counts as the
            worst.
    """

    def __init__(
        self, box: Box, *, division: Division, group: Group, order: Order, max_retries: int
    ) -> None:
        self.box = box
        self.holdings = Holdings()
        self.leaves = Leaves(functools.partial(group, box), order)
        self.divided = Divided()
        self.open: set[Node] = set()
        self.owed = Owed()
        self._division = division
        self._max_retries = max_retries
        # Tuples that many cells share, and the split that was asked for last.
        self._same: dict[Any, Any] = {}
        whole = root(box)
        self._split: tuple[Cell, int, tuple[tuple[Cell, bool], ...]] = (whole, -1, ())
        evaluation = Evaluation(whole, None, None)
        self.root = self._last = self._node(whole, evaluation, None)
        self.settle(evaluation)
        self._grow([self.root])

    # Evaluations

    def join(self, number: int, record: Record, evaluation: Evaluation) -> None:
        """Make a trial part of an evaluation."""
        sample = sample_of(number, record, evaluation)
        if sample.round is not None:
            sample.round = self._shared_round(sample.round)
        self.holdings.keep(sample)
        evaluation.samples = (*evaluation.samples, sample)
        self.settle(evaluation)

    def settle(self, evaluation: Evaluation) -> None:
        """Draw the conclusion from all samples of an evaluation, and tell its leaf."""
        before = evaluation.status, evaluation.rank, evaluation.count
        evaluation.conclude(self._max_retries)
        self.owed.update(evaluation)
        if (evaluation.status, evaluation.rank, evaluation.count) == before:
            return
        if evaluation.leaf is not None:
            self.leaves.update(evaluation.leaf)
        if evaluation.leaf is None or evaluation.leaf.cell is not evaluation.cell:
            self.divided.changed()  # it ranks divided nodes above the leaf, too
        divider = evaluation.divider
        if divider is not None and len(divider.axes) > 1:
            # The order of a division along several sides follows from the values.
            self._fell(divider)
            self._grow(self._finish(divider))

    def _shared_round(self, round_: Round) -> Round:
        """The round in the words of the tree: thousands of claims say the same of it."""
        if round_.selected:
            nodes = [(cell, self.find(cell)) for cell in round_.selected]
            cells = tuple([cell if node is None else node.cell for cell, node in nodes])
            round_ = dataclasses.replace(round_, selected=cells)
        return self.holdings.rounds.shared(round_)

    # Divisions

    def find(self, cell: Cell) -> Node | None:
        """The node of a cell; None if the tree has none."""
        found = self.leaves.at(cell)
        if found is not None:
            return found
        if self._last.cell == cell:  # the claims of one division follow each other
            return self._last
        return node_of(self.box, self.root, cell)

    def dividable(self, cell: Cell) -> Node | None:
        """The node that claims on parts of a cell divide: a leaf, or one with a division.

        A stage of a division along several sides is none.
        """
        if not len(cell.levels) == len(cell.index) == len(self.box.axes):
            return None
        node = self.find(cell)
        if node is not None:
            self._last = node
        return None if node is None or (node.children and not node.division) else node

    def can_divide(self, node: Node, claim: Claim) -> bool:
        """Whether a claim names a part of a node's division."""
        axis = claim.axis
        return (
            axis is not None
            and axis in node.axes
            and (claim.cell, False) in self._parts(node.cell, axis)
        )

    def divide(self, leaf: Node) -> None:
        """Divide a leaf, and what is below it as claims and guests say."""
        self._start(leaf)
        self._grow(self._finish(leaf))

    def undo(self, node: Node) -> None:
        """Make a divided node a leaf again, unless guests divide it."""
        self._fell(node)
        self.owed.drop(node.division)
        self.open.discard(node)
        node.division = ()
        self.divided.discard(node)
        self._grow([node])

    def _grow(self, nodes: Iterable[Node]) -> None:
        """Make leaves of new nodes, or divide them where claims or guests say so."""
        stack = list(nodes)
        while stack:
            node = stack.pop()
            node.evaluation.leaf = node
            self.leaves.add(node)
            waiting = self.holdings.take(node.cell) or {}
            if not (waiting or node.guests):  # nearly always
                continue
            claims = {n: r for n, r in waiting.items() if self.can_divide(node, r.claim)}
            if not claims and not self._is_full(node):
                continue
            self._start(node)
            for number, record in claims.items():
                evaluation = node.part_of(record.claim)
                assert evaluation is not None
                self.join(number, record, evaluation)
            if not node.children:  # the values of several sides may have shaped it already
                stack.extend(self._finish(node))

    def _parts(self, cell: Cell, axis: int) -> tuple[tuple[Cell, bool], ...]:
        """`children`, remembered: a division asks for its own several times."""
        if self._split[0] is not cell or self._split[1] != axis:
            parts = children(self.box, cell, axis)
            self._split = cell, axis, tuple([(self._shared(part), same) for part, same in parts])
        return self._split[2]

    def _shared(self, cell: Cell) -> Cell:
        """The cell with a tuple of levels that all cells of its shape share: it saves memory."""
        levels = self._same.setdefault(cell.levels, cell.levels)
        return cell if levels is cell.levels else Cell(levels, cell.index)

    def _node(self, cell: Cell, evaluation: Evaluation, above: Node | None) -> Node:
        axes = self._division(self.box, cell)
        return Node(cell, evaluation, above, self._same.setdefault(axes, axes))

    def _start(self, leaf: Node) -> None:
        """Make the evaluations of a division; its children follow by `_finish`."""
        self.leaves.drop(leaf)
        leaf.evaluation.leaf = None
        self.divided.add(leaf)
        self.open.add(leaf)
        needed: list[Evaluation] = []
        for axis in leaf.axes:
            for cell, inherits in self._parts(leaf.cell, axis):
                if not inherits:
                    adopted = self._guests_at(leaf, cell)
                    needed.append(Evaluation(cell, axis, leaf, adopted=adopted))
        leaf.division = tuple(needed)
        for evaluation in needed:
            if evaluation.adopted:
                evaluation.conclude(self._max_retries)
            self.owed.update(evaluation)

    def _finish(self, node: Node) -> list[Node]:
        """Give a divided node its children if their shape is known; returns the new leaves."""
        axes = node.axes
        if len(axes) > 1 and not all(e.known for e in node.division):
            return []
        self.open.discard(node)
        if len(axes) > 1:
            best = {a: min(e.rank for e in node.division if e.axis == a) for a in axes}
            axes = tuple(sorted(axes, key=lambda a: (best[a], a)))
        leaves: list[Node] = []
        middle, guests = node, node.guests
        node.guests = ()
        for axis in axes:
            middle.axis = axis
            others = iter([e for e in node.division if e.axis == axis])  # in the order of parts
            parts = []
            for cell, inherits in self._parts(middle.cell, axis):
                evaluation = node.evaluation if inherits else next(others)
                # Along the first axis a part is the cell that was made for its evaluation.
                same = evaluation.cell if evaluation.cell == cell else cell
                parts.append(self._node(same, evaluation, middle))
            middle.children = tuple(parts)
            leaves.extend([part for part in parts if part.evaluation is not node.evaluation])
            middle = next(part for part in parts if part.evaluation is node.evaluation)
        leaves.append(middle)
        self.seat(guests, node, grow=False)
        return leaves

    def _fell(self, node: Node) -> None:
        """Take away all below a divided node; what was claimed there waits for it again."""
        if not node.children:
            return
        self.holdings.rounds.moved()
        self._last = self.root
        guests: list[Guest] = []
        stack = list(node.children)
        while stack:
            fallen = stack.pop()
            guests.extend(fallen.guests)
            stack.extend(fallen.children)
            if fallen.is_leaf:
                self.leaves.drop(fallen)
                fallen.evaluation.leaf = None
                continue
            self.open.discard(fallen)
            self.divided.discard(fallen)
            self.owed.drop(fallen.division)
            for evaluation in fallen.division:
                for sample in evaluation.samples:
                    self.holdings.suspend(sample, fallen.cell)
        node.children, node.axis = (), -1
        node.guests = tuple(sorted(guests, key=lambda guest: guest.number))
        for guest in node.guests:
            guest.node = node
        self.open.add(node)

    # Guests

    def seat(self, guests: Iterable[Guest], node: Node, *, grow: bool = True) -> None:
        """Bring guests of a node to the leaves, or the open divisions, that hold them."""
        for guest in guests:
            place = node
            while place.children:
                if not guest.probe:
                    place.best_guest = min(place.best_guest, guest.rank)
                place = part_with(self.box, place, guest.observation.values)
            guest.node = place
            place.guests = (*place.guests, guest)
            self._adopt(guest, place)
            self.welcome(guest)
            if grow and place.is_leaf and self._is_full(place):
                self.leaves.drop(place)
                self._grow([place])

    def welcome(self, guest: Guest) -> None:
        """Let a guest count in the rank of all cells around it; a probe counts for itself."""
        if guest.probe:
            return
        self.divided.changed()
        node: Node | None = guest.node
        rank = guest.rank
        while node is not None and rank < node.best_guest:
            node.best_guest = rank
            node = node.parent
        if guest.node.is_leaf:
            self.leaves.update(guest.node)

    def unseat(self, guest: Guest) -> None:
        """Send a guest away that ranks nothing and divides nothing."""
        adopters = [e for e in guest.node.evaluations if guest in e.adopted]
        guest.node.guests = tuple(other for other in guest.node.guests if other is not guest)
        for evaluation in adopters:
            evaluation.adopted = tuple(other for other in evaluation.adopted if other is not guest)
            self.settle(evaluation)

    def is_taken(self, node: Node, cell: Cell) -> bool:
        """Whether guests have evaluated the center of a cell inside a node, or given it up."""
        guests = self._guests_at(node, cell)
        return any(not guest.failed for guest in guests) or len(guests) > self._max_retries

    def _adopt(self, guest: Guest, place: Node) -> None:
        """A guest at the center of an evaluation is one of its trials."""
        for evaluation in place.evaluations:
            if guest not in evaluation.adopted and same_values(
                guest.observation.values, center(self.box, evaluation.cell)
            ):
                evaluation.adopted = (*evaluation.adopted, guest)
                self.settle(evaluation)

    def _guests_at(self, node: Node, cell: Cell) -> tuple[Guest, ...]:
        """Guests of a node that sit at the center of a cell inside it."""
        if not node.guests:
            return ()
        at = center(self.box, cell)
        return tuple(g for g in node.guests if same_values(g.observation.values, at))

    def _is_full(self, node: Node) -> bool:
        """Whether guests have already evaluated all that a division of the leaf needs."""
        return bool(node.guests and node.axes) and all(
            inherits or self.is_taken(node, cell)
            for axis in node.axes
            for cell, inherits in self._parts(node.cell, axis)
        )
