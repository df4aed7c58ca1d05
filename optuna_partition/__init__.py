"""Samplers for Optuna that partition the search space: DIRECT and SOO."""

from __future__ import annotations

from optuna_partition.samplers import DIRECTSampler, SOOSampler, SpaceExhaustedError

__version__ = "0.1.0"

__all__ = ["DIRECTSampler", "SOOSampler", "SpaceExhaustedError", "__version__"]
