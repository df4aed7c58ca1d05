"""SIGTERM, with which Slurm and Kubernetes stop a job, as another Ctrl-C."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C: 128 and the number of the signal."""

TERMINATED: Final = 143
"""Exit code after SIGTERM."""


@dataclass
class Stop:
    """Whether and why a run is to stop.

    Attributes:
        terminated: Whether SIGTERM has come.
    """

    terminated: bool = False

    @property
    def exit_code(self) -> int:
        """That of a run that was stopped."""
        return TERMINATED if self.terminated else INTERRUPTED


@contextmanager
def terminable() -> Iterator[Stop]:
    """Let SIGTERM stop what runs as Ctrl-C does; handlers are only set in the main thread.

    A scheduler may send it again while the run is stopping. Further ones are left out: they would
    interrupt the work that keeps the trial's checkpoint.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not stop.terminated:
            stop.terminated = True
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
