"""Samplers that partition the search space."""

from optuna_partition.samplers._partition import PartitionSampler, SpaceExhaustedError
from optuna_partition.samplers.bamsoo import BaMSOOSampler
from optuna_partition.samplers.direct import DIRECTSampler
from optuna_partition.samplers.fda import FDASampler
from optuna_partition.samplers.hybrid import PartitionGPSampler
from optuna_partition.samplers.imgpo import IMGPOSampler
from optuna_partition.samplers.logo import LOGOSampler
from optuna_partition.samplers.mosoo import MOSOOSampler
from optuna_partition.samplers.sequool import SequOOLSampler
from optuna_partition.samplers.soo import SOOSampler
from optuna_partition.samplers.stosoo import StoSOOSampler

__all__ = [
    "BaMSOOSampler",
    "DIRECTSampler",
    "FDASampler",
    "IMGPOSampler",
    "LOGOSampler",
    "MOSOOSampler",
    "PartitionGPSampler",
    "PartitionSampler",
    "SOOSampler",
    "SequOOLSampler",
    "SpaceExhaustedError",
    "StoSOOSampler",
]
