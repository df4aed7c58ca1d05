from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from torch import Tensor

from optuna_partition.bayesian.acquisition import Effort, maximize
from optuna_partition.bayesian.lattice import Lattice
from optuna_partition.core.box import Box, ChoiceAxis, FloatAxis, GridAxis
from optuna_partition.surrogate.data import FloatArray


class Hill(AcquisitionFunction):
    """Minus the squared distance to a point; a choice is right or wrong."""

    def __init__(self, top: FloatArray, choices: list[int]) -> None:
        torch.nn.Module.__init__(self)
        self.top, self.choices = torch.from_numpy(top), choices

    def forward(self, points: Tensor) -> Tensor:
        steps = points[:, 0] - self.top
        wrong = steps[:, self.choices].abs() > 1e-9
        ordered = [k for k in range(steps.shape[1]) if k not in self.choices]
        return -(steps[:, ordered] ** 2).sum(-1) - wrong.sum(-1)


def best(
    box: Box, values: tuple[Any, ...], *, taken: tuple[Any, ...] | None = None
) -> tuple[Any, ...]:
    lattice = Lattice(box)
    top = np.array(box.units(values))
    found = maximize(
        Hill(top, lattice.choices),
        lattice,
        np.full((1, len(top)), 0.5)
        if not lattice.choices
        else lattice.snap(np.full((1, len(top)), 0.1)),
        lambda point: tuple(box.at(point.tolist()).values()) != taken,
        np.random.default_rng(0),
        Effort(),
    )
    assert found is not None
    return tuple(box.at(found.tolist()).values())


MIXED = Box(
    (
        FloatAxis("rate", 1e-4, 1e-1, log=True),
        GridAxis("rank", range(2, 257), log=True),
        GridAxis("alpha", range(1, 65)),
        ChoiceAxis("schedule", ("cosine", "linear", "constant")),
        ChoiceAxis("optimizer", ("adam", "lion", "sgd", "adafactor")),
    )
)
INTEGERS = Box(tuple(GridAxis(f"n{k}", range(40)) for k in range(4)))


@pytest.mark.parametrize(
    "values", [(3e-3, 17, 50, "linear", "sgd"), (1e-4, 2, 64, "constant", "adafactor")]
)
def test_a_mixed_box_is_searched_exactly_on_its_finite_axes(values: tuple[Any, ...]) -> None:
    found = best(MIXED, values)
    assert found[1:] == values[1:]
    assert np.log(found[0]) == pytest.approx(np.log(values[0]), abs=1e-3)


def test_a_large_finite_box_is_searched_by_exchange() -> None:
    assert best(INTEGERS, (3, 39, 20, 11)) == (3, 39, 20, 11)


def test_the_best_free_point_of_a_small_box_is_found() -> None:
    box = Box((GridAxis("n", range(3, 9)), ChoiceAxis("kind", ("a", "b"))))
    for values in itertools.product(range(3, 9), "ab"):
        assert best(box, values) == values
    assert best(box, (5, "a"), taken=(5, "a")) in {(4, "a"), (6, "a")}


def test_nothing_free_is_none() -> None:
    lattice = Lattice(INTEGERS)
    hill = Hill(np.full(4, 0.5), [])
    rng = np.random.default_rng(0)
    assert maximize(hill, lattice, np.full((1, 4), 0.5), lambda _: False, rng, Effort()) is None
