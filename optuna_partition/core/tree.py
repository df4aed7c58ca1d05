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

import bisect
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

from optuna_partition.core.box import Box
from optuna_partition.core.cell import Cell, children, parent, root
from optuna_partition.core.claim import (
    Claim,
    Observation,
    Record,
    Round,
    Skip,
    Status,
    Trial,
    same_values,
)
from optuna_partition.core.descent import place_of
from optuna_partition.core.leaves import Order, by_rank
from optuna_partition.core.node import Guest, Node, Sample, sample_of
from optuna_partition.core.occupants import failures_at, found_at, holders_of, waiting_with
from optuna_partition.core.outcomes import Outcomes
from optuna_partition.core.points import Points
from optuna_partition.core.rounds import Member
from optuna_partition.core.shape import Division, Group, Shape
from optuna_partition.core.skips import NOBODY, Skips


class Tree:
    """Leaves, values and open evaluations of a partition.

    Args:
        box: The search space.
        division: Axes along which a cell is divided, for example `one_longest_side`.
        group: Key by which leaves are grouped for selection, for example `depth`.
        order: Rank by which the leaves of a group are ordered; default: that of their values.
        max_retries: How often a failed evaluation is handed out again before it counts as the
            worst.
    """

    def __init__(
        self,
        box: Box,
        *,
        division: Division,
        group: Group,
        order: Order = by_rank,
        max_retries: int = 1,
    ) -> None:
        self.box = box
        self.root = root(box)
        self.division = division
        self._max_retries = max_retries
        self._plant = functools.partial(
            Shape, box, division=division, group=group, order=order, max_retries=max_retries
        )
        self._shape = self._plant()
        self._guests: dict[tuple[int, bool], Guest] = {}
        self._probes: dict[int, Record] = {}
        self._probe_numbers: list[int] = []  # ascending
        # Of the values of claims; few studies know any.
        self._variances: dict[int, float] = {}
        self._skips = Skips()
        self._skipped = 0
        self._outcomes = Outcomes(
            box, lambda: self._shape.holdings, self._guests, self._variances, self._is_given_up
        )

    # Recording

    def record(self, number: int, record: Record | None) -> bool:
        """Set what trial `number` claims and what became of it; None takes the claim back.

        Returns:
            Whether the claim can be part of this tree; a claim of another division or box is left
            out.
        """
        self._pass_over(number, () if record is None else record.claim.skips)
        if record is not None and not math.isnan(record.variance):
            self._variances[number] = record.variance
        elif self._variances:
            self._variances.pop(number, None)
        self._outcomes.moved(number, claimed=True)
        holdings = self._shape.holdings
        if record is not None and record.claim.probe is not None:
            if number in holdings:
                self._release(number)
            return self._probe(number, record)
        if number in self._probes:
            del self._probes[number]
            self._probe_numbers.remove(number)
            self._host(number, None, probe=True)
        held = holdings.of(number)
        if isinstance(held, Sample) and record is not None and _same_claim(held, record.claim):
            sample = sample_of(number, record, held.evaluation)
            if (sample.status, sample.rank) != (held.status, held.rank):
                held.status, held.rank = sample.status, sample.rank
                self._shape.settle(held.evaluation)
            return True
        if held is not None:
            if held == record:
                return True
            self._release(number)
        return record is None or self._hold(number, record)

    def assume(self, skips: tuple[Skip, ...]) -> None:
        """Pass over evaluations that no claim passes over yet; empty: no longer."""
        self._pass_over(NOBODY, skips)

    def observe(self, number: int, observation: Observation | None) -> None:
        """Set the point that trial `number` evaluates without a claim; None takes it back."""
        self._outcomes.moved(number, claimed=False)
        self._host(number, observation, probe=False)

    def _pass_over(self, number: int, skips: tuple[Skip, ...]) -> None:
        if not skips and not self._skips:
            return
        gone, new = self._skips.replace(number, skips)
        for key in gone:
            if key in self._shape.holdings:
                self._release(key)
                self._skipped -= 1
        for key, record in new:
            self._skipped += self._hold(key, record)

    def _hold(self, number: int, record: Record) -> bool:
        claim, shape = record.claim, self._shape
        if claim.axis is None:
            if claim.cell != self.root:
                return False
            shape.join(number, record, shape.root.evaluation)
            return True
        if not _names_a_child(self.box, claim):
            return False
        divided, _ = parent(self.box, claim.cell, claim.axis)
        node = shape.dividable(divided)
        if node is None:
            shape.holdings.wait(number, record, divided)
            return True
        if node.is_leaf and shape.can_divide(node, claim):
            shape.divide(node)
        evaluation = node.part_of(claim)
        if evaluation is None:
            return False
        shape.join(number, record, evaluation)
        return True

    def _release(self, number: int) -> None:
        """Forget what a trial holds."""
        held = self._shape.holdings.drop(number)
        if isinstance(held, Record):
            return
        evaluation, node = held.evaluation, held.evaluation.divider
        evaluation.samples = tuple(s for s in evaluation.samples if s is not held)
        self._shape.settle(evaluation)
        if node is not None and not any(e.samples for e in node.division):
            self._shape.undo(node)

    def _probe(self, number: int, record: Record) -> bool:
        probe = record.claim.probe
        if probe is None or len(probe.point) != len(self.box.axes):
            return False
        if number not in self._probes:
            bisect.insort(self._probe_numbers, number)
        self._probes[number] = record
        values = tuple(self.box.at(probe.point).values())
        observation = Observation(
            values,
            record.status,
            record.value,
            record.violation,
            record.objectives,
            variance=record.variance,
        )
        self._host(number, observation, probe=True)
        return True

    def _host(self, number: int, observation: Observation | None, *, probe: bool) -> None:
        guest = self._guests.get((number, probe))
        if guest is not None and observation is not None:
            if guest.observation == observation:
                return
            if same_values(guest.observation.values, observation.values):
                self._renew(guest, observation)
                return
            self._host(number, None, probe=probe)
        if observation is not None:
            point = self.box.units(observation.values)
            guest = Guest(number, observation, point, self._shape.root, probe)
            self._guests[number, probe] = guest
            self._shape.seat([guest], self._shape.root)
        elif guest is not None:
            del self._guests[number, probe]
            self._dismiss(guest)

    def _renew(self, guest: Guest, observation: Observation) -> None:
        """Let a guest know more of the same point."""
        guest.observation = observation
        self._shape.welcome(guest)
        for evaluation in guest.node.evaluations:
            if guest in evaluation.adopted:
                self._shape.settle(evaluation)

    def _dismiss(self, guest: Guest) -> None:
        """Send a guest away; the tree is made again if it had a value or made cells divide."""
        node = guest.node
        idle = bool(node.guests) and not guest.known
        if idle and all(any(e.samples for e in n.division) for n in node.dividers()):
            self._shape.unseat(guest)
        else:
            self._make_again()

    def _make_again(self) -> None:
        records = self._shape.holdings.records()
        self._shape = self._plant()
        for number, record in records.items():
            self._hold(number, record)
        guests = [guest for _, guest in sorted(self._guests.items())]
        self._shape.seat(guests, self._shape.root)

    # Reading

    @property
    def depth(self) -> int:
        """Depth of the deepest leaf."""
        return self._shape.leaves.depth

    @property
    def expansions(self) -> int:
        """Number of divided cells."""
        return len(self._shape.divided)

    def divided(self, depth: int) -> Set[Node]:
        """Divided nodes of a depth; not to be modified."""
        return self._shape.divided.at(depth)

    def divided_before(self, leaf: Node) -> int:
        """Number of divided nodes of a leaf's depth that rank before it."""
        return self._shape.divided.before(leaf)

    @property
    def probes(self) -> Mapping[int, Record]:
        """Claims on points off the centers, and what became of them, by trial number."""
        return self._probes

    def latest_probes(self) -> Iterator[Record]:
        """Claims on points off the centers, and what became of them, the latest first."""
        return map(self._probes.__getitem__, reversed(self._probe_numbers))

    @property
    def count(self) -> int:
        """Number of trials that the tree knows of, whatever became of them."""
        return len(self._shape.holdings) + len(self._guests) - self.skipped

    @property
    def skipped(self) -> int:
        """Number of evaluations that were passed over, as often as they were."""
        return self._skipped

    def trials(self) -> list[Trial]:
        """All trials, by number.

        A failed one is left out, unless its point was concluded to be of the worst rank.
        """
        return self._outcomes.trials()

    @property
    def points(self) -> Points:
        """Where all trials lie, also those that run or failed; a trial has one key or two.

        There are values of feasible trials with a finite one. Read it at once: it is kept up to
        date in place.
        """
        return self._outcomes.points

    def place_of(self, values: Sequence[Any]) -> Node:
        """The leaf, or the node with an open division, that holds a point of the box."""
        return place_of(self.box, self._shape.root, values)

    @property
    def leaves(self) -> tuple[Cell, ...]:
        """All leaves, ascending; with cells whose division is still open they tile the box."""
        return tuple(sorted(leaf.cell for leaf in self._shape.leaves))

    @property
    def open_divisions(self) -> tuple[Cell, ...]:
        """Divided cells whose children are not known yet, ascending."""
        return tuple(sorted(node.cell for node in self._shape.open))

    @property
    def exhausted(self) -> bool:
        """Whether no evaluation is left to hand out, now or when running trials end well."""
        shape = self._shape
        return shape.leaves.exhausted and not (shape.owed or shape.open or self._passed_over())

    @property
    def round(self) -> int:
        """Number of the latest round; 0 before the first."""
        return self._shape.holdings.rounds.latest

    def members(self, number: int) -> list[Member]:
        """The claims of a round, by trial number."""
        return self._shape.holdings.rounds.members(number)

    def find(self, cell: Cell) -> Node | None:
        """The node of a cell; None if the tree has none."""
        return self._shape.find(cell)

    def divided_by(self, claim: Claim) -> Node | None:
        """The node that a claim divides; None if the tree has none."""
        if claim.axis is None:
            return None
        return self._shape.dividable(parent(self.box, claim.cell, claim.axis)[0])

    def value(self, cell: Cell) -> float | None:
        """Value at a node's center; None while unknown, +inf if it counts as the worst."""
        node = self.find(cell)
        return None if node is None else node.value

    def holders(self, claim: Claim) -> tuple[int, ...]:
        """Trials that hold the same point and have not failed, ascending."""
        return holders_of(self._shape, claim)

    def is_tried(self, values: tuple[Any, ...]) -> bool:
        """Whether somebody evaluates a point of the box, has done so, or has failed to."""
        return any(found_at(self._shape, values)) or any(waiting_with(self._shape, values))

    def best_leaf(self, key: int) -> Node | None:
        """The best leaf of a group that is known and can be split; the lowest cell on ties."""
        return self._shape.leaves.best(key)

    def candidates(self, key: int) -> list[Node]:
        """All leaves of a group that are known and can be split, ascending."""
        return self._shape.leaves.candidates(key)

    def first(self, key: int, condition: Callable[[Node], bool]) -> Node | None:
        """The best leaf of a group that is known, can be split and meets a condition."""
        return self._shape.leaves.first(key, condition)

    def ties(self, key: int) -> list[Node]:
        """All leaves of a group that share its best rank, ascending."""
        return self._shape.leaves.ties(key)

    def groups(self) -> dict[int, Node]:
        """The best leaf of every group that has one, by ascending key."""
        return self._shape.leaves.groups()

    # Handing out

    def divide(self, leaf: Node, round_: Round | None) -> Claim:
        """The claim that starts to divide a leaf: its first evaluation."""
        for axis in leaf.axes:
            for cell, inherits in children(self.box, leaf.cell, axis):
                if not inherits and not self._shape.is_taken(leaf, cell):
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
        return self._shape.owed.first()

    def owed_probe(self) -> Claim | None:
        """The earliest failed probe that is to be made once more."""
        for record in map(self._probes.__getitem__, self._probe_numbers):
            if record.status is Status.FAILED and record.claim.probe is not None:
                values = tuple(self.box.at(record.claim.probe.point).values())
                if 0 < failures_at(self._shape, values) <= self._max_retries:
                    return record.claim
        return None

    def _is_given_up(self, values: tuple[Any, ...]) -> bool:
        """Whether failures at a point off the centers were so many that it counts as the worst."""
        return failures_at(self._shape, values) > self._max_retries

    def speculative(self) -> Claim | None:
        """A claim below a leaf whose value nobody knows yet.

        The shallowest comes first, then the one with the best nearest known ancestor.
        """
        leaf = self._shape.leaves.promising()
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
        leaves = self._shape.leaves
        return [leaf for leaf in leaves if leaf.evaluation.status is Status.SUBSTITUTED]


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
