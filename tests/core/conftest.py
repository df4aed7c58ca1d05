"""Helpers of the core tests: trees by rule, a sequential search, mixed boxes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st

from optuna_partition.core import cell as cells
from optuna_partition.core.bamsoo import Bounds, Point, bamsoo, constant
from optuna_partition.core.box import Axis, Box, ChoiceAxis, FloatAxis, GridAxis
from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import Claim, Record, Status, Trial
from optuna_partition.core.direct import direct
from optuna_partition.core.imgpo import imgpo
from optuna_partition.core.leaves import Order, by_rank
from optuna_partition.core.logo import logo
from optuna_partition.core.mosoo import mosoo
from optuna_partition.core.refinement import refined
from optuna_partition.core.sequool import sequool
from optuna_partition.core.shape import Division, Group
from optuna_partition.core.soo import soo
from optuna_partition.core.stosoo import Noise, optimistic, stosoo
from optuna_partition.core.tree import Tree


@dataclass(frozen=True, slots=True)
class Method:
    """A rule with the tree that it needs."""

    division: Division
    group: Group
    rule: Callable[[Tree], Claim | None]
    order: Order = by_rank
    repeats: int = 1

    def tree(self, box: Box, *, max_retries: int = 1) -> Tree:
        return Tree(
            box,
            division=self.division,
            group=self.group,
            order=self.order,
            max_retries=max_retries,
        )


def nearest(box: Box, trials: list[Trial]) -> Bounds:
    """Bounds of a function whose slope is the width: a model without a model."""
    known = [(t.point, t.rank[-1]) for t in trials if t.status is Status.KNOWN]

    finite = [(point, value) for point, value in known if value < math.inf]

    def bounds(points: Sequence[Point], width: float) -> list[tuple[float, float]]:
        found = [min((math.dist(point, p), v) for p, v in finite) for point in points]
        return [(value - width * away, value + width * away) for away, value in found]

    return bounds


NOISE = Noise(n_evaluations=60, repeats=2, delta=0.1, scale=1.0)

METHODS = {
    "soo": Method(cells.one_longest_side, cells.depth, soo),
    "one_side": Method(
        cells.one_longest_side,
        cells.longest_side,
        functools.partial(direct, size=cells.length),
    ),
    "refined": Method(
        cells.one_longest_side,
        cells.longest_side,
        functools.partial(refined, rule=functools.partial(direct, size=cells.length)),
    ),
    "logo": Method(
        cells.one_longest_side, cells.depth, functools.partial(logo, widths=(3, 4, 5, 6, 8, 30))
    ),
    "sequool": Method(
        cells.one_longest_side, cells.depth, functools.partial(sequool, n_evaluations=40)
    ),
    "stosoo": Method(
        cells.one_longest_side,
        cells.depth,
        functools.partial(stosoo, noise=NOISE),
        functools.partial(optimistic, noise=NOISE),
        repeats=2,
    ),
    "mosoo": Method(cells.one_longest_side, cells.depth, mosoo),
    "bamsoo": Method(
        cells.one_longest_side,
        cells.depth,
        functools.partial(bamsoo, model=nearest, width=functools.partial(constant, beta=8.0)),
    ),
    "imgpo": Method(
        cells.one_longest_side,
        cells.depth,
        functools.partial(imgpo, model=nearest, width=functools.partial(constant, beta=3.0)),
    ),
    "jones1993": Method(
        cells.all_longest_sides,
        cells.squared_diagonal,
        functools.partial(direct, size=cells.half_diagonal),
    ),
    "locally_biased": Method(
        cells.all_longest_sides,
        cells.longest_side,
        functools.partial(direct, size=cells.length, one_per_size=True),
    ),
}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]


@pytest.fixture
def methods() -> dict[str, Method]:
    return METHODS


Search = Callable[..., list[tuple[Claim, float]]]


@pytest.fixture
def search() -> Search:
    """Evaluate one claim after the other; returns the claims with their values."""

    def run(
        tree: Tree,
        rule: Callable[[Tree], Claim | None],
        function: Callable[[Cell], float],
        n: int,
        *,
        stop: float = float("-inf"),
    ) -> list[tuple[Claim, float]]:
        found: list[tuple[Claim, float]] = []
        for number in range(n):
            claim = rule(tree)
            if claim is None:
                break
            value = function(claim.cell)
            tree.record(number, Record(claim, Status.KNOWN, value))
            found.append((claim, value))
            if value <= stop:
                break
        return found

    return run


def axes(name: str) -> st.SearchStrategy[Axis]:
    """Any axis: off-center ranges, of unequal sides, that do not start at 0."""
    floats = st.builds(
        lambda low, width: FloatAxis(name, low, low + width),
        st.floats(-7.3, 5.9),
        st.floats(0.37, 41.0),
    )
    logs = st.builds(
        lambda low, ratio: FloatAxis(name, low, low * ratio, log=True),
        st.floats(1e-7, 3.0),
        st.floats(1.5, 1e6),
    )
    ints = st.builds(
        lambda low, count, step: GridAxis(name, range(low, low + count * step, step)),
        st.integers(-9, 9),
        st.integers(1, 23),
        st.integers(1, 3),
    )
    log_ints = st.builds(
        lambda low, count: GridAxis(name, range(low, low + count), log=True),
        st.integers(1, 9),
        st.integers(1, 300),
    )
    choices = st.integers(1, 5).map(
        lambda n: ChoiceAxis(name, tuple(f"choice {i}" for i in range(n)))
    )
    return st.one_of(floats, logs, ints, log_ints, choices)


@pytest.fixture
def boxes() -> st.SearchStrategy[Box]:
    return mixed_boxes()


def mixed_boxes() -> st.SearchStrategy[Box]:
    """Boxes of one to four axes of any kind."""
    return st.integers(1, 4).flatmap(
        lambda d: st.tuples(*(axes(f"x{k}") for k in range(d))).map(Box)
    )


def float_box(low: Sequence[float], high: Sequence[float]) -> Box:
    return Box(
        tuple(FloatAxis(f"x{k}", a, b) for k, (a, b) in enumerate(zip(low, high, strict=True)))
    )


@pytest.fixture
def make_float_box() -> Callable[[Sequence[float], Sequence[float]], Box]:
    return float_box
