"""What the tree is made of: nodes, and the evaluations that their values come from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import (
    WORST,
    Claim,
    Observation,
    Rank,
    Record,
    Round,
    Status,
    rank,
)

_HAVE_VALUES = (Status.KNOWN, Status.SUBSTITUTED)


@dataclass(slots=True, eq=False, repr=False)
class Sample:
    """One trial's part in an evaluation."""

    number: int
    repeat: int
    round: Round | None
    status: Status
    rank: Rank
    evaluation: Evaluation


@dataclass(slots=True, eq=False, repr=False)
class Guest:
    """A point off the centers, at the node that holds it.

    Args:
        number: The trial.
        observation: What is known of it.
        point: (d,) in unit-cube lengths.
        node: A leaf, or a node whose division is open.
        probe: Whether one of our own probes found it: those do not rank the cells around them.
    """

    number: int
    observation: Observation
    point: tuple[float, ...]
    node: Node
    probe: bool

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return self.observation.status is Status.KNOWN

    def __repr__(self) -> str:
        """Short: nodes and guests point at each other."""
        return f"Guest({self.number}, {self.observation})"

    @property
    def failed(self) -> bool:
        """Whether its trial failed; only a probe is kept then, so that it is not made again."""
        return self.observation.status is Status.FAILED

    @property
    def rank(self) -> Rank:
        """Rank of the observation if it is known."""
        return rank(self.observation) if self.known else WORST


@dataclass(slots=True, eq=False, repr=False)
class Evaluation:
    """A point, named by the cell that was made for it.

    Args:
        cell: With a division along several sides at once: the cell split along `axis` alone.
        axis: Axis of the split that made the cell; None for the root.
        divider: The node that was divided; None for the root.
        leaf: The leaf that the evaluation belongs to; None while the shape of a division is open.
        held: The trials that hold or held a claim on it: nearly always one, which needs no tuple.
        adopted: Observations of the very same parameters.
        status: What they amount to.
        rank: Rank if the status is KNOWN.
        count: Number of repeats with a value.
    """

    cell: Cell
    axis: int | None
    divider: Node | None
    leaf: Node | None = None
    held: Sample | tuple[Sample, ...] = ()
    adopted: tuple[Guest, ...] = ()
    status: Status = Status.FAILED
    rank: Rank = field(default=WORST)
    count: int = 0

    def __repr__(self) -> str:
        """Short: nodes and evaluations point at each other."""
        return f"Evaluation({self.cell}, {self.axis}, {self.status}, {self.rank})"

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The trials that hold or held a claim on it."""
        return self.held if isinstance(self.held, tuple) else (self.held,)

    @samples.setter
    def samples(self, samples: tuple[Sample, ...]) -> None:
        self.held = samples[0] if len(samples) == 1 else samples

    @property
    def known(self) -> bool:
        """Whether there is a value; +inf counts, and so does one that stands for an evaluation."""
        return self.status in _HAVE_VALUES

    @property
    def attempts(self) -> int:
        """Number of trials that were spent on it, whatever became of them."""
        skipped = sum(sample.status is Status.SUBSTITUTED for sample in self.samples)
        return len(self.samples) - skipped + len(self.adopted)

    @property
    def running(self) -> int:
        """Number of trials that are under way."""
        return sum(sample.status is Status.PENDING for sample in self.samples)

    @property
    def opened_in(self) -> Round | None:
        """Round of the earliest trial that has one."""
        rounds = sorted((s.number, s.round) for s in self.samples if s.round is not None)
        return rounds[0][1] if rounds else None

    @property
    def next_repeat(self) -> int:
        """A number that no repeat has yet."""
        return 1 + max((sample.repeat for sample in self.samples), default=0)

    def holders(self, repeat: int | None = None) -> Iterator[int]:
        """Trials that claim a repeat of the evaluation, or any, and have not failed."""
        for sample in self.samples:
            idle = sample.status in (Status.FAILED, Status.SUBSTITUTED)
            if repeat in (None, sample.repeat) and not idle:
                yield sample.number

    def conclude(self, max_retries: int) -> None:
        """Draw the conclusion from all samples."""
        held = self.held
        if isinstance(held, Sample) and held.status is Status.KNOWN and not self.adopted:
            self.status, self.rank, self.count = Status.KNOWN, held.rank, 1
            return
        values = self._values()
        self.count = len(values)
        if values:
            self.status, self.rank = Status.KNOWN, _mean(values)
        elif self.running or any(g.observation.status is Status.PENDING for g in self.adopted):
            self.status, self.rank = Status.PENDING, WORST
        elif self.attempts > max_retries:
            self.status, self.rank = Status.KNOWN, WORST
        else:
            skips = [(s.number, s.rank) for s in self.samples if s.status is Status.SUBSTITUTED]
            self.status = Status.SUBSTITUTED if skips else Status.FAILED
            self.rank = min(skips)[1] if skips else WORST

    def _values(self) -> list[Rank]:
        """One rank a repeat: twice only after a worker was taken for dead; the earlier counts."""
        found = [(s.repeat, s.number, s.rank) for s in self.samples if s.status is Status.KNOWN]
        found += [(0, g.number, g.rank) for g in self.adopted if g.known]
        if len(found) < 2:
            return [value for _, _, value in found]
        earliest = {repeat: value for repeat, _, value in sorted(found, reverse=True)}
        return [earliest[repeat] for repeat in sorted(earliest)]


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """A cell of the tree. Rules read it; the tree alone changes it.

    Args:
        cell: The cell.
        evaluation: The evaluation that its value comes from.
        parent: The node that was divided; None for the root.
        axes: Axes along which a division splits it; empty if nothing can be split.
        axis: Axis along which its children split it; -1 for a leaf.
        children: The parts, by child number; empty for a leaf and while the shape is open.
        division: The evaluations that its division needs; empty for a leaf.
        guests: Guests inside, if it is a leaf.
        best_guest: Best rank of a guest anywhere inside.
    """

    cell: Cell
    evaluation: Evaluation
    parent: Node | None
    axes: tuple[int, ...]
    axis: int = -1
    children: tuple[Node, ...] = ()
    division: tuple[Evaluation, ...] = ()
    guests: tuple[Guest, ...] = ()
    best_guest: Rank = WORST

    def __repr__(self) -> str:
        """Short: the whole tree hangs from every node."""
        kind = "leaf" if self.is_leaf else f"{len(self.children)} children"
        return f"Node({self.cell}, {self.evaluation.status}, {self.rank}, {kind})"

    @property
    def depth(self) -> int:
        """Number of splits between the root and this cell."""
        return sum(self.cell.levels)

    @property
    def is_leaf(self) -> bool:
        """Whether nobody has divided it."""
        return not (self.division or self.children)

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Those whose centers a guest of the node can sit at."""
        return (self.evaluation, *self.division)

    def part_of(self, claim: Claim) -> Evaluation | None:
        """The evaluation of its division that a claim names."""
        for evaluation in self.division:
            if evaluation.axis == claim.axis and evaluation.cell == claim.cell:
                return evaluation
        return None

    def dividers(self) -> Iterator[Node]:
        """The node itself if it is divided, and the divided ones above it."""
        above: Node | None = self
        while above is not None:
            if above.division:
                yield above
            above = above.parent

    @property
    def known(self) -> bool:
        """Whether its center has a value, or one that stands for it."""
        return self.evaluation.known

    @property
    def rank(self) -> Rank:
        """The better of its center and its guests; of several objectives the center alone."""
        center = self.evaluation.rank
        return center if len(center) > 2 else min(center, self.best_guest)

    @property
    def value(self) -> float | None:
        """Value at the center; None while unknown, +inf if it counts as the worst."""
        return self.evaluation.rank[-1] if self.evaluation.status is Status.KNOWN else None

    def __lt__(self, other: Node) -> bool:
        """By cell: how ties between equal ranks are broken."""
        return self.cell < other.cell


def sample_of(number: int, record: Record, evaluation: Evaluation) -> Sample:
    """The part of a record that an evaluation keeps."""
    value = rank(record) if record.status in _HAVE_VALUES else WORST
    claim = record.claim
    return Sample(number, claim.repeat, claim.round, record.status, value, evaluation)


def _mean(values: list[Rank]) -> Rank:
    if len(values) == 1:
        return values[0]
    # math.fsum refuses infinities of both signs together: the worst then counts.
    columns = list(zip(*values, strict=True))
    return tuple(
        math.inf if math.inf in column else math.fsum(column) / len(column) for column in columns
    )


def claim_of(sample: Sample) -> Claim:
    """The claim that a sample came from."""
    evaluation = sample.evaluation
    return Claim(evaluation.cell, evaluation.axis, sample.round, sample.repeat)


def record_of(held: Sample | Record) -> Record:
    """The record that a sample came from."""
    if isinstance(held, Record):
        return held
    violation, *values = held.rank
    objectives = tuple(values) if len(values) > 1 else ()
    return Record(claim_of(held), held.status, values[0], violation, objectives)
