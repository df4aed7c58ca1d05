"""Fractal decomposition as a fold over claims: spheres, points, and what trials made of them.

A trial holds one claim: the integer name of the point that it evaluates. `Fractal` is a function of
the claims and of what became of them, whatever the order in which they are recorded.

======  ====================================  ==========================================
kind    a point is                            named by
======  ====================================  ==========================================
SPHERE  one of three points of a sphere       path of child numbers; 0, 1 or 2
LOCAL   a lattice point around a sphere of    path; halvings of the step; steps from the
        the last level                        center along each axis
GRID    a point of a grid over the whole box  halvings of the float axes; one index an axis
======  ====================================  ==========================================

Terms: an *evaluation* is what all points with the same parameters share, so that no parameters are
evaluated twice. A sphere is *decomposed* as soon as somebody claimed a point in one of the spheres
below it. The *quality* of a sphere follows from the values of its points.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna_partition.core.box import Axis, Box, ChoiceAxis, GridAxis, count_of, key_of
from optuna_partition.core.claim import WORST, Observation, Rank, Status, rank_of

SHRINKAGE = math.sqrt(2) - 1
"""Radius of a child sphere in radii of its parent, `1 / (1 + sqrt(2))`, before inflation."""

Path = tuple[int, ...]
# A trial's claim, or with True what it observes without one: each is set and taken back by itself.
_Source = tuple[int, bool]
Key = tuple[Any, ...]
Quality = tuple[float, ...]


class Kind(enum.IntEnum):
    """What kind of point a claim names."""

    SPHERE = 0
    LOCAL = 1
    GRID = 2


@dataclass(frozen=True, slots=True, order=True)
class FractalClaim:
    """Name of the point that a trial evaluates.

    Args:
        kind: Kind of the point.
        path: Child numbers from the root sphere; `2 * axis` lies up and `2 * axis + 1` down that
            axis. Empty for a GRID point.
        scale: How often the step (LOCAL) or a cell's side (GRID) was halved; 0 for a SPHERE point.
        index: SPHERE: (0,) the center, (1,) and (2,) up and down the diagonal. LOCAL: (d,) steps
            from the center. GRID: (d,) cells from the low edge.
    """

    kind: Kind
    path: Path
    scale: int
    index: tuple[int, ...]


ROOT = FractalClaim(Kind.SPHERE, (), 0, (0,))
"""The center of the box: the first evaluation in any box."""


@dataclass(frozen=True, slots=True)
class FractalRecord:
    """A claim and what became of it.

    Args:
        claim: The claim.
        status: What became of it.
        value: Minimized value if the status is KNOWN; +inf counts as the worst feasible one.
        violation: By how much the constraints are violated; 0 for a feasible point.
    """

    claim: FractalClaim
    status: Status
    value: float = math.inf
    violation: float = 0.0


def claim_to_json(claim: FractalClaim) -> dict[str, Any]:
    """The claim in lists and integers."""
    return {
        "kind": int(claim.kind),
        "path": list(claim.path),
        "scale": claim.scale,
        "index": list(claim.index),
    }


def claim_from_json(content: dict[str, Any]) -> FractalClaim:
    """The inverse of `claim_to_json`.

    Raises:
        KeyError: If a field is missing.
        TypeError: If a field is of another type.
        ValueError: If the kind is unknown, or a path or a scale is negative.
    """
    path, index = _integers(content["path"]), _integers(content["index"])
    (scale,) = _integers([content["scale"]])
    (kind,) = _integers([content["kind"]])
    if scale < 0 or min(path, default=0) < 0:
        raise ValueError(f"scale is {scale} and path is {path}, expected nothing negative.")
    return FractalClaim(Kind(kind), path, scale, index)


def _integers(content: object) -> tuple[int, ...]:
    # A bool is an int to isinstance.
    if not isinstance(content, list) or any(type(number) is not int for number in content):
        raise TypeError(f"a claim holds {content!r}, expected a list of integers.")
    return tuple(content)


@dataclass(frozen=True, slots=True)
class Sphere:
    """A ball around a point of the unit cube.

    Args:
        path: Child numbers from the root sphere.
        center: (d,) in unit-cube lengths.
        radius: In unit-cube lengths, inflated.
    """

    path: Path
    center: tuple[float, ...]
    radius: float

    def child(self, number: int, inflation: float) -> Sphere:
        """One of 2 d spheres that touch the parent's surface from within, inflated.

        Before inflation its radius is `r / (1 + sqrt(2))`. A center outside of the cube is clipped,
        which brings the sphere nearer to all points of the cube (as in the first public
        implementation of Firmin).

        Args:
            number: `2 * axis` for the one up, `2 * axis + 1` for the one down that axis.
            inflation: Factor of the radius.
        """
        axis, down = divmod(number, 2)
        radius = self.radius * SHRINKAGE
        shift = self.radius - radius
        center = list(self.center)
        center[axis] = _clip(center[axis] + (-shift if down else shift))
        return Sphere((*self.path, number), tuple(center), radius * inflation)

    def point(self, number: int) -> tuple[float, ...]:
        """The center, or where the surface meets the diagonal, shape (d,).

        The two outer points lie up and down the diagonal of the cube, `radius / sqrt(d)` from the
        center along every axis; what lies outside of the cube is clipped (as in the public
        implementations Zellij and FDS).

        Args:
            number: 0 for the center, 1 for up, 2 for down.
        """
        if number == 0:
            return self.center
        shift = self.radius / math.sqrt(len(self.center))
        return tuple(_clip(c + (shift if number == 1 else -shift)) for c in self.center)


def root_sphere(dimension: int) -> Sphere:
    """The ball inscribed in the unit cube."""
    return Sphere((), (0.5,) * dimension, 0.5)


def covering_inflation(dimension: int) -> float:
    """Smallest inflation with which the children of a sphere cover it.

    The children's centers lie `2 - sqrt(2)` radii from the parent's. Along a diagonal, where the
    points are farthest from all of them, the distance is largest at one of the ends: the parent's
    center or its surface. It is 1.41 for d = 1, 1.73 for d = 2, 1.97 for d = 3, 2.19 for d = 5, and
    tends to 2.80.
    """
    shift = 1 - SHRINKAGE
    surface = math.sqrt(1 + shift**2 - 2 * shift / math.sqrt(dimension))
    return max(shift, surface) / SHRINKAGE


def _clip(unit: float) -> float:
    return min(max(unit, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What one trial says: its evaluation, and the path of the sphere that it belongs to."""

    key: Key
    path: Path
    status: Status
    rank: Rank


@dataclass(slots=True)
class _Evaluation:
    """All that was recorded about one combination of parameters, and what it amounts to."""

    entries: dict[_Source, _Entry] = field(default_factory=dict)
    status: Status = Status.FAILED
    rank: Rank = WORST
    number: int = -1

    def conclude(self, max_retries: int) -> None:
        """Draw the conclusion from all entries."""
        known = [source for source, e in self.entries.items() if e.status is Status.KNOWN]
        self.status, self.rank, self.number = Status.FAILED, WORST, -1
        if known:  # twice only after a worker was taken for dead: the earlier trial counts
            earliest = min(known)
            self.status, self.number = Status.KNOWN, earliest[0]
            self.rank = self.entries[earliest].rank
        elif any(entry.status is Status.PENDING for entry in self.entries.values()):
            self.status = Status.PENDING
        elif len(self.entries) > max_retries:
            self.status, self.number = Status.KNOWN, min(self.entries)[0]


@dataclass(slots=True)
class _Walk:
    """Position of the local search in a sphere of the last level.

    Args:
        offset: (d,) steps from the sphere's center.
        key: Parameters there.
        rank: Rank there; None while the center is unknown.
        scale: How often the step was halved.
        axis: Axis whose two neighbors are compared next.
        improved: Whether the search moved since it began with the first axis.
    """

    offset: list[int]
    key: Key
    rank: Rank | None = None
    scale: int = 0
    axis: int = 0
    improved: bool = False


class Fractal:
    """Spheres, values and open evaluations of a fractal decomposition.

    Args:
        box: The search space.
        max_retries: How often a failed evaluation is handed out again before it counts as the
            worst.
        depth: Level of the spheres that are searched locally; the root is level 0.
        inflation: Factor of the radius of all spheres below the root. 1.75 lets the children cover
            their parent in two dimensions; see `covering_inflation`.
        min_step: Length, in unit-cube lengths, at which a local search ends.

    Raises:
        ValueError: If a setting is out of its range.
    """

    def __init__(
        self,
        box: Box,
        *,
        max_retries: int = 1,
        depth: int = 5,
        inflation: float = 1.75,
        min_step: float = 1e-4,
    ) -> None:
        if max_retries < 0:
            raise ValueError(f"max_retries is {max_retries}, expected 0 or more; try 1.")
        check_settings(depth, inflation, min_step)
        self.box = box
        self.depth = depth
        self.children = range(2 * len(box.axes))
        self._max_retries = max_retries
        self._inflation = inflation
        self._step = root_sphere(1).radius * (SHRINKAGE * inflation) ** depth
        self._scales = max(0, math.ceil(math.log2(self._step / min_step)))
        # How often a grid point's cell can be halved along each axis.
        self._halvings = [0 if axis.finite else _halvings(axis) for axis in box.axes]
        self._size = math.prod(self._counts(max(self._halvings)))
        self._entries: dict[_Source, _Entry] = {}
        self._evaluations: defaultdict[Key, _Evaluation] = defaultdict(_Evaluation)
        self._taken = 0
        # How many claims lie below a sphere, by its level.
        self._below: list[dict[Path, int]] = [{} for _ in range(depth)]
        # What follows from the integers alone.
        self._spheres: dict[Path, Sphere] = {(): root_sphere(len(box.axes))}
        self._keys: dict[Path, tuple[Key, ...]] = {}
        self._positions: dict[Key, tuple[float, ...]] = {}
        self._forget()

    def _forget(self) -> None:
        """Drop what follows from known values; it only ever grows while they stay what they are."""
        self._best: tuple[Rank, int, Key] | None = None
        for key, evaluation in self._evaluations.items():
            self._note_best(key, evaluation)
        self._qualities: dict[Path, Quality] = {}
        self._walks: dict[Path, _Walk] = {}
        self._complete: set[Path] = set()
        self._all_complete: set[Path] = set()
        self._cursor = (0, 0)

    # Recording

    def record(self, number: int, record: FractalRecord | None) -> bool:
        """Note what trial `number` claims and what became of it; None takes the claim back.

        Returns:
            Whether the claim can belong to this fractal; one of another box is left out.
        """
        if record is None or not self.fits(record.claim):
            self._set((number, False), None)
            return record is None
        key = self._key(record.claim)
        rank = rank_of(record.violation, record.value)
        self._set((number, False), _Entry(key, record.claim.path, record.status, rank))
        return True

    def observe(self, number: int, observation: Observation | None) -> bool:
        """Note a point that no claim asked for; None takes it back.

        Returns:
            Whether the box has the point; one outside of it is left out.
        """
        if observation is None or not self._holds(observation.values):
            self._set((number, True), None)
            return observation is None
        key = self.box.key(observation.values)
        rank = rank_of(observation.violation, observation.value)
        self._set((number, True), _Entry(key, (), observation.status, rank))
        return True

    def _holds(self, values: Sequence[Any]) -> bool:
        return len(values) == len(self.box.axes) and all(
            axis.holds(value) for axis, value in zip(self.box.axes, values, strict=True)
        )

    def _set(self, source: _Source, entry: _Entry | None) -> None:
        before = self._entries.pop(source, None)
        if before is not None:
            del self._evaluations[before.key].entries[source]
            self._note_path(before.path, -1)
        if entry is not None:
            self._entries[source] = entry
            self._evaluations[entry.key].entries[source] = entry
            self._note_path(entry.path, 1)
        for key in {item.key for item in (before, entry) if item is not None}:
            self._settle(key)

    def _note_path(self, path: Path, change: int) -> None:
        for level in range(len(path)):
            above, counts = path[:level], self._below[level]
            counts[above] = counts.get(above, 0) + change
            if not counts[above]:
                del counts[above]

    def _settle(self, key: Key) -> None:
        evaluation = self._evaluations[key]
        before = (evaluation.status, evaluation.rank, evaluation.number)
        evaluation.conclude(self._max_retries)
        self._taken += (evaluation.status is not Status.FAILED) - (before[0] is not Status.FAILED)
        if not evaluation.entries:
            del self._evaluations[key]
        if before == (evaluation.status, evaluation.rank, evaluation.number):
            return
        if before[0] is Status.KNOWN:
            self._forget()
        else:
            self._note_best(key, evaluation)

    def _note_best(self, key: Key, evaluation: _Evaluation) -> None:
        if evaluation.status is not Status.KNOWN or evaluation.rank == WORST:
            return
        # Of equals the earlier trial is the best, as in a search that takes strict improvements.
        if self._best is None or (evaluation.rank, evaluation.number) < self._best[:2]:
            self._best = (evaluation.rank, evaluation.number, key)
            self._qualities = {}

    # Reading

    @property
    def exhausted(self) -> bool:
        """Whether no evaluation is left to hand out, now or when running trials end well.

        A box with a float axis has as many points as its finest grid.
        """
        return self._taken >= self._size and (self.box.finite or self.remaining() is None)

    @property
    def best(self) -> tuple[int, float] | None:
        """Number and value of the best trial; None before the first value."""
        return None if self._best is None else (self._best[1], self._best[0][1])

    def value(self, claim: FractalClaim) -> float | None:
        """Value of a claim's evaluation; None while unknown, +inf if it counts as the worst."""
        found = self._find(self._key(claim))
        return found.rank[1] if found.status is Status.KNOWN else None

    def holders(self, claim: FractalClaim) -> tuple[int, ...]:
        """Trials that hold a claim's evaluation and have not failed, ascending."""
        entries = self._find(self._key(claim)).entries
        return tuple(sorted({n for (n, _), e in entries.items() if e.status is not Status.FAILED}))

    def decode(self, claim: FractalClaim) -> dict[str, Any]:
        """Parameter values of a claim that fits."""
        return self.box.at(self.units(claim))

    def units(self, claim: FractalClaim) -> tuple[float, ...]:
        """Position of a claim that fits, (d,) in unit-cube lengths."""
        if claim.kind is Kind.GRID:
            return tuple(map(_grid_unit, self.box.axes, claim.index, self._counts(claim.scale)))
        sphere = self.sphere(claim.path)
        if claim.kind is Kind.SPHERE:
            return sphere.point(claim.index[0])
        return tuple(
            self._local_unit(c, n, claim.scale)
            for c, n in zip(sphere.center, claim.index, strict=True)
        )

    def _local_unit(self, center: float, offset: int, scale: int) -> float:
        # Halving is exact, so that one lattice point has one position at every scale.
        return _clip(center + offset * math.ldexp(self._step, -scale))

    def fits(self, claim: FractalClaim) -> bool:
        """Whether the claim names a point of this fractal."""
        if claim.kind is Kind.GRID:
            return (
                claim.path == ()
                and 0 <= claim.scale <= max(self._halvings)
                and len(claim.index) == len(self.box.axes)
                and all(
                    0 <= i < count
                    for i, count in zip(claim.index, self._counts(claim.scale), strict=True)
                )
            )
        if not all(number in self.children for number in claim.path):
            return False
        if claim.kind is Kind.SPHERE:
            return (
                len(claim.path) < self.depth
                and claim.scale == 0
                and claim.index in ((0,), (1,), (2,))
            )
        # One step out of the cube is clipped; no search goes farther.
        farthest = math.ceil(1 / self._step + 1)
        return (
            len(claim.path) == self.depth
            and 0 <= claim.scale <= max(self._scales - 1, 0)
            and len(claim.index) == len(self.box.axes)
            and all(abs(n) <= farthest << claim.scale for n in claim.index)
        )

    def sphere(self, path: Path) -> Sphere:
        """The sphere at the end of a path."""
        found = self._spheres.get(path)
        if found is None:
            found = self._spheres[path] = self.sphere(path[:-1]).child(path[-1], self._inflation)
        return found

    def decomposed(self, level: int) -> Collection[Path]:
        """Spheres of a level with claims below them."""
        return self._below[level].keys()

    def explored(self, path: Path) -> bool:
        """Whether all three points of a sphere above the last level are known."""
        return all(self._find(key).status is Status.KNOWN for key in self._sphere_keys(path))

    def quality(self, path: Path) -> Quality:
        """How promising a sphere above the last level is: the smallest counts most.

        The smallest slope from the best evaluation to a known point of the sphere, `(f(x) - f_best)
        / |x - x_best|`, with distances in unit-cube lengths: the corrected distance to the best of
        the public implementation (Zellij), taken with the best evaluation of the moment. With
        constraints the violation's slope comes first.

        Returns:
            Slopes of the violation and of the value; +inf for a sphere of which nothing is known.
        """
        found = self._qualities.get(path)
        if found is not None:
            return found
        known = [key for key in self._sphere_keys(path) if self._find(key).status is Status.KNOWN]
        quality = min(map(self._slope_to, known), default=WORST)
        # Only a complete set of points keeps its quality until the best changes.
        if len(known) == 3:
            self._qualities[path] = quality
        return quality

    def _slope_to(self, key: Key) -> Quality:
        rank = self._find(key).rank
        if self._best is None or rank == WORST:
            return WORST
        best, _, best_key = self._best
        distance = math.dist(self._position(key), self._position(best_key))
        return _slope(rank[0], best[0], distance), _slope(rank[1], best[1], distance)

    # Points

    def _find(self, key: Key) -> _Evaluation:
        # A plain look-up in a defaultdict would keep an entry for every question.
        return self._evaluations.get(key, _NOTHING)

    def _is_free(self, key: Key) -> bool:
        return self._find(key).status is Status.FAILED

    def _key(self, claim: FractalClaim) -> Key:
        if claim.kind is Kind.SPHERE:
            return self._sphere_keys(claim.path)[claim.index[0]]
        return self._key_at(self.units(claim))

    def _key_at(self, units: Sequence[float]) -> Key:
        return tuple(key_of(a, a.at(u)) for a, u in zip(self.box.axes, units, strict=True))

    def _sphere_keys(self, path: Path) -> tuple[Key, ...]:
        found = self._keys.get(path)
        if found is None:
            sphere = self.sphere(path)
            found = tuple(self._key_at(sphere.point(i)) for i in range(3))
            self._keys[path] = found
        return found

    def _position(self, key: Key) -> tuple[float, ...]:
        """Where an evaluation lies, whichever claim asked for it: (d,) in unit-cube lengths."""
        found = self._positions.get(key)
        if found is None:
            found = tuple(map(_unit, self.box.axes, key))
            self._positions[key] = found
        return found

    # Handing out

    def root_point(self) -> FractalClaim | None:
        """The next evaluation of the root sphere itself."""
        return self._visit(())

    def unfinished(self) -> FractalClaim | None:
        """The next evaluation of a sphere whose parent was decomposed, the deepest first."""
        for level in reversed(range(self.depth)):
            waiting = [path for path in self._below[level] if path not in self._all_complete]
            for path in sorted(waiting):
                claim = self.below(path)
                if claim is not None:
                    return claim
        return None

    def below(self, path: Path) -> FractalClaim | None:
        """The next evaluation in the children of a sphere, which are taken one after the other."""
        if path in self._all_complete:
            return None
        complete = True
        for number in self.children:
            claim = self._visit((*path, number))
            if claim is not None:
                return claim
            complete = complete and (*path, number) in self._complete
        if complete:
            self._all_complete.add(path)
        return None

    def _visit(self, path: Path) -> FractalClaim | None:
        if path in self._complete:
            return None
        return self._explore(path) if len(path) < self.depth else self._exploit(path)

    def _explore(self, path: Path) -> FractalClaim | None:
        """Promising hypersphere search: the next of a sphere's three points."""
        keys = self._sphere_keys(path)
        for number, key in enumerate(keys):
            if self._is_free(key):
                return FractalClaim(Kind.SPHERE, path, 0, (number,))
        if all(self._find(key).status is Status.KNOWN for key in keys):
            self._complete.add(path)
        return None

    def _exploit(self, path: Path) -> FractalClaim | None:
        """Intensive local search: the next point around a sphere of the last level."""
        walk = self._walks.get(path)
        if walk is None:
            center = self._key_at(self.sphere(path).center)
            walk = self._walks[path] = _Walk([0] * len(self.box.axes), center)
        while self._advance(path, walk):
            pass
        if walk.rank is not None and walk.scale >= self._scales:
            self._complete.add(path)
            del self._walks[path]
            return None
        return self._foresee(path, dataclasses.replace(walk))

    def _foresee(self, path: Path, walk: _Walk) -> FractalClaim | None:
        """The first free point on the way of a search to which running trials bring nothing."""
        while True:
            free = self._free_neighbor(path, walk)
            if free is not None:
                return FractalClaim(Kind.LOCAL, path, walk.scale, tuple(free))
            if not self._advance(path, walk, foresee=True):
                return None

    def _free_neighbor(self, path: Path, walk: _Walk) -> list[int] | None:
        """The point that the search waits for, if nobody has it yet."""
        if walk.rank is None:
            return walk.offset if self._is_free(walk.key) else None
        if walk.scale >= self._scales:
            return None
        candidates = self._neighbors(path, walk)
        return next((offset for offset, key in candidates if self._is_free(key)), None)

    def _advance(self, path: Path, walk: _Walk, *, foresee: bool = False) -> bool:
        """Take one step of the local search, if the values that decide it are known.

        Args:
            path: Sphere that is searched.
            walk: Position, changed in place.
            foresee: Whether evaluations that run count as the worst instead.
        """
        if walk.rank is None:
            center = self._find(walk.key)
            walk.rank = center.rank if foresee or center.status is Status.KNOWN else None
            return walk.rank is not None
        if walk.scale >= self._scales:
            return False
        found = [(*item, self._find(item[1])) for item in self._neighbors(path, walk)]
        if not foresee and any(e.status is not Status.KNOWN for _, _, e in found):
            return False
        for offset, key, evaluation in found:
            if evaluation.rank < walk.rank:
                walk.offset, walk.key, walk.rank = offset, key, evaluation.rank
                walk.improved = True
        walk.axis += 1
        if walk.axis == len(self.box.axes):
            if not walk.improved:
                walk.scale += 1
                walk.offset = [2 * n for n in walk.offset]
            walk.axis, walk.improved = 0, False
        return True

    def _neighbors(self, path: Path, walk: _Walk) -> Iterator[tuple[list[int], Key]]:
        """Offsets and parameters one step up and down the walk's axis."""
        axis = self.box.axes[walk.axis]
        center = self.sphere(path).center[walk.axis]
        for step in (1, -1):
            offset = walk.offset.copy()
            offset[walk.axis] += step
            unit = self._local_unit(center, offset[walk.axis], walk.scale)
            key = list(walk.key)
            key[walk.axis] = key_of(axis, axis.at(unit))
            yield offset, tuple(key)

    def remaining(self) -> FractalClaim | None:
        """The next point of a grid over the box, in lexicographic order, finer and finer.

        On axes with finitely many values the grid has them all.
        """
        scale, rank = self._cursor
        known_so_far = True
        while scale <= max(self._halvings):
            counts = self._counts(scale)
            size = math.prod(counts)
            while rank < size:
                claim = FractalClaim(Kind.GRID, (), scale, _digits(rank, counts))
                evaluation = self._find(self._key(claim))
                if evaluation.status is Status.FAILED:
                    return claim
                rank += 1
                known_so_far = known_so_far and evaluation.status is Status.KNOWN
                if known_so_far:
                    self._cursor = (scale, rank)
            scale, rank = scale + 1, 0
        return None

    def _counts(self, scale: int) -> list[int]:
        """Number of grid points along each axis."""
        return [
            count_of(axis) if axis.finite else 2 ** min(scale, halvings)
            for axis, halvings in zip(self.box.axes, self._halvings, strict=True)
        ]


_NOTHING = _Evaluation()


def check_settings(depth: int, inflation: float, min_step: float) -> None:
    """Check the settings of a decomposition, before there is a box.

    Raises:
        ValueError: If one is out of its range.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}, expected 1 or more; try 2.")
    if not 1 <= inflation < 1 / SHRINKAGE:
        raise ValueError(
            f"inflation is {inflation}, expected a factor in [1, 2.414), with which spheres shrink "
            "from level to level; try 1.75."
        )
    if not 1e-16 <= min_step < 1:
        raise ValueError(f"min_step is {min_step}, expected a length in [1e-16, 1); try 1e-4.")


def _slope(value: float, best: float, distance: float) -> float:
    if value == best:
        return 0.0
    # Two evaluations that differ by less than rounding still have a slope.
    return (value - best) / max(distance, 1e-20)


def _digits(rank: int, counts: Sequence[int]) -> tuple[int, ...]:
    """Index, the last axis fastest."""
    found: list[int] = []
    for count in reversed(counts):
        rank, digit = divmod(rank, count)
        found.append(digit)
    return tuple(reversed(found))


def _unit(axis: Axis, coordinate: Any) -> float:
    """Position in [0, 1] of the middle of a value's own share of the axis."""
    if isinstance(axis, GridAxis):
        return axis.unit(axis.values[coordinate])
    return axis.middle(1, coordinate) if isinstance(axis, ChoiceAxis) else axis.unit(coordinate)


def _grid_unit(axis: Axis, index: int, count: int) -> float:
    # Exact: the number of a float axis' cells is a power of two.
    return _unit(axis, index) if axis.finite else (2 * index + 1) / (2 * count)


def _halvings(axis: Axis) -> int:
    """How often a float axis can be halved before neighboring cells decode to the same number."""
    level = next(level for level in itertools.count() if not axis.splittable(level, 0))
    return math.floor(level * math.log2(axis.arity))
