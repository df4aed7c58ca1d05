"""Everything a fine-tuning objective needs to know, checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Final, Literal, get_args

from objectives.search_space import SearchSpace

VALIDATION_LOSS: Final = "val_loss"
TARGETS: Final = ("query", "key", "value", "projection", "mlp", "head")

Precision = Literal["auto", "fp32", "bf16", "fp16"]
OptimizerName = Literal["adamw", "adamw_fused", "adamw_8bit"]
Backend = Literal["litgpt", "peft"]
Method = Literal["lora", "rslora", "dora", "adapter", "adapter_v2", "ia3"]
Schedule = Literal["cosine", "constant"]
Device = Literal["auto", "cpu", "cuda"]
Strategy = Literal["ddp", "fsdp"]
Cost = Literal["trainable_parameters", "seconds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneConfig:
    """A LoRA fine-tuning objective: what is trained, on what, and how it is judged.

    Attributes:
        model: `"smollm2-135m"`, a litgpt checkpoint folder, a Hugging Face folder, or the hub's
            "organization/name".
        backend: Library that the model is computed with: "litgpt" for sixteen architectures,
            "peft" for every causal language model of transformers.
        method: Adapter: "lora"; "rslora", scaled by `alpha / sqrt(rank)`; "dora" and "ia3" with
            the backend "peft"; "adapter" and "adapter_v2" with "litgpt".
        four_bit: Whether base weights are held in 4 bits; needs the backend "peft" and the extra
            `quant`.
        train_data: Training records: a file (`.json`, `.jsonl`, `.csv`, `.parquet`) in Alpaca or
            chat-message form; "alpaca", "alpaca-cleaned" or "dolly"; or the hub's
            "organization/name".
        validation_data: Validation records, likewise; None takes them from `train_data`.
        validation_split: Share of `train_data`, in (0, 1), that is held out for the validation if
            it has no data of its own.
        split_seed: Seed of that split and of `train_share`, independent of `seed`.
        train_share: Share of the training records, in (0, 1], that trials see: a fidelity. A
            smaller share is part of a larger one.
        output_dir: Folder for the adapters that are kept; it belongs to one study.
        search_space: Name of a preset, a space, or plain data as `SearchSpace.of` takes them.
        metric: `"val_loss"` (minimized), one of `tasks` (maximized), or weights above 0 by task:
            the weighted sum of their scores (maximized).
        cost: A second objective, minimized: "trainable_parameters" of the adapter, or "seconds" of
            a trial's training; None for one objective.
        tasks: lm-eval tasks or local `.jsonl` question files to score every trial with.
        test_tasks: Tasks for the final comparison only; none may be among `tasks`.
        question_limit: Questions per task in `tasks`, the first ones; all by default.
        test_question_limit: Questions per task in `test_tasks`; all by default.
        question_ids: Exactly which questions of a task in `tasks` are asked, from 0, by the task's
            name (of each subject, for a group); the others follow `question_limit`.
        test_question_ids: The same for `test_tasks`.
        question_shares: Shares of the tuning questions, ascending, in (0, 1), after which a trial
            reports its score, for a pruner; where the metric is the score of tasks.
        scoring_batch_size: Questions scored at once.
        targets: Layers that get an adapter: "query", "key", "value" and "projection" of the
            attention, "mlp", "head". A model with tied embeddings can't adapt its head.
        prompt_style: `"plain"`; one of litgpt's prompt styles, such as `"alpaca"`; `"chat"`, the
            chat template of the model's tokenizer; or a `.jinja` file with a chat template.
        mask_prompt: Whether the loss counts the response only.
        max_length: Longest sequence of prompt and response in tokens; longer ones are cut.
        packing: Whether rows of a micro-batch hold as many records as fit into `max_length`, with
            attention inside each record only; otherwise records of similar length are batched.
        micro_batch_size: Rows in one forward and backward pass: records, or packed rows. They are
            halved where memory is too short, which changes nothing but the time, and which inputs
            dropout drops.
        validation_batch_size: Samples in one forward pass of the validation.
        epochs: Passes over the training data.
        cache_dir: Folder for tokenized data; None is `$OPTUNA_PARTITION_CACHE` or the user's cache.
        max_train_samples: Use only the first so many training records.
        max_validation_samples: Use only the first so many validation records.
        optimizer: "adamw"; "adamw_fused", one kernel for all weights; "adamw_8bit", a quarter of
            the optimizer's memory, which needs the extra `quant`.
        schedule: What the learning rate does after its linear rise: "cosine" falls to 0,
            "constant" stays.
        warmup_fraction: Share of the optimizer steps, in [0, 1), in the rise.
        gradient_clip: Longest norm of a step's gradient; None leaves gradients as they are.
        activation_checkpointing: Whether to keep only each layer's input and compute the layer
            again in the backward pass: about a third more time, much less memory.
        reports_per_epoch: How often in an epoch the validation loss is measured and reported, at
            fixed numbers of samples seen. The last report is the trial's result.
        seed: Seeds the order of the data, the adapter's first weights and dropout, alike in all
            trials, so that trials differ by their hyperparameters alone.
        precision: Of base weights and arithmetic; adapter weights are fp32 always. "auto" is bf16
            on a GPU and fp32 on a CPU. "fp16" is for GPUs without bf16.
        device: "auto" is the first visible GPU if there is one.
        devices: Devices that train one trial together: so many visible GPUs, or processes on a CPU.
            They share the rows of every micro-batch, which changes a trial's value only by rounding
            and by which inputs dropout drops. Models that fit on one GPU do best with one device a
            trial, and a worker for each GPU.
        strategy: What a device of several holds: with "ddp" the whole model; with "fsdp" its part
            of the base weights, for models that are too large for one GPU.
        memory_limit: Most memory in GB (1e9 bytes) that a run may need on each of its devices, base
            weights included; None is what the device has left. A run whose estimate is above it
            even with single rows fails before it starts.
        keep_adapters: How many adapters of a study are kept, those of its best trials.
        checkpoint_every: When a trial saves its state, from which it goes on after its process was
            killed: "report", after each report; a number of optimizer steps; or "never".

    Raises:
        ValueError: If a value can't be used; the message says what to give instead.
    """

    model: str | Path
    train_data: str | Path
    validation_data: str | Path | None = None
    validation_split: float = 0.1
    split_seed: int = 0
    train_share: float = 1.0
    output_dir: str | Path = "results"
    backend: Backend = "litgpt"
    method: Method = "lora"
    four_bit: bool = False
    search_space: str | Mapping[str, Any] | SearchSpace = "demo"
    metric: str | Mapping[str, float] = VALIDATION_LOSS
    cost: Cost | None = None
    tasks: tuple[str, ...] = ()
    test_tasks: tuple[str, ...] = ()
    question_limit: int | None = None
    test_question_limit: int | None = None
    question_ids: Mapping[str, Sequence[int]] = field(default_factory=dict)
    test_question_ids: Mapping[str, Sequence[int]] = field(default_factory=dict)
    question_shares: tuple[float, ...] = ()
    scoring_batch_size: int = 16
    targets: tuple[str, ...] = ("query", "value")
    prompt_style: str = "alpaca"
    mask_prompt: bool = True
    max_length: int = 256
    packing: bool = False
    micro_batch_size: int = 4
    validation_batch_size: int = 16
    epochs: int = 1
    cache_dir: str | Path | None = None
    max_train_samples: int | None = None
    max_validation_samples: int | None = None
    optimizer: OptimizerName = "adamw"
    schedule: Schedule = "cosine"
    warmup_fraction: float = 0.1
    gradient_clip: float | None = None
    activation_checkpointing: bool = False
    reports_per_epoch: int = 4
    seed: int = 0
    precision: Precision = "auto"
    device: Device = "auto"
    devices: int = 1
    strategy: Strategy = "ddp"
    memory_limit: float | None = None
    keep_adapters: int = 1
    checkpoint_every: int | Literal["report", "never"] = "report"

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_kinds()
        self._check_amounts()
        self._check_choices()
        self._check_tasks()
        self.space()  # an unknown preset is an error now, not at the first trial

    def space(self) -> SearchSpace:
        """The search space, looked up or made if it was given by name or as data."""
        return SearchSpace.of(self.search_space)

    def _check_counts(self) -> None:
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(
                    f"{name} is {value!r}, expected a whole number of at least {lowest}."
                )

    def _check_kinds(self) -> None:
        for name in _AMOUNTS:
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ValueError(f"{name} is {value!r}, expected a number.")
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected True or False.")
        for name in ("question_ids", "test_question_ids"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, expected numbers by task: "
                    "{'hellaswag': range(1000)}."
                )

    def _check_amounts(self) -> None:
        if not 0.0 <= self.warmup_fraction < 1.0:
            raise ValueError(
                f"warmup_fraction is {self.warmup_fraction}, expected a value in [0, 1); "
                "0.1 is usual."
            )
        if not 0.0 < self.validation_split < 1.0:
            raise ValueError(
                f"validation_split is {self.validation_split}, expected a share in (0, 1)."
            )
        if not 0.0 < self.train_share <= 1.0:
            raise ValueError(f"train_share is {self.train_share}, expected a share in (0, 1].")
        if self.memory_limit is not None and not self.memory_limit > 0.0:
            raise ValueError(
                f"memory_limit is {self.memory_limit}, expected GB above 0, or None for what the "
                "device has left."
            )
        if self.gradient_clip is not None and not 0.0 < self.gradient_clip < math.inf:
            raise ValueError(
                f"gradient_clip is {self.gradient_clip}, expected a finite norm above 0 or None; "
                "1.0 is usual."
            )

    def _check_choices(self) -> None:
        every = self.checkpoint_every
        steps = isinstance(every, int) and not isinstance(every, bool) and every >= 1
        if not steps and every not in ("report", "never"):
            raise ValueError(
                f"checkpoint_every is {every!r}, expected 'report', 'never' or a number of "
                "optimizer steps."
            )
        if self.cost not in (None, *get_args(Cost)):
            raise ValueError(
                f"cost is {self.cost!r}, expected one of {get_args(Cost)}, or None for one "
                "objective."
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {choices}.")
        self._check_method()
        self._check_devices()
        self._check_tuple("targets")
        if not self.targets:
            raise ValueError(f"targets is empty, expected at least one of {TARGETS}.")
        for target in self.targets:
            if target not in TARGETS:
                raise ValueError(f"targets has {target!r}, expected only names of {TARGETS}.")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError(f"targets is {self.targets}, expected every name only once.")

    def _check_method(self) -> None:
        if self.method not in METHODS[self.backend]:
            raise ValueError(
                f"method is {self.method!r}, which the backend {self.backend!r} does not have, "
                f"expected one of {METHODS[self.backend]}; or give the other backend."
            )
        if self.four_bit and self.backend != "peft":
            raise ValueError("four_bit needs the backend 'peft', and 'litgpt' is given.")
        searched = [name for name in LORA_ONLY if name in self.space()]
        if self.method in ("adapter", "adapter_v2", "ia3") and searched:
            raise ValueError(
                f"method is {self.method!r}, which has no {', '.join(searched)}; hold them fixed: "
                "search_space: {preset: demo, rank: 8, alpha: 16, dropout: 0}."
            )

    def _check_devices(self) -> None:
        if self.devices > self.micro_batch_size:
            raise ValueError(
                f"devices is {self.devices} and micro_batch_size is {self.micro_batch_size}, so "
                "that some devices would have nothing to do; give a micro_batch_size of at least "
                f"{self.devices}, or fewer devices."
            )
        if self.strategy == "fsdp" and self.devices == 1:
            raise ValueError(
                "strategy is 'fsdp', which divides the model among devices, and devices is 1; give "
                "the number of devices, or strategy 'ddp'."
            )
        if self.strategy == "fsdp" and self.four_bit:
            raise ValueError(
                "strategy is 'fsdp', which can't divide the 4-bit weights of four_bit; give one of "
                "them up."
            )

    def _check_tuple(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, tuple | list):  # a string would be taken for its letters
            raise ValueError(f"{name} is {value!r}, expected names in a tuple.")

    def _check_tasks(self) -> None:
        self._check_tuple("tasks")
        self._check_tuple("test_tasks")
        self._check_metric()
        self._check_shares()
        tuned = {_task_identity(task): task for task in self.tasks}
        for task in self.test_tasks:
            if _task_identity(task) in tuned:
                raise ValueError(
                    f"The task {task!r} is used for tuning, so it can't be the final test as "
                    "well: its score would be too good. Take it out of tasks or of test_tasks."
                )

    def _check_metric(self) -> None:
        if self.metric == VALIDATION_LOSS:
            return
        weights = self.metric if isinstance(self.metric, Mapping) else {self.metric: 1.0}
        for task, weight in weights.items():
            if task not in self.tasks:
                raise ValueError(
                    f"metric is {self.metric!r}, expected {VALIDATION_LOSS!r}, one of the tasks "
                    f"{self.tasks} or weights of them; add {task!r} to tasks."
                )
            if isinstance(weight, bool) or not 0.0 < weight < math.inf:
                raise ValueError(
                    f"metric gives {task!r} the weight {weight!r}, expected a number above 0."
                )
        if not weights:
            raise ValueError("metric has no weights; give at least one task its weight.")

    def _check_shares(self) -> None:
        shares: Any = self.question_shares
        numbers = isinstance(shares, tuple | list) and all(
            isinstance(share, Real) and not isinstance(share, bool) for share in shares
        )
        if not numbers or list(shares) != sorted({s for s in shares if 0.0 < s < 1.0}):
            raise ValueError(
                f"question_shares is {shares!r}, expected shares between 0 and 1, each larger than "
                "the one before, such as (0.1, 0.3)."
            )
        if shares and (self.metric == VALIDATION_LOSS or self.cost is not None):
            raise ValueError(
                f"question_shares is given, metric is {self.metric!r} and cost is {self.cost!r}: "
                "shares of questions are reported where the score of tasks is the only objective; "
                "leave question_shares out, or change the objective."
            )


_LOWEST: Final = {
    "question_limit": 1,
    "test_question_limit": 1,
    "scoring_batch_size": 1,
    "max_length": 2,
    "micro_batch_size": 1,
    "validation_batch_size": 1,
    "epochs": 1,
    "max_train_samples": 1,
    "max_validation_samples": 1,
    "reports_per_epoch": 1,
    "keep_adapters": 1,
    "devices": 1,
    "seed": 0,
    "split_seed": 0,
}
_OPTIONAL: Final = (
    "question_limit",
    "test_question_limit",
    "max_train_samples",
    "max_validation_samples",
    "memory_limit",
    "gradient_clip",
)
_AMOUNTS: Final = (
    "warmup_fraction",
    "validation_split",
    "train_share",
    "memory_limit",
    "gradient_clip",
)
_SWITCHES: Final = ("four_bit", "mask_prompt", "packing", "activation_checkpointing")
METHODS: Final = {
    "litgpt": ("lora", "rslora", "adapter", "adapter_v2"),
    "peft": ("lora", "rslora", "dora", "ia3"),
}
"""Adapters that each backend has."""

LORA_ONLY: Final = ("rank", "alpha", "alpha_per_rank", "dropout")
"""Hyperparameters that only the LoRA family has."""

_CHOICES: Final = {
    name: get_args(choices)
    for name, choices in {
        "precision": Precision,
        "device": Device,
        "optimizer": OptimizerName,
        "backend": Backend,
        "method": Method,
        "schedule": Schedule,
        "strategy": Strategy,
    }.items()
}


def _task_identity(task: str) -> str:
    """A task's name, or the file itself however its path is written."""
    path = Path(task).expanduser()
    return str(path.resolve()) if path.suffix == ".jsonl" else task
