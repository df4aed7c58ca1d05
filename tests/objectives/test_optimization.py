from __future__ import annotations

import pytest
import torch

from objectives.config import OptimizerName, Schedule
from objectives.optimization import Recipe, learning_rate_factor, make_optimizer


def factors(steps: int, warmup_fraction: float, schedule: Schedule = "cosine") -> list[float]:
    recipe = Recipe(warmup_fraction=warmup_fraction, schedule=schedule)
    return [learning_rate_factor(step, steps=steps, recipe=recipe) for step in range(steps)]


def test_the_learning_rate_rises_and_falls_and_is_never_zero() -> None:
    rates = factors(20, 0.2)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[12] == pytest.approx(0.5)
    assert min(rates) > 0
    assert factors(1, 0.5) == [1.0]


def test_a_constant_learning_rate_rises_and_stays() -> None:
    assert factors(10, 0.2, "constant") == pytest.approx([1 / 3, 2 / 3, *[1.0] * 8])


def minimized(name: OptimizerName, learning_rate: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    start, target = torch.randn(2, 90, 64, generator=generator)  # above 4096: 8-bit moments
    weights = torch.nn.Parameter(start.clone())
    optimizer = make_optimizer([weights], name=name, learning_rate=learning_rate, weight_decay=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        torch.autograd.backward(((weights - target) ** 2).sum())
        optimizer.step()
    if name == "adamw_8bit":
        assert optimizer.state[weights]["state1"].dtype == torch.uint8
    return weights.detach()


@pytest.mark.parametrize(("name", "tolerance"), [("adamw_fused", 1e-5), ("adamw_8bit", 0.15)])
def test_the_optimizers_are_one_method(name: OptimizerName, tolerance: float) -> None:
    expected = minimized("adamw", 0.05)
    assert float((minimized(name, 0.05) - expected).abs().max()) < tolerance
    # What a step of another length would give is farther away.
    assert float((minimized("adamw", 0.04) - expected).abs().max()) > 0.3
