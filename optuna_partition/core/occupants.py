"""Who evaluates a point, or has done so.

Parameters decide, not cells: a probe may have come to a cell's center, and a claim may hang from a
cell whose own claim was withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optuna_partition.core.cell import center, fits
from optuna_partition.core.claim import Claim, Record, Status, same_values
from optuna_partition.core.descent import place_of
from optuna_partition.core.node import Evaluation, Guest, Node
from optuna_partition.core.shape import Shape


def holders_of(shape: Shape, claim: Claim) -> tuple[int, ...]:
    """Trials that hold the point of a claim and have not failed, ascending."""
    if claim.probe is not None:
        values, repeat, place = tuple(shape.box.at(claim.probe.point).values()), None, None
    else:
        values, repeat = center(shape.box, claim.cell), claim.repeat
        place = shape.leaves.at(claim.cell)  # the way down from the root is long
    guests, evaluations = _found_in(shape, place or place_of(shape.box, shape.root, values), values)
    first = repeat in (None, 0)  # as which a guest counts
    found = {guest.number for guest in guests if first and not guest.failed}
    for evaluation in evaluations:
        found.update(evaluation.holders(repeat))
    for number, record in waiting_with(shape, values):
        idle = record.status in (Status.FAILED, Status.SUBSTITUTED)
        if not idle and repeat in (None, record.claim.repeat):
            found.add(number)
    return tuple(sorted(found))


def found_at(shape: Shape, values: tuple[Any, ...]) -> tuple[list[Guest], list[Evaluation]]:
    """Guests and evaluations of the very parameters."""
    return _found_in(shape, place_of(shape.box, shape.root, values), values)


def _found_in(
    shape: Shape, place: Node, values: tuple[Any, ...]
) -> tuple[list[Guest], list[Evaluation]]:
    guests = [g for g in place.guests if same_values(g.observation.values, values)]
    evaluations = [e for e in place.evaluations if same_values(center(shape.box, e.cell), values)]
    return guests, evaluations


def waiting_with(shape: Shape, values: tuple[Any, ...]) -> Iterator[tuple[int, Record]]:
    """Trials whose claims wait for their cell, with these parameters at its center."""
    for number, record in shape.holdings.waiting():
        cell = record.claim.cell
        if fits(shape.box, cell) and same_values(center(shape.box, cell), values):
            yield number, record


def failures_at(shape: Shape, values: tuple[Any, ...]) -> int:
    """Number of failed trials of a point off the centers; 0 unless all of them have failed."""
    guests, evaluations = found_at(shape, values)
    lost = not evaluations and all(guest.failed for guest in guests)
    return len(guests) if lost else 0
