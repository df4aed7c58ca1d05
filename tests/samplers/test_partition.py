"""The samplers in a study: what a user of Optuna expects of them."""

from __future__ import annotations

import itertools
import logging
import math
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from optuna_partition import (
    BaMSOOSampler,
    DIRECTSampler,
    FDASampler,
    IMGPOSampler,
    LOGOSampler,
    PartitionGPSampler,
    SequOOLSampler,
    SOOSampler,
    SpaceExhaustedError,
    StoSOOSampler,
)
from optuna_partition.samplers import PartitionSampler
from optuna_partition.samplers._journal import read_entry

Factory = Callable[..., PartitionSampler]
Objective = Callable[[optuna.Trial], float]
Space = dict[str, BaseDistribution]

# Samplers that start with centers of cells and go on with the same cells after an enqueued trial.
CENTERED = [
    "soo",
    "refined",
    "one_side",
    "jones1993",
    "sequool",
    "logo",
    "mosoo",
    "bamsoo",
    "imgpo",
]
LINE: Space = {"x": FloatDistribution(-1.5, 4.0)}


def line(trial: optuna.Trial) -> float:
    return (trial.suggest_float("x", -1.5, 4.0) - 0.7) ** 2


def parameters(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


# Search


def test_the_first_trial_is_the_center_and_all_points_differ(
    factory: Factory, objective: Objective
) -> None:
    study = optuna.create_study(sampler=factory())
    study.optimize(objective, n_trials=60)
    assert study.trials[0].params == {
        "learning_rate": pytest.approx(1e-3),
        "dropout": pytest.approx(0.35),
        "rank": 10,
        "grad_batches": 17,
        "warmup": 0.3,
        "schedule": "cosine",
    }
    assert len({tuple(sorted(p.items())) for p in parameters(study)}) == 60


def test_an_explicit_space_gives_the_same_cells_as_an_inferred_one(
    factory: Factory, objective: Objective, space: Space
) -> None:
    inferred = optuna.create_study(sampler=factory())
    explicit = optuna.create_study(sampler=factory(search_space=dict(sorted(space.items()))))
    for study in (inferred, explicit):
        study.optimize(objective, n_trials=40)
    assert parameters(inferred) == parameters(explicit)


def test_the_order_of_an_explicit_space_says_what_is_split_first(space: Space) -> None:
    first: dict[str, set[Any]] = {}
    for order in (["dropout", "rank"], ["rank", "dropout"]):
        study = optuna.create_study(sampler=SOOSampler(search_space={n: space[n] for n in order}))

        def objective(trial: optuna.Trial) -> float:
            return trial.suggest_float("dropout", 0.05, 0.65) + trial.suggest_int(
                "rank", 2, 64, log=True
            )

        study.optimize(objective, n_trials=3)
        first[order[0]] = {name for name in order if len({p[name] for p in parameters(study)}) > 1}
    assert first == {"dropout": {"dropout"}, "rank": {"rank"}}


def test_maximizing_is_minimizing_the_negative(factory: Factory, objective: Objective) -> None:
    down = optuna.create_study(sampler=factory())
    up = optuna.create_study(sampler=factory(), direction="maximize")
    down.optimize(objective, n_trials=40)
    up.optimize(lambda trial: -objective(trial), n_trials=40)
    assert parameters(up) == parameters(down)


def test_it_finds_the_optimum_that_random_search_misses(
    factory: Factory, objective: Objective
) -> None:
    ours = optuna.create_study(sampler=factory())
    ours.optimize(objective, n_trials=150)
    medians = []
    for seed in range(5):
        random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        random.optimize(objective, n_trials=150)
        medians.append(random.best_value)
    assert ours.best_value < sorted(medians)[2]


# Resuming


CONTINUE = """
    import sys
    import optuna
    sys.path.insert(0, {folder!r})
    from conftest import SAMPLERS, mixed_objective
    for name, cut in {cuts!r}:
        study = optuna.load_study(
            study_name=f"{{name}} {{cut}}", storage={storage!r}, sampler=SAMPLERS[name]()
        )
        study.optimize(mixed_objective, n_trials=30 - cut)
"""


def test_a_study_cut_at_any_trial_goes_on_in_a_new_process(
    sqlite: str, objective: Objective, request: pytest.FixtureRequest
) -> None:
    factories = request.getfixturevalue("factories")
    names = ("soo", "one_side", "jones1993", "locally_biased")
    cuts = list(itertools.product(names, (1, 2, 3, 7, 18)))
    parts = {}
    for name, cut in cuts:
        part = optuna.create_study(
            study_name=f"{name} {cut}", storage=sqlite, sampler=factories[name]()
        )
        part.optimize(objective, n_trials=cut)
        parts[name, cut] = part
    code = CONTINUE.format(folder=str(Path(__file__).parent), storage=sqlite, cuts=cuts)
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)
    for name in names:
        whole = optuna.create_study(sampler=factories[name]())
        whole.optimize(objective, n_trials=30)
        for cut in (1, 2, 3, 7, 18):
            part = parts[name, cut]
            assert parameters(part) == parameters(whole), (name, cut)
            assert [t.value for t in part.trials] == [t.value for t in whole.trials]


def test_dropping_the_cache_at_every_trial_changes_nothing(
    factory: Factory, objective: Objective
) -> None:
    whole = optuna.create_study(sampler=factory())
    whole.optimize(objective, n_trials=25)
    study = optuna.create_study(sampler=factory())
    for _ in range(25):
        study.sampler = pickle.loads(pickle.dumps(study.sampler))
        study.optimize(objective, n_trials=1)
    assert parameters(study) == parameters(whole)


def test_one_sampler_serves_two_studies(factory: Factory, objective: Objective) -> None:
    sampler = factory()
    studies = [optuna.create_study(sampler=sampler) for _ in range(2)]
    for _ in range(15):
        for study in studies:
            study.optimize(objective, n_trials=1)
    assert parameters(studies[0]) == parameters(studies[1])


# Parallel


def test_ask_ahead_hands_out_distinct_cells_before_any_result(
    factory: Factory, space: Space
) -> None:
    study = optuna.create_study(sampler=factory(search_space=space))
    trials = [study.ask(space) for _ in range(16)]
    assert len({tuple(sorted(t.params.items())) for t in trials}) == 16
    for trial in trials:
        study.tell(trial, float(trial.number))
    assert study.ask(space).params not in [t.params for t in trials]


def test_workers_that_start_together_without_a_space_do_not_repeat_the_center(
    factory: Factory, objective: Objective
) -> None:
    study = optuna.create_study(sampler=factory())
    trials = [study.ask() for _ in range(4)]
    values = [objective(trial) for trial in trials]
    assert len({tuple(sorted(t.params.items())) for t in trials}) == 4
    for trial, value in zip(trials, values, strict=True):
        study.tell(trial, value)
    study.optimize(objective, n_trials=20)
    points = parameters(study)
    assert len({tuple(sorted(p.items())) for p in points}) == 24


def test_threads_share_one_sampler(factory: Factory, space: Space, objective: Objective) -> None:
    study = optuna.create_study(sampler=factory(search_space=space))
    barrier = threading.Barrier(4)

    def together(trial: optuna.Trial) -> float:
        value = objective(trial)
        if trial.number < 40:
            barrier.wait(timeout=30)
        return value

    study.optimize(together, n_trials=40, n_jobs=4)
    assert len({tuple(sorted(p.items())) for p in parameters(study)}) == 40


def test_many_threads_start_before_the_space_is_known(
    factory: Factory, objective: Objective, sqlite: str
) -> None:
    study = optuna.create_study(sampler=factory(), storage=sqlite)
    study.optimize(objective, n_trials=40, n_jobs=8)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 40
    assert len({tuple(sorted(p.items())) for p in parameters(study)}) == 40


def test_a_list_of_trials_read_earlier_than_the_last_one_does_no_harm(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory())
    study.optimize(line, n_trials=3)
    first, second = study.ask(), study.ask()
    frozen = study.trials[first.number]
    space = study.sampler.infer_relative_search_space(study, frozen)
    second.suggest_float("x", -1.5, 4.0)  # another thread claims in between
    study.tell(second, 1.0)
    found = study.sampler.sample_relative(study, frozen, space)
    assert found["x"] not in [p["x"] for p in parameters(study) if p]


# Values that do not come


def test_a_failed_trial_is_retried_and_then_counts_as_the_worst(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory(search_space=LINE, max_retries=2))

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1.5, 4.0)
        if x > 2:
            raise RuntimeError("out of memory")
        return (x - 0.7) ** 2

    study.optimize(objective, n_trials=40, catch=(RuntimeError,))
    tries: dict[float, int] = {}
    for trial in study.trials:
        tries[trial.params["x"]] = tries.get(trial.params["x"], 0) + 1
    assert {n for x, n in tries.items() if x <= 2} == {1}
    assert {n for x, n in tries.items() if x > 2} <= {1, 2, 3}
    assert study.best_value < 1e-2


def test_nan_is_a_failure_and_infinity_is_the_worst(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory(search_space=LINE, max_retries=0))

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1.5, 4.0)
        if x > 3:
            return math.nan
        return math.inf if x > 2 else -math.inf if x < -1 else (x - 0.7) ** 2

    study.optimize(objective, n_trials=40)
    states = {trial.state for trial in study.trials}
    assert states == {TrialState.COMPLETE, TrialState.FAIL}
    assert len({p["x"] for p in parameters(study)}) == 40


def test_a_pruned_trial_counts_with_its_last_report(factory: Factory) -> None:
    def objective(trial: optuna.Trial) -> float:
        value = line(trial)
        trial.report(math.nan, step=1)
        trial.report(value, step=2)
        if trial.number % 3 == 1:
            raise optuna.TrialPruned
        return value

    pruned = optuna.create_study(sampler=factory(search_space=LINE))
    pruned.optimize(objective, n_trials=30)
    plain = optuna.create_study(sampler=factory(search_space=LINE))
    plain.optimize(line, n_trials=30)
    assert parameters(pruned) == parameters(plain)


def test_a_pruned_trial_without_a_report_is_not_repeated(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory(search_space=LINE))

    def objective(trial: optuna.Trial) -> float:
        value = line(trial)
        if trial.number == 1:
            raise optuna.TrialPruned
        return value

    study.optimize(objective, n_trials=20)
    assert len({p["x"] for p in parameters(study)}) == 20


def test_a_dead_worker_gives_its_cell_back_after_the_time_out(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory(search_space=LINE, claim_timeout=0.2))
    study.optimize(line, n_trials=1)
    dead = study.ask(LINE)
    other = study.ask(LINE)
    assert other.params != dead.params
    study.tell(other, 1.0)
    threading.Event().wait(0.25)
    assert study.ask(LINE).params == dead.params


def test_a_worker_that_comes_late_counts_once(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory(search_space=LINE, claim_timeout=0.2))
    study.optimize(line, n_trials=1)
    slow = study.ask(LINE)
    threading.Event().wait(0.25)
    # A hybrid may have other points to ask for before it comes to the cell.
    later = [study.ask(LINE) for _ in range(3)]
    again = next(trial for trial in later if trial.params == slow.params)
    study.tell(again, 5.0)
    study.tell(slow, 1.0)
    study.optimize(line, n_trials=20)
    assert [p["x"] for p in parameters(study)].count(slow.params["x"]) == 2


def test_a_retried_trial_inherits_the_claim(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory(search_space=LINE))
    study.optimize(line, n_trials=1)
    lost = study.ask(LINE)
    study.tell(lost, state=TrialState.FAIL)
    failed = study.trials[-1]
    # What a heartbeat callback of Optuna does for a trial whose worker has died.
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=failed.params,
            distributions=failed.distributions,
            system_attrs={"failed_trial": failed.number, **failed.system_attrs},
        )
    )
    study.optimize(line, n_trials=12)
    xs = [t.params["x"] for t in study.trials if t.state is TrialState.COMPLETE]
    assert len(set(xs)) == len(xs) == 13
    assert xs.count(failed.params["x"]) == 1


# Points that others chose


@pytest.mark.parametrize("name", CENTERED)
def test_enqueued_points_are_run_and_count_as_observations(
    name: str, factories: dict[str, Factory]
) -> None:
    factory = factories[name]
    study = optuna.create_study(sampler=factory(search_space=LINE))
    study.enqueue_trial({"x": 0.71})
    study.optimize(line, n_trials=1)
    study.enqueue_trial({"x": 3.21})
    study.optimize(line, n_trials=20)
    assert [study.trials[k].params["x"] for k in (0, 1, 2)] == [0.71, 3.21, 1.25]
    assert len({trial.params["x"] for trial in study.trials}) == 21


@pytest.mark.parametrize("name", CENTERED)
def test_a_partly_enqueued_trial_gets_the_rest_of_the_next_cell(
    name: str, factories: dict[str, Factory], objective: Objective, space: Space
) -> None:
    factory = factories[name]
    study = optuna.create_study(sampler=factory(search_space=space))
    study.optimize(objective, n_trials=5)
    study.enqueue_trial({"rank": 33})
    study.optimize(objective, n_trials=2)
    enqueued, following = study.trials[5], study.trials[6]
    assert enqueued.params["rank"] == 33
    assert read_entry(enqueued) is None
    assert {**enqueued.params, "rank": following.params["rank"]} == following.params


@pytest.mark.parametrize("name", ["soo", "one_side", "jones1993", "sequool", "logo", "mosoo"])
def test_a_claim_that_the_trial_did_not_follow_is_void(
    name: str, factories: dict[str, Factory]
) -> None:
    factory = factories[name]  # a probe would make something of the other point
    study = optuna.create_study(sampler=factory(search_space=LINE))
    study.optimize(line, n_trials=1)

    def elsewhere(trial: optuna.Trial) -> float:
        x = trial.suggest_float(
            "x", 1.9, 2.0
        )  # the claimed center lies outside: Optuna samples another point
        return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(elsewhere, n_trials=1)
    with pytest.warns(UserWarning, match="has other parameters than it claims"):
        study.optimize(line, n_trials=12)
    plain = optuna.create_study(sampler=factory(search_space=LINE))
    plain.optimize(line, n_trials=13)
    assert parameters(study)[:1] + parameters(study)[2:] == parameters(plain)


def test_a_claim_that_no_trial_can_follow_is_not_handed_out_for_ever(factory: Factory) -> None:
    space: Space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
    study = optuna.create_study(sampler=factory(search_space=space))

    def narrower(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", 0.6, 1.0) + trial.suggest_float("y", 0, 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(narrower, n_trials=30)
    assert len({p["y"] for p in parameters(study)}) > 2


def test_a_choice_that_is_not_a_number(factory: Factory) -> None:
    choices = [math.nan, 0.1, 0.2]
    study = optuna.create_study(sampler=factory())

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_categorical("decay", choices)
        return line(trial)

    study.optimize(objective, n_trials=12)
    assert len({p["x"] for p in parameters(study)}) > 4


def test_an_interrupted_trial_is_no_failed_one(factory: Factory) -> None:
    whole = optuna.create_study(sampler=factory(search_space=LINE))
    whole.optimize(line, n_trials=20)
    study = optuna.create_study(sampler=factory(search_space=LINE))

    def interrupted(trial: optuna.Trial) -> float:
        line(trial)
        trial.set_user_attr("interrupted", True)
        raise KeyboardInterrupt

    study.optimize(line, n_trials=4)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            study.optimize(interrupted, n_trials=1)
    study.optimize(line, n_trials=16)
    completed = [t.params for t in study.trials if t.state is TrialState.COMPLETE]
    assert completed == parameters(whole)


def test_trials_of_another_sampler_set_the_space_and_rank_the_cells(
    factory: Factory, objective: Objective
) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    study.optimize(objective, n_trials=5)
    study.sampler = factory()
    study.optimize(objective, n_trials=20)
    plain = optuna.create_study(sampler=factory())
    plain.optimize(objective, n_trials=20)
    assert parameters(study)[5] == parameters(plain)[0]
    assert all(read_entry(trial) is not None for trial in study.trials[5:])


def test_one_side_samplers_go_on_with_each_others_tree(objective: Objective) -> None:
    study = optuna.create_study(sampler=SOOSampler())
    study.optimize(objective, n_trials=25)
    study.sampler = DIRECTSampler()
    study.optimize(objective, n_trials=25)
    assert len({tuple(sorted(p.items())) for p in parameters(study)}) == 50


def test_another_division_starts_its_own_tree_with_a_warning(objective: Objective) -> None:
    study = optuna.create_study(sampler=SOOSampler())
    study.optimize(objective, n_trials=25)
    study.sampler = DIRECTSampler(variant="jones1993")
    with pytest.warns(UserWarning, match="in another way; such trials count as observations"):
        study.optimize(objective, n_trials=10)


@pytest.mark.parametrize(
    ("before", "after", "warns"),
    [
        (LOGOSampler(width=2), LOGOSampler(width=5), False),
        (LOGOSampler(width=5), LOGOSampler(), False),
        (SequOOLSampler(n_trials=40), SequOOLSampler(n_trials=20), False),
        (SequOOLSampler(n_trials=10), SequOOLSampler(n_trials=60), False),
        (SOOSampler(h_max=2), SOOSampler(refine=True), False),
        (DIRECTSampler(), DIRECTSampler(refine=False, epsilon=0.1), False),
        (DIRECTSampler(), DIRECTSampler(variant="jones1993"), True),
        (DIRECTSampler(variant="jones1993"), DIRECTSampler(variant="locally_biased"), False),
        (FDASampler(depth=2), FDASampler(depth=1), True),
        (FDASampler(), SOOSampler(), True),
        (StoSOOSampler(n_trials=40, repeats=1), BaMSOOSampler(), False),
        (IMGPOSampler(), SOOSampler(max_retries=0), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_changed_setting_goes_on_and_repeats_nothing(
    before: PartitionSampler, after: PartitionSampler, warns: bool, objective: Objective
) -> None:
    study = optuna.create_study(sampler=before)
    study.optimize(objective, n_trials=20)
    study.sampler = after
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        study.optimize(objective, n_trials=20)
    assert len([w for w in caught if "in another way" in str(w.message)]) == warns
    assert len({tuple(sorted(p.items())) for p in parameters(study)}) == 40


def test_different_samplers_take_turns_on_one_study(objective: Objective, space: Space) -> None:
    makers = (DIRECTSampler, SOOSampler, LOGOSampler, FDASampler, PartitionGPSampler)
    samplers = [make(search_space=space) for make in makers]
    study = optuna.create_study()
    running: list[optuna.Trial] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(40):
            study.sampler = samplers[turn % len(samplers)]
            running.append(study.ask(space))
            if len(running) == 4:
                trial = running.pop(0)
                study.tell(trial, objective(trial))
    assert len({tuple(sorted(p.items())) for p in parameters(study)}) == 40


def test_a_trial_told_by_hand_counts_and_its_worker_is_refused(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory(search_space=LINE))
    study.optimize(line, n_trials=2)
    trial = study.ask(LINE)
    study.tell(trial.number, 0.5)
    with pytest.raises(ValueError, match="COMPLETE"):
        study.tell(trial, 1.0)
    study.optimize(line, n_trials=10)
    assert len({p["x"] for p in parameters(study)}) == 13


def test_a_study_that_was_deleted_and_made_again_starts_anew(factory: Factory) -> None:
    sampler = factory(search_space=LINE)
    storage = optuna.storages.InMemoryStorage()
    found = []
    for _ in range(2):
        study = optuna.create_study(study_name="s", storage=storage, sampler=sampler)
        study.optimize(line, n_trials=6)
        found.append(parameters(study))
        optuna.delete_study(study_name="s", storage=storage)
    assert found[0] == found[1]


# Spaces


def test_conditional_parameters_are_sampled_independently_with_optunas_warning(
    factory: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    def objective(trial: optuna.Trial) -> float:
        value = line(trial)
        if trial.number % 2:
            value += trial.suggest_float("sometimes", 0, 1)
        return value

    study = optuna.create_study(sampler=factory())
    with caplog.at_level(logging.WARNING, logger="optuna_partition"):
        study.optimize(objective, n_trials=20)
    assert "`sometimes` in Trial#3 is sampled independently" in caplog.text
    assert len({p["x"] for p in parameters(study)}) == 20
    caplog.clear()
    quiet = optuna.create_study(sampler=factory(warn_independent_sampling=False))
    with caplog.at_level(logging.WARNING, logger="optuna_partition"):
        quiet.optimize(objective, n_trials=6)
    assert "sampled independently" not in caplog.text


def test_an_independent_sampler_of_ones_own(factory: Factory) -> None:
    class Constant(optuna.samplers.RandomSampler):
        def sample_independent(self, *_: Any) -> float:
            return 0.25

    study = optuna.create_study(
        sampler=factory(
            search_space=LINE, independent_sampler=Constant(), warn_independent_sampling=False
        )
    )
    study.optimize(lambda t: line(t) + t.suggest_float("other", 0, 1), n_trials=4)
    assert {p["other"] for p in parameters(study)} == {0.25}


def test_partial_fixed_sampler(factory: Factory, objective: Objective) -> None:
    study = optuna.create_study(sampler=factory())
    study.optimize(objective, n_trials=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.sampler = optuna.samplers.PartialFixedSampler({"rank": 8}, study.sampler)
    study.optimize(objective, n_trials=15)
    fixed = parameters(study)[1:]
    assert {p["rank"] for p in fixed} == {8}
    assert len({tuple(sorted(p.items())) for p in fixed}) == 15


def test_hyperband_works_with_the_samplers(factory: Factory) -> None:
    def objective(trial: optuna.Trial) -> float:
        value = line(trial)
        for step in range(9):
            trial.report(value + 1 / (step + 1), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study = optuna.create_study(
        sampler=factory(), pruner=optuna.pruners.HyperbandPruner(max_resource=9)
    )
    study.optimize(objective, n_trials=40)
    assert len({p["x"] for p in parameters(study)}) == 40
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}


SMALL: Space = {"n": IntDistribution(3, 6), "kind": CategoricalDistribution(["a", "b", "c"])}


def small(trial: optuna.Trial) -> float:
    n = trial.suggest_int("n", 3, 6)
    return n + "abc".index(trial.suggest_categorical("kind", ["a", "b", "c"]))


def test_a_finite_space_is_enumerated_once_and_ends_the_study(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory(search_space=SMALL))
    study.optimize(small, n_trials=100)
    assert len({tuple(sorted(p.items())) for p in parameters(study)}) == len(study.trials) == 12
    # A second call has nothing to do either, and evaluates nothing.
    study.optimize(small, n_trials=100)
    assert [t.state for t in study.trials[12:]] == [TrialState.PRUNED]
    assert study.trials[12].params == {}


def test_a_finite_space_in_ask_and_tell(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory(search_space=SMALL))
    for _ in range(12):
        trial = study.ask()
        study.tell(trial, small(trial))
    with pytest.raises(SpaceExhaustedError, match="all points over"):
        study.ask().suggest_int("n", 3, 6)


def test_a_finite_space_with_failures_ends_too(factory: Factory) -> None:
    study = optuna.create_study(sampler=factory(search_space=SMALL, max_retries=1))

    def objective(trial: optuna.Trial) -> float:
        value = small(trial)
        if value == 4:
            raise RuntimeError
        return value

    study.optimize(objective, n_trials=100, catch=(RuntimeError,))
    completed = [t for t in study.trials if t.state is TrialState.COMPLETE]
    assert len(completed) == 10
    assert len(study.trials) == 14  # two points fail twice


def test_an_inferred_finite_space_is_repeated_with_a_warning(
    factory: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    # More parameters may turn up in any trial, so the sampler can't know that the study is over.
    study = optuna.create_study(sampler=factory())
    with caplog.at_level(logging.WARNING, logger="optuna_partition"):
        study.optimize(small, n_trials=20)
    assert len(study.trials) == 20
    assert len({tuple(sorted(p.items())) for p in parameters(study)[:12]}) == 12
    assert caplog.text.count("Give search_space= to stop instead") == 1


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_retries": -1}, ValueError, "max_retries is -1, expected an integer of 0 or more"),
        ({"max_retries": 1.5}, ValueError, "max_retries is 1.5"),
        ({"claim_timeout": 0}, ValueError, "claim_timeout is 0, expected seconds above 0"),
        ({"search_space": {}}, ValueError, "search_space is empty"),
        ({"search_space": {"x": (0, 1)}}, TypeError, "expected a distribution such as"),
    ],
)
def test_bad_arguments_are_refused_at_the_door(
    factory: Factory, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        factory(**arguments)


def test_arguments_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        SOOSampler(LINE)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        DIRECTSampler("one_side")  # type: ignore[call-arg]


@pytest.mark.parametrize("h_max", [-1, 1.5, True, "square"])
def test_bad_depth_limits_are_refused(h_max: Any) -> None:
    with pytest.raises(ValueError, match="expected None"):
        SOOSampler(h_max=h_max)


def test_bad_settings_of_direct_are_refused() -> None:
    with pytest.raises(ValueError, match=r"variant is 'jones', expected one of .*jones1993"):
        DIRECTSampler(variant="jones")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epsilon is 2, expected a value in"):
        DIRECTSampler(epsilon=2)


@pytest.mark.parametrize("h_max", [3, "sqrt", None, math.log1p])
def test_depth_limits_that_work(h_max: Any) -> None:
    study = optuna.create_study(sampler=SOOSampler(h_max=h_max))
    study.optimize(line, n_trials=30)
    assert len({p["x"] for p in parameters(study)}) == 30


@pytest.mark.parametrize("name", ["soo", "refined", "jones1993", "sequool", "logo"])
def test_several_objectives_are_refused_with_a_way_out(
    name: str, factories: dict[str, Factory]
) -> None:
    factory = factories[name]
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=factory())
    with pytest.raises(ValueError, match="take MOSOOSampler"):
        study.optimize(lambda t: (t.suggest_float("x", 0, 1), 0.0), n_trials=1)
