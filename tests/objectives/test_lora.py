from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig

from objectives.data import (
    IGNORE,
    Batch,
    bucket,
    pack,
    prompt_style,
    read_records,
    tokenize,
)
from objectives.models.architectures import litgpt_config
from objectives.models.backend import RankError
from objectives.models.base import BaseModel
from objectives.models.lora import (
    LitGPTLora,
    check_adaptable,
    huggingface_model,
    place,
)
from objectives.training import summed_loss

COMBINATIONS = [
    ("query", "value"),
    ("key",),
    ("query", "key", "value"),
    ("projection",),
    ("mlp",),
    ("query", "key", "value", "projection", "mlp"),
]


@pytest.fixture(scope="module")
def ids(tiny_batches: tuple[Batch, ...]) -> torch.Tensor:
    return tiny_batches[0].input_ids


@pytest.fixture(scope="module")
def untied_base(tiny_base: BaseModel) -> BaseModel:
    """Heads as many as query groups, and a head of its own."""
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = LitGPTShapes(config).shapes
    weights = {key: torch.randn(shape, generator=generator) * 0.2 for key, shape in shapes.items()}
    return replace(
        tiny_base,
        name="untied",
        config=litgpt_config(config),
        hf_config=config,
        state_dict=weights,
    )


class LitGPTShapes:
    def __init__(self, config: LlamaConfig) -> None:
        from litgpt import GPT

        self.shapes = {k: v.shape for k, v in GPT(litgpt_config(config)).state_dict().items()}


def changed(
    base: BaseModel, targets: tuple[str, ...], *, checkpointing: bool = False
) -> LitGPTLora:
    """An adapter that is far from its start, as after training."""
    torch.manual_seed(5)
    network = LitGPTLora(
        base, rank=5, alpha=12.5, targets=targets, max_length=128, checkpointing=checkpointing
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    return network.eval()


def maximum_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@torch.no_grad()
def test_an_untrained_adapter_changes_nothing(tiny_base: BaseModel, ids: torch.Tensor) -> None:
    plain = LitGPTLora(tiny_base, rank=1, alpha=1.0, targets=(), max_length=64)
    fresh = LitGPTLora(tiny_base, rank=7, alpha=32.0, dropout=0.5, targets=COMBINATIONS[-1])
    assert torch.equal(fresh.eval()(ids), plain(ids))
    assert plain.trainable_parameters() == 0
    reference = huggingface_model(tiny_base, tiny_base.state_dict)(ids).logits
    assert maximum_difference(plain(ids), reference) < 1e-5


@pytest.mark.parametrize("targets", COMBINATIONS)
@torch.no_grad()
def test_merged_and_exported_models_compute_the_same(
    tiny_base: BaseModel, ids: torch.Tensor, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    network = changed(tiny_base, targets)
    logits = network(ids)
    untuned = huggingface_model(tiny_base, tiny_base.state_dict)
    assert maximum_difference(logits, untuned(ids).logits) > 0.01

    merged = network.merged_hf_model()
    assert maximum_difference(merged(ids).logits, logits) < 1e-5

    merged.save_pretrained(tmp_path / "merged")
    reloaded = type(merged).from_pretrained(tmp_path / "merged")
    assert maximum_difference(reloaded(ids).logits, logits) < 1e-5

    network.export(tmp_path / "adapter")
    adapted = PeftModel.from_pretrained(untuned, str(tmp_path / "adapter"))
    assert maximum_difference(adapted(ids).logits, logits) < 1e-5


@torch.no_grad()
def test_an_untied_head_can_be_adapted(untied_base: BaseModel, tmp_path: Path) -> None:
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    network = changed(untied_base, ("query", "value", "head"))
    untuned = huggingface_model(untied_base, untied_base.state_dict)
    assert maximum_difference(network(ids), untuned(ids).logits) > 0.01
    assert maximum_difference(network.merged_hf_model()(ids).logits, network(ids)) < 1e-5
    network.export(tmp_path)
    adapted = PeftModel.from_pretrained(untuned, str(tmp_path))
    assert maximum_difference(adapted(ids).logits, network(ids)) < 1e-5


def test_the_export_holds_one_pair_per_adapted_module(tiny_base: BaseModel, tmp_path: Path) -> None:
    changed(tiny_base, ("query", "value")).export(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.1.self_attn"
    assert tensors[f"{prefix}.q_proj.lora_A.weight"].shape == (5, 64)
    assert tensors[f"{prefix}.v_proj.lora_B.weight"].shape == (32, 5)
    assert len(tensors) == 2 * 2 * tiny_base.config.n_layer
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (5, 12.5)
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]
    assert config["base_model_name_or_path"] == tiny_base.name


def test_base_weights_are_shared_and_not_written_to(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...]
) -> None:
    before = {key: tensor.clone() for key, tensor in tiny_base.state_dict.items()}
    network = changed(tiny_base, COMBINATIONS[-1])
    for name, parameter in network.gpt.named_parameters():
        key = name.replace(".linear.", ".")
        if "lora_" not in name:
            assert parameter.data_ptr() == tiny_base.state_dict[key].data_ptr(), name
            assert not parameter.requires_grad
    torch.autograd.backward(summed_loss(network, tiny_batches[0]))
    network.merged_hf_model()
    for key, tensor in tiny_base.state_dict.items():
        assert torch.equal(tensor, before[key]), key


def test_merging_shares_what_is_not_adapted(tiny_base: BaseModel) -> None:
    merged = changed(tiny_base, ("query",)).merged_state_dict()
    kept = [key for key, tensor in tiny_base.state_dict.items() if merged[key] is tensor]
    assert len(merged) - len(kept) == tiny_base.config.n_layer


def test_adapter_weights_are_fp32_over_a_bf16_base(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...]
) -> None:
    half = replace(tiny_base, state_dict={k: v.bfloat16() for k, v in tiny_base.state_dict.items()})
    network = changed(half, COMBINATIONS[-1])
    adapter = [p for p in network.parameters() if p.requires_grad]
    assert {p.dtype for p in adapter} == {torch.float32}
    loss = summed_loss(network, tiny_batches[0], dtype=torch.bfloat16)
    torch.autograd.backward(loss)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter)
    full = summed_loss(changed(tiny_base, COMBINATIONS[-1]), tiny_batches[0])
    assert loss.item() == pytest.approx(full.item(), rel=0.02)
    merged = network.merged_state_dict()
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}


@torch.no_grad()
def test_the_loss_needs_logits_at_targets_only(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...]
) -> None:
    network, batch = changed(tiny_base, ("query", "value")), tiny_batches[0]
    mask = batch.targets != IGNORE
    assert torch.allclose(
        network.logits_at(batch.input_ids, mask), network(batch.input_ids)[mask], atol=1e-5
    )
    everywhere = cross_entropy(
        network(batch.input_ids).flatten(0, 1), batch.targets.flatten(), reduction="sum"
    )
    assert summed_loss(network, batch).item() == pytest.approx(everywhere.item())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_records_do_not_see_each_other(
    tiny_base: BaseModel, assets: Path, checkpointing: bool
) -> None:
    records = tokenize(
        read_records(assets / "alpaca_train.json"),
        tiny_base.tokenizer,
        style=prompt_style("plain"),
        max_length=64,
        mask_prompt=True,
    )
    pad = tiny_base.tokenizer.pad_token_id
    alone = bucket(records, batch_size=4, pad_id=pad)
    packed = pack(records, batch_size=3, max_length=128, pad_id=pad, seed=2)
    assert len(packed) < len(alone) / 2
    network = changed(tiny_base, COMBINATIONS[-1], checkpointing=checkpointing)

    def loss_and_gradients(batches: Sequence[Batch]) -> tuple[float, list[torch.Tensor]]:
        network.zero_grad()
        total = 0.0
        for batch in batches:
            loss = summed_loss(network, batch)
            torch.autograd.backward(loss)
            total += loss.item()
        return total, [p.grad.clone() for p in network.parameters() if p.grad is not None]

    expected, gradients = loss_and_gradients(alone)
    loss, packed_gradients = loss_and_gradients(packed)
    targets = sum(batch.target_tokens for batch in alone)
    assert abs(loss - expected) / targets < 1e-5
    assert targets == sum(batch.target_tokens for batch in packed)
    for a, b in zip(gradients, packed_gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()))


def test_checkpointing_keeps_less_and_computes_the_same(
    tiny_base: BaseModel, tiny_batches: tuple[Batch, ...]
) -> None:
    def gradients(checkpointing: bool) -> tuple[list[torch.Tensor], int]:
        torch.manual_seed(4)
        network = LitGPTLora(
            tiny_base,
            rank=3,
            alpha=9.0,
            dropout=0.3,
            targets=COMBINATIONS[-1],
            max_length=64,
            checkpointing=checkpointing,
        )
        kept: dict[int, int] = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        torch.manual_seed(8)  # dropout must fall alike when a layer is computed again
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = summed_loss(network, tiny_batches[0])
            bytes_kept = sum(kept.values())
            torch.autograd.backward(loss)
        return [p.grad for p in network.parameters() if p.grad is not None], bytes_kept

    plain, all_bytes = gradients(checkpointing=False)
    again, few_bytes = gradients(checkpointing=True)
    assert few_bytes < 0.4 * all_bytes
    assert len(plain) == len(again)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_the_first_weights_come_from_the_seed(tiny_base: BaseModel) -> None:
    def first_weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        network = LitGPTLora(tiny_base, rank=4, alpha=1.0, max_length=64)
        return next(p for p in network.parameters() if p.requires_grad).detach()

    assert torch.equal(first_weights(1), first_weights(1))
    assert not torch.equal(first_weights(1), first_weights(2))


@pytest.mark.parametrize(
    ("targets", "highest"), [(("query",), 64), (("query", "value"), 32), (("mlp",), 64)]
)
def test_a_rank_above_a_layer_is_an_error(
    tiny_base: BaseModel, targets: tuple[str, ...], highest: int
) -> None:
    check_adaptable(tiny_base, rank=highest, targets=targets, max_length=64)
    with pytest.raises(RankError, match=rf"{highest + 1}.*{targets[-1]}.*rank=\(2, {highest}\)"):
        LitGPTLora(tiny_base, rank=highest + 1, alpha=1.0, targets=targets, max_length=64)


def test_a_tied_head_can_not_be_adapted(tiny_base: BaseModel) -> None:
    with pytest.raises(ValueError, match="shares the head's weights"):
        LitGPTLora(tiny_base, rank=2, alpha=1.0, targets=("head",), max_length=64)


def test_a_length_beyond_the_model_is_an_error(tiny_base: BaseModel) -> None:
    with pytest.raises(ValueError, match="takes at most 256 tokens"):
        LitGPTLora(tiny_base, rank=2, alpha=1.0, max_length=257)


def test_placing_on_the_same_device_copies_nothing(tiny_base: BaseModel) -> None:
    placed = place(tiny_base, torch.device("cpu"))
    for key, tensor in tiny_base.state_dict.items():
        assert placed.state_dict[key] is tensor


def test_placing_keeps_tied_weights_one(tiny_base: BaseModel) -> None:
    placed = place(tiny_base, torch.device("meta"))
    assert placed.state_dict["lm_head.weight"] is placed.state_dict["transformer.wte.weight"]
    assert placed.state_dict["lm_head.weight"].is_meta
