"""Samplers for Optuna that partition the search space: DIRECT, SOO and their family.

Those with a Gaussian process are imported when they are first used: they need SciPy, and
`BoTorchGPSampler` the extra `gp`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna_partition import samplers
from optuna_partition.samplers import (
    DIRECTSampler,
    FDASampler,
    LOGOSampler,
    MOSOOSampler,
    SequOOLSampler,
    SOOSampler,
    SpaceExhaustedError,
    StoSOOSampler,
)

if TYPE_CHECKING:
    from optuna_partition.samplers import BaMSOOSampler as BaMSOOSampler
    from optuna_partition.samplers import BoTorchGPSampler as BoTorchGPSampler
    from optuna_partition.samplers import IMGPOSampler as IMGPOSampler
    from optuna_partition.samplers import PartitionGPSampler as PartitionGPSampler

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
