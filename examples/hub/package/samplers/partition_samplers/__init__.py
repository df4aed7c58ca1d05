"""Samplers of optuna-partition, as OptunaHub loads them."""

from optuna_partition import (
    BaMSOOSampler,
    DIRECTSampler,
    FDASampler,
    IMGPOSampler,
    LOGOSampler,
    MOSOOSampler,
    PartitionGPSampler,
    SequOOLSampler,
    SOOSampler,
    StoSOOSampler,
)

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
    "StoSOOSampler",
]
