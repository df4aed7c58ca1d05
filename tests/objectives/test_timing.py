from __future__ import annotations

import pytest

from objectives import timing
from objectives.timing import Stopwatch, breakdown, overhead


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(timing, "time", fake)
    return fake


def test_nested_phases_are_charged_once(clock: Clock) -> None:
    watch = Stopwatch()
    clock.now += 1
    with watch.measure("train"):
        clock.now += 10
        with watch.measure("validate"):
            clock.now += 4
        clock.now += 20
    with watch.measure("train"):
        clock.now += 5
    clock.now += 2
    assert watch.seconds() == {"other": 3, "train": 35, "validate": 4}


def test_a_phase_that_fails_is_charged(clock: Clock) -> None:
    watch = Stopwatch()

    def fail() -> None:
        with watch.measure("build"):
            clock.now += 2
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    clock.now += 1
    assert watch.seconds() == {"other": 1, "build": 2}


def test_overhead_is_what_is_neither_training_nor_evaluation() -> None:
    assert overhead({"train": 60, "validate": 20, "score": 15, "build": 2, "other": 3}) == (
        pytest.approx(0.05)
    )
    assert overhead({}) == 0.0


def test_the_breakdown_sums_over_trials() -> None:
    table = breakdown([{"train": 60.0, "build": 1.0}, {"train": 30.0, "validate": 9.0}])
    assert table.splitlines() == [
        "train          90.0 s   90.0%",
        "validate        9.0 s    9.0%",
        "build           1.0 s    1.0%",
        "total         100.0 s, overhead 1.0%",
    ]
    assert breakdown([]) == "no trial was measured"
