"""Where things are kept that are made once on a machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CACHE_VARIABLE: Final = "OPTUNA_PARTITION_CACHE"


def cache_folder() -> Path:
    """`$OPTUNA_PARTITION_CACHE`, or `optuna-partition` in the user's cache folder."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given).expanduser()
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "optuna-partition"
