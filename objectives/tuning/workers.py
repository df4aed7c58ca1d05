"""Further processes that work on the same study."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from objectives.environment import environment
from objectives.tuning.termination import terminable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.process import BaseProcess

_GPUS: Final = "CUDA_VISIBLE_DEVICES"
_GRACE: Final = 5.0  # seconds

_logger = logging.getLogger(__name__)


@contextmanager
def start_workers(
    number: int, work: Callable[..., None], *arguments: Any, devices: int = 1
) -> Iterator[None]:
    """Run `work(*arguments)` in processes of their own as long as the `with` block and they run.

    If the block is left by an exception, such as Ctrl-C, the processes are interrupted too.

    Args:
        number: Processes; 0 does nothing.
        work: A function of a module.
        *arguments: What it gets; they are pickled.
        devices: GPUs that each process sees, if there are any. They are dealt out in turn; the
            calling process is taken to use the first ones.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share a CUDA context
    processes = [context.Process(target=_run, args=(work, *arguments)) for _ in range(number)]
    groups = in_groups(_visible_gpus() if number else [], devices)
    for index, process in enumerate(processes, start=1):
        with environment(_GPUS, groups[index % len(groups)] if groups else None):
            process.start()
    try:
        yield
    except BaseException as error:
        # A terminal's Ctrl-C reaches all its processes, a signal to the first one does not.
        _interrupt(processes, after=_GRACE if isinstance(error, KeyboardInterrupt) else 0.0)
        raise
    finally:
        for process in processes:
            process.join()
            if process.exitcode:
                _logger.warning("A worker ended with exit code %d.", process.exitcode)


def _interrupt(processes: Sequence[BaseProcess], *, after: float) -> None:
    end = time.monotonic() + after
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGINT)


def _run(work: Callable[..., None], *arguments: Any) -> None:
    # A shell lets jobs in the background ignore the signal that ends a worker here, and a scheduler
    # sends its own to all processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with terminable():
            work(*arguments)
    except KeyboardInterrupt:
        return  # Ctrl-C reaches all processes of a terminal; the first one says so


def in_groups(gpus: Sequence[str], size: int) -> list[str]:
    """Lists of `size` GPUs each, as CUDA_VISIBLE_DEVICES takes them; the rest stays idle."""
    return [",".join(gpus[k : k + size]) for k in range(0, len(gpus) - size + 1, size)]


def _visible_gpus() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    if given := os.environ.get(_GPUS):
        return given.split(",")
    return [str(index) for index in range(torch.cuda.device_count())]
