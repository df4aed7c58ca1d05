"""Studies and objectives of the sampler tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from optuna_partition import (
    BaMSOOSampler,
    DIRECTSampler,
    IMGPOSampler,
    LOGOSampler,
    MOSOOSampler,
    PartitionGPSampler,
    SequOOLSampler,
    SOOSampler,
)
from optuna_partition.samplers import PartitionSampler

SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
    "dropout": FloatDistribution(0.05, 0.65),
    "rank": IntDistribution(2, 64, log=True),
    "grad_batches": IntDistribution(1, 32),
    "warmup": FloatDistribution(0.1, 0.5, step=0.1),
    "schedule": CategoricalDistribution(["cosine", "constant", "linear"]),
}

Factory = Callable[..., PartitionSampler]

SAMPLERS: dict[str, Factory] = {
    "soo": SOOSampler,
    "refined": DIRECTSampler,
    "one_side": functools.partial(DIRECTSampler, refine=False),
    "jones1993": functools.partial(DIRECTSampler, variant="jones1993"),
    "locally_biased": functools.partial(DIRECTSampler, variant="locally_biased"),
    "sequool": functools.partial(SequOOLSampler, n_trials=40),
    "logo": LOGOSampler,
    "logo_refined": functools.partial(LOGOSampler, width=3, refine=True),
    "mosoo": MOSOOSampler,
    "bamsoo": BaMSOOSampler,
    "imgpo": IMGPOSampler,
    "hybrid": PartitionGPSampler,
}


def mixed_objective(trial: optuna.Trial) -> float:
    """A smooth value over the mixed space, with its minimum off center."""
    learning_rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    dropout = trial.suggest_float("dropout", 0.05, 0.65)
    rank = trial.suggest_int("rank", 2, 64, log=True)
    grad_batches = trial.suggest_int("grad_batches", 1, 32)
    warmup = trial.suggest_float("warmup", 0.1, 0.5, step=0.1)
    schedule = trial.suggest_categorical("schedule", ["cosine", "constant", "linear"])
    penalty = {"cosine": 0.3, "constant": 0.0, "linear": 0.5}[schedule]
    value: float = (
        abs(learning_rate - 3e-3) ** 0.5
        + (dropout - 0.13) ** 2
        + abs(rank - 7) / 100
        + abs(grad_batches - 5) / 50
        + abs(warmup - 0.2)
        + penalty
    )
    return value


@pytest.fixture
def space() -> dict[str, BaseDistribution]:
    return dict(SPACE)


@pytest.fixture(params=SAMPLERS)
def factory(request: pytest.FixtureRequest) -> Factory:
    return SAMPLERS[request.param]


@pytest.fixture
def factories() -> dict[str, Factory]:
    return SAMPLERS


@pytest.fixture
def objective() -> Callable[[optuna.Trial], float]:
    return mixed_objective


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"
