"""Tuning an objective of this package: one call, one YAML file or one command line."""

from __future__ import annotations

from objectives.tuning.named import PRUNERS, SAMPLERS, make_pruner, make_sampler
from objectives.tuning.settings import StudySettings
from objectives.tuning.study import Tuning, open_tuning, run_trials, tune

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "StudySettings",
    "Tuning",
    "make_pruner",
    "make_sampler",
    "open_tuning",
    "run_trials",
    "tune",
]
