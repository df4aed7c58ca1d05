"""Surfaces like that of a learning rate: plateau, ridge and cliff.

A stylized LoRA run, not a fit to measurements. What matters most is the size of a step,
e = log(learning rate * alpha / sqrt(rank)): far below its best nothing is learned and the value is
the same everywhere, for about half of the space; towards the best the loss falls ever more steeply;
40 % beyond it the run diverges. More accumulated batches allow larger steps, so that the ridge lies
askew in at least four parameters. The other hyperparameters scale what is learned, each with a
best value of its own. The optimum is known because every factor is 1 there, and 1 is its maximum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from numpy.random import Generator
from optuna.distributions import FloatDistribution

from benchmarks._instances import Instance, Parameters, Space
from objectives.search_space import SearchSpace

START: Final = 2.6  # loss of a model that learned nothing, in nats a token
GAIN: Final = 1.4  # how much can be learned
WIDTH: Final = 3.2  # of the slope below the ridge, in log step size
MARGIN: Final = math.log(1.4)  # from the ridge to the cliff
CHANCE: Final = 0.25  # accuracy of guessing among four answers
QUESTIONS: Final = 500  # whose count of right answers is the accuracy

# What a diverged run is told as: its loss, NaN, or the accuracy of guessing.
Cliff = Literal["huge", "nan", "chance"]


def progress(log_step: float) -> float:
    """Share of the gain at log(step / best step): 0 on the plateau, 1 on the ridge.

    Beyond the ridge it falls a little; beyond the cliff it is 0 again.
    """
    if log_step > MARGIN:
        return 0.0
    if log_step > 0:
        return 1 - 0.15 * (log_step / MARGIN) ** 2
    return max(0.0, 1 + log_step / WIDTH) ** 2


@dataclass(frozen=True, slots=True)
class Surface:
    """The surface whose best hyperparameters are given."""

    best: Parameters

    def log_step(self, at: Parameters) -> float:
        """log(step / best step); accumulating four times as many batches doubles the best step."""
        return _log_step(at) - _log_step(self.best)

    def share(self, at: Parameters) -> float:
        """Share of the gain that a run gets, in [0, 1]."""
        best = self.best
        kept: float = progress(self.log_step(at))
        kept *= math.exp(-((math.log(at["rank"] / best["rank"]) / 2.5) ** 2))
        kept *= 1 - (math.log(at["alpha"] / best["alpha"]) / 6) ** 2
        kept *= 1 - (math.log(at["weight_decay"] / best["weight_decay"]) / 15) ** 2
        kept *= 1 - (math.log(at["grad_batches"] / best["grad_batches"]) / 6) ** 2
        # With a dropout of 1 the adapter learns nothing.
        off = at["dropout"] - best["dropout"]
        kept *= 1 - (off / ((1 - best["dropout"]) if off > 0 else 1)) ** 2
        return kept

    def diverges(self, at: Parameters) -> bool:
        """Whether the step lies beyond the cliff."""
        return self.log_step(at) > MARGIN

    def loss(self, at: Parameters) -> float:
        """Loss after the run; a run that diverged counts as one that learned nothing."""
        return START - GAIN * self.share(at)


def _log_step(at: Parameters) -> float:
    step = at["learning_rate"] * at["alpha"] / math.sqrt(at["rank"] * at["grad_batches"])
    return math.log(step)


def lora(preset: str, cliff: Cliff, noise: float, rng: Generator) -> Instance:
    """A run over one of the presets of the LoRA search space.

    Args:
        preset: Name of the search space.
        cliff: What a diverged run is told as.
        noise: Standard deviation on the told loss, as a share of the gain. Accuracies have the
            noise of a count instead: they are rounded to whole questions.
        rng: Draws the best hyperparameters.
    """
    surface = Surface(_best(rng))

    def told(at: Parameters, rng: Generator) -> float:
        if cliff == "chance":
            accuracy = CHANCE + 0.4 * surface.share(at)
            return -round(accuracy * QUESTIONS) / QUESTIONS
        if surface.diverges(at):
            return math.nan if cliff == "nan" else huge(surface.log_step(at) - MARGIN)
        return surface.loss(at) + float(rng.normal(0, noise * GAIN))

    space: Space = dict(SearchSpace.preset(preset).distributions)
    return Instance(space, START - GAIN, surface.loss, told)


def cliff(rng: Generator) -> Instance:
    """The ridge and the cliff alone: learning rate and momentum, both on log axes."""
    space: Space = {
        "learning_rate": FloatDistribution(1e-5, 1.0, log=True),
        "one_minus_momentum": FloatDistribution(1e-3, 1.0, log=True),
    }
    best_rate, best_rest = math.exp(rng.uniform(-2.5, -1.5)), math.exp(rng.uniform(-3.5, -1.5))

    def log_step(at: Parameters) -> float:
        return math.log(at["learning_rate"] / best_rate * best_rest / at["one_minus_momentum"])

    def true(at: Parameters) -> float:
        along = math.log(at["one_minus_momentum"] / best_rest)
        return START - GAIN * progress(log_step(at)) * math.exp(-((along / 2) ** 2))

    def told(at: Parameters, rng: Generator) -> float:
        beyond = log_step(at) - MARGIN
        return huge(beyond) if beyond > 0 else true(at)

    return Instance(space, START - GAIN, true, told)


def huge(beyond: float) -> float:
    """Loss of a diverged run, 1e3 to 1e6, by how far the step lies beyond the cliff."""
    return float(min(1e6, 1e3 * math.exp(2 * beyond)))


def _best(rng: Generator) -> dict[str, Any]:
    return {
        "learning_rate": math.exp(rng.uniform(-4.0, -3.0)),
        "weight_decay": math.exp(rng.uniform(-4.0, -0.5)),
        "rank": int(rng.integers(8, 50)),
        "alpha": float(rng.uniform(12, 45)),
        "dropout": float(rng.uniform(0.03, 0.25)),
        "grad_batches": int(rng.integers(2, 8)),
    }
