"""The process of a device that follows: it carries out what the leader orders."""

from __future__ import annotations

import contextlib
import logging
import signal
import warnings
from typing import TYPE_CHECKING

import torch.distributed as dist

from objectives.devices.link import Failure, Welcome, join, meeting_point, receive, send
from objectives.devices.team import LostDeviceError
from objectives.memory import first_line, is_out_of_memory, release_memory
from objectives.resources import Resources, device_of, load_backend
from objectives.running import Run, seeded, validation_loss_untuned

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from objectives.config import FineTuneConfig
    from objectives.devices.team import Team
    from objectives.running import Order

_logger = logging.getLogger(__name__)


def follow(connection: Connection) -> int:
    """Serve until the leader closes the connection or is gone.

    Args:
        connection: To the leader, which sends a `Welcome`, the port where all meet, and then an
            `Order` for each run. Welcome and orders are answered with None when what they ask is
            done, or when all devices have agreed to stop; with a `Failure` if this process ends
            because of it.

    Returns:
        The exit code: 1 after a failure.
    """
    # Ctrl-C and a scheduler's signal are for the leader, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        _serve(connection)
    except EOFError:
        return 0
    except Exception as error:  # noqa: BLE001 (the leader is told)
        with contextlib.suppress(OSError):  # that it is gone is why this device has failed
            send(connection, _failure(error))
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def _serve(connection: Connection) -> None:
    welcome: Welcome = receive(connection)
    config = welcome.config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the leader has shown them
        loaded = _loaded(welcome)
    send(connection, None)
    port: int = receive(connection)
    store = meeting_point(config.devices, patience=welcome.patience, port=port)
    team = join(
        welcome.index,
        config,
        store=store,
        patience=welcome.patience,
        kind=loaded.device.type,
    )
    while True:
        order: Order = receive(connection)
        team.begin()
        _carry_out(order, config, loaded, team)
        send(connection, None)


def _loaded(welcome: Welcome) -> Resources:
    config, dtype = welcome.config, welcome.recipe.dtype
    device = device_of(config, index=welcome.index)
    return Resources(
        backend=load_backend(config, dtype, device),
        train=tuple(batch.to(device) for batch in welcome.train),
        validation=tuple(batch.to(device) for batch in welcome.validation),
        scorer=None,  # the leader scores
        test_scorer=None,
        recipe=welcome.recipe,
        fingerprints={},
    )


def _carry_out(order: Order, config: FineTuneConfig, loaded: Resources, team: Team) -> None:
    try:
        if order.parameters is None:
            validation_loss_untuned(loaded, team)
            return
        with seeded(config.seed, loaded.device):
            Run(config, loaded, order, team=team).carry_out()
    except Exception:
        if not team.agreed:
            raise
    else:
        return
    release_memory()  # behind the traceback, which holds tensors


def _failure(error: Exception) -> Failure:
    if is_out_of_memory(error):
        return Failure("memory", first_line(error))
    lost = isinstance(error, LostDeviceError)
    return Failure("lost" if lost else "other", f"{type(error).__name__}: {first_line(error)}")
