"""What happens when memory is used up, and how much of it is left."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, TypeVar

import psutil
import torch

from objectives.devices.team import RunError

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")

_logger = logging.getLogger(__name__)


class OutOfMemoryError(RunError):
    """A run does not fit into memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory is used up."""
    # torch raises a plain RuntimeError when the CPU's memory is used up.
    kinds = (torch.OutOfMemoryError, OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def release_memory() -> None:
    """Free what only reference cycles hold.

    To be called behind an `except` block, not inside it: there the traceback holds the tensors of
    the function that failed.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halving(attempt: Callable[[int], _Result], *, size: int) -> _Result:
    """Call `attempt` with `size`, and with half as much after each out-of-memory error.

    Args:
        attempt: Takes the largest number of rows that it may compute at once.
        size: The number to begin with.

    Raises:
        OutOfMemoryError: If it fails with 1 too; the message is the last error's first line.
    """
    while True:
        try:
            return attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        release_memory()
        if size == 1:
            raise OutOfMemoryError(reason)
        size //= 2
        _logger.warning("Out of memory (%s); going on with %d rows at once.", reason, size)


def once(attempt: Callable[[], _Result]) -> _Result:
    """Call `attempt`; however it runs out of memory, that is an `OutOfMemoryError`."""
    return halving(lambda _: attempt(), size=1)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its kind if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def gigabytes(number: float) -> str:
    """Bytes as a text; in MB where GB would round to nothing."""
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def available_memory(device: torch.device) -> int:
    """Bytes of the device that can still be taken.

    On a GPU what no process holds, and what this one has set aside and does not use; on a CPU
    what the operating system can give without swapping.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(psutil.virtual_memory().available)
