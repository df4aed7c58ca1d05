"""The partition as a fold over claims.

A trial of a partition sampler holds one claim: the cell whose center it evaluates. `Tree` is a
function of the claims and of what became of them, whatever the order in which they are recorded; a
recorded claim can be replaced or taken back.

Terms: an *evaluation* is a point that a trial is spent on, named by the cell that was made for it
(with a division along several sides at once: by the cell split along that side alone). The middle
child of a split shares its parent's evaluation, so each evaluation belongs to exactly one leaf. A
cell is *divided* as soon as somebody claimed one of its children. A division along one side has its
children at once; one along several has them when all values are in, as the best ones get the
largest cells. A *guest* is an observed point that nobody claimed: the leaf around it ranks by the
better of its center and its guests, and a guest at the very center of a cell is that cell's
evaluation. A *probe* is a claim on a point off the centers: a guest that ranks nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any

from optuna_partition.core.box import Box
from optuna_partition.core.cell import Cell, children, fits, parent, root
from optuna_partition.core.claim import (
    Claim,
    Observation,
    Rank,
    Record,
    Round,
    Skip,
    Status,
    Trial,
    rank,
)
from optuna_partition.core.divided import Divided
from optuna_partition.core.leaves import Leaves
from optuna_partition.core.node import Evaluation, Guest, Node, Sample, claim_of, sample_of
from optuna_partition.core.points import Points
from optuna_partition.core.rounds import Member, Rounds

MAX_SKIPS = 64
"""How many evaluations one claim can pass over."""
# The skips of trial n have numbers of their own, far below those of trials: 64 n + k - 2**62.
_FIRST_SKIP = -(2**62)
# Who passes over evaluations before the claim is made.
_NOBODY = -(2**40)

Division = Callable[[Box, Cell], tuple[int, ...]]
Group = Callable[[Box, Cell], int]


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
        self.division = division
        self._group = functools.partial(group, box)
        self._max_retries = max_retries
        self._guests: dict[tuple[int, bool], Guest] = {}
        self._probes: dict[int, Record] = {}
        self._skips: dict[int, tuple[Skip, ...]] = {}
        self._skipped = 0
        self._same: dict[Any, Any] = {}
        self._split: tuple[Cell, int, tuple[tuple[Cell, bool], ...]] = (self.root, -1, ())
        # Made when a rule asks for it; then these trials are looked at again.
        self._points: Points | None = None
        self._moved: set[tuple[int, bool]] = set()
        self._plant()

    def _plant(self) -> None:
        """Start with the undivided box."""
        # What each trial holds: a sample of an evaluation, or a record that hangs from a cell which
        # nobody has made yet (`_waiting`, by the cell that it divides).
        self._held: dict[int, Sample | Record] = {}
        self._waiting: dict[Cell, dict[int, Record]] = {}
        self._rounds = Rounds(self._held)
        self._leaves = Leaves(self._group)
        evaluation = Evaluation(self.root, None, None)
        self._root = self._node(self.root, evaluation, None)
        self._last = self._root
        self._free: set[Evaluation] = set()
        self._open: set[Node] = set()
        self._divided = Divided()
        self._settle(evaluation)
        self._grow([self._root])

    # Recording

    def record(self, number: int, record: Record | None) -> bool:
        """Set what trial `number` claims and what became of it; None takes the claim back.

        Returns:
            Whether the claim can be part of this tree; a claim of another division or box is left
            out.
        """
        self._pass_over(number, () if record is None else record.claim.skips)
        if self._points is not None:
            self._moved.add((number, True))
        if number in self._probes or (record is not None and record.claim.probe is not None):
            if record is not None and record.claim.probe is not None:
                if number in self._held:
                    self._release(number, self._held[number])
                return self._probe(number, record)
            self._probe(number, None)
        held = self._held.get(number)
        if isinstance(held, Sample) and record is not None and _same_claim(held, record.claim):
            sample = sample_of(number, record, held.evaluation)
            if (sample.status, sample.rank) != (held.status, held.rank):
                held.status, held.rank = sample.status, sample.rank
                self._settle(held.evaluation)
            return True
        if held is not None:
            if held == record:
                return True
            self._release(number, held)
        return record is None or self._hold(number, record)

    def assume(self, skips: tuple[Skip, ...]) -> None:
        """Pass over evaluations that no claim passes over yet; empty: no longer."""
        self._pass_over(_NOBODY, skips)

    def _pass_over(self, number: int, skips: tuple[Skip, ...]) -> None:
        before = self._skips.pop(number, ())
        if not before and not skips:
            return
        first = _FIRST_SKIP + MAX_SKIPS * number
        pairs = zip(before, skips, strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        for k in reversed(range(same, len(before))):
            if first + k in self._held:
                self._release(first + k, self._held[first + k])
                self._skipped -= 1
        if skips:
            self._skips[number] = skips
        for k, skip in enumerate(skips[same:], start=same):
            claim = Claim(skip.cell, skip.axis, skip.round)
            record = Record(claim, Status.SUBSTITUTED, skip.value, skip.violation)
            self._skipped += self._hold(first + k, record)

    def _hold(self, number: int, record: Record) -> bool:
        claim = record.claim
        if claim.axis is None:
            if claim.cell != self.root:
                return False
            self._join(number, record, self._root.evaluation)
            return True
        if not _names_a_child(self.box, claim):
            return False
        divided, _ = parent(self.box, claim.cell, claim.axis)
        node = self._find(divided)
        if node is None:
            self._waiting.setdefault(divided, {})[number] = record
            self._held[number] = record
            self._rounds.add(number, claim.round)
            return True
        if node.is_leaf and self._can_divide(node, claim):
            self._divide(node)
            self._grow(self._shape(node))
        evaluation = _part_of(node, claim)
        if evaluation is None:
            return False
        self._join(number, record, evaluation)
        return True

    def _join(self, number: int, record: Record, evaluation: Evaluation) -> None:
        """Add a sample to an evaluation of the tree."""
        sample = sample_of(number, record, evaluation)
        if sample.round is not None:
            sample.round = self._shared_round(sample.round)
        self._held[number] = sample
        self._rounds.add(number, sample.round)
        evaluation.samples = (*evaluation.samples, sample)
        self._settle(evaluation)

    def _release(self, number: int, held: Sample | Record) -> None:
        """Forget what a trial holds."""
        del self._held[number]
        if isinstance(held, Record):
            self._rounds.remove(number, held.claim.round)
            for cell, waiting in list(self._waiting.items()):
                if waiting.pop(number, None) is not None and not waiting:
                    del self._waiting[cell]
            return
        self._rounds.remove(number, held.round)
        evaluation, node = held.evaluation, held.evaluation.divider
        evaluation.samples = tuple(s for s in evaluation.samples if s is not held)
        self._settle(evaluation)
        if node is not None and not any(e.samples for e in node.division):
            self._undo(node)

    def _probe(self, number: int, record: Record | None) -> bool:
        if record is None:
            del self._probes[number]
            self._host(number, None, probe=True)
            return True
        probe = record.claim.probe
        if probe is None or len(probe.point) != len(self.box.axes):
            return False
        self._probes[number] = record
        values = tuple(self.box.at(probe.point).values())
        observation = Observation(
            values, record.status, record.value, record.violation, record.objectives
        )
        self._host(number, observation, probe=True)
        return True

    def observe(self, number: int, observation: Observation | None) -> None:
        """Set the point that trial `number` evaluates without a claim; None takes it back."""
        if self._points is not None:
            self._moved.add((number, False))
        self._host(number, observation, probe=False)

    def _host(self, number: int, observation: Observation | None, *, probe: bool) -> None:
        guest = self._guests.get((number, probe))
        if guest is not None and observation is not None:
            if guest.observation == observation:
                return
            if _equal(guest.observation.values, observation.values):
                guest.observation = observation
                self._welcome(guest, guest.node)
                for evaluation in _evaluations_at(guest.node):
                    if guest in evaluation.adopted:
                        self._settle(evaluation)
                return
            self._host(number, None, probe=probe)
        if observation is not None:
            point = self.box.units(observation.values)
            guest = Guest(number, observation, point, self._root, probe)
            self._guests[number, probe] = guest
            self._seat([guest], self._root)
        elif guest is not None:
            del self._guests[number, probe]
            if guest.node.guests and not guest.known:  # it ranks nothing and was nobody's value
                self._dismiss(guest)
            else:
                self._make_again()

    def _dismiss(self, guest: Guest) -> None:
        """Send a guest without a value away, unless cells were divided because of it."""
        node = guest.node
        adopters = [e for e in _evaluations_at(node) if guest in e.adopted]
        if any(not any(e.samples for e in n.division) for n in _ancestors(node)):
            self._make_again()
            return
        node.guests = tuple(other for other in node.guests if other is not guest)
        for evaluation in adopters:
            evaluation.adopted = tuple(other for other in evaluation.adopted if other is not guest)
            self._settle(evaluation)

    def _make_again(self) -> None:
        records = {n: _record_of(held) for n, held in sorted(self._held.items())}
        guests = [guest for _, guest in sorted(self._guests.items())]
        self._plant()
        for number, record in records.items():
            self._hold(number, record)
        self._seat(guests, self._root)

    def _settle(self, evaluation: Evaluation) -> None:
        """Draw the conclusion from all samples of an evaluation, and tell its leaf."""
        before = evaluation.status, evaluation.rank
        evaluation.conclude(self._max_retries)
        if evaluation.status is Status.FAILED:
            self._free.add(evaluation)
        else:
            self._free.discard(evaluation)
        if (evaluation.status, evaluation.rank) == before:
            return
        if evaluation.leaf is not None:
            self._leaves.update(evaluation.leaf)
        if evaluation.leaf is None or evaluation.leaf.cell is not evaluation.cell:
            self._divided.changed()  # it ranks divided nodes above the leaf, too
        divider = evaluation.divider
        if divider is not None and len(divider.axes) > 1:
            # The order of a division along several sides follows from the values.
            self._fell(divider)
            self._grow(self._shape(divider))

    # Shape

    def _grow(self, nodes: Iterable[Node]) -> None:
        """Make leaves of new nodes, or divide them where claims or guests say so."""
        stack = list(nodes)
        while stack:
            node = stack.pop()
            node.evaluation.leaf = node
            self._leaves.add(node)
            waiting = self._waiting.pop(node.cell, {}) if self._waiting else {}
            claims = {n: r for n, r in waiting.items() if self._can_divide(node, r.claim)}
            if not claims and not self._is_full(node):
                continue
            self._divide(node)
            for number, record in claims.items():
                evaluation = _part_of(node, record.claim)
                assert evaluation is not None
                self._rounds.remove(number, record.claim.round)
                self._join(number, record, evaluation)
            if not node.children:  # the values of several sides may have shaped it already
                stack.extend(self._shape(node))

    def _can_divide(self, node: Node, claim: Claim) -> bool:
        axis = claim.axis
        return (
            axis is not None
            and axis in node.axes
            and (claim.cell, False) in self._parts(node.cell, axis)
        )

    def _is_full(self, node: Node) -> bool:
        """Whether guests have already evaluated all that a division of the leaf needs."""
        return bool(node.guests and node.axes) and all(
            inherits or self._is_taken(node, cell)
            for axis in node.axes
            for cell, inherits in self._parts(node.cell, axis)
        )

    def _parts(self, cell: Cell, axis: int) -> tuple[tuple[Cell, bool], ...]:
        """`children`, remembered: a division asks for its own several times."""
        if self._split[0] is not cell or self._split[1] != axis:
            parts = children(self.box, cell, axis)
            self._split = cell, axis, tuple([(self._shared(part), same) for part, same in parts])
        return self._split[2]

    def _guests_at(self, node: Node, cell: Cell) -> tuple[Guest, ...]:
        """Guests of a node that sit at the center of a cell inside it."""
        if not node.guests:
            return ()
        center = self._center(cell)
        return tuple(g for g in node.guests if _equal(g.observation.values, center))

    def _is_taken(self, node: Node, cell: Cell) -> bool:
        """Whether guests have evaluated the center of a cell inside a node, or given it up."""
        guests = self._guests_at(node, cell)
        return any(not guest.failed for guest in guests) or len(guests) > self._max_retries

    def _center(self, cell: Cell) -> tuple[Any, ...]:
        return tuple(self.box.decode(cell.levels, cell.index).values())

    def _divide(self, leaf: Node) -> None:
        """Make the evaluations of a division; its children follow by `_shape`."""
        self._leaves.drop(leaf)
        leaf.evaluation.leaf = None
        self._divided.add(leaf)
        self._open.add(leaf)
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
            if evaluation.status is Status.FAILED:
                self._free.add(evaluation)

    def _shape(self, node: Node) -> list[Node]:
        """Give a divided node its children if their shape is known; returns the new leaves."""
        axes = node.axes
        if len(axes) > 1 and not all(e.known for e in node.division):
            return []
        self._open.discard(node)
        if len(axes) > 1:
            best = {a: min(e.rank for e in node.division if e.axis == a) for a in axes}
            axes = tuple(sorted(axes, key=lambda a: (best[a], a)))
        part_of = {(e.axis, e.cell.index[e.axis or 0]): e for e in node.division}
        leaves: list[Node] = []
        middle, guests = node, node.guests
        node.guests = ()
        for axis in axes:
            middle.axis = axis
            parts = []
            for cell, inherits in self._parts(middle.cell, axis):
                evaluation = node.evaluation if inherits else part_of[axis, cell.index[axis]]
                # Along the first axis a part is the cell that was made for its evaluation.
                same = evaluation.cell if evaluation.cell == cell else cell
                parts.append(self._node(same, evaluation, middle))
            middle.children = tuple(parts)
            leaves.extend([part for part in parts if part.evaluation is not node.evaluation])
            middle = next(part for part in parts if part.evaluation is node.evaluation)
        leaves.append(middle)
        self._seat(guests, node, grow=False)
        return leaves

    def _node(self, cell: Cell, evaluation: Evaluation, above: Node | None) -> Node:
        axes = self.division(self.box, cell)
        return Node(cell, evaluation, above, self._same.setdefault(axes, axes))

    def _shared(self, cell: Cell) -> Cell:
        """The cell with a tuple of levels that all cells of its shape share: it saves memory."""
        levels = self._same.setdefault(cell.levels, cell.levels)
        return cell if levels is cell.levels else Cell(levels, cell.index)

    def _shared_round(self, round_: Round) -> Round:
        """The round in the words of the tree: thousands of claims say the same of it."""
        if round_.selected:
            nodes = [(cell, self.find(cell)) for cell in round_.selected]
            cells = tuple([cell if node is None else node.cell for cell, node in nodes])
            round_ = dataclasses.replace(round_, selected=cells)
        return self._rounds.shared(round_)

    def _undo(self, node: Node) -> None:
        """Make a divided node a leaf again, unless guests divide it."""
        self._fell(node)
        self._free.difference_update(node.division)
        self._open.discard(node)
        node.division = ()
        self._divided.discard(node)
        self._grow([node])

    def _fell(self, node: Node) -> None:
        """Take away all below a divided node; what was claimed there waits for it again."""
        if not node.children:
            return
        self._rounds.moved()
        self._last = self._root
        guests: list[Guest] = []
        stack = list(node.children)
        while stack:
            fallen = stack.pop()
            guests.extend(fallen.guests)
            stack.extend(fallen.children)
            if fallen.is_leaf:
                self._leaves.drop(fallen)
                fallen.evaluation.leaf = None
                continue
            self._open.discard(fallen)
            self._divided.discard(fallen)
            self._free.difference_update(fallen.division)
            for evaluation in fallen.division:
                for sample in evaluation.samples:
                    record = _record_of(sample)
                    self._held[sample.number] = record
                    self._waiting.setdefault(fallen.cell, {})[sample.number] = record
        node.children, node.axis = (), -1
        node.guests = tuple(sorted(guests, key=lambda guest: guest.number))
        for guest in node.guests:
            guest.node = node
        self._open.add(node)

    # Guests

    def _seat(self, guests: Iterable[Guest], node: Node, *, grow: bool = True) -> None:
        """Bring guests of a node to the leaves, or the open divisions, that hold them."""
        for guest in guests:
            place = node
            while place.children:
                if not guest.probe:
                    place.best_guest = min(place.best_guest, guest.rank)
                place = self._part_with(place, guest.observation.values)
            guest.node = place
            place.guests = (*place.guests, guest)
            self._adopt(guest, place)
            self._welcome(guest, place)
            if grow and place.is_leaf and self._is_full(place):
                self._leaves.drop(place)
                self._grow([place])

    def _part_with(self, node: Node, values: Sequence[Any]) -> Node:
        """The child that holds a point."""
        axis = self.box.axes[node.axis]
        level, index = node.cell.levels[node.axis], node.cell.index[node.axis]
        number = axis.part(level, index, values[node.axis])
        # Child numbers follow each other, but the first part may be empty.
        return node.children[index * axis.arity + number - node.children[0].cell.index[node.axis]]

    def _adopt(self, guest: Guest, place: Node) -> None:
        """A guest at the center of an evaluation is one of its trials."""
        for evaluation in _evaluations_at(place):
            if guest not in evaluation.adopted and _equal(
                guest.observation.values, self._center(evaluation.cell)
            ):
                evaluation.adopted = (*evaluation.adopted, guest)
                self._settle(evaluation)

    def _welcome(self, guest: Guest, place: Node) -> None:
        """Let a guest count in the rank of all cells around it; a probe counts for itself."""
        if guest.probe:
            return
        self._divided.changed()
        node: Node | None = place
        rank = guest.rank
        while node is not None and rank < node.best_guest:
            node.best_guest = rank
            node = node.parent
        if place.is_leaf:
            self._leaves.update(place)

    # Reading

    @property
    def depth(self) -> int:
        """Depth of the deepest leaf."""
        return self._leaves.depth

    @property
    def expansions(self) -> int:
        """Number of divided cells."""
        return len(self._divided)

    def divided(self, depth: int) -> Set[Node]:
        """Divided nodes of a depth; not to be modified."""
        return self._divided.at(depth)

    def divided_before(self, leaf: Node) -> int:
        """Number of divided nodes of a leaf's depth that rank before it."""
        return self._divided.before(leaf)

    @property
    def probes(self) -> dict[int, Record]:
        """Claims on points off the centers, and what became of them, by trial number."""
        return self._probes

    @property
    def count(self) -> int:
        """Number of trials that the tree knows of, whatever became of them."""
        return len(self._held) + len(self._guests) - self.skipped

    @property
    def skipped(self) -> int:
        """Number of evaluations that were passed over, as often as they were."""
        return self._skipped

    def trials(self) -> list[Trial]:
        """Unit-cube point, (d,), status and rank of all trials, by number.

        A failed one is left out, unless its point was concluded to be of the worst rank.
        """
        rows = zip(self.points.keys.tolist(), self.points.points.tolist(), strict=True)
        found = [(tuple(point), *self._outcome(*divmod(key, 2))) for key, point in sorted(rows)]
        return [trial for trial in found if trial[1] is not Status.FAILED]

    def _outcome(self, number: int, claimed: int) -> tuple[Status, Rank]:
        """What is known of a trial that has a point."""
        guest = self._guests.get((number, bool(claimed)))
        if guest is not None:
            concluded = guest.failed and self._is_given_up(guest.observation.values)
            return Status.KNOWN if concluded else guest.observation.status, guest.rank
        held = self._held[number]
        if isinstance(held, Record):
            return held.status, rank(held)
        concluded = held.status is Status.FAILED and held.evaluation.status is Status.KNOWN
        return Status.KNOWN if concluded else held.status, held.rank

    @property
    def points(self) -> Points:
        """Where all trials lie, also those that run or failed; a trial has one key or two.

        There are values of feasible trials with a finite one. Read it at once: it is kept up to
        date in place.
        """
        if self._points is None:
            self._points = Points(len(self.box.axes))
            self._moved = {(number, True) for number in (*self._held, *self._probes)}
            self._moved |= {(n, False) for n, probe in self._guests if not probe}
        for number, claimed in self._moved:
            where = self._where(number, claimed=claimed)
            key = 2 * number + claimed
            if where is None:
                self._points.drop(key)
            else:
                self._points.put(key, *where)
        self._moved.clear()
        return self._points

    def _where(self, number: int, *, claimed: bool) -> tuple[tuple[float, ...], float] | None:
        """Point and value of what a trial claimed, or was observed to evaluate."""
        guest = self._guests.get((number, claimed))
        if guest is not None:
            return guest.point, _usable(guest.observation.status, guest.rank)
        held = self._held.get(number) if claimed else None
        if held is None or number < _NOBODY:
            return None
        if isinstance(held, Sample):
            cell, found = held.evaluation.cell, held.rank
        else:
            cell, found = held.claim.cell, rank(held)
            if not fits(self.box, cell):
                return None
        return self.box.middle(cell.levels, cell.index), _usable(held.status, found)

    def place_of(self, values: Sequence[Any]) -> Node:
        """The leaf, or the node with an open division, that holds a point of the box."""
        node = self._root
        while node.children:
            node = self._part_with(node, values)
        return node

    @property
    def leaves(self) -> tuple[Cell, ...]:
        """All leaves, ascending; with cells whose division is still open they tile the box."""
        return tuple(sorted(leaf.cell for leaf in self._leaves))

    @property
    def open_divisions(self) -> tuple[Cell, ...]:
        """Divided cells whose children are not known yet, ascending."""
        return tuple(sorted(node.cell for node in self._open))

    @property
    def exhausted(self) -> bool:
        """Whether no evaluation is left to hand out, now or when running trials end well."""
        return self._leaves.exhausted and not (self._free or self._open or self._passed_over())

    @property
    def round(self) -> int:
        """Number of the latest round; 0 before the first."""
        return self._rounds.latest

    def members(self, number: int) -> list[Member]:
        """The claims of a round, by trial number."""
        return self._rounds.members(number)

    def find(self, cell: Cell) -> Node | None:
        """The node of a cell; None if the tree has none."""
        leaf = self._leaves.at(cell)
        if leaf is not None:
            return leaf
        if self._last.cell == cell:  # the claims of one division follow each other
            return self._last
        node = self._root
        levels, index, axes = cell.levels, cell.index, self.box.axes
        while parts := node.children:
            axis = node.axis
            above = levels[axis] - node.cell.levels[axis] - 1
            if above < 0:
                break
            number = index[axis] // axes[axis].arity ** above - parts[0].cell.index[axis]
            if not 0 <= number < len(parts):
                return None
            node = parts[number]
        return node if node.cell == cell else None

    def divided_by(self, claim: Claim) -> Node | None:
        """The node that a claim divides; None if the tree has none."""
        if claim.axis is None:
            return None
        return self._find(parent(self.box, claim.cell, claim.axis)[0])

    def _find(self, cell: Cell) -> Node | None:
        """The node that a claim divides; a stage of a division along several sides is none."""
        if not len(cell.levels) == len(cell.index) == len(self.box.axes):
            return None
        node = self.find(cell)
        if node is not None:
            self._last = node
        return None if node is None or (node.children and not node.division) else node

    def value(self, cell: Cell) -> float | None:
        """Value at a node's center; None while unknown, +inf if it counts as the worst."""
        node = self.find(cell)
        return None if node is None else node.value

    def holders(self, claim: Claim) -> tuple[int, ...]:
        """Trials that hold the same point and have not failed, ascending.

        Parameters decide, not cells: a probe may have come to a cell's center, and a claim may hang
        from a cell whose own claim was withdrawn.
        """
        if claim.probe is None:
            values, repeat = self._center(claim.cell), claim.repeat
        else:
            values, repeat = tuple(self.box.at(claim.probe.point).values()), None
        guests, evaluations = self._found_at(values)
        found = {guest.number for guest in guests if not guest.failed}
        for evaluation in evaluations:
            found.update(evaluation.holders(repeat))
        for number, record in self._waiting_with(values):
            idle = record.status in (Status.FAILED, Status.SUBSTITUTED)
            if not idle and repeat in (None, record.claim.repeat):
                found.add(number)
        return tuple(sorted(found))

    def is_tried(self, values: tuple[Any, ...]) -> bool:
        """Whether somebody evaluates a point of the box, has done so, or has failed to."""
        return any(self._found_at(values)) or any(self._waiting_with(values))

    def _found_at(self, values: tuple[Any, ...]) -> tuple[list[Guest], list[Evaluation]]:
        """Guests and evaluations of the very parameters."""
        place = self.place_of(values)
        guests = [g for g in place.guests if _equal(g.observation.values, values)]
        evaluations = [e for e in _evaluations_at(place) if _equal(self._center(e.cell), values)]
        return guests, evaluations

    def _waiting_with(self, values: tuple[Any, ...]) -> Iterator[tuple[int, Record]]:
        for waiting in self._waiting.values():
            for number, record in waiting.items():
                cell = record.claim.cell
                if fits(self.box, cell) and _equal(self._center(cell), values):
                    yield number, record

    def best_leaf(self, key: int) -> Node | None:
        """The best leaf of a group that is known and can be split; the lowest cell on ties."""
        return self._leaves.best(key)

    def candidates(self, key: int) -> list[Node]:
        """All leaves of a group that are known and can be split, ascending."""
        return self._leaves.candidates(key)

    def ties(self, key: int) -> list[Node]:
        """All leaves of a group that share its best rank, ascending."""
        return self._leaves.ties(key)

    def groups(self) -> dict[int, Node]:
        """The best leaf of every group that has one, by ascending key."""
        return self._leaves.groups()

    # Handing out

    def divide(self, leaf: Node, round_: Round | None) -> Claim:
        """The claim that starts to divide a leaf: its first evaluation."""
        for axis in leaf.axes:
            for cell, inherits in children(self.box, leaf.cell, axis):
                if not inherits and not self._is_taken(leaf, cell):
                    return Claim(cell, axis, round_)
        raise ValueError(f"{leaf.cell} can't be divided, expected a leaf with two points or more.")

    def repeat(self, leaf: Node, round_: Round | None) -> Claim:
        """The claim that evaluates a leaf's center once more."""
        evaluation = leaf.evaluation
        return Claim(evaluation.cell, evaluation.axis, round_, evaluation.next_repeat)

    def owed(self) -> Claim | None:
        """The next evaluation that a division waits for: a sibling, or the retry of a failed trial.

        Divisions go by round, then by the cell that is divided; within one by axis and side.
        """
        if not self._free:
            return None
        return min((self._owed_claim(evaluation) for evaluation in self._free), key=_by_round)

    def _owed_claim(self, evaluation: Evaluation) -> Claim:
        if evaluation.divider is None:
            return Claim(evaluation.cell)
        found = (e.opened_in for e in evaluation.divider.division)
        opened = min((r for r in found if r is not None), key=lambda r: r.number, default=None)
        return Claim(
            evaluation.cell, evaluation.axis, opened and Round(opened.number, opened.max_depth)
        )

    def owed_probe(self) -> Claim | None:
        """The earliest failed probe that is to be made once more."""
        for _, record in sorted(self._probes.items(), key=lambda item: item[0]):
            if record.status is Status.FAILED and record.claim.probe is not None:
                values = tuple(self.box.at(record.claim.probe.point).values())
                if self._is_lost(values) and not self._is_given_up(values):
                    return record.claim
        return None

    def _is_lost(self, values: tuple[Any, ...]) -> bool:
        """Whether all trials of a point off the centers have failed."""
        guests, evaluations = self._found_at(values)
        return all(guest.failed for guest in guests) and not evaluations

    def _is_given_up(self, values: tuple[Any, ...]) -> bool:
        """Whether they were so many that the point counts as the worst."""
        return self._is_lost(values) and len(self._found_at(values)[0]) > self._max_retries

    def speculative(self) -> Claim | None:
        """A claim below a leaf whose value nobody knows yet.

        The shallowest comes first, then the one with the best nearest known ancestor.
        """
        leaf = self._leaves.promising()
        return None if leaf is None else self.divide(leaf, None)

    def unevaluated(self) -> Claim | None:
        """The claim on the best evaluation that was passed over: when nothing else is left."""
        nodes = self._passed_over()
        if not nodes:
            return None
        evaluation = min(nodes, key=lambda node: (node.rank, node)).evaluation
        return Claim(evaluation.cell, evaluation.axis)

    def _passed_over(self) -> list[Node]:
        """Leaves for whose value another one stands."""
        if not self._skips:
            return []
        return [leaf for leaf in self._leaves if leaf.evaluation.status is Status.SUBSTITUTED]


def _names_a_child(box: Box, claim: Claim) -> bool:
    """Whether the integers of a claim can name a part of a split."""
    cell, axis = claim.cell, claim.axis
    return (
        axis is not None
        and len(cell.levels) == len(cell.index) == len(box.axes)
        and 0 <= axis < len(cell.levels)
        and cell.levels[axis] > 0
    )


def _same_claim(sample: Sample, claim: Claim) -> bool:
    return sample.round == claim.round and (
        sample.evaluation.cell,
        sample.evaluation.axis,
        sample.repeat,
    ) == (claim.cell, claim.axis, claim.repeat)


def _part_of(node: Node, claim: Claim) -> Evaluation | None:
    """The evaluation of a division that a claim names."""
    return next((e for e in node.division if e.axis == claim.axis and e.cell == claim.cell), None)


def _evaluations_at(node: Node) -> tuple[Evaluation, ...]:
    """The evaluations whose centers a guest of the node can sit at."""
    return (node.evaluation, *node.division)


def _record_of(held: Sample | Record) -> Record:
    if isinstance(held, Record):
        return held
    violation, *values = held.rank
    objectives = tuple(values) if len(values) > 1 else ()
    return Record(claim_of(held), held.status, values[0], violation, objectives)


def _usable(status: Status, found: Rank) -> float:
    """The value that a model may use; NaN if there is none."""
    violation, value = found[0], found[-1]
    usable = status is Status.KNOWN and violation == 0 and math.isfinite(value)
    return value if usable else math.nan


def _equal(values: tuple[Any, ...], center: tuple[Any, ...]) -> bool:
    return all(a == b or (a != a and b != b) for a, b in zip(values, center, strict=True))


def _ancestors(node: Node) -> Iterator[Node]:
    """The node itself if it is divided, and the divided ones above it."""
    above: Node | None = node
    while above is not None:
        if above.division:
            yield above
        above = above.parent


def _by_round(claim: Claim) -> tuple[float, int, Cell, int]:
    number = claim.round.number if claim.round else math.inf
    return number, claim.cell.depth, claim.cell, -1 if claim.axis is None else claim.axis
