"""Samplers that partition the search space."""

from optuna_partition.samplers._partition import PartitionSampler, SpaceExhaustedError
from optuna_partition.samplers.direct import DIRECTSampler
from optuna_partition.samplers.soo import SOOSampler

__all__ = ["DIRECTSampler", "PartitionSampler", "SOOSampler", "SpaceExhaustedError"]
