from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_partition.core.box import Box, ChoiceAxis, FloatAxis, GridAxis
from optuna_partition.core.claim import Observation, Status
from optuna_partition.core.evaluations import Evaluation, Evaluations, PointRecord

BOX = Box(
    (
        FloatAxis("rate", 1e-4, 1e-1, log=True),
        GridAxis("rank", range(2, 9)),
        ChoiceAxis("mode", (1, True, "a")),
    )
)
SMALL = Box((GridAxis("n", range(3, 5)), ChoiceAxis("kind", ("a", "b"))))
POINT = BOX.units((3e-3, 4, "a"))


def known(value: float) -> PointRecord:
    return PointRecord(POINT, Status.KNOWN, value)


def test_a_claim_and_an_observation_of_the_same_parameters_are_one_point() -> None:
    study = Evaluations(BOX)
    values = tuple(BOX.at(POINT).values())
    assert study.record(4, PointRecord(POINT, Status.PENDING))
    assert study.observe(2, Observation(values, Status.KNOWN, 0.5))
    assert study.holders(POINT) == (2, 4)
    assert [e.objectives for e in study.by_trial()] == [(0.5,), ()]
    assert len({e.key for e in study.by_trial()}) == 1


def test_choices_that_are_equal_to_python_are_different_points() -> None:
    study = Evaluations(BOX)
    for number, choice in enumerate((1, True)):
        study.observe(number, Observation((1e-2, 3, choice), Status.KNOWN, 1.0))
    one, true = study.by_trial()
    assert one.key != true.key
    assert one.point != true.point


def test_a_point_outside_the_box_is_left_out() -> None:
    study = Evaluations(BOX)
    assert not study.observe(0, Observation((1.0, 3, "a"), Status.KNOWN, 1.0))
    assert not study.observe(0, Observation((1e-2, 3), Status.KNOWN, 1.0))
    assert len(study) == 0


def test_what_is_taken_back_leaves_nothing() -> None:
    study = Evaluations(BOX)
    study.record(1, known(0.2))
    assert study.record(1, None)
    assert study.observe(1, None)
    assert (len(study), study.holders(POINT), study.by_trial()) == (0, (), [])


def test_a_failed_point_is_free_until_it_has_failed_too_often() -> None:
    study = Evaluations(BOX, max_retries=1)
    assert not study.record(0, PointRecord(POINT, Status.FAILED))
    (evaluation,) = study.by_trial()
    assert study.is_free(evaluation.key)
    study.record(1, PointRecord(POINT, Status.FAILED))
    assert not study.is_free(evaluation.key)
    assert study.holders(POINT) == ()


def test_a_claim_that_was_not_followed_counts_as_what_was_evaluated_instead() -> None:
    study = Evaluations(BOX)
    study.record(0, PointRecord(POINT, Status.FAILED))
    study.observe(0, Observation((2e-2, 7, 1), Status.KNOWN, 3.0))
    assert [e.objectives for e in study.by_trial()] == [(3.0,)]


def test_a_finite_box_is_exhausted_when_each_point_is_held_or_failed_too_often() -> None:
    study = Evaluations(SMALL, max_retries=0)
    assert not Evaluations(BOX).exhausted
    for number, values in enumerate(itertools.product((3, 4), "ab")):
        assert not study.exhausted
        status = Status.FAILED if number == 1 else Status.PENDING
        study.record(number, PointRecord(SMALL.units(values), status))
    assert study.exhausted
    study.record(2, None)
    assert not study.exhausted


records = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.tuples(st.integers(3, 4), st.sampled_from("ab")),
        st.sampled_from(Status),
        st.floats(-5, 5),
    ),
    max_size=12,
)


@given(records)
def test_the_order_of_claims_does_not_matter(
    found: list[tuple[int, tuple[int, str], Status, float]],
) -> None:
    last = {number: (values, status, value) for number, values, status, value in found}

    def fold(numbers: list[int]) -> tuple[list[Evaluation], bool]:
        study = Evaluations(SMALL)
        for number in numbers:
            values, status, value = last[number]
            study.record(number, PointRecord(SMALL.units(values), status, value))
        return study.by_trial(), study.exhausted

    # A NaN variance equals itself only as the same object.
    assert fold(sorted(last)) == fold(sorted(last, reverse=True))


@pytest.mark.parametrize("status", [Status.PENDING, Status.FAILED])
def test_values_are_known_of_known_points_only(status: Status) -> None:
    study = Evaluations(BOX)
    study.record(0, PointRecord(POINT, status, math.inf))
    assert study.by_trial()[0].objectives == ()
