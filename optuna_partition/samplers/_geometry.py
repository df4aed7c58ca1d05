"""How a search space is divided, as far as the journal and the samplers need to know.

Three geometries share the claims, the resolve protocol and the base sampler: boxes that are
trisected (`TreeGeometry`), spheres that are decomposed (`FractalGeometry`), and single points
(`PointGeometry`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, final

from optuna_partition.core import cell as cells
from optuna_partition.core.box import Box
from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import Claim, Observation, Probe, Record, Round, Skip, Status
from optuna_partition.core.evaluations import Evaluations, Point, PointRecord
from optuna_partition.core.fractal import (
    ROOT,
    Fractal,
    FractalClaim,
    FractalRecord,
    claim_from_json,
    claim_to_json,
)
from optuna_partition.core.leaves import Order, by_rank
from optuna_partition.core.shape import Division, Group
from optuna_partition.core.skips import MAX_SKIPS
from optuna_partition.core.tree import Tree

# Deeper levels, and wider groups of them, than any box has: a damaged claim must not make a rule
# walk through billions.
_DEEPEST = 100_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a trial.

    Args:
        status: Whether it has a value.
        value: Minimized value of one objective.
        violation: By how much the constraints are violated.
        objectives: Minimized values of several objectives.
        constraints: Values of the constraints by name.
        variance: Of the value, where the trial states its standard error; NaN where not.
    """

    status: Status
    value: float = math.inf
    violation: float = 0.0
    objectives: tuple[float, ...] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    variance: float = math.nan


class Search(Protocol):
    """A fold over claims and observations."""

    box: Box

    def record(self, number: int, record: Any, /) -> bool:
        """Set what a trial claims and what became of it; None takes the claim back."""

    def observe(self, number: int, observation: Observation | None, /) -> object:
        """Set the point that a trial evaluates without a claim; None takes it back."""

    def holders(self, claim: Any, /) -> tuple[int, ...]:
        """Trials that hold the claim's evaluation and have not failed, ascending."""

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to hand out, now or when running trials end well."""


class Geometry(Protocol):
    """A way to divide boxes, and how its claims are written."""

    @property
    def name(self) -> str:
        """Names the geometry in claims: those of another one mean nothing to it."""

    @property
    def takes_points(self) -> bool:
        """Whether an evaluated point is worth as much as a claim."""

    def search(self, box: Box) -> Any:
        """An empty fold over a box."""

    def root(self, box: Box | None) -> Any:
        """The claim of the box's center; None: of a box that nobody knows yet."""

    def record(self, claim: Any, outcome: Outcome) -> Any:
        """A claim with what became of it."""

    def fits(self, search: Any, claim: Any) -> bool:
        """Whether a claim that was read names a point of the box."""

    def decode(self, search: Any, claim: Any) -> dict[str, Any]:
        """Parameter values of a claim that fits."""

    def is_root(self, claim: Any) -> bool:
        """Whether the claim is of the box's center."""

    def to_json(self, claim: Any) -> dict[str, Any]:
        """The claim in strings, numbers and lists."""

    def from_json(self, found: Mapping[str, Any]) -> Any:
        """The inverse; KeyError, TypeError or ValueError if it is no claim."""


@final
@dataclass(frozen=True)
class TreeGeometry:
    """Cells that are split along their sides.

    Args:
        division: Axes along which a cell is divided.
        group: Key by which a rule looks for leaves.
        max_retries: How often a failed evaluation is handed out again.
        order: Rank by which the leaves of a group are ordered.
    """

    division: Division
    group: Group
    max_retries: int = 1
    order: Order = by_rank

    @property
    def name(self) -> str:
        """Name of the division: samplers with the same one go on with each other's cells."""
        return self.division.__name__

    @property
    def takes_points(self) -> bool:
        """A point that is no center divides nothing."""
        return False

    def search(self, box: Box) -> Tree:
        """An empty tree."""
        return Tree(
            box,
            division=self.division,
            group=self.group,
            order=self.order,
            max_retries=self.max_retries,
        )

    def root(self, box: Box | None) -> Claim:
        """The root cell's claim."""
        return Claim(Cell((), ()) if box is None else cells.root(box))

    def record(self, claim: Claim, outcome: Outcome) -> Record:
        """A claim with what became of it."""
        return Record(
            claim,
            outcome.status,
            outcome.value,
            outcome.violation,
            outcome.objectives,
            outcome.variance,
        )

    def fits(self, search: Tree, claim: Claim) -> bool:
        """Whether the cells, and the probe, are of the box."""
        box, probe = search.box, claim.probe
        parts: tuple[Claim | Skip, ...] = (claim, *claim.skips)
        for part in parts:
            selected = () if part.round is None else part.round.selected
            if not all(cells.fits(box, cell) for cell in (part.cell, *selected)):
                return False
        return probe is None or (
            len(probe.point) == len(box.axes) and all(0 <= unit <= 1 for unit in probe.point)
        )

    def decode(self, search: Tree, claim: Claim) -> dict[str, Any]:
        """Parameter values at the cell's center, or at the probe."""
        if claim.probe is not None:
            return search.box.at(claim.probe.point)
        return cells.decode(search.box, claim.cell)

    def is_root(self, claim: Claim) -> bool:
        """Whether nothing was divided to make the cell."""
        return claim.axis is None and claim.probe is None

    def to_json(self, claim: Claim) -> dict[str, Any]:
        """Levels and index of the cell, axis, and what is set of the round."""
        found: dict[str, Any] = {"cell": [claim.cell.levels, claim.cell.index], "axis": claim.axis}
        if claim.repeat:
            found["repeat"] = claim.repeat
        if claim.probe is not None:
            found["probe"] = [*dataclasses.astuple(claim.probe)]
        if claim.round is not None:
            found |= _round_to_json(claim.round)
        if claim.skips:
            found |= _skips_to_json(claim.skips)
        return found

    def from_json(self, found: Mapping[str, Any]) -> Claim:
        """The inverse."""
        return Claim(
            _cell(found["cell"]),
            _optional(found["axis"]),
            _round(found) if "round" in found else None,
            _count(found.get("repeat", 0)),
            _probe(found["probe"]) if "probe" in found else None,
            _skips(found.get("skips", []), found.get("skip_rounds", [])),
        )


def _round_to_json(round_: Round) -> dict[str, Any]:
    optional = {
        "max_depth": round_.max_depth,
        "width": round_.width,
        "best": round_.best,
        "level": round_.level,
        "reach": round_.reach,
    }
    found: dict[str, Any] = {"round": round_.number}
    found |= {name: value for name, value in optional.items() if value is not None}
    if round_.selected:
        found["selected"] = [[cell.levels, cell.index] for cell in round_.selected]
    return found


def _round(found: Mapping[str, Any]) -> Round:
    get = found.get
    round_ = _plain_round(
        found["round"], get("max_depth"), get("width"), get("best"), get("level"), get("reach")
    )
    selected = get("selected", ())
    return dataclasses.replace(round_, selected=tuple(map(_cell, selected))) if selected else round_


@functools.lru_cache(maxsize=64, typed=True)
def _plain_round(
    number: Any, max_depth: Any, width: Any, best: Any, level: Any, reach: Any
) -> Round:
    """A round without its cells: many claims say the same of it."""
    if reach is not None and not 1 <= reach < math.inf:
        raise ValueError(f"reach is {reach!r}, expected a number of levels from 1")
    return Round(
        _count(number),
        _optional(max_depth, _DEEPEST),
        (),
        _optional(width, _DEEPEST),
        None if best is None else float(best),
        _optional(level, _DEEPEST),
        None if reach is None else float(reach),
    )


def _probe(found: Any) -> Probe:
    point, best, width, count = found
    if not 0 <= float(width) <= 1:
        raise ValueError(f"{width!r} is no half-width in [0, 1]")
    beaten = None if best is None else float(best)
    return Probe(tuple(float(u) for u in point), beaten, float(width), _count(count))


def _skips_to_json(skips: tuple[Skip, ...]) -> dict[str, Any]:
    """Dozens of skips share a few rounds: those are written once."""
    rounds = list(dict.fromkeys(skip.round for skip in skips))
    return {
        "skips": [
            [s.cell.levels, s.cell.index, s.axis, s.value, s.violation, rounds.index(s.round)]
            for s in skips
        ],
        "skip_rounds": [None if round_ is None else _round_to_json(round_) for round_ in rounds],
    }


def _skips(found: Any, rounds: Any) -> tuple[Skip, ...]:
    if len(found) > MAX_SKIPS:
        raise ValueError(f"{len(found)} evaluations are passed over, expected at most {MAX_SKIPS}")
    read = dict(enumerate(None if round_ is None else _round(round_) for round_ in rounds))
    return tuple(_skip(read, *each) for each in found)


def _skip(
    rounds: Mapping[int, Round | None],
    levels: Any,
    index: Any,
    axis: Any,
    value: Any,
    violation: Any,
    round_: Any,
) -> Skip:
    if math.isnan(value) or not violation >= 0:
        raise ValueError(f"{value!r} and {violation!r} are no value and no violation")
    cell = _cell((levels, index))
    return Skip(cell, _count(axis), rounds[_count(round_)], float(value), float(violation))


def _cell(found: Any) -> Cell:
    levels, index = map(tuple, found)
    numbers = levels + index
    if not {*map(type, numbers)} <= {int} or min(numbers, default=0) < 0:
        raise ValueError(f"{found!r} is no pair of lists of whole numbers from 0")
    return Cell(levels, index)


def _optional(found: Any, most: int | None = None) -> int | None:
    return None if found is None else _count(found, most)


def _count(found: Any, most: int | None = None) -> int:
    """A whole number of 0 or more; what is read was written by anybody."""
    if type(found) is not int or found < 0 or (most is not None and found > most):
        raise ValueError(f"{found!r} is no whole number from 0 to {most or 'any'}")
    return found


@final
@dataclass(frozen=True)
class FractalGeometry:
    """Spheres that are decomposed [Nakib et al. 2017].

    Args:
        max_retries: How often a failed evaluation is handed out again.
        depth: Level of the spheres that are searched locally.
        inflation: Radius in which a sphere is searched, in radii.
        min_step: Unit-cube length at which a local search ends.
    """

    max_retries: int
    depth: int
    inflation: float
    min_step: float

    @property
    def name(self) -> str:
        """Spheres of one shape: another depth or inflation names other points."""
        return f"fractal {self.depth} {self.inflation} {self.min_step}"

    @property
    def takes_points(self) -> bool:
        """A point that is none of a sphere's decides nothing."""
        return False

    def search(self, box: Box) -> Fractal:
        """An empty decomposition."""
        return Fractal(
            box,
            max_retries=self.max_retries,
            depth=self.depth,
            inflation=self.inflation,
            min_step=self.min_step,
        )

    def root(self, box: Box | None) -> FractalClaim:
        """The center of the root sphere."""
        return ROOT

    def record(self, claim: FractalClaim, outcome: Outcome) -> FractalRecord:
        """A claim with what became of it."""
        return FractalRecord(claim, outcome.status, outcome.value, outcome.violation)

    def fits(self, search: Fractal, claim: FractalClaim) -> bool:
        """Whether the point is one of this decomposition."""
        return search.fits(claim)

    def decode(self, search: Fractal, claim: FractalClaim) -> dict[str, Any]:
        """Parameter values of the point."""
        return search.decode(claim)

    def is_root(self, claim: FractalClaim) -> bool:
        """Whether it is the center of the box."""
        return claim == ROOT

    def to_json(self, claim: FractalClaim) -> dict[str, Any]:
        """Kind, path, scale and index."""
        return claim_to_json(claim)

    def from_json(self, found: Mapping[str, Any]) -> FractalClaim:
        """The inverse."""
        return claim_from_json(dict(found))


@final
@dataclass(frozen=True)
class PointGeometry:
    """Nothing is divided: a claim is a point of the unit cube.

    Args:
        max_retries: How often a failed point may be handed out again.
    """

    max_retries: int = 1

    @property
    def name(self) -> str:
        """Points of any rule are the same."""
        return "points"

    @property
    def takes_points(self) -> bool:
        """All that it knows is points."""
        return True

    def search(self, box: Box) -> Evaluations:
        """Nothing known."""
        return Evaluations(box, max_retries=self.max_retries)

    def root(self, box: Box | None) -> Point:
        """The center of the box."""
        return () if box is None else box.units(tuple(box.center().values()))

    def record(self, claim: Point, outcome: Outcome) -> PointRecord:
        """A point with what became of it."""
        return PointRecord(
            claim,
            outcome.status,
            outcome.value,
            outcome.objectives,
            outcome.constraints,
            outcome.variance,
        )

    def fits(self, search: Evaluations, claim: Point) -> bool:
        """Whether it is a point of the box."""
        return len(claim) == len(search.box.axes) and all(0 <= unit <= 1 for unit in claim)

    def decode(self, search: Evaluations, claim: Point) -> dict[str, Any]:
        """Parameter values of the point."""
        return search.box.at(claim)

    def is_root(self, claim: Point) -> bool:
        """Whether the box is not known yet."""
        return claim == ()

    def to_json(self, claim: Point) -> dict[str, Any]:
        """The point as a list."""
        return {"point": claim}

    def from_json(self, found: Mapping[str, Any]) -> Point:
        """The inverse."""
        return tuple(float(unit) for unit in found["point"])
