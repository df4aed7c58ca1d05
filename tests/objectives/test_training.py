from __future__ import annotations

import logging
import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from peft import PeftModel
from torch.nn.functional import cross_entropy

from objectives import training
from objectives.config import OptimizerName
from objectives.data import IGNORE, Batch, bucket, prompt_style, read_records, tokenize
from objectives.models.base import BaseModel
from objectives.models.lora import LitGPTLora, huggingface_model
from objectives.optimization import Recipe
from objectives.search_space import HyperParameters
from objectives.training import (
    LoraTraining,
    NonFiniteLossError,
    ValidationReports,
    estimated_loss,
    fit,
    mean_loss,
    report_points,
    summed_loss,
)

ALL_TARGETS = ("query", "key", "value", "projection", "mlp")


def new_network(
    base: BaseModel, *, targets: Sequence[str] = ALL_TARGETS, dropout: float = 0.0
) -> LitGPTLora:
    torch.manual_seed(11)
    return LitGPTLora(base, rank=6, alpha=20.0, dropout=dropout, targets=targets, max_length=64)


def train(
    network: LitGPTLora,
    batches: Sequence[Batch],
    *,
    callbacks: Sequence[Callback] = (),
    recipe: Recipe | None = None,
    **parameters: float,
) -> LoraTraining:
    module = LoraTraining(
        network, batches, parameters=HyperParameters.from_mapping(parameters), recipe=recipe
    )
    fit(module, batches, callbacks=callbacks)
    return module


def adapter_weights(network: LitGPTLora) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in network.named_parameters() if p.requires_grad}


def plain_peft_losses(
    model: Any,
    batches: Sequence[Batch],
    *,
    grad_batches: int,
    learning_rate: float,
    cosine: bool,
    clip: float | None,
) -> list[float]:
    """The same training written out with transformers and peft: the loss of each micro-batch."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05)
    windows = [batches[i : i + grad_batches] for i in range(0, len(batches), grad_batches)]
    warmup = int(0.2 * len(windows))
    losses = []
    for step, window in enumerate(windows):
        targets = sum(int((batch.targets != IGNORE).sum()) for batch in window)
        for batch in window:
            logits = model(input_ids=batch.input_ids).logits
            loss = cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")
            torch.autograd.backward(loss / targets)
            losses.append(loss.item() / batch.target_tokens)
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        if clip is not None and norm > clip:
            for parameter in parameters:
                parameter.grad *= clip / norm
        factor = 1.0
        if step < warmup:
            factor = (step + 1) / (warmup + 1)
        elif cosine:
            factor = (1 + math.cos(math.pi * (step - warmup) / (len(windows) - warmup))) / 2
        optimizer.param_groups[0]["lr"] = learning_rate * factor
        optimizer.step()
        optimizer.zero_grad()
    return losses


@pytest.mark.parametrize(
    ("grad_batches", "recipe"),
    [
        (1, Recipe(warmup_fraction=0.2)),
        (3, Recipe(warmup_fraction=0.2)),  # leaves a last window of one micro-batch
        (3, Recipe(warmup_fraction=0.2, schedule="constant", gradient_clip=0.2)),
        (5, Recipe(warmup_fraction=0.2, optimizer="adamw_fused")),
    ],
)
def test_litgpt_with_lightning_equals_transformers_with_peft(
    tiny_base: BaseModel,
    tiny_batches: tuple[Batch, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    grad_batches: int,
    recipe: Recipe,
) -> None:
    network = new_network(tiny_base)
    network.export(tmp_path)
    model = PeftModel.from_pretrained(
        huggingface_model(tiny_base, tiny_base.state_dict), str(tmp_path), is_trainable=True
    )
    expected = plain_peft_losses(
        model,
        tiny_batches,
        grad_batches=grad_batches,
        learning_rate=3e-3,
        cosine=recipe.schedule == "cosine",
        clip=recipe.gradient_clip,
    )

    losses = []

    def recorded(network: LitGPTLora, batch: Batch, *, dtype: torch.dtype) -> torch.Tensor:
        loss = summed_loss(network, batch, dtype=dtype)
        losses.append(loss.item() / batch.target_tokens)
        return loss

    monkeypatch.setattr(training, "summed_loss", recorded)
    module = train(
        network,
        tiny_batches,
        learning_rate=3e-3,
        weight_decay=0.05,
        grad_batches=grad_batches,
        recipe=recipe,
    )
    assert len(losses) == len(expected) == 16
    assert module.steps == math.ceil(16 / grad_batches)
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 1e-5
    # The optimizer moved the model, so that the equality above is one of trained models.
    assert abs(losses[-1] - mean_loss(new_network(tiny_base), tiny_batches[-1:])) > 0.05

    ids = tiny_batches[0].input_ids
    with torch.no_grad():
        assert float((network.eval()(ids) - model(input_ids=ids).logits).abs().max()) < 1e-4


def batches_of(base: BaseModel, assets: Path, size: int, samples: int = 16) -> tuple[Batch, ...]:
    tokens = tokenize(
        read_records(assets / "alpaca_train.json", limit=samples),
        base.tokenizer,
        style=prompt_style("plain"),
        max_length=64,
        mask_prompt=True,
    )
    return bucket(tokens, batch_size=size, pad_id=base.tokenizer.pad_token_id)


def test_accumulated_micro_batches_equal_one_large_batch(
    tiny_base: BaseModel, assets: Path
) -> None:
    small = batches_of(tiny_base, assets, size=3)  # unequal in targets, the last in samples too
    (large,) = batches_of(tiny_base, assets, size=16)
    assert len({batch.target_tokens for batch in small}) > 2
    accumulated, at_once = new_network(tiny_base), new_network(tiny_base)
    module = train(accumulated, small, learning_rate=1e-2, grad_batches=6)
    train(at_once, (large,), learning_rate=1e-2)
    assert module.steps == 1
    expected = adapter_weights(at_once)
    for name, weights in adapter_weights(accumulated).items():
        assert torch.allclose(weights, expected[name], atol=1e-5), name


def test_more_grad_batches_than_micro_batches_make_one_step(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...]
) -> None:
    assert train(new_network(tiny_base), tiny_batches, grad_batches=1000).steps == 1


def test_report_points_end_with_the_last_sample() -> None:
    assert report_points(64, epochs=1, per_epoch=4) == (16, 32, 48, 64)
    assert report_points(10, epochs=2, per_epoch=3) == (4, 7, 10, 14, 17, 20)
    assert report_points(2, epochs=1, per_epoch=5) == (1, 2)


def test_reports_come_at_the_same_samples_for_all_grad_batches(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...]
) -> None:
    def reported(grad_batches: int) -> tuple[list[tuple[float, int]], list[float]]:
        network, reports, measured = new_network(tiny_base), [], []

        def validate() -> float:
            measured.append(mean_loss(network, tiny_batches[:2]))
            return measured[-1]

        callback = ValidationReports(
            at=report_points(64, epochs=1, per_epoch=4),
            validate=validate,
            initial=5.0,
            report=lambda loss, samples: reports.append((loss, samples)),
        )
        train(network, tiny_batches, callbacks=(callback,), grad_batches=grad_batches)
        assert callback.loss == reports[-1][0]
        return reports, measured

    often, measured_often = reported(1)
    rarely, measured_rarely = reported(10)
    assert [samples for _, samples in often] == [samples for _, samples in rarely]
    assert [samples for _, samples in often] == [16, 32, 48, 64]
    assert len(measured_often) == 4
    # Two steps in all, after 10 and 16 micro-batches: before the first the loss is the initial
    # one, and it is measured only where the weights have changed.
    assert [loss for loss, _ in rarely] == [5.0, 5.0, measured_rarely[0], measured_rarely[1]]


def test_an_infinite_training_loss_stops_the_run(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...]
) -> None:
    with pytest.raises(NonFiniteLossError, match=r"after \d+ samples; the learning rate is too"):
        train(new_network(tiny_base), tiny_batches, learning_rate=1e30)


def test_an_infinite_validation_loss_stops_the_run(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...]
) -> None:
    reports = ValidationReports(at=(64,), validate=lambda: math.nan, initial=1.0)
    with pytest.raises(NonFiniteLossError, match="validation loss became nan after 64 samples"):
        train(new_network(tiny_base), tiny_batches, callbacks=(reports,))


def test_with_dropout_of_one_nothing_is_learned(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...]
) -> None:
    network = new_network(tiny_base, dropout=1.0)
    train(network, tiny_batches, learning_rate=1e-2)
    untuned = mean_loss(new_network(tiny_base), tiny_batches)
    assert mean_loss(network, tiny_batches) == untuned


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains_too(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...], dtype: torch.dtype
) -> None:
    network = new_network(tiny_base)
    before = mean_loss(network, tiny_batches, dtype=dtype)
    train(network, tiny_batches, recipe=Recipe(dtype=dtype), learning_rate=3e-3)
    assert mean_loss(network, tiny_batches, dtype=dtype) < before - 0.1


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_fused"])
def test_a_gradient_that_overflows_in_fp16_is_left_out(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...], optimizer: OptimizerName
) -> None:
    network = new_network(tiny_base)
    module = LoraTraining(
        network,
        tiny_batches,
        parameters=HyperParameters(learning_rate=3e-3),
        recipe=Recipe(dtype=torch.float16, optimizer=optimizer, gradient_clip=1.0),
    )
    module._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    fit(module, tiny_batches)
    # 2**20 is halved at every overflow until gradients fit into fp16; the rest are real steps.
    assert 0 < module.steps < 16
    assert module._scaler.get_scale() == 2.0 ** (20 - (16 - module.steps))
    assert all(weights.isfinite().all() for weights in adapter_weights(network).values())


def test_the_standard_error_of_the_loss_is_its_spread_over_samples_of_records(
    tiny_base: BaseModel, assets: Path
) -> None:
    batches = batches_of(tiny_base, assets, size=1, samples=64)
    network = new_network(tiny_base)
    estimate = estimated_loss(network, batches)
    losses = np.array([mean_loss(network, [batch]) for batch in batches])
    targets = np.array([batch.target_tokens for batch in batches])
    assert estimate.value == pytest.approx((losses * targets).sum() / targets.sum(), rel=1e-6)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 64, size=(4000, 64))  # the bootstrap knows nothing of the formula
    means = (losses * targets)[drawn].sum(axis=1) / targets[drawn].sum(axis=1)
    assert estimate.stderr == pytest.approx(means.std(), rel=0.1)
    together = estimated_loss(network, batches_of(tiny_base, assets, size=16, samples=64))
    assert together.stderr == pytest.approx(estimate.stderr, rel=1e-3)
    assert math.isnan(estimated_loss(network, batches[:1]).stderr)


def test_validation_leaves_the_mode_alone(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...]
) -> None:
    network = new_network(tiny_base, dropout=0.5)
    first = mean_loss(network, tiny_batches)
    assert network.training
    assert mean_loss(network, tiny_batches) == first


class InterruptWhileSettingUp(Callback):
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        signal.raise_signal(signal.SIGINT)


class InterruptWhileTraining(Callback):
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if batch_idx == 2:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("interrupt", [InterruptWhileSettingUp, InterruptWhileTraining])
def test_ctrl_c_stops_the_run_and_works_again_afterwards(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...], interrupt: type[Callback]
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(new_network(tiny_base), tiny_batches, callbacks=(interrupt(),))
        assert signal.getsignal(signal.SIGINT) is handler


def test_a_callback_may_exit(tiny_base: BaseModel, tiny_batches: tuple[Batch, ...]) -> None:
    class Exit(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"):
        train(new_network(tiny_base), tiny_batches, callbacks=(Exit(),))


def test_a_run_is_quiet(
    tiny_base: BaseModel,
    tiny_batches: tuple[Batch, ...],
    capfd: pytest.CaptureFixture[str],
) -> None:
    level = logging.getLogger("lightning.pytorch").level
    train(new_network(tiny_base), tiny_batches)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("lightning.pytorch").level == level


def test_several_workers_of_one_slurm_job_do_not_join(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = {"NTASKS": "4", "JOB_ID": "7", "JOB_NAME": "tune", "PROCID": "2", "LOCALID": "2"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert train(new_network(tiny_base), tiny_batches[:2]).steps == 2
