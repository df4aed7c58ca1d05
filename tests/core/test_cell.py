from __future__ import annotations

from fractions import Fraction

import pytest

from optuna_partition.core import cell as cells
from optuna_partition.core.box import Box, ChoiceAxis, FloatAxis, GridAxis
from optuna_partition.core.cell import Cell

BOX = Box(
    (
        FloatAxis("lr", 1e-5, 1e-1, log=True),
        GridAxis("rank", range(2, 65), log=True),
        ChoiceAxis("kind", ("a", "b")),
    )
)


def test_parent_undoes_child() -> None:
    cell = cells.child(BOX, cells.child(BOX, cells.root(BOX), 0, 2), 2, 1)
    assert cell == Cell((1, 0, 1), (2, 0, 1))
    assert cell.depth == 2
    assert cells.parent(BOX, cell, 2) == (Cell((1, 0, 0), (2, 0, 0)), 1)
    with pytest.raises(ValueError, match="never split along axis 1"):
        cells.parent(BOX, cell, 1)


def test_a_split_marks_the_child_that_inherits() -> None:
    assert [inherits for _, inherits in cells.children(BOX, cells.root(BOX), 0)] == [
        False,
        True,
        False,
    ]
    assert [inherits for _, inherits in cells.children(BOX, cells.root(BOX), 2)] == [True, False]


def test_a_side_of_one_value_has_no_length() -> None:
    cell = Cell((1, 1, 1), (1, 1, 1))
    assert cells.splittable_axes(BOX, cell) == (0, 1)
    assert cells.all_longest_sides(BOX, cell) == (0, 1)
    assert cells.one_longest_side(BOX, cell) == (0,)
    assert cells.length(cells.longest_side(BOX, cell)) == pytest.approx(1 / 3)
    # Two sides of 1/3 count, the exhausted categorical one does not.
    assert cells.half_diagonal(cells.squared_diagonal(BOX, cell)) == pytest.approx(2**0.5 / 6)


def test_the_longest_side_is_the_one_split_least() -> None:
    assert cells.all_longest_sides(BOX, Cell((2, 1, 0), (0, 0, 0))) == (2,)
    assert cells.all_longest_sides(BOX, Cell((2, 1, 1), (0, 0, 0))) == (1,)


def test_center_and_edges() -> None:
    cell = Cell((1, 0, 1), (2, 0, 1))
    # Thirds of [log 1e-5, log 1e-1]: the center of the last one is at 5/6.
    assert cells.decode(BOX, cell) == {
        "lr": pytest.approx(10 ** (-5 + 4 * 5 / 6)),
        "rank": 10,
        "kind": "b",
    }
    assert cells.intervals(BOX, cell)[0] == (Fraction(2, 3), Fraction(1))
