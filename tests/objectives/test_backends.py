from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
)

from objectives import FineTuneConfig, FineTuneObjective, SearchSpace
from objectives.config import METHODS
from objectives.data import Batch, bucket, pack, prompt_style, read_records, tokenize
from objectives.models.backend import AdaptedModel, AdapterSpec, Backend, RankError
from objectives.models.base import BaseModel, load_base_model
from objectives.models.errors import ModelFormatError, ModelNotFoundError
from objectives.models.litgpt_backend import LitGPTBackend
from objectives.models.merging import merged
from objectives.models.peft_backend import load_peft_backend
from objectives.training import mean_loss, summed_loss

CPU = torch.device("cpu")
TARGETS = ("query", "key", "value", "projection", "mlp")
ALL = [(backend, method) for backend, methods in METHODS.items() for method in methods]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

MakeConfig = Callable[..., FineTuneConfig]


def make(backend: str, assets: Path, dtype: torch.dtype = torch.float32) -> Backend:
    folder = assets / "tiny_llama"
    if backend == "litgpt":
        return LitGPTBackend(load_base_model(folder, dtype=dtype))
    return load_peft_backend(folder, dtype=dtype, device=CPU)


def spec(method: Any = "lora", **changes: Any) -> AdapterSpec:
    settings: dict[str, Any] = {"rank": 6, "alpha": 20.0, "targets": TARGETS, "max_length": 128}
    return AdapterSpec(method=method, **(settings | changes))


def trained(
    model: AdaptedModel, batches: Sequence[Batch], learning_rate: float = 3e-3
) -> AdaptedModel:
    """A few steps away from the start, so that every weight of the adapter plays a part."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate)
    for batch in batches:
        optimizer.zero_grad()
        torch.autograd.backward(summed_loss(model, batch) / batch.target_tokens)
        optimizer.step()
    model.train(False)
    return model


@torch.inference_mode()
def scored_loss(model: Any, batches: Sequence[Batch]) -> float:
    """The loss as the scorer's view of the model gives it."""
    total = 0.0
    for batch in batches:
        logits = model(batch.input_ids, use_cache=False).logits.float()
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), reduction="sum"
        ).item()
    return total / sum(batch.target_tokens for batch in batches)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("backend", "method"), ALL)
def test_an_untrained_adapter_is_a_no_op(
    assets: Path,
    tiny_batches: tuple[Batch, ...],
    backend: str,
    method: str,
    dtype: torch.dtype,
) -> None:
    base = make(backend, assets, dtype)
    batch = tiny_batches[0]
    mask = torch.ones_like(batch.input_ids, dtype=torch.bool)
    plain = base.untuned()
    plain.train(False)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        expected = plain.logits_at(batch.input_ids, mask)
        for rank, alpha in ((1, 64.0), (32, 1.0)):
            fresh = base.adapt(spec(method, rank=rank, alpha=alpha, dropout=0.3))
            fresh.train(False)
            logits = fresh.logits_at(batch.input_ids, mask)
            if method == "dora":  # divides weights by their norms and multiplies again
                resolution = 4 * torch.finfo(dtype).eps * float(expected.abs().max())
                assert float((logits - expected).abs().max()) < resolution
            else:
                assert torch.equal(logits.to(expected.dtype), expected)
            adapter = [p for p in fresh.parameters() if p.requires_grad]
            assert {p.dtype for p in adapter} == {torch.float32}
            assert fresh.trainable_parameters() == sum(p.numel() for p in adapter) > 0


@pytest.mark.parametrize(("backend", "method"), ALL)
def test_a_fresh_adapter_is_in_training_mode(
    assets: Path, tiny_batches: tuple[Batch, ...], backend: str, method: str
) -> None:
    network: Any = make(backend, assets).adapt(spec(method, dropout=0.5))
    assert all(module.training for module in network.modules())
    if method in ("adapter", "adapter_v2", "ia3"):
        return
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        first, second = (summed_loss(network, tiny_batches[0]) for _ in range(2))
    assert first != second  # other inputs were dropped


@pytest.mark.parametrize("method", ["lora", "rslora"])
@pytest.mark.parametrize("targets", [("query",), ("key", "value"), ("projection", "mlp"), TARGETS])
def test_the_same_weights_give_the_same_loss_in_both_backends(
    assets: Path,
    tiny_batches: tuple[Batch, ...],
    tmp_path: Path,
    method: str,
    targets: tuple[str, ...],
) -> None:
    litgpt, peft = make("litgpt", assets), make("peft", assets)
    network = trained(litgpt.adapt(spec(method, targets=targets)), tiny_batches)
    network.export(tmp_path)
    loss = mean_loss(network, tiny_batches)
    assert abs(loss - mean_loss(litgpt.untuned(), tiny_batches)) > 0.02
    assert abs(scored_loss(peft.load_tuned(tmp_path), tiny_batches) - loss) < 1e-5
    assert abs(scored_loss(litgpt.load_tuned(tmp_path), tiny_batches) - loss) < 1e-5
    assert peft.adapt(spec(method, targets=targets)).trainable_parameters() == (
        network.trainable_parameters()
    )


@pytest.mark.parametrize(("backend", "method"), ALL)
def test_an_adapter_learns_and_comes_back_from_disk(
    assets: Path, tiny_batches: tuple[Batch, ...], tmp_path: Path, backend: str, method: str
) -> None:
    base = make(backend, assets)
    untuned = mean_loss(base.untuned(), tiny_batches)
    rate = 3e-2 if method in ("adapter", "ia3") else 3e-3
    network = trained(base.adapt(spec(method)), tiny_batches, rate)
    loss = mean_loss(network, tiny_batches)
    assert loss < untuned - 0.02
    assert abs(scored_loss(network.scoring_model(), tiny_batches) - loss) < 1e-5
    network.export(tmp_path / "adapter")
    assert abs(scored_loss(base.load_tuned(tmp_path / "adapter"), tiny_batches) - loss) < 1e-5
    assert mean_loss(base.untuned(), tiny_batches) == untuned  # the base was not written to


@pytest.mark.parametrize("method", METHODS["peft"])
def test_merging_adds_in_fp32_and_leaves_the_base_alone(
    assets: Path, tiny_batches: tuple[Batch, ...], tmp_path: Path, method: str
) -> None:
    exact, half = make("peft", assets), make("peft", assets, torch.bfloat16)
    network = trained(exact.adapt(spec(method)), tiny_batches)
    network.export(tmp_path)
    plain = merged(exact.load_tuned(tmp_path))
    assert not isinstance(plain, PeftModel)
    assert abs(scored_loss(plain, tiny_batches) - mean_loss(network, tiny_batches)) < 1e-5
    # A bf16 base with the same adapter: the sum of fp32 numbers, rounded once.
    base = dict(half.untuned().scoring_model().named_parameters())
    kept = {name: weight.clone() for name, weight in base.items()}
    rounded = merged(half.load_tuned(tmp_path))
    upcast: Any = LlamaForCausalLM.from_pretrained(assets / "tiny_llama", dtype=torch.bfloat16)
    expected = merged(PeftModel.from_pretrained(upcast.float(), str(tmp_path)))
    for (name, weight), (_, wanted) in zip(
        rounded.named_parameters(), expected.named_parameters(), strict=True
    ):
        assert weight.dtype == torch.bfloat16, name
        if method == "dora":  # keeps norms of the weights it was made with
            continue
        assert torch.equal(weight, wanted.bfloat16()), name
    for name, weight in kept.items():
        assert torch.equal(weight, base[name]), name


def test_weights_are_shared_between_models(assets: Path) -> None:
    base = make("peft", assets)
    first, second = (
        {p.data_ptr() for p in base.adapt(spec()).parameters() if not p.requires_grad}
        for _ in range(2)
    )
    assert first == second
    tied: Any = base.adapt(spec()).scoring_model()
    assert tied.get_input_embeddings().weight is tied.get_output_embeddings().weight


@pytest.mark.parametrize("backend", ["litgpt", "peft"])
@pytest.mark.parametrize("method", ["lora", "adapter"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packing_and_checkpointing_leave_the_loss_alone(
    assets: Path, tiny_base: BaseModel, backend: str, method: str, checkpointing: bool
) -> None:
    if method not in METHODS[backend]:
        method = "ia3"
    records = tokenize(
        read_records(assets / "alpaca_train.json", limit=24),
        tiny_base.tokenizer,
        style=prompt_style("plain"),
        max_length=64,
        mask_prompt=True,
    )
    pad = tiny_base.tokenizer.pad_token_id
    alone = bucket(records, batch_size=4, pad_id=pad)
    packed = pack(records, batch_size=3, max_length=128, pad_id=pad, seed=2)
    network = make(backend, assets).adapt(spec(method, checkpointing=checkpointing))
    losses = []
    for batches in (alone, packed):
        total = torch.stack([summed_loss(network, batch) for batch in batches]).sum()
        torch.autograd.backward(total)
        losses.append(total.item() / sum(batch.target_tokens for batch in batches))
    assert abs(losses[0] - losses[1]) < 1e-5


def test_every_step_of_an_adapter_sees_its_new_prompt(
    assets: Path, tiny_batches: tuple[Batch, ...]
) -> None:
    # litgpt keeps the prompt's keys and values of the first call.
    network: Any = make("litgpt", assets).adapt(spec("adapter"))
    with torch.no_grad():
        for block in network.gpt.transformer.h:
            if hasattr(block.attn, "gating_factor"):
                block.attn.gating_factor.fill_(0.5)
                before = mean_loss(network, tiny_batches[:1])
                block.attn.adapter_wte.weight.mul_(-1)
                assert mean_loss(network, tiny_batches[:1]) != before
                return
    pytest.fail("no layer has a learned prompt")


def test_four_bits_train_and_are_refused_a_merge(
    assets: Path, tiny_batches: tuple[Batch, ...], tmp_path: Path
) -> None:
    base = load_peft_backend(assets / "tiny_llama", dtype=torch.float32, device=CPU, four_bit=True)
    plain: Any = base.untuned().scoring_model()
    assert plain.model.layers[0].self_attn.q_proj.weight.dtype == torch.uint8
    untuned, exact = (
        mean_loss(backend.untuned(), tiny_batches) for backend in (base, make("peft", assets))
    )
    assert 0 < abs(untuned - exact) < 0.1
    assert mean_loss(base.adapt(spec()), tiny_batches) == pytest.approx(untuned, abs=1e-6)
    network = trained(base.adapt(spec()), tiny_batches)
    loss = mean_loss(network, tiny_batches)
    assert loss < untuned - 0.1
    network.export(tmp_path)
    assert scored_loss(base.load_tuned(tmp_path), tiny_batches) == pytest.approx(loss, abs=1e-5)
    # A second trial trains on the weights that the first one has evaluated.
    assert mean_loss(trained(base.adapt(spec()), tiny_batches), tiny_batches) < untuned - 0.1
    with pytest.raises(ValueError, match=r"weights are quantized.*load the base in bf16"):
        merged(base.load_tuned(tmp_path))


def save(model: Any, assets: Path, folder: Path) -> Path:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((assets / "tiny_llama" / name).read_bytes())
    return folder


@pytest.fixture
def gpt2(assets: Path, tmp_path: Path, tiny_base: BaseModel) -> Path:
    torch.manual_seed(0)
    size = tiny_base.hf_config.vocab_size
    sizes = {"vocab_size": size, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
    config = GPT2Config(**sizes)  # type: ignore[no-untyped-call]
    model = GPT2LMHeadModel(config)  # type: ignore[no-untyped-call]
    return save(model, assets, tmp_path / "gpt2")


@pytest.fixture
def neox(assets: Path, tmp_path: Path, tiny_base: BaseModel) -> Path:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=tiny_base.hf_config.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    model = GPTNeoXForCausalLM(config)  # type: ignore[no-untyped-call]
    return save(model, assets, tmp_path / "neox")


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_other_architectures_can_be_tuned(
    family: str, request: pytest.FixtureRequest, tiny_batches: tuple[Batch, ...], tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(family)
    base = load_peft_backend(folder, dtype=torch.float32, device=CPU)
    network = trained(base.adapt(spec()), tiny_batches)
    loss = mean_loss(network, tiny_batches)
    assert loss < mean_loss(base.untuned(), tiny_batches) - 0.02
    network.export(tmp_path / "adapter")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tuned = PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
    assert scored_loss(tuned, tiny_batches) == pytest.approx(loss, abs=1e-5)


def test_packed_records_begin_at_position_zero(
    gpt2: Path, assets: Path, tiny_base: BaseModel
) -> None:
    # GPT-2 has learned absolute positions.
    records = tokenize(
        read_records(assets / "alpaca_train.json", limit=12),
        tiny_base.tokenizer,
        style=prompt_style("plain"),
        max_length=64,
        mask_prompt=True,
    )
    network = load_peft_backend(gpt2, dtype=torch.float32, device=CPU).untuned()
    pad = tiny_base.tokenizer.pad_token_id
    alone = mean_loss(network, bucket(records, batch_size=4, pad_id=pad))
    packed = pack(records, batch_size=3, max_length=128, pad_id=pad, seed=2)
    assert abs(mean_loss(network, packed) - alone) < 1e-5


def test_targets_are_explained(gpt2: Path, neox: Path, assets: Path) -> None:
    fused = load_peft_backend(gpt2, dtype=torch.float32, device=CPU)
    with pytest.raises(ValueError, match=r"keeps query, key and value in one layer, 'c_attn'"):
        fused.check(spec(targets=("query", "value")))
    with pytest.raises(ValueError, match="shares the head's weights"):
        fused.check(spec(targets=("head",)))
    base = make("peft", assets)
    with pytest.raises(RankError, match=r"33.*'[kv]_proj'.*rank=\(2, 32\)"):
        base.check(spec(rank=33))
    base.check(spec(rank=33, method="ia3"))
    with pytest.raises(ValueError, match="takes at most 256 tokens"):
        base.check(spec(max_length=257))
    untied = load_peft_backend(neox, dtype=torch.float32, device=CPU)
    assert untied.adapt(spec(targets=("head",))).trainable_parameters() > 0


def test_a_litgpt_folder_serves_peft_too(
    tiny_base: BaseModel, assets: Path, tmp_path: Path, tiny_batches: tuple[Batch, ...]
) -> None:
    from litgpt.utils import save_config

    folder = save(
        LlamaForCausalLM.from_pretrained(assets / "tiny_llama"), assets, tmp_path / "checkpoint"
    )
    (folder / "model.safetensors").unlink()
    torch.save(tiny_base.state_dict, folder / "lit_model.pth")
    save_config(tiny_base.config, folder)
    base = load_peft_backend(folder, dtype=torch.float32, device=CPU)
    expected = mean_loss(make("peft", assets).untuned(), tiny_batches)
    assert mean_loss(base.untuned(), tiny_batches) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ModelFormatError, match="can't be read in 4 bits"):
        load_peft_backend(folder, dtype=torch.float32, device=CPU, four_bit=True)


def test_what_is_no_language_model_is_explained(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}', encoding="utf-8")
    with pytest.raises(ModelFormatError, match="holds no causal language model"):
        load_peft_backend(tmp_path, dtype=torch.float32, device=CPU)


def test_a_model_of_the_hub_out_of_reach_is_explained() -> None:
    with pytest.raises(ModelNotFoundError, match=r"'me/model' is no folder and can't be fetched"):
        load_base_model("me/model")


@pytest.mark.parametrize(("backend", "method"), [("peft", "dora"), ("litgpt", "adapter_v2")])
def test_a_study_can_use_any_of_them(
    make_config: MakeConfig, assets: Path, backend: str, method: str
) -> None:
    import optuna

    space = SearchSpace.preset("demo").override(rank=4, alpha=16, dropout=0)
    objective = FineTuneObjective(
        make_config(
            backend=backend,
            method=method,
            search_space=space,
            test_tasks=(str(assets / "questions.jsonl"),),
        )
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.enqueue_trial({"learning_rate": 3e-3, "grad_batches": 1, "weight_decay": 0.01})
    study.optimize(objective, n_trials=1)
    assert study.best_value < objective.base_result().val_loss - 0.02
    comparison = objective.evaluate_final(objective.best_adapter(study))
    assert comparison.base[0].questions == comparison.tuned[0].questions == 24


def test_a_method_and_its_space_must_fit(make_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"'dora', which the backend 'litgpt' does not have"):
        make_config(method="dora")
    with pytest.raises(ValueError, match="four_bit needs the backend 'peft'"):
        make_config(four_bit=True)
    with pytest.raises(ValueError, match="'ia3', which has no rank, alpha, dropout"):
        make_config(backend="peft", method="ia3")


def test_four_bits_without_their_package_are_explained(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"four_bit is set, which needs bitsandbytes"):
        FineTuneObjective(make_config(backend="peft", four_bit=True))
