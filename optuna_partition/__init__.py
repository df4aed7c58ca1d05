"""Samplers for Optuna that partition the search space: DIRECT, SOO and their family.

`BoTorchGPSampler` needs the extra `gp` and is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna_partition import samplers
from optuna_partition.samplers import (
    BaMSOOSampler,
    DIRECTSampler,
    FDASampler,
    IMGPOSampler,
    LOGOSampler,
    MOSOOSampler,
    PartitionGPSampler,
    SequOOLSampler,
    SOOSampler,
    SpaceExhaustedError,
    StoSOOSampler,
)

if TYPE_CHECKING:
    from optuna_partition.samplers import BoTorchGPSampler as BoTorchGPSampler

__version__ = "0.1.0"

__all__ = [
    "BaMSOOSampler",
    "DIRECTSampler",
    "FDASampler",
    "IMGPOSampler",
    "LOGOSampler",
    "MOSOOSampler",
    "PartitionGPSampler",
    "SOOSampler",
    "SequOOLSampler",
    "SpaceExhaustedError",
    "StoSOOSampler",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in samplers.LAZY:
        return getattr(samplers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
