"""The processes of the devices that follow, as the leader sees them."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
import weakref
from contextlib import contextmanager
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Final

import torch
import torch.distributed as dist

from objectives.devices.link import Failure, Welcome, join, meeting_point, receive, send
from objectives.devices.team import Team

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from objectives.config import FineTuneConfig
    from objectives.data import Batch
    from objectives.resources import Resources
    from objectives.running import Order

PATIENCE: Final = 600.0
"""Seconds after which a device that waits for another gives up."""

_LOADING: Final = 3600.0  # seconds to read the base weights
_GRACE: Final = 5.0  # seconds to end by itself
_LAST_WORDS: Final = 2.0  # seconds in which a failure is told

# Modules are found where this process finds them. The caller's script is not run again, as
# multiprocessing would do it: it may be a notebook, or have no `if __name__ == "__main__"`.
_START: Final = (
    "import sys; from multiprocessing.connection import Connection; "
    "connection = Connection(int(sys.argv[1])); sys.path[:] = connection.recv(); "
    "from objectives.devices.follower import follow; sys.exit(follow(connection))"
)

_logger = logging.getLogger(__name__)


class Crew:
    """The devices of an objective: this process, which leads, and a process for each other one.

    The others are started when a run first needs them and stay for all runs that follow, with base
    weights of their own. They end with this process, however it ends. When one of them fails in
    the middle of a computation, or this process leaves a run in which they wait for it, all are
    replaced before the next run. A process has one crew at a time: another one that starts takes
    its place.

    Args:
        config: The objective.
        loaded: Weights and data of this process.
        patience: Seconds after which a device that waits for another gives up.
    """

    _working: weakref.ref[Crew] | None = None

    def __init__(
        self, config: FineTuneConfig, loaded: Resources, *, patience: float = PATIENCE
    ) -> None:
        self._config = config
        self._loaded = loaded
        self._patience = patience
        self._team: Team | None = None
        self._followers: list[_Follower] = []
        self._end = weakref.finalize(self, _disband, self._followers, os.getpid())

    @property
    def processes(self) -> list[int]:
        """Process ids of the devices that follow, by index."""
        return [follower.process.pid for follower in self._followers]

    @contextmanager
    def on(self, order: Order) -> Iterator[Team]:
        """Let all devices carry out a run; this one is to do so in the `with` block.

        Raises:
            OutOfMemoryError: If the memory of another device is used up.
            LostDeviceError: If another device has failed otherwise.
        """
        if self._config.devices == 1:
            yield Team()
            return
        team = self._team or self._start()
        team.begin()
        try:
            for follower in self._followers:
                follower.send(order)
            yield team
        except Exception as error:
            if not team.agreed:
                failure = self._failure() if isinstance(error, RuntimeError) else None
                self.close(at_once=True)  # they wait for what this device will not send any more
                if failure is not None:
                    raise failure.error from error
            else:
                self._settle()
            raise
        except BaseException:
            self.close(at_once=True)
            raise
        self._settle()

    def close(self, *, at_once: bool = False) -> None:
        """End the processes; a later run starts new ones.

        Args:
            at_once: Whether to kill them, instead of letting them end by themselves.
        """
        if at_once:
            for follower in self._followers:
                follower.process.kill()
        self._end()
        self._team = None
        self._followers = []

    def _start(self) -> Team:
        """Start the processes and wait until they have loaded everything."""
        before = None if Crew._working is None else Crew._working()
        if before is not None:
            before.close()
        if dist.is_initialized():
            raise ValueError(
                f"devices is {self._config.devices}, but torch.distributed is in use in this "
                "process already; start it without a launcher such as torchrun, as the objective "
                "starts a process for each device itself."
            )
        Crew._working = weakref.ref(self)
        size = self._config.devices
        store = meeting_point(size, patience=self._patience)
        self._followers = [_Follower(index) for index in range(1, size)]
        self._end = weakref.finalize(self, _disband, self._followers, os.getpid())
        try:
            for follower in self._followers:
                follower.send(self._welcome(follower.index))
            for follower in self._followers:
                if (failure := follower.answer(_LOADING)) is not None:
                    raise failure.error
            for follower in self._followers:
                follower.send(store.port)  # now that all are ready none waits long for another
            kind = self._loaded.device.type
            self._team = join(0, self._config, store=store, patience=self._patience, kind=kind)
        except BaseException:
            self.close(at_once=True)
            raise
        return self._team

    def _welcome(self, index: int) -> Welcome:
        loaded = self._loaded
        return Welcome(
            index=index,
            patience=self._patience,
            config=self._config,
            recipe=loaded.recipe,
            train=_on_cpu(loaded.train),
            validation=_on_cpu(loaded.validation),
        )

    def _settle(self) -> None:
        """Wait until the others have left the run as well."""
        for follower in self._followers:
            if (failure := follower.answer(self._patience)) is not None:
                _logger.warning("%s The next run starts it again.", failure.text)
                self.close(at_once=True)
                return

    def _failure(self) -> Failure | None:
        """What has failed on the other devices, if it was there that something failed."""
        end = time.monotonic() + _LAST_WORDS
        found = [f.answer(max(0.0, end - time.monotonic())) for f in self._followers]
        # When one is gone, the others fail because of that; one that is silent waits for this one.
        for kind in ("memory", "other", "ended", "lost"):
            for failure in found:
                if failure is not None and failure.kind == kind:
                    return failure
        return None


class _Follower:
    """A process with another device."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.connection, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(number)],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
            )
        self.connection.send(sys.path)

    def send(self, message: object) -> None:
        """Tell it something; that it is gone is found out later."""
        with contextlib.suppress(OSError):
            send(self.connection, message)

    def answer(self, seconds: float) -> Failure | None:
        """Wait until it has done as told: None; or what kept it from that."""
        name = f"device {self.index}"
        try:
            if not self.connection.poll(seconds):
                return Failure("silent", f"The process of {name} does not answer.")
            failure: Failure | None = receive(self.connection)
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE)
            code = self.process.returncode
            return Failure("ended", f"The process of {name} ended with exit code {code}.")
        return failure and Failure(failure.kind, f"On {name}: {failure.text}")


def _disband(followers: Sequence[_Follower], process: int) -> None:
    if os.getpid() != process:  # a fork has a copy, and no say
        return
    for follower in followers:
        follower.connection.close()  # which tells it to end
    end = time.monotonic() + _GRACE
    for follower in followers:
        try:
            follower.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            follower.process.kill()
            follower.process.wait()
    if followers and dist.is_initialized():
        dist.destroy_process_group()


def _on_cpu(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    return tuple(batch.to(torch.device("cpu")) for batch in batches)
