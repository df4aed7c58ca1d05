from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest

from optuna_partition.core.box import Axis, Box, ChoiceAxis, FloatAxis, GridAxis

AXES: list[Axis] = [
    FloatAxis("lr", math.exp(-10), math.exp(-1), log=True),
    FloatAxis("x", -7.25, 3.5),
    GridAxis("rank", range(2, 501), log=True),
    GridAxis("batches", range(1, 33)),
    GridAxis("odd", range(3, 10, 2)),
    GridAxis("pair", range(5, 7)),
    GridAxis("log pair", range(1, 3), log=True),
    GridAxis("one", range(4, 5)),
    ChoiceAxis("kind", ("a", None, 3)),
]


def leaves(axis: Axis, depth: int) -> list[tuple[int, int]]:
    """Cells after splitting `depth` times whatever can be split."""
    found = [(0, 0)]
    for _ in range(depth):
        split = [
            [(level + 1, index * axis.arity + c) for c in axis.children(level, index)]
            if axis.splittable(level, index)
            else [(level, index)]
            for level, index in found
        ]
        found = list(itertools.chain.from_iterable(split))
    return found


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.name)
def test_children_tile_their_parent(axis: Axis) -> None:
    edges = sorted(axis.interval(*cell) for cell in leaves(axis, 5))
    assert edges[0][0] == 0
    assert edges[-1][1] == 1
    assert all(left[1] == right[0] for left, right in itertools.pairwise(edges))


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.name)
def test_the_inheritor_keeps_the_value_and_the_others_have_new_ones(axis: Axis) -> None:
    for level, index in leaves(axis, 4):
        if not axis.splittable(level, index):
            continue
        parts = {c: (level + 1, index * axis.arity + c) for c in axis.children(level, index)}
        inheritor = axis.inheritor(level, index)
        assert axis.value(*parts[inheritor]) == axis.value(level, index)
        assert len({axis.value(*part) for part in parts.values()}) == len(parts) > 1


@pytest.mark.parametrize("axis", [axis for axis in AXES if axis.finite], ids=lambda axis: axis.name)
def test_a_finite_axis_is_enumerated_exactly_once(axis: Axis) -> None:
    values = [axis.value(*cell) for cell in leaves(axis, 12)]
    expected = axis.values if isinstance(axis, GridAxis) else getattr(axis, "choices", ())
    assert sorted(map(str, values)) == sorted(map(str, expected))


@pytest.mark.parametrize(
    "axis", [axis for axis in AXES if not axis.finite], ids=lambda axis: axis.name
)
def test_a_float_axis_splits_as_long_as_centers_differ(axis: FloatAxis) -> None:
    level = next(level for level in range(60) if not axis.splittable(level, 0))
    assert 20 <= level < 60
    for first in (0, 3**level // 2, 3**level - 3):
        values = [axis.value(level, index) for index in range(first, first + 3)]
        assert axis.low <= values[0] < values[1] < values[2] <= axis.high


def test_a_log_int_axis_is_cut_in_log_space() -> None:
    axis = GridAxis("rank", range(2, 501), log=True)
    # Thirds of [log 1.5, log 500.5]; the center is the integer nearest to sqrt(1.5 * 500.5) = 27.4,
    # and the cuts at 10.4 and 72.2 go to the nearest boundaries between integers, 10.5 and 72.5.
    assert axis.value(0, 0) == 27
    edges = [axis.interval(1, child) for child in (0, 1, 2)]
    assert [axis.values[int(low * 499)] for low, _ in edges] == [2, 11, 73]


def test_an_even_int_range_has_a_whole_number_in_its_middle() -> None:
    axis = GridAxis("n", range(1, 5))
    assert axis.value(0, 0) == 3
    assert [axis.interval(1, c) for c in (0, 1, 2)] == [
        (Fraction(0), Fraction(1, 4)),
        (Fraction(1, 4), Fraction(3, 4)),
        (Fraction(3, 4), Fraction(1)),
    ]


def test_a_range_of_two_values_has_no_left_part() -> None:
    axis = GridAxis("pair", range(5, 7))
    assert axis.value(0, 0) == 6
    assert [axis.value(1, c) for c in axis.children(0, 0)] == [5, 6]
    assert not axis.splittable(1, axis.children(0, 0)[0])


def test_wide_and_narrow_floats() -> None:
    wide = FloatAxis("wide", -1.7e308, 1.7e308)
    assert math.isfinite(wide.value(3, 13))
    assert wide.splittable(20, 0)
    narrow = FloatAxis("narrow", 1.0, 1.0 + 1e-15)
    assert not narrow.splittable(0, 0)


@pytest.mark.parametrize(
    ("low", "high", "log", "message"),
    [
        (1.0, 1.0, False, "expected finite low < high"),
        (0.0, math.inf, False, "expected finite low < high"),
        (0.0, 1.0, True, "expected low > 0"),
    ],
)
def test_bad_ranges_are_refused(low: float, high: float, log: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FloatAxis("x", low, high, log)


def test_bad_grids_and_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match="has no values"):
        GridAxis("n", range(0))
    with pytest.raises(ValueError, match="expected 1 or more"):
        GridAxis("n", range(0, 5), log=True)
    with pytest.raises(ValueError, match="different names"):
        Box((FloatAxis("x", 0, 1), FloatAxis("x", 0, 2)))
    with pytest.raises(ValueError, match="at least one axis"):
        Box(())
