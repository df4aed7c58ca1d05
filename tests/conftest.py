"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest


@pytest.fixture(autouse=True)
def optuna_log() -> Iterator[None]:
    """Optuna logs as it does by default, whatever another test has set."""
    optuna.logging.set_verbosity(optuna.logging.INFO)
    yield
    optuna.logging.set_verbosity(optuna.logging.INFO)
