"""Objectives to tune: LoRA fine-tuning of a language model, and synthetic test functions.

The fine-tuning classes need the extra `llm`; they are imported when they are first used, so that
the synthetic functions work without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from objectives.config import FineTuneConfig
from objectives.lazy import attribute
from objectives.search_space import HARD_LIMITS, HyperParameters, SearchSpace

if TYPE_CHECKING:
    from objectives.devices.team import LostDeviceError
    from objectives.finetune import FineTuneObjective
    from objectives.memory import OutOfMemoryError
    from objectives.results import BaseResult, FinalComparison, TrialResult

__all__ = [
    "HARD_LIMITS",
    "BaseResult",
    "FinalComparison",
    "FineTuneConfig",
    "FineTuneObjective",
    "HyperParameters",
    "LostDeviceError",
    "OutOfMemoryError",
    "SearchSpace",
    "TrialResult",
]

_LAZY: Final = {
    "BaseResult": "objectives.results",
    "FinalComparison": "objectives.results",
    "FineTuneObjective": "objectives.finetune",
    "LostDeviceError": "objectives.devices.team",
    "OutOfMemoryError": "objectives.memory",
    "TrialResult": "objectives.results",
}


def __getattr__(name: str) -> Any:
    return attribute(__name__, name, _LAZY)
