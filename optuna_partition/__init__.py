"""Samplers for Optuna that partition the search space: DIRECT, SOO and their family."""

from __future__ import annotations

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
