"""What leader and followers have in common: messages, and how they meet."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import psutil
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from objectives.devices.team import LostDeviceError, Team
from objectives.environment import environment
from objectives.memory import OutOfMemoryError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from objectives.config import FineTuneConfig
    from objectives.data import Batch
    from objectives.optimization import Recipe

_HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The first message to a follower: what it is, and what all its runs have in common.

    Attributes:
        index: Which device it is, from 1.
        patience: Seconds after which a device that waits for another gives up.
        config: The objective.
        recipe: As in `Resources`.
        train: Likewise, on the CPU.
        validation: Likewise, on the CPU.
    """

    index: int
    patience: float
    config: FineTuneConfig
    recipe: Recipe
    train: tuple[Batch, ...]
    validation: tuple[Batch, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a follower does not do what it was told.

    Attributes:
        kind: `"memory"` is used up; something `"other"` in its own computation; its process has
            `"ended"` without a word; it has `"lost"` another device; or it is `"silent"`.
        text: What has happened.
    """

    kind: Literal["memory", "other", "ended", "lost", "silent"]
    text: str

    @property
    def error(self) -> RuntimeError:
        """The exception for it."""
        kind = OutOfMemoryError if self.kind == "memory" else LostDeviceError
        return kind(self.text)


def send(connection: Connection, message: object) -> None:
    """Send any object that can be pickled.

    Connections have a way of their own to send a tensor, through memory that processes share; it
    needs a common parent.

    Raises:
        OSError: If the other end is gone.
    """
    connection.send_bytes(pickle.dumps(message))


def receive(connection: Connection) -> Any:
    """Wait for an object.

    Raises:
        EOFError: If the other end is gone.
    """
    return pickle.loads(connection.recv_bytes())


def meeting_point(devices: int, *, patience: float, port: int | None = None) -> Any:
    """The store through which the devices find each other.

    Args:
        devices: How many there are.
        patience: Seconds after which a device that waits for another gives up.
        port: Where the leader's store is; None makes the leader's, at a free port.
    """
    return dist.TCPStore(  # type: ignore[attr-defined]
        _HOST,
        port or 0,
        devices,
        is_master=port is None,
        wait_for_workers=False,
        timeout=timedelta(seconds=patience),
    )


def join(index: int, config: FineTuneConfig, *, store: Any, patience: float, kind: str) -> Team:
    """Meet the other devices; all have to call this.

    Args:
        index: Which device this is.
        config: Says how many there are, and what they hold.
        store: Where they meet; see `meeting_point`.
        patience: Seconds after which a device that waits for another gives up.
        kind: "cpu" or "cuda".
    """
    # All are on this machine, whatever its name resolves to. A wait on a GPU is to end with an
    # exception; by default it ends with the process.
    with (
        environment("GLOO_SOCKET_IFNAME", _loopback()),
        environment("TORCH_NCCL_BLOCKING_WAIT", "1"),
    ):
        dist.init_process_group(
            "gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl",
            store=store,
            rank=index,
            world_size=config.devices,
            timeout=timedelta(seconds=patience),
        )
        mesh = init_device_mesh(kind, (config.devices,)) if config.strategy == "fsdp" else None
        team = Team(index, config.devices, mesh=mesh)
        team.agree()
    if kind == "cuda":
        torch.cuda.set_device(index)
    return team


def _loopback() -> str | None:
    interfaces: dict[str, Any] = psutil.net_if_addrs()
    for name, addresses in interfaces.items():
        if any(address.address == _HOST for address in addresses):
            return name
    return None
