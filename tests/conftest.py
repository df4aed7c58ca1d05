"""What all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import optuna
import pytest

# A shell lets jobs in the background ignore Ctrl-C, which some tests send themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def optuna_log() -> Iterator[None]:
    """Optuna logs as it does by default, whatever another test has set."""
    optuna.logging.set_verbosity(optuna.logging.INFO)
    yield
    optuna.logging.set_verbosity(optuna.logging.INFO)
