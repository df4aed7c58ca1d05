"""Where the time of a trial goes."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

USEFUL: Final = ("train", "validate", "score")
"""Phases that are the work itself; all others are overhead."""

OTHER: Final = "other"


class Stopwatch:
    """Wall-clock seconds by phase; time outside every phase goes to `"other"`.

    Phases nest: the inner one stops the outer one's clock, so the sum is the time elapsed.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Charge the time inside the `with` block to `phase`."""
        self._charge()
        self._open.append(phase)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds by phase that another process has spent on the same."""
        for phase, spent in seconds.items():
            self._seconds[phase] += spent

    def seconds(self) -> dict[str, float]:
        """Seconds by phase up to now."""
        self._charge()
        return dict(self._seconds)

    def _charge(self) -> None:
        now = time.perf_counter()
        self._seconds[self._open[-1] if self._open else OTHER] += now - self._since
        self._since = now


def overhead(seconds: Mapping[str, float]) -> float:
    """Share, in [0, 1], of the time that is neither training nor evaluation."""
    total = sum(seconds.values())
    return 1.0 - sum(seconds.get(phase, 0.0) for phase in USEFUL) / total if total else 0.0


def breakdown(seconds: Iterable[Mapping[str, float]]) -> str:
    """A small table: seconds and share of every phase, summed over trials, and the overhead.

    Args:
        seconds: For each trial, its seconds by phase (the user attribute `"seconds"`).
    """
    sums: defaultdict[str, float] = defaultdict(float)
    for trial in seconds:
        for phase, value in trial.items():
            sums[phase] += value
    total = sum(sums.values())
    if not total:
        return "no trial was measured"
    rows = sorted(sums.items(), key=lambda row: -row[1])
    lines = [f"{phase:<10}{value:>9.1f} s {value / total:>7.1%}" for phase, value in rows]
    lines.append(f"{'total':<10}{total:>9.1f} s, overhead {overhead(sums):.1%}")
    return "\n".join(lines)
