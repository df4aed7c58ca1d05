"""Tuning an objective of this package: one call, one YAML file or one command line.

What runs a study is imported when it is first used, as it loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from objectives.lazy import attribute
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

_LAZY: Final = dict.fromkeys(
    ("Tuning", "open_tuning", "run_trials", "tune"), "objectives.tuning.study"
)


def __getattr__(name: str) -> Any:
    return attribute(__name__, name, _LAZY)
