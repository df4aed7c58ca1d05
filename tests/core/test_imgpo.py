"""IMGPO against the loop of the paper over a dict of leaves."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from objectives import synthetic
from optuna_partition.core import cell as cells
from optuna_partition.core.bamsoo import Model, constant
from optuna_partition.core.box import Box
from optuna_partition.core.cell import Cell
from optuna_partition.core.claim import Record, Status, Trial
from optuna_partition.core.imgpo import imgpo, theory
from optuna_partition.core.tree import Tree


class Textbook:
    """Leaves with values, of which some are bounds of the model."""

    def __init__(
        self, box: Box, function: Callable[[Cell], float], model: Model, width: Any, n: int
    ) -> None:
        self.box, self.function, self.model, self.width, self.n = box, function, model, width, n
        self.order: list[Cell] = []
        self.known: dict[Cell, float] = {}
        self.spared = 0
        self.best = math.inf
        self.leaves = {cells.root(box): self.evaluate(cells.root(box))}
        self.guessed: set[Cell] = set()

    def evaluate(self, cell: Cell) -> float:
        self.order.append(cell)
        self.known[cell] = self.function(cell)
        self.best = min(self.best, self.known[cell])
        return self.known[cell]

    @property
    def done(self) -> bool:
        return len(self.order) >= self.n

    def lower(self, cell: Cell) -> float:
        trials: list[Trial] = [
            Trial(self.box.middle(c.levels, c.index), Status.KNOWN, (0.0, v))
            for c, v in self.known.items()
        ]
        point = self.box.middle(cell.levels, cell.index)
        return self.model(self.box, trials)([point], self.width(1 + self.spared))[0][0]

    def select(self) -> dict[int, Cell]:
        """Step (i): the best leaf of each level, evaluated if its value is a bound."""
        while True:
            chosen: dict[int, Cell] = {}
            bound = math.inf
            for depth in range(max(c.depth for c in self.leaves) + 1):
                level = [c for c in self.leaves if c.depth == depth]
                best = min(level, key=lambda c: (self.leaves[c], c), default=None)
                if best is None or self.leaves[best] > bound:
                    continue
                if best in self.guessed:
                    self.guessed.remove(best)
                    self.leaves[best] = self.evaluate(best)
                    break
                chosen[depth], bound = best, self.leaves[best]
            else:
                return chosen
            if self.done:
                return {}

    def drop(self, chosen: dict[int, Cell], reach: float) -> list[Cell]:
        """Step (ii): keep cells below which the model sees something better."""
        kept = []
        for depth, cell in chosen.items():
            ahead = [x for x in range(1, min(math.ceil(reach), 3) + 1) if depth + x in chosen]
            virtual = [cell]
            for _ in range(ahead[0] if ahead else 0):
                virtual = [part for above in virtual for part, _ in self.parts(above)]
            promise = min(map(self.lower, virtual))
            if not ahead or promise <= self.leaves[chosen[depth + ahead[0]]]:
                kept.append(cell)
        return kept

    def parts(self, cell: Cell) -> Any:
        return cells.children(self.box, cell, cells.one_longest_side(self.box, cell)[0])

    def run(self) -> list[Cell]:
        reach = 1.0
        while not self.done:
            before = self.best
            for cell in self.drop(self.select(), reach):
                value = self.leaves.pop(cell)
                for part, inherits in self.parts(cell):
                    if inherits:
                        self.leaves[part] = value
                    elif (bound := self.lower(part)) > self.best:
                        self.leaves[part] = bound
                        self.guessed.add(part)
                        self.spared += 1
                    else:
                        self.leaves[part] = self.evaluate(part)
            reach = reach + 4 if self.best < before else max(reach - 0.5, 1)
        return self.order[: self.n]


@pytest.mark.parametrize("width", [0.5, 2.0, "theory"])
@pytest.mark.parametrize("name", ["branin", "hartmann6", "shekel10"])
def test_it_is_the_textbook_cell_for_cell(
    name: str, width: Any, methods: dict[str, Any], make_float_box: Any
) -> None:
    problem = synthetic.by_name(name)
    box = make_float_box(problem.low, problem.high)
    model = methods["imgpo"].rule.keywords["model"]
    widths = (
        functools.partial(theory, eta=0.05)
        if width == "theory"
        else functools.partial(constant, beta=width)
    )

    def function(cell: Cell) -> float:
        return float(problem(np.array(list(cells.decode(box, cell).values()))))

    tree: Tree = methods["imgpo"].tree(box)
    found = []
    for number in range(60):
        claim = imgpo(tree, model=model, width=widths)
        assert claim is not None
        tree.record(number, Record(claim, Status.KNOWN, function(claim.cell)))
        found.append(claim.cell)
    assert found == Textbook(box, function, model, widths, 60).run()


def test_the_published_width() -> None:
    assert theory(1, eta=0.05) == pytest.approx(math.sqrt(2 * math.log(math.pi**2 / 0.6)))
    assert theory(100, eta=0.05) == pytest.approx(4.9012, abs=1e-3)
