"""Databases that a study is kept in."""

from __future__ import annotations

import time
from typing import Any, Final

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.exc import DBAPIError

RETRIES: Final = 3
"""How often the trial of a process that was killed is run again."""


def open_storage(url: str) -> RDBStorage:
    """Connect to a database, and make its tables if they are missing.

    Raises:
        ValueError: If that fails; the message names the URL and the reason.
    """
    # One writer at a time: workers on one file wait for each other.
    arguments = {"connect_args": {"timeout": 100}} if url.startswith("sqlite") else {}
    try:
        try:
            return _connect(url, arguments)
        except (DBAPIError, StorageInternalError) as error:
            # Workers that start together on an empty database all make its tables.
            if not any(text in str(error) for text in ("already exists", "duplicate key")):
                raise
            time.sleep(2)
            return _connect(url, arguments)
    except Exception as error:  # every driver has errors of its own
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"can't open the storage {url} ({reason}); start the database, or give "
            "a URL such as sqlite:///study.db or postgresql://user@host/name."
        ) from error


def _connect(url: str, arguments: dict[str, Any]) -> RDBStorage:
    # A worker that was killed stops sending heartbeats, and its trial is run again, by any sampler;
    # not for ever, as it may be the trial that kills its worker.
    return RDBStorage(
        url,
        engine_kwargs=arguments,
        heartbeat_interval=60,
        grace_period=180,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
    )
