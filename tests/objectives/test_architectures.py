"""Architectures of the litgpt backend against transformers: small models with random weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from litgpt import GPT, Config
from litgpt.utils import save_config
from peft import AutoPeftModelForCausalLM
from transformers import AutoConfig, AutoModelForCausalLM

from objectives.data import Batch
from objectives.export import export_tuned
from objectives.models.architectures import litgpt_config
from objectives.models.backend import AdaptedModel, AdapterSpec
from objectives.models.base import STRUCTURE, BaseModel, load_base_model
from objectives.models.errors import ModelFormatError
from objectives.models.litgpt_backend import LitGPTBackend
from objectives.models.lora import place
from objectives.models.peft_backend import load_peft_backend
from objectives.models.text_part import text_config
from objectives.training import summed_loss

CPU = torch.device("cpu")
WINDOW = 16
# Phi-3 for long texts; the factors are made up.
LONG: dict[str, Any] = {
    "hidden_size": 3072,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "sliding_window": 262144,
    "rope_scaling": {"type": "longrope", "long_factor": [2.0] * 48, "short_factor": [1.0] * 48},
}
ATTENTION = ("query", "key", "value", "projection")
MIXTURES = ("mixtral", "qwen3_moe")
ROTARY_OF_OURS = ("llama dynamic", "qwen3 yarn", "phi3 longrope")
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
GEMMA: dict[str, Any] = {
    "head_dim": 16,
    "sliding_window": WINDOW,
    "query_pre_attn_scalar": 20,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
ABSENT = "absent"
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
YARN = LINEAR | {"rope_type": "yarn", "original_max_position_embeddings": 64}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [1.0, 2.0, 5.0],
}
# What is not in SIZES, by the name of the architecture and the case.
CASES: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": LINEAR},
    "llama dynamic": {"rope_parameters": LINEAR | {"rope_type": "dynamic"}},
    "qwen3 yarn": {"head_dim": 16, "rope_parameters": YARN},
    "mistral": {"sliding_window": WINDOW},
    "mistral all": {"sliding_window": None},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen3_moe": {
        **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
        **{"head_dim": 16, "norm_topk_prob": True},
    },
    "gpt_neox": {"num_key_value_heads": ABSENT},
    "gpt_neox serial": {"num_key_value_heads": ABSENT, "use_parallel_residual": False},
    "phi": {},
    "phi3": {"pad_token_id": 0, "sliding_window": WINDOW},
    "phi3 longrope": {
        "pad_token_id": 0,
        "partial_rotary_factor": 0.75,
        "rope_parameters": LONGROPE | {"original_max_position_embeddings": WINDOW},
        "original_max_position_embeddings": WINDOW,
    },
    "gemma": {"head_dim": 16},
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "gemma3_text scaled": GEMMA
    | {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": LINEAR | {"rope_theta": 1e6},
        }
    },
    "olmo": {},
    "olmo2": {},
    "stablelm": {},
    "falcon": {
        "num_key_value_heads": ABSENT,
        "intermediate_size": ABSENT,
        "ffn_hidden_size": 48,
        "tie_word_embeddings": False,
    },
}
CASES["falcon 40b"] = CASES["falcon"] | {"new_decoder_architecture": True, "num_kv_heads": 2}
CASES["falcon 11b"] = CASES["falcon 40b"] | {"num_ln_in_parallel_attn": 1}


def make_config(case: str, vocabulary: int) -> Any:
    kind = case.split()[0]
    settings = {**SIZES, **CASES[case], "vocab_size": vocabulary}
    ids = {"bos_token_id": None, "eos_token_id": 0}
    return AutoConfig.for_model(
        kind, **ids, **{name: value for name, value in settings.items() if value != ABSENT}
    )


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(case: str, tiny_base: BaseModel, assets: Path, tmp_path: Path) -> Path:
    return make_folder(case, tiny_base, assets, tmp_path)


def make_folder(case: str, tiny_base: BaseModel, assets: Path, tmp_path: Path) -> Path:
    """A model whose every weight, bias and norm says something."""
    torch.manual_seed(0)
    config = make_config(case, len(tiny_base.tokenizer))
    make: Any = AutoModelForCausalLM.from_config
    model = make(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.3 * torch.randn_like(parameter)
            keeps_one = "norm" in name or "ln_" in name
            parameter.copy_(parameter + noise if keeps_one else noise)
    path = tmp_path / "model"
    model.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((assets / "tiny_llama" / name).read_bytes())
    return path


def exact_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return logits_of(model, ids)


@torch.inference_mode()
def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    model.eval()
    found: torch.Tensor = model(ids, use_cache=False).logits
    return found


@torch.inference_mode()
def adapted_logits(model: AdaptedModel, ids: torch.Tensor) -> torch.Tensor:
    model.train(False)
    found = model.logits_at(ids, torch.ones_like(ids, dtype=torch.bool))
    return found.view(*ids.shape, -1)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def mean_loss(model: AdaptedModel, batch: Batch) -> float:
    with torch.inference_mode():
        return float(summed_loss(model, batch)) / batch.target_tokens


def all_targets(case: str) -> tuple[str, ...]:
    return ATTENTION if case in MIXTURES else (*ATTENTION, "mlp")


def spec(targets: tuple[str, ...] = ("query", "value"), **changes: Any) -> AdapterSpec:
    settings: dict[str, Any] = {"rank": 3, "alpha": 12.0, "max_length": 128}
    return AdapterSpec(targets=targets, **settings | changes)


def trained(model: AdaptedModel, batch: Batch) -> AdaptedModel:
    """A step away from the start, so that every weight of the adapter plays a part."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.train(False)
    return model


def test_a_model_and_its_untrained_adapters_compute_what_transformers_computes(
    case: str, folder: Path, tiny_batches: tuple[Batch, ...]
) -> None:
    backend = LitGPTBackend(load_base_model(folder))
    peft = load_peft_backend(folder, dtype=torch.float32, device=CPU)
    batch = tiny_batches[0]
    assert batch.input_ids.shape[1] > WINDOW
    expected = exact_logits(folder, batch.input_ids)
    assert float(expected.std()) > 0.1
    untuned = adapted_logits(backend.untuned(), batch.input_ids)
    assert apart(untuned, expected) < 1e-4
    assert apart(logits_of(backend.untuned().scoring_model(), batch.input_ids), expected) < 1e-4
    ours, theirs = (mean_loss(one.untuned(), batch) for one in (backend, peft))
    assert ours == pytest.approx(theirs, abs=1e-5)
    for method in ("lora", "adapter", "adapter_v2"):
        fresh = backend.adapt(spec(all_targets(case), method=method))
        assert torch.equal(adapted_logits(fresh, batch.input_ids), untuned)


def test_in_bf16_it_is_scored_as_transformers_loads_it(
    case: str, folder: Path, tiny_batches: tuple[Batch, ...]
) -> None:
    backend = LitGPTBackend(load_base_model(folder, dtype=torch.bfloat16))
    ids = tiny_batches[0].input_ids
    scored = backend.untuned().scoring_model()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation=scored.config._attn_implementation
    )
    assert torch.equal(logits_of(scored, ids), logits_of(loaded, ids))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        untuned = adapted_logits(backend.untuned(), ids)
        for method in ("lora", "adapter", "adapter_v2"):
            fresh = backend.adapt(spec(all_targets(case), method=method))
            assert torch.equal(adapted_logits(fresh, ids).to(untuned.dtype), untuned)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_tuned_model_is_the_same_merged_and_loaded_by_peft(
    case: str,
    folder: Path,
    tiny_batches: tuple[Batch, ...],
    tmp_path: Path,
    everywhere: bool,
    rslora: bool,
) -> None:
    targets = all_targets(case) if everywhere else ("query", "value")
    backend = LitGPTBackend(load_base_model(folder))
    method = "rslora" if rslora else "lora"
    ids = tiny_batches[0].input_ids
    tuned = trained(backend.adapt(spec(targets, method=method)), tiny_batches[0])
    expected = adapted_logits(tuned, ids)
    assert apart(expected, adapted_logits(backend.untuned(), ids)) > 1e-2
    assert apart(logits_of(tuned.scoring_model(), ids), expected) < 1e-4
    tuned.export(tmp_path / "adapter")
    loaded: Any = AutoPeftModelForCausalLM.from_pretrained(
        tmp_path / "adapter", attn_implementation="eager"
    )
    assert apart(logits_of(loaded, ids), expected) < 1e-4
    assert apart(logits_of(backend.load_tuned(tmp_path / "adapter"), ids), expected) < 1e-4


def test_an_exported_checkpoint_of_litgpt_is_read_again(
    case: str, folder: Path, tiny_batches: tuple[Batch, ...], tmp_path: Path
) -> None:
    backend = LitGPTBackend(load_base_model(folder))
    batch = tiny_batches[0]
    tuned = trained(backend.adapt(spec(all_targets(case))), batch)
    tuned.export(tmp_path / "adapter")
    if case in ROTARY_OF_OURS:
        with pytest.raises(ModelFormatError, match=r"litgpt's programs .*rope_type.*Export"):
            export_tuned(backend, tmp_path / "adapter", tmp_path / "out", format="litgpt")
        assert not (tmp_path / "out").exists()
        return
    out = export_tuned(backend, tmp_path / "adapter", tmp_path / "out", format="litgpt")
    # litgpt's own loading goes by the file alone, and by the name in it.
    plain = GPT(Config.from_file(out / "model_config.yaml"))
    plain.load_state_dict(torch.load(out / "lit_model.pth", weights_only=True))
    with torch.inference_mode():
        theirs = plain.eval()(batch.input_ids)
    again = LitGPTBackend(load_base_model(out))
    expected = adapted_logits(tuned, batch.input_ids)
    assert apart(adapted_logits(again.untuned(), batch.input_ids), expected) < 1e-4
    assert apart(theirs, expected) < 1e-4


@pytest.mark.parametrize("case", ["llama"], indirect=True)
def test_linear_scaling_under_its_other_name_in_litgpt_is_read(
    folder: Path, tiny_batches: tuple[Batch, ...], tmp_path: Path
) -> None:
    """As in litgpt's checkpoint of LLaMA-2-7B-32K."""
    base = load_base_model(folder)
    target = tmp_path / "litgpt"
    target.mkdir()
    torch.save(base.state_dict, target / "lit_model.pth")
    save_config(replace(base.config, rope_adjustments=None, rope_condense_ratio=4), target)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((folder / name).read_bytes())
    ids = tiny_batches[0].input_ids
    again = LitGPTBackend(load_base_model(target))
    assert apart(adapted_logits(again.untuned(), ids), exact_logits(folder, ids)) < 1e-4


def test_rows_shorter_and_longer_than_the_first_training_alternate(
    tiny_base: BaseModel, assets: Path, tmp_path: Path
) -> None:
    folder = make_folder("phi3 longrope", tiny_base, assets, tmp_path)
    model = LitGPTBackend(load_base_model(folder)).adapt(spec(ATTENTION))
    for length in (WINDOW, WINDOW + 1, 5, 40):
        ids = torch.randint(1, 100, (2, length), generator=torch.Generator().manual_seed(0))
        assert apart(adapted_logits(model, ids), exact_logits(folder, ids)) < 1e-4


def test_gradients_equal_those_of_peft(
    case: str, folder: Path, tiny_batches: tuple[Batch, ...]
) -> None:
    """A step of both, from the same adapter, ends with the same loss."""
    batch = tiny_batches[0]
    # Phi-3's gate and its input are one layer to PEFT, with one update.
    attention_only = case.startswith("phi3") or case in MIXTURES
    targets = ("projection",) if attention_only else ("projection", "mlp")
    losses = []
    for backend in (
        LitGPTBackend(load_base_model(folder)),
        load_peft_backend(folder, dtype=torch.float32, device=CPU),
    ):
        torch.manual_seed(0)
        model = backend.adapt(spec(targets, checkpointing=True))
        parameters = [p for p in model.parameters() if p.requires_grad]
        with torch.no_grad():
            for parameter in parameters:  # B is 0 at the start, whatever A is
                parameter.fill_(0.02)
        optimizer = torch.optim.SGD(parameters, lr=1.0)
        torch.autograd.backward(summed_loss(model, batch) / batch.target_tokens)
        optimizer.step()
        model.train(False)
        losses.append(mean_loss(model, batch))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize("case", MIXTURES, indirect=True)
def test_the_experts_of_a_mixture_are_in_memory_once(
    folder: Path, tiny_batches: tuple[Batch, ...]
) -> None:
    base = place(load_base_model(folder), CPU)
    scored: Any = LitGPTBackend(base).adapt(spec(ATTENTION)).scoring_model()
    ids = tiny_batches[0].input_ids
    assert apart(logits_of(scored, ids), exact_logits(folder, ids)) < 1e-4
    again = place(base, CPU)
    experts = [name for name in base.state_dict if ".experts." in name]
    assert len(experts) == 4 * 4 * 3
    for name in experts:
        assert again.state_dict[name].data_ptr() == base.state_dict[name].data_ptr()
    for number in range(4):
        layer = scored.model.layers[number].mlp.experts
        ours = [base.state_dict[name] for name in experts if f".h.{number}." in name]
        ends = [(one.data_ptr(), one.data_ptr() + one.nbytes) for one in ours]
        theirs = (layer.gate_up_proj, layer.down_proj)
        assert sum(one.nbytes for one in ours) == sum(one.nbytes for one in theirs)
        for one in theirs:
            assert min(start for start, _ in ends) <= one.data_ptr()
            assert one.data_ptr() + one.nbytes <= max(end for _, end in ends)


@pytest.mark.parametrize("case", MIXTURES, indirect=True)
def test_experts_are_not_adapted(folder: Path) -> None:
    for backend in (
        LitGPTBackend(load_base_model(folder)),
        load_peft_backend(folder, dtype=torch.float32, device=CPU),
    ):
        with pytest.raises(ValueError, match=r"has 'mlp'.*mixture of experts.*Leave 'mlp' out"):
            backend.check(spec(("query", "mlp")))


@pytest.mark.parametrize("backend", ["litgpt", "peft"])
def test_records_are_packed_only_where_attention_stays_inside(
    case: str, folder: Path, backend: str
) -> None:
    base = (
        LitGPTBackend(load_base_model(folder))
        if backend == "litgpt"
        else load_peft_backend(folder, dtype=torch.float32, device=CPU)
    )
    config: Any = AutoConfig.from_pretrained(folder)
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    slides = getattr(config, "sliding_window", None) is not None
    for length, refused in ((WINDOW, capped), (WINDOW + 1, capped or slides)):
        asked = spec(all_targets(case), packed=True, max_length=length)
        if refused:
            with pytest.raises(ValueError, match=r"packing is set.*give"):
                base.check(asked)
            continue
        base.check(asked)
        ids = torch.randint(1, 100, (1, length), generator=torch.Generator().manual_seed(0))
        documents = (torch.arange(length) >= 7).long()[None]
        model = base.untuned()
        model.train(False)
        with torch.inference_mode():
            mask = torch.ones_like(ids, dtype=torch.bool)
            packed = model.logits_at(ids, mask, documents)
        alone = [adapted_logits(model, part)[0] for part in (ids[:, :7], ids[:, 7:])]
        assert apart(packed.view(length, -1), torch.cat(alone)) < 1e-4


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gpt2", {}, "model_type='gpt2', expected one of .*give backend='peft'"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window=True, expected False"),
        ("qwen3", {"attention_bias": True}, "attention_bias=True, expected False"),
        ("gpt_neox", {"attention_bias": False}, "attention_bias=False, expected True"),
        ("gpt_neox", {"hidden_act": "relu"}, "hidden_act='relu', expected 'gelu' or"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm=True"),
        ("olmo", {"clip_qkv": 8.0}, "clip_qkv=8.0, expected None"),
        ("stablelm", {"use_parallel_residual": True}, "use_parallel_residual=True"),
        ("falcon", {"multi_query": False}, "multi_query=False, expected True"),
        ("falcon", {"alibi": True}, "alibi=True"),
        ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise=0.1, expected 0.0"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob=False, expected True"),
        (
            "qwen3_moe",
            {"norm_topk_prob": True, "mlp_only_layers": [0]},
            r"mlp_only_layers=\[0\], expected \[\] or None",
        ),
        ("qwen2_moe", {}, "model_type='qwen2_moe'"),
        (
            "qwen2",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.5}},
            "rope_theta=10000.5, expected a whole number",
        ),
        (
            "qwen2",
            {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}},
            "rope_type='proportional', expected one of",
        ),
        (
            "gemma3_text",
            {
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                    "full_attention": LINEAR | {"rope_type": "dynamic"},
                }
            },
            "rope_type='dynamic', expected one of .'default', 'linear', 'llama3'",
        ),
    ],
)
def test_what_litgpt_would_compute_otherwise_is_refused(
    kind: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFormatError, match=message):
        litgpt_config(AutoConfig.for_model(kind, **changes))


@pytest.mark.parametrize(
    ("name", "kind", "published"),
    [
        (
            "pythia-160m",
            "gpt_neox",
            {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
            | {"intermediate_size": 3072, "vocab_size": 50304},
        ),
        (
            "Qwen2.5-0.5B",
            "qwen2",
            {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14}
            | {"num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936}
            | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        ),
        (
            "Qwen3-0.6B",
            "qwen3",
            {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16}
            | {"num_key_value_heads": 8, "intermediate_size": 3072, "head_dim": 128}
            | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
            | {"max_position_embeddings": 40960},
        ),
        (
            "Qwen3-30B-A3B",
            "qwen3_moe",
            {"hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32}
            | {"num_key_value_heads": 4, "intermediate_size": 6144, "head_dim": 128}
            | {"moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8}
            | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
            | {"max_position_embeddings": 40960, "norm_topk_prob": True},
        ),
        (
            "Mixtral-8x7B-v0.1",
            "mixtral",
            {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
            | {"num_key_value_heads": 8, "intermediate_size": 14336}
            | {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}
            | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
            | {"max_position_embeddings": 32768, "vocab_size": 32000, "rms_norm_eps": 1e-5},
        ),
    ],
)
def test_a_published_configuration_becomes_litgpts_own(
    name: str, kind: str, published: dict[str, Any]
) -> None:
    ours = litgpt_config(AutoConfig.for_model(kind, **published), name=name)
    theirs = Config.from_name(name)
    assert theirs is not None
    same = set(vars(ours)) - {"hf_config", "padding_multiple", "vocab_size"}
    assert {key: getattr(ours, key) for key in same} == {key: getattr(theirs, key) for key in same}


@pytest.mark.parametrize(
    ("name", "kind", "published"),
    [
        (
            "Gemma-3-4b-it",
            "gemma3",
            {
                "text_config": {"hidden_size": 2560, "intermediate_size": 10240}
                | {"num_hidden_layers": 34, "sliding_window": 1024, "vocab_size": 262144}
                | {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
            },
        ),
        ("Phi-3-mini-128k-instruct", "phi3", LONG | {"vocab_size": 32064}),
        (
            "Phi-4-mini-instruct",
            "phi3",
            LONG
            | {"num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 200064}
            | {"partial_rotary_factor": 0.75},
        ),
    ],
)
def test_a_checkpoint_that_litgpt_made_fits_its_published_configuration(
    name: str, kind: str, published: dict[str, Any]
) -> None:
    """In all that decides which weights there are and what becomes of them."""
    config = AutoConfig.for_model(kind, **copy.deepcopy(published))  # it changes what it is given
    ours = litgpt_config(text_config(config), name=name)
    theirs = Config.from_name(name)
    assert theirs is not None
    assert {f: getattr(ours, f) for f in STRUCTURE} == {f: getattr(theirs, f) for f in STRUCTURE}
