"""The devices of one run, as each of them sees the others."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch.distributed.device_mesh import DeviceMesh

    from objectives.data import Batch

_Result = TypeVar("_Result")


class RunError(RuntimeError):
    """Ends a run in the same way whichever of its devices it comes from."""


class LostDeviceError(RuntimeError):
    """The process of another device failed; the next run gets a new one."""


class Team:
    """Devices that train one model; alone, its methods do next to nothing.

    Each device has the whole adapter and computes with its share of the rows; `add_up` puts the
    gradients together. What fails on one device is told to the others at the next `add_up`,
    `agree` or `together`, and all of them raise there: none is left waiting.

    Args:
        index: Which device this is; 0 leads.
        size: How many there are. With more than one, `torch.distributed` is set up.
        mesh: The devices, if they hold a part of the base weights each (see `divide`).

    Attributes:
        agreed: Whether the last exception was raised on all devices.
    """

    def __init__(self, index: int = 0, size: int = 1, *, mesh: DeviceMesh | None = None) -> None:
        self.index = index
        self.size = size
        self.mesh = mesh
        self.agreed = False
        self._error: Exception | None = None

    def begin(self) -> None:
        """Forget what went wrong in an earlier run."""
        self.agreed, self._error = False, None

    @property
    def divided(self) -> bool:
        """Whether each device holds a part of the base weights, so that all compute in step."""
        return self.mesh is not None

    @property
    def given_up(self) -> bool:
        """Whether this device only waits for the moment to tell the others that it failed."""
        return self._error is not None and not self.divided

    def pieces(self, batch: Batch, rows: int) -> list[tuple[Batch, bool]]:
        """This device's rows of a batch, in parts of at most `rows`, and whether each counts.

        A part that does not count is computed because others compute one at that time, and all
        are needed for that if the base weights are divided.
        """
        share = batch.every(self.size, start=self.index)
        mine = () if share is None else share.pieces(rows)
        found = [(piece, True) for piece in mine]
        if self.divided:
            most = math.ceil(math.ceil(batch.rows / self.size) / rows)
            found += [(batch.pieces(1)[0], False)] * (most - len(found))
        return found

    def rows(self, batches: Sequence[Batch]) -> torch.Tensor:
        """Which of all the rows of batches are this device's, in the order of `pieces`: (rows,)."""
        start, mine = 0, list[int]()
        for batch in batches:
            mine += range(start + self.index, start + batch.rows, self.size)
            start += batch.rows
        return torch.tensor(mine, dtype=torch.int64)

    def add_up(self, tensor: torch.Tensor) -> None:
        """Sum a tensor over the devices, in place.

        Raises:
            Exception: What failed on this device since the last time.
            RunError: What failed on another one, if it is of this kind.
            LostDeviceError: If something else failed on another one, or it is gone.
        """
        if self.size == 1:
            return
        failed = tensor.new_tensor([float(self._error is not None)])
        flat = torch.cat([tensor.flatten(), failed])
        try:
            dist.all_reduce(flat)
        except RuntimeError as error:
            raise LostDeviceError(f"A device does not answer: {error}") from error
        if flat[-1] > 0:
            self._raise()
        tensor.copy_(flat[:-1].view_as(tensor))

    def agree(self) -> None:
        """Go on only if nothing has failed on any device; raises like `add_up`."""
        self.add_up(torch.zeros(0))

    def gather(self, item: _Result) -> list[_Result]:
        """What each device has given, by index."""
        if self.size == 1:
            return [item]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, item)
        return cast("list[_Result]", found)

    def together(self, attempt: Callable[[], _Result]) -> _Result:
        """Call `attempt` on every device; if it fails on one, all raise, like `add_up`."""
        result: _Result | None = None
        with self.deferring():
            result = attempt()
        self.agree()
        return result

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Keep an exception for the next `add_up` or `agree`; alone, raise it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (raised where the other devices hear of it)
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Let all devices raise at the next `add_up` or `agree`; alone, raise at once."""
        if self.size == 1:
            raise error
        if self._error is None:
            self._error = error

    def _raise(self) -> NoReturn:
        own, self._error = self._error, None
        told = self.gather(None if own is None else _told(own))
        self.agreed = True
        if own is not None:
            raise own
        index, (kind, text) = next((k, found) for k, found in enumerate(told) if found is not None)
        raise kind(f"On device {index}: {text}")


def _told(error: Exception) -> tuple[type[RuntimeError], str]:
    """What the other devices raise for an exception of this one."""
    if isinstance(error, RunError):
        return type(error), str(error)
    return LostDeviceError, f"{type(error).__name__}: {error}"
