from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from objectives import FineTuneConfig, SearchSpace
from objectives.data import Batch, bucket, prompt_style, read_records, tokenize
from objectives.models.base import BaseModel, load_base_model

ASSETS = Path(__file__).resolve().parents[1] / "assets"

MakeConfig = Callable[..., FineTuneConfig]


@pytest.fixture(scope="session")
def assets() -> Path:
    return ASSETS


@pytest.fixture(scope="session")
def tiny_base() -> BaseModel:
    return load_base_model(ASSETS / "tiny_llama")


@pytest.fixture(scope="session")
def tiny_batches(tiny_base: BaseModel) -> tuple[Batch, ...]:
    """16 micro-batches of 4 samples, unequal in length and number of targets."""
    tokens = tokenize(
        read_records(ASSETS / "alpaca_train.json"),
        tiny_base.tokenizer,
        style=prompt_style("plain"),
        max_length=64,
        mask_prompt=True,
    )
    return bucket(tokens, batch_size=4, pad_id=tiny_base.tokenizer.pad_token_id, seed=3)


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """A configuration for the tiny model; keyword arguments change it."""

    def make(**changes: Any) -> FineTuneConfig:
        defaults: dict[str, Any] = {
            "model": ASSETS / "tiny_llama",
            "train_data": ASSETS / "alpaca_train.json",
            "validation_data": ASSETS / "alpaca_validation.json",
            "output_dir": tmp_path / "results",
            "cache_dir": tmp_path / "cache",
            "search_space": SearchSpace.preset("demo").override(rank=(2, 16)),
            "prompt_style": "plain",
            "max_length": 64,
        }
        return FineTuneConfig(**(defaults | changes))

    return make


@pytest.fixture
def files_up_to() -> Callable[[int], AbstractContextManager[None]]:
    """Inside, the operating system refuses files of more bytes, as a full disk does."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
