"""Tuning an objective of this package: one call, one YAML file or one command line.

What runs a study is imported when it is first used, as it loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from objectives.tuning.named import PRUNERS, SAMPLERS, make_pruner, make_sampler
from objectives.tuning.settings import StudySettings

if TYPE_CHECKING:
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

_LAZY: Final = frozenset({"Tuning", "open_tuning", "run_trials", "tune"})


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("objectives.tuning.study"), name)
