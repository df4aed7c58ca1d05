"""Architectures that litgpt computes: what it calls them, and how it stores their weights.

A configuration of transformers' is turned into litgpt's exactly, or refused: a model that is almost
the same would be tuned and scored without a sign of it. Weights go both ways through litgpt's own
converters.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from litgpt import Config
from litgpt.scripts import convert_hf_checkpoint as from_hf
from litgpt.scripts import convert_lit_checkpoint as to_hf

from objectives.models.errors import ModelFormatError
from objectives.models.experts import split_off
from objectives.models.rotary import NOT_IN_LITGPT

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    Weights = dict[str, torch.Tensor]

Fields = dict[str, Any]

# Activations of transformers' by name, as litgpt's argument `gelu_approximate`.
_GELUS: Final[Mapping[str, str]] = {
    "gelu": "none",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "gelu_pytorch_tanh": "tanh",
}


# litgpt changes norms and converters of models with these names, wherever in it a mark stands.
_FAMILIES_BY_NAME: Final = (
    "Gemma",
    "Gemma-2",
    "Gemma-3",
    "OLMo",
    "OLMo-2",
    "Phi-3",
    "falcon-7b",
    "falcon-40b",
)
_MARKS: Final = ("Gemma", "OLMo")


@dataclass(frozen=True, slots=True)
class Architecture:
    """A family of models.

    Attributes:
        name: Begins a configuration's name. litgpt tells some families apart by their names.
        fields: litgpt's configuration of one of transformers', without sizes and positions.
        read: Writes weights of transformers' into a dictionary of litgpt's.
        write: The reverse.
    """

    name: str
    fields: Callable[[Any], Fields]
    read: Callable[[Config, Weights, Weights, torch.dtype], None]
    write: Callable[[Config, Weights, Weights], None]


def litgpt_config(hf_config: PreTrainedConfig, *, name: str = "") -> Config:
    """The litgpt configuration of a transformers configuration.

    Args:
        hf_config: Architecture as transformers describes it.
        name: Name of the model, by which litgpt picks a prompt style. The configuration's own name
            keeps it where it does not mislead litgpt about the family.

    Raises:
        ModelFormatError: If the configuration asks for what litgpt does not compute.
    """
    architecture = architecture_of(hf_config)
    given: Any = hf_config
    heads = given.num_attention_heads
    sizes: Fields = {
        "block_size": given.max_position_embeddings,
        "vocab_size": given.vocab_size,
        "padded_vocab_size": given.vocab_size,
        "n_layer": given.num_hidden_layers,
        "n_head": heads,
        "n_embd": given.hidden_size,
        "head_size": getattr(given, "head_dim", None) or given.hidden_size // heads,
        "n_query_groups": getattr(given, "num_key_value_heads", None) or heads,
        "intermediate_size": getattr(given, "intermediate_size", None),
        "bias": False,
        "parallel_residual": False,
    }
    fields = sizes | _rope(given) | architecture.fields(given)
    known = _known_as(architecture, name)
    return Config(name=known, hf_config={"name": known}, **fields)


def _known_as(architecture: Architecture, name: str) -> str:
    if architecture.name in _FAMILIES_BY_NAME:
        if name.startswith(architecture.name):
            return name
        return f"{architecture.name}-{name}" if name else architecture.name
    return name if name and not any(mark in name for mark in _MARKS) else architecture.name


def architecture_of(hf_config: PreTrainedConfig) -> Architecture:
    """The family of a model.

    Raises:
        ModelFormatError: If litgpt has none such.
    """
    kind = hf_config.model_type
    if kind == "falcon" and _has_two_norms(hf_config):
        return _FALCON_40B
    if kind not in _ARCHITECTURES:
        raise ModelFormatError(
            f"config.json has model_type={kind!r}, expected one of {sorted(_ARCHITECTURES)}; give "
            "backend='peft', which takes every causal language model of transformers, or another "
            "model."
        )
    return _ARCHITECTURES[kind]


def read_weights(
    hf_config: PreTrainedConfig, config: Config, weights: Weights, dtype: torch.dtype
) -> Weights:
    """Weights under litgpt's names, of weights under transformers'.

    Raises:
        KeyError: If one of them is not part of the architecture.
    """
    found: Weights = {}
    architecture_of(hf_config).read(config, found, weights, dtype)
    if "lm_head.weight" not in found and "transformer.wte.weight" in found:
        found["lm_head.weight"] = found["transformer.wte.weight"]
    return found


def write_weights(hf_config: PreTrainedConfig, config: Config, weights: Weights) -> Weights:
    """Weights under transformers' names, of weights under litgpt's; some or all of them."""
    found: Weights = {}
    architecture_of(hf_config).write(config, found, weights)
    return found


def _expect(given: Any, **expected: Any) -> None:
    for field, value in expected.items():
        allowed = value if isinstance(value, tuple) else (value,)
        if (found := getattr(given, field, allowed[0])) not in allowed:
            wanted = " or ".join(map(repr, allowed))
            raise ModelFormatError(
                f"config.json has {field}={found!r}, expected {wanted}: litgpt computes no other "
                f"variation of {given.model_type!r}. Give backend='peft', or another model."
            )


def _rope(given: Any) -> Fields:
    rope: Mapping[str, Any] = given.rope_parameters
    local = rope.get("sliding_attention")
    rope = rope.get("full_attention", rope)
    theta = rope["rope_theta"]
    if theta != int(theta):
        raise ModelFormatError(
            f"config.json has rope_theta={theta}, expected a whole number, as litgpt has it; give "
            "backend='peft'."
        )
    found: Fields = {
        "rotary_percentage": rope.get("partial_rotary_factor", 1.0),
        "rope_base": int(theta),
        "rope_adjustments": _rope_adjustments(rope, two_kinds=local is not None),
    }
    if local is not None:
        if local.get("rope_type", "default") != "default":
            _refuse_rope(local["rope_type"], "'default' for sliding attention")
        found |= {
            "rope_local_base_freq": local["rope_theta"],
            "rope_indices": _sliding_layers(given),
        }
    return found


def _rope_adjustments(rope: Mapping[str, Any], *, two_kinds: bool) -> dict[str, float] | None:
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        return {"factor": rope["factor"]}
    if kind == "llama3":
        return {
            "factor": rope["factor"],
            "low_freq_factor": rope["low_freq_factor"],
            "high_freq_factor": rope["high_freq_factor"],
            "original_max_seq_len": rope["original_max_position_embeddings"],
        }
    known = ("default",) if two_kinds else ("default", *NOT_IN_LITGPT)
    if kind not in known:
        _refuse_rope(kind, f"one of {sorted(('linear', 'llama3', *known))}")
    return None


def _refuse_rope(kind: str, expected: str) -> None:
    raise ModelFormatError(
        f"config.json has rope_type={kind!r}, expected {expected}; give backend='peft', or choose "
        "a model with one of these rotary embeddings."
    )


def _window(given: Any) -> Fields:
    """Sliding attention in all layers, or in none."""
    size = given.sliding_window
    if size is None or size >= given.max_position_embeddings:
        return {}
    return {"sliding_window_size": size}


def _sliding_layers(given: Any) -> list[int]:
    return [int(kind == "sliding_attention") for kind in given.layer_types]


def _rms_norm(given: Any) -> Fields:
    return {"norm_class_name": "RMSNorm", "norm_eps": given.rms_norm_eps}


def _layer_norm(given: Any) -> Fields:
    return {"norm_class_name": "LayerNorm", "norm_eps": given.layer_norm_eps}


def _gated(given: Any) -> Fields:
    _expect(given, hidden_act="silu")
    return {"mlp_class_name": "LLaMAMLP"}


def _gelu(given: Any, field: str = "hidden_act") -> Fields:
    _expect(given, **{field: tuple(_GELUS)})
    return {"mlp_class_name": "GptNeoxMLP", "gelu_approximate": _GELUS[getattr(given, field)]}


def _llama(given: Any) -> Fields:
    _expect(given, attention_bias=False, mlp_bias=False)
    return _rms_norm(given) | _gated(given)


def _mistral(given: Any) -> Fields:
    return _rms_norm(given) | _gated(given) | _window(given)


def _qwen2(given: Any) -> Fields:
    _expect(given, use_sliding_window=False)
    return _rms_norm(given) | _gated(given) | {"attn_bias": True}


def _qwen3(given: Any) -> Fields:
    _expect(given, use_sliding_window=False, attention_bias=False)
    return _rms_norm(given) | _gated(given) | {"norm_qk": True}


def _mixtral(given: Any) -> Fields:
    _expect(given, router_jitter_noise=0.0)
    experts = {"n_expert": given.num_local_experts, "n_expert_per_token": given.num_experts_per_tok}
    return _mistral(given) | experts | {"mlp_class_name": "LLaMAMoE"}


def _qwen3_moe(given: Any) -> Fields:
    _expect(given, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=([], None))
    return _qwen3(given) | {
        "mlp_class_name": "LLaMAMoE",
        "moe_intermediate_size": given.moe_intermediate_size,
        "n_expert": given.num_experts,
        "n_expert_per_token": given.num_experts_per_tok,
    }


def _gpt_neox(given: Any) -> Fields:
    _expect(given, attention_bias=True)
    rest = {"bias": True, "parallel_residual": given.use_parallel_residual}
    return _layer_norm(given) | _gelu(given) | rest


def _phi(given: Any) -> Fields:
    _expect(given, qk_layernorm=False)
    return (
        _layer_norm(given)
        | _gelu(given)
        | {
            "bias": True,
            "lm_head_bias": True,
            "parallel_residual": True,
            "shared_attention_norm": True,
        }
    )


def _phi3(given: Any) -> Fields:
    return _rms_norm(given) | _gated(given) | _window(given)


def _gemma(given: Any, activation: str = "hidden_act") -> Fields:
    _expect(given, attention_bias=False, use_bidirectional_attention=(None, False))
    rest = {"mlp_class_name": "GemmaMLP", "scale_embeddings": True}
    return _rms_norm(given) | _gelu(given, activation) | rest


def _gemma2(given: Any) -> Fields:
    return _gemma(given, "hidden_activation") | {
        "attention_scores_scalar": given.query_pre_attn_scalar,
        "attention_logit_softcapping": given.attn_logit_softcapping,
        "final_logit_softcapping": given.final_logit_softcapping,
        "sliding_window_size": given.sliding_window,
        "sliding_window_indices": _sliding_layers(given),
        "post_attention_norm": True,
        "post_mlp_norm": True,
    }


def _gemma3(given: Any) -> Fields:
    return _gemma2(given) | {"norm_qk": True}


def _olmo(given: Any) -> Fields:
    _expect(given, attention_bias=False, clip_qkv=None)
    # A norm without weights, whose epsilon is fixed in transformers.
    return _gated(given) | {"norm_class_name": "LayerNorm", "norm_eps": 1e-5}


def _olmo2(given: Any) -> Fields:
    _expect(given, attention_bias=False)
    norms = {
        "norm_qk": True,
        "norm_qk_type": "olmo2",
        "norm_1": False,
        "norm_2": False,
        "post_attention_norm": True,
        "post_mlp_norm": True,
    }
    return _rms_norm(given) | _gated(given) | norms


def _stablelm(given: Any) -> Fields:
    _expect(given, use_qkv_bias=False, qk_layernorm=False, use_parallel_residual=False)
    return _layer_norm(given) | _gated(given)


def _falcon(given: Any) -> Fields:
    _expect(given, alibi=False, bias=False, num_ln_in_parallel_attn=(None, 1, 2))
    if not given.new_decoder_architecture:
        _expect(given, parallel_attn=True, multi_query=True)
    return _gelu(given, "activation") | {
        "norm_class_name": "LayerNorm",
        "norm_eps": given.layer_norm_epsilon,
        "n_query_groups": given.num_kv_heads if given.new_decoder_architecture else 1,
        "intermediate_size": given.ffn_hidden_size,
        "parallel_residual": True,
        "shared_attention_norm": not _has_two_norms(given),
    }


def _has_two_norms(given: Any) -> bool:
    """Whether a Falcon has a norm of its own before each MLP: 40B and 180B, not 7B and 11B."""
    return bool(given.new_decoder_architecture) and given.num_ln_in_parallel_attn != 1


def _plain(copy: Any) -> Callable[..., None]:
    """A converter from transformers that needs no place for queries, keys and values."""

    def read(config: Config, found: Weights, weights: Weights, dtype: torch.dtype) -> None:
        copy(config, found, weights, dtype=dtype)

    return read


def _collecting(copy: Any) -> Callable[..., None]:
    """A converter from transformers that collects queries, keys and values of a layer."""

    def read(config: Config, found: Weights, weights: Weights, dtype: torch.dtype) -> None:
        copy(config, defaultdict(dict), found, weights, dtype=dtype)

    return read


def _read_gemma2(config: Config, found: Weights, weights: Weights, dtype: torch.dtype) -> None:
    from_hf.copy_weights_gemma_2(defaultdict(dict), found, weights, dtype=dtype)


def _read_gemma3(config: Config, found: Weights, weights: Weights, dtype: torch.dtype) -> None:
    from_hf.copy_weights_gemma_3(defaultdict(dict), found, weights, dtype=dtype, config=config)


def _write_olmo2(config: Config, found: Weights, weights: Weights) -> None:
    # litgpt 0.5.13 writes the norm behind the attention under the name it had before.
    renamed = {name.replace("post_attention_norm", "norm_2"): w for name, w in weights.items()}
    to_hf.copy_weights_olmo2(config, found, renamed)


def _write_mixture(copy: Any) -> Callable[..., None]:
    """A converter to transformers for mixtures of experts.

    transformers reads the names that litgpt writes from files only, and joins the experts then.
    """

    def write(config: Config, found: Weights, weights: Weights) -> None:
        mixtures, rest = split_off(weights)
        copy(config, found, rest)
        found |= mixtures

    return write


_ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "llama": Architecture(
        "Llama", _llama, _collecting(from_hf.copy_weights_hf_llama), to_hf.copy_weights_llama
    ),
    "mistral": Architecture(
        "Mistral", _mistral, _collecting(from_hf.copy_weights_hf_llama), to_hf.copy_weights_llama
    ),
    "mixtral": Architecture(
        "Mixtral",
        _mixtral,
        _collecting(from_hf.copy_weights_hf_llama),
        _write_mixture(to_hf.copy_weights_llama),
    ),
    "qwen2": Architecture(
        "Qwen2.5",
        _qwen2,
        _collecting(from_hf.copy_weights_qwen_2_5),
        to_hf.copy_weights_qwen_2_5,
    ),
    "qwen3": Architecture(
        "Qwen3", _qwen3, _collecting(from_hf.copy_weights_qwen_3), to_hf.copy_weights_qwen_3
    ),
    "qwen3_moe": Architecture(
        "Qwen3",
        _qwen3_moe,
        _collecting(from_hf.copy_weights_qwen_3),
        _write_mixture(to_hf.copy_weights_qwen_3),
    ),
    "gpt_neox": Architecture(
        "GPT-NeoX", _gpt_neox, _plain(from_hf.copy_weights_gpt_neox), to_hf.copy_weights_gpt_neox
    ),
    "phi": Architecture("phi", _phi, _collecting(from_hf.copy_weights_phi), to_hf.copy_weights_phi),
    "phi3": Architecture(
        "Phi-3", _phi3, _collecting(from_hf.copy_weights_phi), to_hf.copy_weights_phi
    ),
    "gemma": Architecture(
        "Gemma", _gemma, _collecting(from_hf.copy_weights_hf_llama), to_hf.copy_weights_llama
    ),
    "gemma2": Architecture(
        "Gemma-2",
        _gemma2,
        _read_gemma2,
        functools.partial(to_hf.copy_weights_gemma_2, untie_weights=False),
    ),
    "gemma3_text": Architecture(
        "Gemma-3",
        _gemma3,
        _read_gemma3,
        functools.partial(to_hf.copy_weights_gemma_3, untie_weights=False),
    ),
    "olmo": Architecture(
        "OLMo", _olmo, _collecting(from_hf.copy_weights_hf_llama), to_hf.copy_weights_llama
    ),
    "olmo2": Architecture("OLMo-2", _olmo2, _collecting(from_hf.copy_weights_olmo2), _write_olmo2),
    "stablelm": Architecture(
        "StableLM", _stablelm, _collecting(from_hf.copy_weights_hf_llama), to_hf.copy_weights_llama
    ),
    "falcon": Architecture(
        "falcon-7b", _falcon, _plain(from_hf.copy_weights_falcon), to_hf.copy_weights_falcon
    ),
}
_FALCON_40B: Final = Architecture(
    "falcon-40b", _falcon, _plain(from_hf.copy_weights_falcon), to_hf.copy_weights_falcon
)
