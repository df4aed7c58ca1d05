"""Environment variables for a while."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


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
