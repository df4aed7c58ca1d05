"""How a run descends: optimizer, learning-rate schedule, clipping and arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from objectives.config import OptimizerName, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What all trials of a study have in common beside their hyperparameters.

    Attributes:
        optimizer: `"adamw"`; `"adamw_fused"`, one kernel for all weights; or `"adamw_8bit"`, whose
            moments take a byte each (bitsandbytes).
        schedule: What follows the warm-up: `"cosine"` down to 0, or `"constant"`.
        warmup_fraction: Share of the optimizer steps, in [0, 1), with a rising learning rate.
        gradient_clip: Longest norm of a step's gradient, all adapter weights together; None leaves
            gradients as they are.
        dtype: Of matrix products: float32, bfloat16 or float16. Losses are scaled in float16, and a
            step whose gradient overflows is left out.
    """

    optimizer: OptimizerName = "adamw"
    schedule: Schedule = "cosine"
    warmup_fraction: float = 0.1
    gradient_clip: float | None = None
    dtype: torch.dtype = torch.float32


def learning_rate_factor(step: int, *, steps: int, recipe: Recipe) -> float:
    """Multiple of the peak learning rate at an optimizer step, in (0, 1].

    A linear rise, no step of which is wasted at rate 0, then half a cosine or a constant.

    Args:
        step: From 0.
        steps: Optimizer steps of the whole run.
        recipe: Says how long the rise is and what follows.
    """
    warmup = int(recipe.warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def make_optimizer(
    parameters: Sequence[torch.nn.Parameter],
    *,
    name: OptimizerName,
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """AdamW with decoupled weight decay [Loshchilov and Hutter 2019].

    `"adamw_8bit"` needs bitsandbytes; see `check_bitsandbytes`.
    """
    if name == "adamw_8bit":
        from bitsandbytes.optim.adamw import AdamW8bit

        optimizer: torch.optim.Optimizer = AdamW8bit(
            parameters, lr=learning_rate, weight_decay=weight_decay
        )
        return optimizer
    return torch.optim.AdamW(
        parameters, lr=learning_rate, weight_decay=weight_decay, fused=name == "adamw_fused"
    )


def check_bitsandbytes(setting: str) -> None:
    """Raise if the package for 8-bit optimizers and 4-bit weights is missing.

    Args:
        setting: What needs it, for the message.

    Raises:
        ImportError: With the name of the extra that brings it.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{setting}, which needs bitsandbytes; install it with: "
            "pip install 'optuna-partition[quant]'"
        ) from error
