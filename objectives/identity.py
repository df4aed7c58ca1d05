"""What the values of an objective depend on, so that those of other ones are told apart."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.study import Study

    from objectives.config import FineTuneConfig
    from objectives.search_space import HyperParameters

IDENTITY: Final = "settings"
"""User attribute of a study: what its values depend on."""

ORIGIN: Final = "reproduction"
"""User attribute of a study: how its trials can be made again."""

_PACKAGES: Final = (
    *("optuna-partition", "optuna", "torch", "litgpt", "lightning", "transformers", "tokenizers"),
    *("peft", "bitsandbytes", "lm-eval", "datasets", "numpy"),
)

_NO_MATTER: Final = (
    "output_dir",
    "cache_dir",
    "search_space",  # a study may go on in a larger one; what is held fixed counts
    "test_tasks",
    "test_question_limit",
    "test_question_ids",
    "question_shares",  # of pruned trials only
    "scoring_batch_size",
    "validation_batch_size",
    "activation_checkpointing",
    "memory_limit",
    "checkpoint_every",
    "keep_adapters",
    "device",
    "devices",
    "strategy",
)


_logger = logging.getLogger(__name__)


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


def check_identity(study: Study, config: FineTuneConfig) -> None:
    """Raise if a study was made with an objective whose values can't be compared.

    Raises:
        ValueError: With the first difference.
    """
    now = identity(config)
    before = study.user_attrs.get(IDENTITY, now)
    for name in now:
        if before.get(name) != now[name]:
            raise ValueError(
                f"the study {study.study_name!r} was made with {name} {before.get(name)!r}, not "
                f"{now[name]!r}; their values can't be compared. Give the same settings, or "
                "another study_name and output folder."
            )


def register(
    study: Study, config: FineTuneConfig, *, data: Mapping[str, str], device: torch.device
) -> None:
    """Write into a study, once, what its trials need to be made again; or compare with it.

    Args:
        study: The study.
        config: Its objective.
        data: Fingerprints of the records, as they are trained on.
        device: Where trials are trained.

    Raises:
        ValueError: If the study was made with other settings or other data.
    """
    check_identity(study, config)
    now = {
        "config": _plain(_fields(config)),
        "data": dict(data),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": _versions(),
    }
    before = study.user_attrs.get(ORIGIN)
    if before is None:
        study.set_user_attr(IDENTITY, identity(config))
        study.set_user_attr(ORIGIN, now)
        return
    for name, fingerprint in data.items():
        if before["data"].get(name) != fingerprint:
            raise ValueError(
                f"the {name} data are not those that the study {study.study_name!r} was made with "
                f"(fingerprint {before['data'].get(name)}, now {fingerprint}); their values can't "
                "be compared. Give the same data, or another study_name and output folder."
            )
    changed = [
        f"{name} {before['versions'].get(name)}, now {now['versions'].get(name)}"
        for name in sorted(before["versions"].keys() | now["versions"].keys())
        if before["versions"].get(name) != now["versions"].get(name)
    ]
    if changed:
        _logger.warning(
            "The study %r was made with %s; values may differ a little.",
            study.study_name,
            "; ".join(changed),
        )


def _fields(config: FineTuneConfig) -> dict[str, Any]:
    found = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return found | {"search_space": config.space().as_data()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):  # an extra that is not installed
            found[name] = version(name)
    return found


def run_key(
    config: FineTuneConfig,
    parameters: HyperParameters,
    *,
    data: Mapping[str, str],
    device: torch.device,
) -> str:
    """A name for a run: two runs of one name are the same, bit for bit.

    Args:
        config: The objective.
        parameters: The run's hyperparameters.
        data: Fingerprints of the records.
        device: Where it is trained.
    """
    where = [device.type, config.devices, config.strategy, torch.__version__]
    parts = [identity(config), parameters.as_dict(), dict(data), *where]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
