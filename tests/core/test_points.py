"""The arrays of points hold what was put and not dropped."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optuna_partition.core.points import Points

KEYS = st.integers(0, 9)
CHANGES = st.lists(st.tuples(KEYS, st.none() | st.floats(0, 1)), max_size=80)


@given(CHANGES)
def test_points_are_what_a_dictionary_would_hold(changes: list[tuple[int, float | None]]) -> None:
    points, held = Points(2), dict[int, tuple[float, float]]()
    for key, value in changes:
        if value is None:
            points.drop(key)
            held.pop(key, None)
        else:
            points.put(key, (value, 1 - value), 3 * value)
            held[key] = (value, 1 - value)
    assert len(points) == len(points.keys) == len(points.points) == len(points.values)
    found = {int(key): tuple(point) for key, point in zip(points.keys, points.points, strict=True)}
    assert found == held
    assert np.allclose(points.values, 3 * points.points[:, 0])


def test_a_point_without_a_value_stays_a_point() -> None:
    points = Points(1)
    points.put(7, (0.25,), math.nan)
    assert points.points.tolist() == [[0.25]]
    assert np.isnan(points.values).all()
