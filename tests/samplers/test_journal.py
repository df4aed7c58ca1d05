from __future__ import annotations

import functools
import json
import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from optuna_partition import (
    BaMSOOSampler,
    BoTorchGPSampler,
    DIRECTSampler,
    FDASampler,
    IMGPOSampler,
    LOGOSampler,
    MOSOOSampler,
    SequOOLSampler,
    SOOSampler,
    StoSOOSampler,
)
from optuna_partition.core.cell import Cell, depth, one_longest_side
from optuna_partition.core.claim import Claim, Round
from optuna_partition.samplers import _journal
from optuna_partition.samplers._compat import read_trials, storage_of, write_attribute
from optuna_partition.samplers._geometry import TreeGeometry
from optuna_partition.samplers._journal import (
    KEY,
    ClaimFormatError,
    Entry,
    read_entry,
    resolve,
    write_entry,
)
from optuna_partition.samplers._trials import Reader

Space = dict[str, BaseDistribution]
GEOMETRY = TreeGeometry(one_longest_side, depth)


def new_trial(study: optuna.Study) -> FrozenTrial:
    number = study.ask().number
    return read_trials(study)[number]


def reread(study: optuna.Study, trial: FrozenTrial) -> FrozenTrial:
    return read_trials(study)[trial.number]


@pytest.mark.parametrize("cells", [0, 3, 200])
def test_an_entry_survives_the_storage_whatever_its_length(sqlite: str, cells: int) -> None:
    study = optuna.create_study(storage=sqlite)
    trial = new_trial(study)
    selected = tuple(Cell((k, 30, 2, 1), (k, 3**30 - k, 5, 0)) for k in range(cells))
    claim = Claim(Cell((0, 1, 0, 0), (0, 2, 0, 0)), 1, Round(7, 3, selected, 4, -0.1), 2)
    write_entry(study, trial, Entry(GEOMETRY.to_json(claim), "box", "rule", ("a", "b")))
    entry = read_entry(reread(study, trial))
    assert entry is not None
    assert (entry.box, entry.division, entry.names) == ("box", "rule", ("a", "b"))
    assert GEOMETRY.from_json(entry.claim) == claim
    assert all(len(str(v)) <= 2045 for v in reread(study, trial).system_attrs.values())
    write_entry(study, trial, None)
    assert read_entry(reread(study, trial)) is None


@pytest.mark.parametrize("value", [3, "", "1", "1;", "1;{}", "2;{", '1;{"box":1}', ["a"], {"a": 1}])
def test_a_foreign_attribute_is_refused_by_the_reader(value: Any) -> None:
    study = optuna.create_study()
    trial = new_trial(study)
    write_attribute(study, trial, KEY, value)
    with pytest.raises(ClaimFormatError, match="expected a claim"):
        read_entry(reread(study, trial))


def test_corrupt_claims_are_ignored_with_one_warning(
    space: Space, objective: Callable[[optuna.Trial], float]
) -> None:
    study = optuna.create_study(sampler=SOOSampler(search_space=space))
    for value in ("nonsense", 7, '1;{"box":null,"division":"x","cell":[[],[1,2]],"axis":0}'):
        trial = new_trial(study)
        write_attribute(study, trial, KEY, value)
        study.tell(trial.number, 1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        study.optimize(objective, n_trials=6)
    assert len([w for w in caught if "ignored" in str(w.message)]) == 1
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 9


NONSENSE: list[Any] = [
    None,
    -1,
    10**9,
    10**30,
    0.5,
    "x",
    [],
    {},
    True,
    math.nan,
    math.inf,
    -math.inf,
]


def damaged(content: Any, rng: random.Random) -> Any:
    """The content with one part, however deep, replaced by nonsense."""
    if isinstance(content, dict) and content:
        name = rng.choice(list(content))
        return {**content, name: damaged(content[name], rng)}
    if isinstance(content, list) and content:
        k = rng.randrange(len(content))
        return [*content[:k], damaged(content[k], rng), *content[k + 1 :]]
    return rng.choice(NONSENSE)


@pytest.mark.parametrize(
    "name",
    ["soo", "refined", "jones1993", "logo", "mosoo", "fda", "stosoo", "bamsoo", "imgpo", "hybrid"],
)
def test_a_damaged_claim_stops_no_study(
    name: str,
    factories: dict[str, Callable[..., BaseSampler]],
    space: Space,
    objective: Callable[[optuna.Trial], float],
) -> None:
    others: dict[str, Callable[..., BaseSampler]] = {
        "fda": FDASampler,
        "stosoo": functools.partial(StoSOOSampler, n_trials=40),
        "imgpo": functools.partial(IMGPOSampler, beta=0.3),
        "bamsoo": functools.partial(BaMSOOSampler, beta=0.3),
    }
    factory = (factories | others)[name]
    whole = optuna.create_study(sampler=factory(search_space=space))
    whole.optimize(objective, n_trials=25)
    texts = [str(t.system_attrs[KEY]) for t in whole.trials if KEY in t.system_attrs]
    claims = [json.loads(text[2:]) for text in texts if text.startswith("1;")]
    rng = random.Random(name)
    for _ in range(60):
        study = optuna.create_study(sampler=factory(search_space=space))
        study.optimize(objective, n_trials=rng.choice([0, 8]))
        trial = new_trial(study)
        write_attribute(study, trial, KEY, "1;" + json.dumps(damaged(rng.choice(claims), rng)))
        if rng.random() < 0.5:
            study.tell(trial.number, 1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study.optimize(objective, n_trials=4)


NAMES = ["cell", "axis", "round", "selected", "probe", "skips", "skip_rounds", "repeat"]
NAMES += ["max_depth", "best", "width", "level", "reach", "kind", "path", "scale", "index"]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just(10**400),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.sampled_from(NAMES), part),
    max_leaves=10,
)


@st.composite
def attributes(draw: st.DrawFn, claims: list[dict[str, Any]]) -> Any:
    """What somebody may have written where a claim belongs."""
    claim = dict(draw(st.sampled_from(claims)))
    for name in draw(st.lists(st.sampled_from([*claim, *NAMES]), max_size=2)):
        claim[name] = draw(ANYTHING)
    text = json.dumps(claim)
    count = draw(st.sampled_from(["1", "1", "1", "2", "0", "-1", "1" * 30, "1" * 5000]))
    return draw(
        st.sampled_from([f"{count};{text}", f"1;{text[: len(text) // 2]}", "1;" + "[" * 100_000])
        | ANYTHING
    )


@pytest.mark.parametrize(
    "make",
    [
        SOOSampler,
        DIRECTSampler,
        functools.partial(DIRECTSampler, variant="jones1993"),
        LOGOSampler,
        functools.partial(SequOOLSampler, n_trials=20),
        functools.partial(StoSOOSampler, n_trials=20),
        MOSOOSampler,
        FDASampler,
        BoTorchGPSampler,
    ],
)
def test_whatever_the_attribute_holds_the_study_goes_on(make: Callable[..., BaseSampler]) -> None:
    small: Space = {"x": FloatDistribution(-1.5, 4.0), "n": IntDistribution(3, 9)}

    def value(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", -1.5, 4.0) ** 2 + trial.suggest_int("n", 3, 9)

    whole = optuna.create_study(sampler=make(search_space=small))
    whole.optimize(value, n_trials=9)
    texts = [str(trial.system_attrs[KEY]) for trial in whole.trials]
    claims = [json.loads(text[2:]) for text in texts if text.startswith("1;")]

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(attributes(claims), st.booleans())
    def goes_on(attribute: Any, ended: bool) -> None:
        study = optuna.create_study(sampler=make(search_space=small))
        study.optimize(value, n_trials=2)
        trial = new_trial(study)
        write_attribute(study, trial, KEY, attribute)
        if ended:
            study.tell(trial.number, 1.0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            study.optimize(value, n_trials=3)
        assert len([w for w in caught if "is ignored" in str(w.message)]) <= 1
        assert [t.state for t in study.trials[-3:]] == [TrialState.COMPLETE] * 3

    goes_on()


def test_a_cell_that_the_box_does_not_have_is_ignored(
    space: Space, objective: Callable[[optuna.Trial], float]
) -> None:
    study = optuna.create_study(sampler=SOOSampler(search_space=space))
    study.optimize(objective, n_trials=1)
    entry = read_entry(study.trials[0])
    assert entry is not None
    for cell in (
        Cell((9,) * 6, (3**40,) * 6),
        Cell((1,) * 3, (0,) * 3),
        Cell((-1,) * 6, (0,) * 6),
        Cell((0, 0, 0, 0, 0, 2), (0, 0, 0, 0, 0, 1)),
    ):
        trial = new_trial(study)
        write_entry(
            study, trial, Entry(GEOMETRY.to_json(Claim(cell, 0)), entry.box, entry.division)
        )
        study.tell(trial.number, 1.0)
    with pytest.warns(UserWarning, match="ignored"):
        study.optimize(objective, n_trials=3)


class TestResolve:
    """Who keeps a cell that two trials claim; one list of rivals for each read."""

    @pytest.fixture(autouse=True)
    def fast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_journal, "_RESOLVE_SECONDS", 0.05)

    def settle(
        self,
        mine: int,
        rivals: list[list[int]],
        change: Callable[[optuna.Study], None] = lambda _: None,
    ) -> bool:
        study = optuna.create_study()
        for _ in range(4):
            study.ask()
        change(study)
        looks = iter(rivals)

        def rivals_in(fresh: list[FrozenTrial]) -> list[FrozenTrial]:
            return [fresh[number] for number in next(looks, rivals[-1])]

        return resolve(study, read_trials(study)[mine], Reader(), rivals_in)

    def test_alone(self) -> None:
        assert self.settle(2, [[]])

    def test_a_lower_number_wins(self) -> None:
        assert not self.settle(2, [[1]])

    def test_the_lowest_waits_until_its_rivals_withdraw(self) -> None:
        assert self.settle(1, [[2, 3], [2], []])

    def test_the_lowest_gives_up_when_a_rival_never_withdraws(self) -> None:
        assert not self.settle(1, [[2]])

    def test_a_rival_with_parameters_saw_nobody_and_keeps_the_cell(self) -> None:
        def start(study: optuna.Study) -> None:
            storage, _ = storage_of(study)
            trial_id = storage.get_trial_id_from_study_id_trial_number(storage_of(study)[1], 2)
            storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1))

        assert not self.settle(1, [[2]], start)

    def test_a_rival_that_has_finished_keeps_the_cell(self) -> None:
        def tell_it(study: optuna.Study) -> None:
            study.tell(2, 1.0)

        assert not self.settle(1, [[2]], tell_it)
