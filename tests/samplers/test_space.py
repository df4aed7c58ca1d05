from __future__ import annotations

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from optuna_partition.core import cell as cells
from optuna_partition.samplers._space import (
    SharedSpace,
    StepRange,
    axis_of,
    box_of,
    fingerprint,
    same_parameters,
    without_single_values,
)


def distributions() -> st.SearchStrategy[BaseDistribution]:
    return st.one_of(
        st.builds(
            lambda low, width: FloatDistribution(low, low + width),
            st.floats(-1e3, 1e3),
            st.floats(0.01, 1e3),
        ),
        st.builds(
            lambda low, ratio: FloatDistribution(low, low * ratio, log=True),
            st.floats(1e-9, 1e3),
            st.floats(1.1, 1e9),
        ),
        st.builds(
            lambda low, n, step: FloatDistribution(low, round(low + n * step, 9), step=step),
            st.sampled_from([-10.2, 0.0, 0.1, 3.0]),
            st.integers(1, 300),
            st.sampled_from([0.1, 0.25, 0.3, 1.0]),
        ),
        st.builds(
            lambda low, n, step: IntDistribution(low, low + n * step, step=step),
            st.integers(-50, 50),
            st.integers(1, 100),
            st.integers(1, 4),
        ),
        st.builds(
            lambda low, n: IntDistribution(low, low + n, log=True),
            st.integers(1, 50),
            st.integers(1, 2000),
        ),
        st.integers(2, 5).map(lambda n: CategoricalDistribution([f"c{i}" for i in range(n)])),
    )


@settings(max_examples=200, deadline=None)
@given(distribution=distributions(), data=st.data())
def test_every_center_is_a_value_of_the_distribution(
    distribution: BaseDistribution, data: st.DataObject
) -> None:
    box = box_of({"x": distribution})
    cell = cells.root(box)
    for _ in range(6):
        value = cells.decode(box, cell)["x"]
        internal = distribution.to_internal_repr(value)
        # Optuna stores the internal representation; what comes back has to be the same value.
        assert distribution._contains(internal)
        assert distribution.to_external_repr(internal) == value
        assert type(value) in (int, float, str)
        if not cells.splittable_axes(box, cell):
            break
        cell, _ = data.draw(st.sampled_from(cells.children(box, cell, 0)))


def test_steps_are_decimal_and_cost_no_memory() -> None:
    values = StepRange(0.0, 0.1, 10**12)
    assert [values[k] for k in (1, 3, 7)] == [0.1, 0.3, 0.7]
    assert values[-1] == pytest.approx(1e11 - 0.1)
    assert values[2:4] == [0.2, 0.3]
    with pytest.raises(IndexError):
        values[10**12]


def test_fingerprints_tell_boxes_apart() -> None:
    space = {"a": FloatDistribution(0, 1), "b": IntDistribution(1, 4)}
    assert fingerprint(space) == fingerprint(dict(space))
    assert fingerprint(space) != fingerprint({"b": space["b"], "a": space["a"]})
    assert fingerprint(space) != fingerprint({**space, "b": IntDistribution(1, 5)})


def test_shared_space_is_optunas_intersection() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        if x < 0.5:
            trial.suggest_int("sometimes", 0, 3)
        trial.suggest_int("changing", 0, 10 if trial.number < 4 else 11)
        trial.suggest_categorical("always", ["a", "b"])
        if trial.number == 2:
            raise optuna.TrialPruned
        return x

    shared = SharedSpace()
    assert not shared.known
    for _ in range(8):
        study.optimize(objective, n_trials=1)
        shared.add(study.trials[-1])
        expected = optuna.search_space.intersection_search_space(study.trials)
        assert dict(shared) == expected
    assert list(dict(shared)) == ["always", "x"]
    assert shared.known


def test_single_values_are_left_to_optuna() -> None:
    space = {"a": FloatDistribution(1, 1), "b": IntDistribution(1, 4)}
    assert without_single_values(space) == {"b": space["b"]}


def test_an_unknown_kind_of_distribution_is_refused() -> None:
    class NewDistribution(FloatDistribution):
        pass

    class Other:
        pass

    assert axis_of("x", NewDistribution(0, 1)).name == "x"
    with pytest.raises(TypeError, match="expected a float, int or categorical"):
        axis_of("x", Other())  # type: ignore[arg-type]


def test_parameters_that_a_trial_does_not_have_do_not_count() -> None:
    assert same_parameters({"a": 1}, {"a": 1, "b": 2})
    assert not same_parameters({"a": 1, "b": 3}, {"a": 1, "b": 2})
