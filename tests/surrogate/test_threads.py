"""Models compute on one thread, and the process keeps its own setting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from threadpoolctl import ThreadpoolController

from optuna_partition import BaMSOOSampler, IMGPOSampler, PartitionGPSampler
from optuna_partition.core.box import Box, FloatAxis
from optuna_partition.core.cell import depth, one_longest_side
from optuna_partition.core.claim import Claim
from optuna_partition.core.tree import Tree
from optuna_partition.surrogate.evidence import Evidence
from optuna_partition.surrogate.threads import on_one_thread


def counts() -> list[int]:
    return [lib["num_threads"] for lib in ThreadpoolController().select(user_api="blas").info()]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        assert set(counts()) == {2}
        yield


@pytest.mark.parametrize("sampler", [PartitionGPSampler, BaMSOOSampler, IMGPOSampler])
def test_a_fit_has_one_thread_and_the_process_as_many_as_before(
    sampler: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def spied(*args: Any) -> Evidence:
        seen.extend(counts())
        return Evidence(*args)

    monkeypatch.setattr("optuna_partition.surrogate.gaussian_process.Evidence", spied)
    study = optuna.create_study(sampler=sampler())
    study.optimize(lambda trial: trial.suggest_float("x", -1.0, 3.0) ** 2, n_trials=12)
    assert set(seen) == {1}
    assert set(counts()) == {2}


def test_a_rule_that_fails_leaves_the_setting_too() -> None:
    def failing(tree: Tree) -> Claim | None:
        raise RuntimeError(str(counts()))

    tree = Tree(Box((FloatAxis("x", 0.0, 1.0),)), division=one_longest_side, group=depth)
    with pytest.raises(RuntimeError, match=r"\[1"):
        on_one_thread(failing)(tree)
    assert set(counts()) == {2}
