"""Databases that a study is kept in."""

from __future__ import annotations

import time
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import DBAPIError


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
    # A worker that was killed stops sending heartbeats, and its trial is run again.
    return RDBStorage(url, engine_kwargs=arguments, heartbeat_interval=60, grace_period=180)
