"""Environment variables: for a while, and those of a program of ours."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SPINS = "GOMP_SPINCOUNT"
# libgomp's default is 300,000.
_FEW = "1000"


def spin_briefly() -> None:
    """Let the threads of OpenMP sleep soon while they wait for each other.

    By default they spin, and on a busy machine keep the cores from the thread that they wait for:
    beside two other processes on two cores a trial took five times as long. For programs, before
    torch is loaded; a variable that the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(_SPINS, _FEW)


@contextmanager
def environment(name: str, value: str | None) -> Iterator[None]:
    """Set a variable within the `with` block, and for processes started there.

    Args:
        name: The variable.
        value: Its value; None leaves it as it is.
    """
    if value is None:
        yield
        return
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
