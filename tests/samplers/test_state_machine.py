"""Anything can happen to a study, in any order: what must hold all the same."""

from __future__ import annotations

import functools
import math
import warnings
from fractions import Fraction
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from optuna_partition import (
    BaMSOOSampler,
    DIRECTSampler,
    FDASampler,
    IMGPOSampler,
    LOGOSampler,
    PartitionGPSampler,
    SequOOLSampler,
    SOOSampler,
    StoSOOSampler,
)
from optuna_partition.core import cell as cells
from optuna_partition.core.tree import Tree
from optuna_partition.samplers import PartitionSampler

SPACE: dict[str, BaseDistribution] = {
    "x": FloatDistribution(-1.5, 4.0),
    "n": IntDistribution(3, 9),
    "kind": CategoricalDistribution(["a", "b", "c"]),
}
RETRIES = 1


def suggest(trial: optuna.Trial) -> tuple[Any, ...]:
    return (
        trial.suggest_float("x", -1.5, 4.0),
        trial.suggest_int("n", 3, 9),
        trial.suggest_categorical("kind", ["a", "b", "c"]),
    )


def view(search: Any) -> Any:
    """What can be seen of a partition."""
    if not isinstance(search, Tree):
        return search.exhausted, search.best
    leaves = [
        (leaf, node.rank, sorted((s.number, s.status.value) for s in node.evaluation.samples))
        for leaf in search.leaves
        if (node := search.find(leaf)) is not None
    ]
    return leaves, search.open_divisions, search.owed(), search.exhausted, search.count


class Study(RuleBasedStateMachine):
    """A study with several workers, of which some die."""

    make: functools.partial[PartitionSampler]
    repeats = 1
    running = Bundle("running")

    @initialize()
    def start(self) -> None:
        self.study = optuna.create_study(sampler=self.make(search_space=SPACE))
        self.own: list[int] = []

    @rule(target=running)
    def ask(self) -> Any:
        trial = self.study.ask()
        values = suggest(trial)
        enqueued = "fixed_params" in self.study.trials[trial.number].system_attrs
        self.own.extend([] if enqueued else [trial.number])
        return trial.number, values

    @rule(trial=consumes(running), value=st.sampled_from([0.3, 1.0, 1.0, math.inf, -2.0]))
    def complete(self, trial: Any, value: float) -> None:
        self.study.tell(trial[0], value)

    @rule(trial=consumes(running))
    def fail(self, trial: Any) -> None:
        self.study.tell(trial[0], state=TrialState.FAIL)

    @rule(trial=consumes(running))
    def return_nan(self, trial: Any) -> None:
        self.study.tell(trial[0], math.nan, skip_if_finished=True)

    @rule(trial=consumes(running))
    def prune(self, trial: Any) -> None:
        self.study.tell(trial[0], state=TrialState.PRUNED)

    @rule(trial=consumes(running))
    def die(self, trial: Any) -> None:
        """A worker that never comes back: the trial runs for ever."""

    @rule(x=st.floats(-1.5, 4.0), n=st.integers(3, 9), kind=st.sampled_from("abc"))
    def enqueue(self, x: float, n: int, kind: str) -> None:
        self.study.enqueue_trial({"x": x, "n": n, "kind": kind})

    @rule(value=st.floats(-1.0, 1.0), n=st.integers(3, 9), kind=st.sampled_from("abc"))
    def add(self, value: float, n: int, kind: str) -> None:
        params = {"x": 1.25, "n": n, "kind": kind}  # the center of the float axis
        self.study.add_trial(create_trial(params=params, distributions=SPACE, value=value))

    @rule(target=running)
    def resume(self) -> Any:
        self.study.sampler = self.make(search_space=SPACE)
        return multiple()

    @invariant()
    def no_point_is_evaluated_more_often_than_it_failed(self) -> None:
        tries: dict[tuple[Any, ...], list[TrialState]] = {}
        for number in self.own:
            trial = self.study.trials[number]
            tries.setdefault(tuple(trial.params.values()), []).append(trial.state)
        for states in tries.values():
            assert len([s for s in states if s is not TrialState.FAIL]) <= self.repeats
            assert len(states) <= self.repeats + RETRIES

    @invariant()
    def a_fresh_worker_sees_the_same(self) -> None:
        sampler: Any = self.study.sampler
        fresh = self.make(search_space=SPACE).partition_of(self.study)
        assert view(fresh) == view(sampler.partition_of(self.study))

    @invariant()
    def the_cells_tile_the_box(self) -> None:
        tree = self.make(search_space=SPACE).partition_of(self.study)
        if isinstance(tree, Tree):
            parts = tree.leaves + tree.open_divisions
            volumes = [
                math.prod(
                    (high - low for low, high in cells.intervals(tree.box, c)), start=Fraction(1)
                )
                for c in parts
            ]
            assert sum(volumes) == 1


MAKERS = {
    "soo": functools.partial(SOOSampler, max_retries=RETRIES),
    "direct": functools.partial(DIRECTSampler, max_retries=RETRIES),
    "jones1993": functools.partial(DIRECTSampler, variant="jones1993", max_retries=RETRIES),
    "sequool": functools.partial(SequOOLSampler, n_trials=40, max_retries=RETRIES),
    "logo": functools.partial(LOGOSampler, refine=True, max_retries=RETRIES),
    "stosoo": functools.partial(StoSOOSampler, n_trials=40, repeats=2, max_retries=RETRIES),
    "bamsoo": functools.partial(BaMSOOSampler, max_retries=RETRIES, beta=0.3),
    "imgpo": functools.partial(IMGPOSampler, max_retries=RETRIES, beta=0.3),
    "hybrid": functools.partial(PartitionGPSampler, max_retries=RETRIES, seed=3),
    "fda": functools.partial(FDASampler, max_retries=RETRIES),
}


@pytest.mark.parametrize("name", MAKERS)
def test_anything_in_any_order(name: str) -> None:
    machine = type(
        f"Study_{name}", (Study,), {"make": MAKERS[name], "repeats": 1 + (name == "stosoo")}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=25,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
