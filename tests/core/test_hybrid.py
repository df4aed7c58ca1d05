"""Divisions and proposals take turns, and share what they find."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from optuna_partition.core import cell as cells
from optuna_partition.core.box import Box, FloatAxis
from optuna_partition.core.claim import Claim, Record, Status, Trial
from optuna_partition.core.direct import direct
from optuna_partition.core.hybrid import Proposer, Proposers, hybrid
from optuna_partition.core.tree import Tree

Asked = list[tuple[str, list[Trial], int, tuple[int, int]]]

BOX = Box((FloatAxis("x", -2.0, 5.0), FloatAxis("y", 1.0, 4.0)))


@pytest.fixture
def tree(methods: dict[str, Any]) -> Tree:
    found: Tree = methods["refined"].tree(BOX)
    return found


def grow(tree: Tree, n: int, models: Proposers, *, known: int | None = None) -> list[Claim]:
    """Ask n times; from the trial number `known` on nothing has ended."""
    rule = functools.partial(direct, size=cells.length)
    claims = []
    for number in range(n):
        claim = hybrid(tree, rule=rule, models=models, seed=0)
        assert claim is not None
        x, y = (
            BOX.at(claim.probe.point).values()
            if claim.probe is not None
            else cells.decode(BOX, claim.cell).values()
        )
        value = (x - 0.3) ** 2 + (y - 2.2) ** 2
        running = known is not None and number >= known
        tree.record(number, Record(claim, Status.PENDING if running else Status.KNOWN, value))
        claims.append(claim)
    return claims


def random_points(asked: Asked) -> Proposers:
    def model(name: str) -> Proposer:
        def propose(
            box: Box, trials: list[Trial], level: int, seed: tuple[int, int]
        ) -> Iterator[tuple[float, ...]]:
            asked.append((name, trials, level, seed))
            rng = np.random.default_rng(seed)
            while True:
                yield tuple(rng.uniform(size=2).tolist())

        return propose

    return Proposers(model("rough"), model("smooth"))


def test_divisions_probes_and_proposals_take_turns(tree: Tree) -> None:
    asked: Asked = []
    claims = grow(tree, 64, random_points(asked))
    assert claims[0] == Claim(tree.root)
    kinds = "".join(
        "D" if claim.probe is None else "P" if claim.probe.width else "M" for claim in claims
    )
    # The first probe has too few neighbors, and a model stands in for it.
    assert kinds == "DDMDMDPD" + 2 * "MDPDMDPD" + 5 * "MMPDMMPD"
    assert [seed for *_, seed in asked] == [(0, n) for n, kind in enumerate(kinds) if kind == "M"]
    asked_for = [(name, level) for name, _, level, _ in asked]
    rough = [("rough", 1), ("rough", 1), ("rough", 0), ("rough", 1), ("rough", 0), ("rough", 1)]
    later = [("rough", 0), ("rough", 1), ("smooth", 0), ("rough", 1)]
    assert asked_for == rough + 5 * later


def test_before_two_values_points_are_spread(tree: Tree) -> None:
    asked: Asked = []
    claims = grow(tree, 12, random_points(asked), known=1)
    points = [claim.probe.point for claim in claims if claim.probe is not None]
    assert len(set(points)) == len(points) == 5
    assert not asked


def test_the_model_sees_all_trials_and_the_rule_divides_what_it_saw(tree: Tree) -> None:
    asked: Asked = []
    claims = grow(tree, 29, random_points(asked), known=25)
    _, trials, _, _ = asked[-1]
    assert [trial.status for trial in trials] == [Status.KNOWN] * 25 + [Status.PENDING] * 3
    points = [
        claim.probe.point
        if claim.probe is not None
        else BOX.middle(claim.cell.levels, claim.cell.index)
        for claim in claims[:28]
    ]
    assert [trial.point for trial in trials] == [pytest.approx(point) for point in points]


def test_what_somebody_has_is_not_proposed_again(tree: Tree) -> None:
    def stubborn(
        box: Box, trials: list[Trial], level: int, seed: tuple[int, int]
    ) -> list[tuple[float, ...]]:
        return [(0.25, 0.75), (0.5, 0.5), (0.25, 0.125 * (1 + seed[1] % 3))]

    claims = grow(tree, 40, Proposers(stubborn, stubborn))
    probes = [claim.probe for claim in claims if claim.probe is not None]
    points = [probe.point for probe in probes if probe.width == 0]
    assert len(points) == len(set(points)) == 4
    assert (0.5, 0.5) not in points  # the center of the root


def test_a_failed_probe_is_made_once_more_and_then_counts_as_the_worst(tree: Tree) -> None:
    asked: Asked = []
    grow(tree, 6, random_points(asked))
    rule = functools.partial(direct, size=cells.length)
    claim = hybrid(tree, rule=rule, models=random_points(asked), seed=0)
    assert claim is not None
    assert claim.probe is not None
    tree.record(6, Record(claim, Status.FAILED))
    assert len(tree.trials()) == 6
    assert hybrid(tree, rule=rule, models=random_points(asked), seed=0) == claim
    tree.record(7, Record(claim, Status.PENDING))
    assert hybrid(tree, rule=rule, models=random_points(asked), seed=0) != claim
    assert [trial.status for trial in tree.trials()][6:] == [Status.PENDING]
    tree.record(7, Record(claim, Status.FAILED))
    assert hybrid(tree, rule=rule, models=random_points(asked), seed=0) != claim
    assert [(t.status, t.rank[-1]) for t in tree.trials()][6:] == [(Status.KNOWN, np.inf)] * 2


def test_a_probe_that_failed_once_and_then_did_not_has_its_value(tree: Tree) -> None:
    asked: Asked = []
    claims = grow(tree, 8, random_points(asked))
    probe = next(claim for claim in claims[4:] if claim.probe is not None)
    tree.record(8, Record(probe, Status.FAILED))
    assert tree.owed_probe() is None
    assert len(tree.trials()) == 8
