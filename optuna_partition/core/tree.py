"""The partition as a fold over claims.

A trial of a partition sampler holds one claim: the cell whose center it evaluates. `Tree` is a
function of the claims and of what became of them, whatever the order in which they are recorded; a
recorded claim can be replaced or taken back.

Terms: an *evaluation* is a point that a trial is spent on, named by the cell that was made for it
    (with a division along
several sides at once: by the cell split along that side alone). The middle child of a split shares
its parent's evaluation, so each evaluation belongs to exactly one leaf. A cell is *divided* as soon
as somebody claimed one of its children. A division along one side has its children at once; one
along several has them when all values are in, as the best ones get the largest cells.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from optuna_partition.core.box import Box
from optuna_partition.core.cell import Cell, child, children, parent, root, splittable_axes
from optuna_partition.core.claim import Claim, Record, Round, Status

Division = Callable[[Box, Cell], tuple[int, ...]]
Group = Callable[[Box, Cell], int]


@dataclass(slots=True)
class _Evaluation:
    """All that was recorded about one point, and what it amounts to."""

    records: dict[int, Record] = field(default_factory=dict)
    status: Status = Status.FAILED
    value: float = math.inf

    @property
    def known(self) -> bool:
        return self.status is Status.KNOWN


@dataclass(frozen=True, slots=True)
class _Division:
    """A divided cell: the evaluations that it needs, by axis, and its children once known."""

    evaluations: tuple[tuple[int, Cell], ...]
    children: tuple[Cell, ...]


class Tree:
    """Leaves, values and open evaluations of a partition.

    Args:
        box: The search space.
        division: Axes along which a cell is divided, for example `one_longest_side`.
        group: Key by which leaves are grouped for selection, for example `depth`.
        max_retries: How often a failed evaluation is handed out again before it counts as the
            worst.
    """

    def __init__(self, box: Box, *, division: Division, group: Group, max_retries: int = 1) -> None:
        self.box = box
        self.root = root(box)
        self._division = division
        self._group = group
        self._max_retries = max_retries
        self._records: dict[int, Record] = {}
        self._evaluations: dict[Cell, _Evaluation] = {self.root: _Evaluation()}
        # Claimed evaluations of a cell's children, whether the cell is part of the tree already or
        # not.
        self._claimed: dict[Cell, set[Cell]] = {}
        self._rounds: dict[int, dict[int, Claim]] = {}
        # The part of the claims that hangs together from the root.
        self._evaluation_of: dict[Cell, Cell] = {}
        self._parent: dict[Cell, Cell] = {}
        self._divisions: dict[Cell, _Division] = {}
        self._leaf_of: dict[Cell, Cell] = {}
        self._divider_of: dict[Cell, tuple[Cell, int]] = {}
        self._free: set[Cell] = set()
        self._unknown_leaves: set[Cell] = set()
        self._heaps: dict[int, list[tuple[float, Cell]]] = {}
        self._depths: Counter[int] = Counter()
        self._grow(self.root, self.root)
        self._note_free(self.root)

    # Recording

    def record(self, number: int, record: Record | None) -> bool:
        """Set what trial `number` claims and what became of it; None takes the claim back.

        Returns:
            Whether the claim can be part of this tree; a claim of another division or box is left
            out.
        """
        before = self._records.get(number)
        if record == before:
            return True
        if before is not None and record is not None and record.claim == before.claim:
            self._replace(number, record)
            return True
        if before is not None:
            self._remove(number, before.claim)
        if record is None:
            return True
        divided = self._parent_of(record.claim)
        if divided is None and record.claim.cell != self.root:
            return False
        self._add(number, record, divided)
        return True

    def _parent_of(self, claim: Claim) -> Cell | None:
        """The cell that the claim divides; None for the root and what this tree never claims."""
        cell, axis = claim.cell, claim.axis
        if axis is None or not (
            len(cell.levels) == len(cell.index) == len(self.box.axes)
            and 0 <= axis < len(cell.levels)
            and cell.levels[axis] > 0
        ):
            return None
        divided, _ = parent(self.box, cell, axis)
        if axis not in self._division(self.box, divided):
            return None
        offspring = children(self.box, divided, axis)
        return divided if (cell, False) in offspring else None

    def _add(self, number: int, record: Record, divided: Cell | None) -> None:
        claim = record.claim
        self._records[number] = record
        evaluation = self._evaluations.setdefault(claim.cell, _Evaluation())
        evaluation.records[number] = record
        if claim.round is not None:
            self._rounds.setdefault(claim.round.number, {})[number] = claim
        self._settle(claim.cell, evaluation)
        if divided is None:
            return
        self._claimed.setdefault(divided, set()).add(claim.cell)
        if divided in self._evaluation_of and divided not in self._divisions:
            self._prune(divided)
            self._grow(divided, self._evaluation_of[divided])

    def _replace(self, number: int, record: Record) -> None:
        self._records[number] = record
        evaluation = self._evaluations[record.claim.cell]
        evaluation.records[number] = record
        self._settle(record.claim.cell, evaluation)

    def _remove(self, number: int, claim: Claim) -> None:
        del self._records[number]
        evaluation = self._evaluations[claim.cell]
        del evaluation.records[number]
        if claim.round is not None:
            claims = self._rounds[claim.round.number]
            del claims[number]
            if not claims:
                del self._rounds[claim.round.number]
        self._settle(claim.cell, evaluation)
        divided = self._parent_of(claim)
        if evaluation.records or divided is None:
            return
        self._claimed[divided].remove(claim.cell)
        if self._claimed[divided]:
            return
        del self._claimed[divided]
        if divided in self._divisions:
            self._prune(divided)
            self._grow(divided, self._evaluation_of[divided])

    def _settle(self, cell: Cell, evaluation: _Evaluation) -> None:
        """Draw the conclusion from all records of an evaluation, and tell its leaf."""
        was_known, before = evaluation.known, evaluation.value
        evaluation.status, evaluation.value = self._conclusion(evaluation)
        self._note_free(cell)
        if (evaluation.known, evaluation.value) == (was_known, before):
            return
        if cell in self._leaf_of:
            self._note_leaf(self._leaf_of[cell])
        divided, _ = self._divider_of.get(cell, (None, None))
        if divided is not None and len(self._division(self.box, divided)) > 1:
            # The order of a division along several sides follows from the values.
            self._prune(divided)
            self._grow(divided, self._evaluation_of[divided])

    def _conclusion(self, evaluation: _Evaluation) -> tuple[Status, float]:
        known = [n for n, record in evaluation.records.items() if record.status is Status.KNOWN]
        if known:  # twice only after a worker was taken for dead: the earlier trial counts
            value = evaluation.records[min(known)].value
            return Status.KNOWN, math.inf if math.isnan(value) else value
        if any(record.status is Status.PENDING for record in evaluation.records.values()):
            return Status.PENDING, math.inf
        if len(evaluation.records) > self._max_retries:
            return Status.KNOWN, math.inf
        return Status.FAILED, math.inf

    def _note_free(self, cell: Cell) -> None:
        wanted = cell == self.root or cell in self._divider_of
        if wanted and self._evaluations[cell].status is Status.FAILED:
            self._free.add(cell)
        else:
            self._free.discard(cell)

    # Shape

    def _grow(self, cell: Cell, evaluation: Cell) -> None:
        """Make `cell` a node, with all that was claimed below it."""
        stack = [(cell, evaluation)]
        while stack:
            cell, evaluation = stack.pop()
            self._evaluation_of[cell] = evaluation
            if cell not in self._claimed:
                self._leaf_of[evaluation] = cell
                self._depths[cell.depth] += 1
                self._note_leaf(cell)
                continue
            offspring = self._divide(cell)
            for descendant, _ in offspring:
                self._parent[descendant] = cell
            stack.extend(offspring)

    def _divide(self, cell: Cell) -> list[tuple[Cell, Cell]]:
        """Children of a divided cell with their evaluations; none while the shape is open."""
        axes = self._division(self.box, cell)
        needed: list[tuple[int, Cell]] = []
        for axis in axes:
            for evaluation in (c for c, inherits in children(self.box, cell, axis) if not inherits):
                needed.append((axis, evaluation))
                self._evaluations.setdefault(evaluation, _Evaluation())
                self._divider_of[evaluation] = (cell, axis)
                self._note_free(evaluation)
        values = {e: self._evaluations[e] for _, e in needed}
        offspring: list[tuple[Cell, Cell]] = []
        if len(axes) == 1 or all(e.known for e in values.values()):
            best = {a: min(values[e].value for axis, e in needed if axis == a) for a in axes}
            offspring = self._nested(cell, sorted(axes, key=lambda a: (best[a], a)))
        self._divisions[cell] = _Division(tuple(needed), tuple(c for c, _ in offspring))
        return offspring

    def _nested(self, cell: Cell, axes: list[int]) -> list[tuple[Cell, Cell]]:
        """Children, with evaluations, of splitting the center cell along one axis after another."""
        offspring: list[tuple[Cell, Cell]] = []
        middle = cell
        for axis in axes:
            for part, inherits in children(self.box, middle, axis):
                if not inherits:
                    number = parent(self.box, part, axis)[1]
                    offspring.append((part, child(self.box, cell, axis, number)))
            middle = next(part for part, inherits in children(self.box, middle, axis) if inherits)
        offspring.append((middle, self._evaluation_of[cell]))
        return offspring

    def _prune(self, cell: Cell) -> None:
        """Take away all below `cell`, and `cell` as a leaf; it stays a node without shape."""
        stack = [cell]
        while stack:
            node = stack.pop()
            division = self._divisions.pop(node, None)
            if division is None:
                if self._leaf_of.get(self._evaluation_of[node]) == node:
                    self._drop_leaf(node)
            else:
                stack.extend(division.children)
                for _, evaluation in division.evaluations:
                    del self._divider_of[evaluation]
                    self._free.discard(evaluation)
            if node != cell:
                del self._evaluation_of[node]
                del self._parent[node]

    def _drop_leaf(self, cell: Cell) -> None:
        del self._leaf_of[self._evaluation_of[cell]]
        self._unknown_leaves.discard(cell)
        self._depths[cell.depth] -= 1
        if not self._depths[cell.depth]:
            del self._depths[cell.depth]

    def _note_leaf(self, cell: Cell) -> None:
        if not splittable_axes(self.box, cell):
            return
        evaluation = self._evaluations[self._evaluation_of[cell]]
        if evaluation.known:
            self._unknown_leaves.discard(cell)
            heap = self._heaps.setdefault(self._group(self.box, cell), [])
            heapq.heappush(heap, (evaluation.value, cell))
        else:
            self._unknown_leaves.add(cell)

    # Reading

    @property
    def depth(self) -> int:
        """Depth of the deepest leaf."""
        return max(self._depths, default=0)

    @property
    def expansions(self) -> int:
        """Number of divided cells."""
        return len(self._divisions)

    @property
    def leaves(self) -> tuple[Cell, ...]:
        """All leaves, ascending; with cells whose division is still open they tile the box."""
        return tuple(sorted(self._leaf_of.values()))

    @property
    def open_divisions(self) -> tuple[Cell, ...]:
        """Divided cells whose children are not known yet, ascending."""
        return tuple(sorted(c for c, division in self._divisions.items() if not division.children))

    @property
    def exhausted(self) -> bool:
        """Whether no evaluation is left to hand out, now or when running trials end well."""
        return not (
            self._free
            or self._unknown_leaves
            or any(self.best_leaf(key) for key in list(self._heaps))
            or self.open_divisions
        )

    @property
    def round(self) -> int:
        """Number of the latest round; 0 before the first."""
        return max(self._rounds, default=0)

    def claims_of_round(self, number: int) -> tuple[Claim, ...]:
        """Claims made in a round, by trial number."""
        return tuple(claim for _, claim in sorted(self._rounds.get(number, {}).items()))

    def value(self, cell: Cell) -> float | None:
        """Value at a node's center; None while unknown, +inf if it counts as the worst."""
        evaluation = self._evaluations[self._evaluation_of[cell]]
        return evaluation.value if evaluation.known else None

    def value_of_parent(self, claim: Claim) -> float | None:
        """Value of the cell that a claim divides; None if it is unknown or not part of the tree."""
        divided = self._parent_of(claim)
        if divided is None or divided not in self._evaluation_of:
            return None
        return self.value(divided)

    def evaluation(self, cell: Cell) -> Cell:
        """The evaluation that a node's value comes from."""
        return self._evaluation_of[cell]

    def holders(self, evaluation: Cell) -> tuple[int, ...]:
        """Trials that hold an evaluation and have not failed, ascending."""
        found = self._evaluations.get(evaluation, _Evaluation())
        return tuple(sorted(n for n, r in found.records.items() if r.status is not Status.FAILED))

    def is_leaf(self, cell: Cell) -> bool:
        """Whether the cell is an undivided node."""
        return self._leaf_of.get(self._evaluation_of.get(cell, cell)) == cell

    def best_leaf(self, key: int) -> tuple[float, Cell] | None:
        """The best leaf of a group that is known and can be split; the lowest cell on ties."""
        heap = self._heaps.get(key, [])
        while heap and not self._is_current(*heap[0]):
            heapq.heappop(heap)
        if not heap:
            self._heaps.pop(key, None)
            return None
        return heap[0]

    def ties(self, key: int) -> tuple[Cell, ...]:
        """All leaves of a group that share its best value, ascending."""
        best = self.best_leaf(key)
        found: set[Cell] = set()
        while best is not None and (top := self.best_leaf(key)) and top[0] == best[0]:
            found.add(heapq.heappop(self._heaps[key])[1])
        for cell in found:
            self._note_leaf(cell)
        return tuple(sorted(found))

    def groups(self) -> dict[int, tuple[float, Cell]]:
        """The best leaf of every group that has one, by ascending key."""
        found = {key: self.best_leaf(key) for key in sorted(self._heaps)}
        return {key: best for key, best in found.items() if best is not None}

    def _is_current(self, value: float, cell: Cell) -> bool:
        return self.is_leaf(cell) and self.value(cell) == value

    # Handing out

    def divide(self, cell: Cell, round_: Round | None) -> Claim:
        """The claim that starts to divide a leaf: its first evaluation."""
        axis = self._division(self.box, cell)[0]
        first = next(c for c, inherits in children(self.box, cell, axis) if not inherits)
        return Claim(first, axis, round_)

    def owed(self) -> Claim | None:
        """The next evaluation that a division waits for: a sibling, or the retry of a failed trial.

        Divisions go by round, then by the cell that is divided; within one by axis and side.
        """
        if not self._free:
            return None
        if self.root in self._free:
            return Claim(self.root)
        return min((self._owed_claim(e) for e in self._free), key=_by_round)

    def _owed_claim(self, evaluation: Cell) -> Claim:
        divided, axis = self._divider_of[evaluation]
        records = (self._evaluations[cell].records for cell in self._claimed[divided])
        openers = sorted(item for found in records for item in found.items() if item[1].claim.round)
        opened = openers[0][1].claim.round if openers else None
        return Claim(evaluation, axis, opened and Round(opened.number, opened.max_depth))

    def speculative(self) -> Claim | None:
        """A claim below a leaf whose value nobody knows yet.

        The shallowest comes first, then the one with the best nearest known ancestor.
        """
        if not self._unknown_leaves:
            return None
        cell = min(self._unknown_leaves, key=lambda c: (c.depth, self._ancestor_value(c), c))
        return self.divide(cell, None)

    def _ancestor_value(self, cell: Cell) -> float:
        for ancestor in self._ancestors(cell):
            value = self.value(ancestor)
            if value is not None:
                return value
        return math.inf

    def _ancestors(self, cell: Cell) -> Iterator[Cell]:
        while cell in self._parent:
            cell = self._parent[cell]
            yield cell


def _by_round(claim: Claim) -> tuple[float, int, Cell, int]:
    number = claim.round.number if claim.round else math.inf
    return number, claim.cell.depth, claim.cell, claim.axis or 0
