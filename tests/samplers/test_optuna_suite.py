"""Optuna's own test suite for samplers, unchanged."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from optuna_partition import DIRECTSampler, SOOSampler


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
        ],
        ids=["soo", "soo-sqrt", "direct-one-side", "direct-1993", "direct-locally-biased"],
    )
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        factory: Callable[[], BaseSampler] = request.param
        return factory
