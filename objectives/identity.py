"""What the values of an objective depend on, so that those of other ones are told apart."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from objectives.config import FineTuneConfig
    from objectives.search_space import HyperParameters

_NO_MATTER: Final = (
    "output_dir",
    "cache_dir",
    "search_space",  # a study may go on in a larger one; what is held fixed counts
    "test_tasks",
    "test_question_limit",
    "test_question_ids",
    "scoring_batch_size",
    "validation_batch_size",
    "activation_checkpointing",
    "memory_limit",
    "checkpoint_every",
    "keep_adapters",
    "device",
)


def identity(config: FineTuneConfig) -> dict[str, Any]:
    """What has to be the same in all trials of a study, for their values to be comparable."""
    found: dict[str, Any] = {
        name: _plain(getattr(config, name))
        for name in (field.name for field in dataclasses.fields(config))
        if name not in _NO_MATTER
    }
    for name in ("train_data", "validation_data"):
        value = found[name]
        if value is not None and Path(value).expanduser().is_file():
            # By content: the same file lies elsewhere on another node.
            content = Path(value).expanduser().read_bytes()
            found[name] = hashlib.sha256(content).hexdigest()
    return found | {"fixed": dict(config.space().fixed)}


def _plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list | range):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def run_key(config: FineTuneConfig, parameters: HyperParameters, device: torch.device) -> str:
    """A name for a run: two runs of one name are the same, bit for bit.

    Args:
        config: The objective.
        parameters: The run's hyperparameters.
        device: Where it is trained.
    """
    parts = [identity(config), parameters.as_dict(), device.type, torch.__version__]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
