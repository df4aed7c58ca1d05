"""What a process loads once and all its trials share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from objectives.caching import cache_folder
from objectives.data import (
    Batch,
    TokenCache,
    bucket,
    fingerprint,
    load_records,
    pack,
    prompt_style,
    question,
    split,
    take_share,
)
from objectives.models.backend import AdapterSpec
from objectives.models.base import load_base_model
from objectives.models.litgpt_backend import LitGPTBackend
from objectives.models.lora import place
from objectives.models.peft_backend import load_peft_backend
from objectives.optimization import Recipe, check_bitsandbytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from objectives.config import FineTuneConfig, Precision
    from objectives.data import Tokens
    from objectives.data.records import Record
    from objectives.models.backend import Backend
    from objectives.scoring import Scorer

_LAUNCHED: Final = "TORCHELASTIC_RUN_ID"
"""Environment variable that torchrun sets."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Base weights, data and questions, ready on the device.

    Attributes:
        backend: Base weights, in the type that trials compute with.
        train: Micro-batches of all epochs in the order in which every trial sees them.
        validation: Validation batches.
        scorer: Scores a model on the tuning tasks; None without such tasks.
        test_scorer: Scores a model on the test tasks; None without such tasks.
        recipe: Optimizer, schedule and arithmetic of every trial.
        fingerprints: Of the training and the validation records.
    """

    backend: Backend
    train: tuple[Batch, ...]
    validation: tuple[Batch, ...]
    scorer: Scorer | None
    test_scorer: Scorer | None
    recipe: Recipe
    fingerprints: Mapping[str, str]

    @property
    def device(self) -> torch.device:
        """Where training happens."""
        return self.train[0].input_ids.device


def load_resources(config: FineTuneConfig) -> Resources:
    """Load and check everything that `config` names; cheap checks come first.

    Raises:
        ValueError: If the model, a data file or a task can't be used, or the search space allows
            a rank above the size of an adapted layer, or tuning and test tasks share a question.
    """
    device = device_of(config)
    if config.optimizer == "adamw_8bit":
        check_bitsandbytes("optimizer is 'adamw_8bit'")
    recipe = Recipe(
        optimizer=config.optimizer,
        schedule=config.schedule,
        warmup_fraction=config.warmup_fraction,
        gradient_clip=config.gradient_clip,
        dtype=_dtype(config.precision, device),
    )
    style = prompt_style(config.prompt_style)
    train, validation = _records(config)
    backend = load_backend(config, recipe.dtype, device)
    backend.check(adapter_spec(config, rank=int(config.space().highest("rank"))))
    scorer = make_scorer(config, config.tasks, limit=config.question_limit, ids=config.question_ids)
    test_scorer = make_scorer(
        config,
        config.test_tasks,
        limit=config.test_question_limit,
        ids=config.test_question_ids,
    )
    check_held_out(scorer, test_scorer)

    cache = TokenCache(Path(config.cache_dir or cache_folder() / "tokens").expanduser())

    def tokens(records: Sequence[Record]) -> tuple[Tokens, ...]:
        return cache.tokenize(
            records,
            backend.tokenizer,
            style=style,
            max_length=config.max_length,
            mask_prompt=config.mask_prompt,
            vocabulary=backend.vocabulary,
        )

    train_tokens, validation_tokens = tokens(train), tokens(validation)
    return Resources(
        backend=backend,
        train=_training_batches(train_tokens, backend, config, device),
        validation=_validation_batches(validation_tokens, backend, config, device),
        scorer=scorer,
        test_scorer=test_scorer,
        recipe=recipe,
        fingerprints={
            "training": fingerprint(train_tokens),
            "validation": fingerprint(validation_tokens),
        },
    )


def adapter_spec(
    config: FineTuneConfig, *, rank: int = 1, alpha: float = 1.0, dropout: float = 0.0
) -> AdapterSpec:
    """The adapter of a trial with these hyperparameters."""
    return AdapterSpec(
        method=config.method,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        targets=tuple(config.targets),
        max_length=config.max_length,
        checkpointing=config.activation_checkpointing,
        packed=config.packing,
    )


def load_backend(config: FineTuneConfig, dtype: torch.dtype, device: torch.device) -> Backend:
    """Read the base weights.

    Args:
        config: Names them.
        dtype: Their type in memory.
        device: Where models are trained. Weights that are to be divided among devices wait on the
            CPU, as they may be too large for one.
    """
    place_of_weights = torch.device("cpu") if config.strategy == "fsdp" else device
    if config.backend == "litgpt":
        return LitGPTBackend(place(load_base_model(config.model, dtype=dtype), place_of_weights))
    if config.four_bit:
        check_bitsandbytes("four_bit is set")
    return load_peft_backend(
        config.model, dtype=dtype, device=place_of_weights, four_bit=config.four_bit
    )


def _training_batches(
    tokens: Sequence[Tokens], backend: Backend, config: FineTuneConfig, device: torch.device
) -> tuple[Batch, ...]:
    pad_id = backend.tokenizer.pad_token_id

    def epoch(seed: int) -> tuple[Batch, ...]:
        size = config.micro_batch_size
        if config.packing:
            return pack(
                tokens, batch_size=size, max_length=config.max_length, pad_id=pad_id, seed=seed
            )
        return bucket(tokens, batch_size=size, pad_id=pad_id, seed=seed)

    return tuple(
        batch.to(device) for number in range(config.epochs) for batch in epoch(config.seed + number)
    )


def _validation_batches(
    tokens: Sequence[Tokens], backend: Backend, config: FineTuneConfig, device: torch.device
) -> tuple[Batch, ...]:
    batches = bucket(
        tokens, batch_size=config.validation_batch_size, pad_id=backend.tokenizer.pad_token_id
    )
    return tuple(batch.to(device) for batch in batches)


def make_scorer(
    config: FineTuneConfig,
    tasks: Sequence[str],
    *,
    limit: int | None,
    ids: Mapping[str, Sequence[int]],
) -> Scorer | None:
    """A scorer of tasks; None without tasks."""
    if not tasks:
        return None
    # lm-eval takes seconds to import and is needed only with tasks.
    from objectives.scoring import Scorer

    return Scorer(
        tasks,
        limit=limit,
        ids=ids,
        batch_size=config.scoring_batch_size,
        max_length=config.max_length,
    )


def _records(config: FineTuneConfig) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Training and validation records, which have no question in common."""
    if config.validation_data is None:
        records = load_records(config.train_data)
        train, validation = split(
            records, validation=config.validation_split, seed=config.split_seed
        )
    else:
        train = load_records(config.train_data)
        validation = load_records(config.validation_data)
    train = train[: config.max_train_samples]
    validation = validation[: config.max_validation_samples]
    _check_disjoint(train, validation, config)
    return take_share(train, config.train_share, seed=config.split_seed), validation


def _check_disjoint(
    train: Sequence[Record], validation: Sequence[Record], config: FineTuneConfig
) -> None:
    """The loss on records that were trained on says nothing about others."""
    trained = {question(record) for record in train}
    shared = [record for record in validation if question(record) in trained]
    if shared:
        raise ValueError(
            f"{len(shared)} records of {str(config.validation_data)!r} are in "
            f"{str(config.train_data)!r} too, the first one asks {question(shared[0])}; take them "
            "out of one of the files."
        )


def check_held_out(scorer: Scorer | None, test_scorer: Scorer | None) -> None:
    """Raise if the final test asks a question that the tuning asked.

    Raises:
        ValueError: If it does.
    """
    if scorer is None or test_scorer is None:
        return
    # By content, since a task may hide in a group or a file be copied.
    if shared := len(scorer.questions & test_scorer.questions):
        raise ValueError(
            f"{shared} questions of test_tasks are asked by tasks too, so they can't test a model "
            "that was tuned on them. Choose test tasks with other questions."
        )


def device_of(config: FineTuneConfig, *, index: int = 0) -> torch.device:
    """Where a process of a trial trains.

    Args:
        config: Names the kind of device, and how many train together.
        index: Which of them it is.

    Raises:
        ValueError: If there are not so many, or a launcher has started several processes.
    """
    if config.devices > 1 and _LAUNCHED in os.environ:
        raise ValueError(
            f"devices is {config.devices}, but torchrun has started this process; start it without "
            "a launcher, as the objective starts a process for each device itself."
        )
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch sees no GPU; give 'cpu' or 'auto'.")
    if config.devices > torch.cuda.device_count():
        raise ValueError(
            f"devices is {config.devices}, but torch sees {torch.cuda.device_count()} of this "
            "machine's GPUs; give no more than that, or set CUDA_VISIBLE_DEVICES."
        )
    return torch.device(name, index)


def _dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
