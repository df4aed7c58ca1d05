"""Optuna's own test suite for samplers, unchanged."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from optuna_partition import (
    BaMSOOSampler,
    BoTorchGPSampler,
    DIRECTSampler,
    FDASampler,
    IMGPOSampler,
    LOGOSampler,
    MOSOOSampler,
    PartitionGPSampler,
    SequOOLSampler,
    SOOSampler,
    StoSOOSampler,
)


class TestPartitionSamplers(
    BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase
):
    @pytest.fixture(
        params=[
            SOOSampler,
            functools.partial(SOOSampler, h_max="sqrt"),
            DIRECTSampler,
            functools.partial(DIRECTSampler, variant="jones1993"),
            functools.partial(DIRECTSampler, variant="locally_biased"),
            functools.partial(SequOOLSampler, n_trials=30),
            LOGOSampler,
            FDASampler,
            functools.partial(StoSOOSampler, n_trials=100),
            BaMSOOSampler,
            IMGPOSampler,
            PartitionGPSampler,
        ],
        ids=[
            "soo",
            "soo-sqrt",
            "direct",
            "direct-1993",
            "direct-locally-biased",
            "sequool",
            "logo",
            "fda",
            "stosoo",
            "bamsoo",
            "imgpo",
            "hybrid",
        ],
    )
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        factory: Callable[[], BaseSampler] = request.param
        return factory


class TestMultiObjective(
    BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase
):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return MOSOOSampler


class TestBoTorchGP(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return functools.partial(BoTorchGPSampler, n_startup_trials=3)
