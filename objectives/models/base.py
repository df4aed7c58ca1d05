"""Base models: weights, architecture and tokenizer, read once per process and shared by all trials.

A base model is kept in litgpt's layout, which the trainer uses, next to the Hugging Face
architecture, which scoring and export use. Both describe the same network.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import torch
from huggingface_hub import snapshot_download
from litgpt import GPT, Config
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast

from objectives.models import smollm2
from objectives.models.errors import ModelFormatError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

SMOLLM2_135M: Final = "smollm2-135m"
"""Name of the model that `objectives.models.smollm2` reads."""

_DOWNLOADS: Final = Path("checkpoints")
"""Where `litgpt download` puts models, and litgpt's own commands look for their names."""

_REPOSITORY: Final = re.compile(r"[\w.-]+/[\w.-]+")

_ARCHITECTURE_FIELDS: Final = (
    "n_layer",
    "n_embd",
    "n_head",
    "n_query_groups",
    "head_size",
    "intermediate_size",
    "padded_vocab_size",
    "norm_eps",
    "rope_base",
    "rope_adjustments",
)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A pretrained model that trials start from and never modify.

    Attributes:
        name: What the user asked for, for reports.
        config: litgpt architecture, without any LoRA key.
        state_dict: Weights on the CPU under litgpt's names, for example
            `transformer.h.0.attn.qkv.weight` of shape
            `((n_head + 2 * n_query_groups) * head_size, n_embd)`. With tied embeddings
            `lm_head.weight` and `transformer.wte.weight` are one tensor.
        hf_config: The same architecture for transformers; `tie_word_embeddings` says whether
            the two embeddings are tied.
        tokenizer: Has an end-of-sequence and a padding token, and adds a beginning-of-sequence
            token only where the model's own tokenizer file says so.
    """

    name: str
    config: Config
    state_dict: dict[str, torch.Tensor]
    hf_config: LlamaConfig
    tokenizer: PreTrainedTokenizerFast


def load_base_model(model: str | Path, *, dtype: torch.dtype = torch.float32) -> BaseModel:
    """Read a base model from the installed package, a litgpt folder or a Hugging Face folder.

    Args:
        model: `"smollm2-135m"`; or a litgpt checkpoint folder (`lit_model.pth`,
            `model_config.yaml`, `config.json`, `tokenizer.json`); or a Hugging Face folder of a
            model of the Llama architecture (`config.json`, `*.safetensors`, `tokenizer.json`); or
            the hub's `organization/name` of one.
        dtype: Floating-point type of the weights in memory. Weights that are stored so already
            are mapped from the file instead of copied.

    Raises:
        ModelNotFoundError: If there is no such model or one of its files is missing.
        ModelFormatError: If the files are there but are no usable Llama-architecture model.
    """
    folder = model_folder(model)
    # A folder that was found is the name: exported adapters refer to it, and PEFT finds the
    # weights there.
    name = str(model) if Path(model).expanduser() == folder else str(folder)
    if (folder / "lit_model.pth").is_file():
        return _load_litgpt(folder, name=name, dtype=dtype)
    return _load_huggingface(folder, name=name, dtype=dtype)


def model_folder(model: str | Path) -> Path:
    """The folder of a model: the given one, or the one that a name stands for.

    Args:
        model: A folder; `"smollm2-135m"`; or the hub's `organization/name`, which is fetched
            unless `litgpt download` has put it into `checkpoints` in the working directory, or the
            Hugging Face cache has it.

    Raises:
        ModelNotFoundError: If there is no such model.
    """
    if isinstance(model, str) and model.lower() == SMOLLM2_135M:
        return smollm2.huggingface_folder()
    folder = Path(model).expanduser()
    for found in (folder, _DOWNLOADS / folder):
        if (found / "lit_model.pth").is_file() or (found / "config.json").is_file():
            return found
    if not folder.is_dir() and isinstance(model, str) and _REPOSITORY.fullmatch(model):
        return _fetched(model)
    _raise_not_found(model, folder)


def _fetched(name: str) -> Path:
    try:
        # litgpt's download fetches the same files, and then writes all weights once more.
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except (OSError, ValueError) as error:  # all errors of the hub's are one of these
        raise ModelNotFoundError(
            f"The model {name!r} is no folder and can't be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Check the name, connect, log "
            "in for a gated model, unset HF_HUB_OFFLINE; or give a folder that holds it."
        ) from error


def _raise_not_found(model: str | Path, folder: Path) -> NoReturn:
    if folder.is_dir():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        given = f"the folder {str(model)!r}, which holds no model ({found})"
    else:
        given = f"{str(model)!r}, which is neither a known name nor a folder"
    raise ModelNotFoundError(
        f"The model is {given}. Expected {SMOLLM2_135M!r}, a litgpt checkpoint folder "
        "(lit_model.pth, model_config.yaml, config.json, tokenizer.json) or a Hugging Face folder "
        "(config.json, *.safetensors, tokenizer.json). Fetch a model of the hub with "
        "`litgpt download ORGANIZATION/NAME` or `hf download ORGANIZATION/NAME --local-dir FOLDER` "
        "and give its folder."
    )


def _load_huggingface(folder: Path, *, name: str, dtype: torch.dtype) -> BaseModel:
    hf_config = _read_hf_config(folder, dtype)
    config = litgpt_config(hf_config, name=folder.resolve().name)
    weights = _read_safetensors(folder)
    if hf_config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)  # transformers ignores it too
    state_dict: dict[str, torch.Tensor] = {}
    qkv: defaultdict[int, Any] = defaultdict(dict)
    try:
        copy_weights_hf_llama(config, qkv, state_dict, weights, dtype=dtype)
    except KeyError as error:
        raise ModelFormatError(
            f"The weights in {str(folder)!r} have the entry {error}, which is not part of the "
            "Llama architecture; give the folder of a plain model, without adapters or "
            "quantization."
        ) from error
    _check_weights(state_dict, config, folder)
    return BaseModel(name, config, state_dict, hf_config, read_tokenizer(folder, hf_config))


def _load_litgpt(folder: Path, *, name: str, dtype: torch.dtype) -> BaseModel:
    hf_config = _read_hf_config(folder, dtype)
    config = _read_litgpt_config(folder, hf_config)
    checkpoint = torch.load(
        folder / "lit_model.pth", map_location="cpu", mmap=True, weights_only=True
    )
    stored = checkpoint.get(
        "model", checkpoint
    )  # litgpt's trainers wrap the weights, downloads not
    state_dict = {key: tensor.to(dtype) for key, tensor in stored.items()}
    _check_weights(state_dict, config, folder)
    # The weights decide, not the file's flag: a model that was merged after tuning its output
    # layer is untied although its config.json still says otherwise.
    head, embedding = state_dict["lm_head.weight"], state_dict["transformer.wte.weight"]
    hf_config.tie_word_embeddings = torch.equal(head, embedding)
    if hf_config.tie_word_embeddings:
        state_dict["lm_head.weight"] = embedding
    return BaseModel(name, config, state_dict, hf_config, read_tokenizer(folder, hf_config))


def litgpt_config(hf_config: LlamaConfig, *, name: str = "Llama") -> Config:
    """The litgpt configuration of a transformers Llama configuration.

    Args:
        hf_config: Architecture as transformers describes it.
        name: Kept as the configuration's name, which litgpt uses to pick a prompt style.

    Raises:
        ModelFormatError: If the configuration asks for what litgpt's Llama can't do.
    """
    unsupported = {
        "attention_bias": (hf_config.attention_bias, False),
        "mlp_bias": (hf_config.mlp_bias, False),
        "hidden_act": (hf_config.hidden_act, "silu"),
    }
    for field, (given, expected) in unsupported.items():
        if given != expected:
            raise ModelFormatError(
                f"config.json has {field}={given!r}, expected {expected!r}; choose a model without "
                "this variation of the Llama architecture."
            )
    if "Gemma" in name or "OLMo" in name:
        name = "Llama"  # litgpt changes the norm layers of models that carry these names
    return Config(
        name=name,
        hf_config={"name": name},
        block_size=hf_config.max_position_embeddings,
        vocab_size=hf_config.vocab_size,
        padded_vocab_size=hf_config.vocab_size,
        n_layer=hf_config.num_hidden_layers,
        n_head=hf_config.num_attention_heads,
        n_embd=hf_config.hidden_size,
        head_size=hf_config.head_dim,
        n_query_groups=hf_config.num_key_value_heads,
        rotary_percentage=1.0,
        rope_base=int(hf_config.rope_parameters["rope_theta"]),
        rope_adjustments=_rope_adjustments(hf_config.rope_parameters),
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=hf_config.rms_norm_eps,
        mlp_class_name="LLaMAMLP",
        intermediate_size=hf_config.intermediate_size,
    )


def _rope_adjustments(rope: Mapping[str, Any]) -> dict[str, float] | None:
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    if kind == "linear":
        return {"factor": rope["factor"]}
    if kind == "llama3":
        return {
            "factor": rope["factor"],
            "low_freq_factor": rope["low_freq_factor"],
            "high_freq_factor": rope["high_freq_factor"],
            "original_max_seq_len": rope["original_max_position_embeddings"],
        }
    raise ModelFormatError(
        f"config.json has rope_type={kind!r}, expected 'default', 'linear' or 'llama3'; choose a "
        "model with one of these rotary embeddings."
    )


def _read_hf_config(folder: Path, dtype: torch.dtype) -> LlamaConfig:
    path = _existing(folder, "config.json", "fetch the model's Hugging Face configuration too")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ModelFormatError(
            f"{str(path)!r} is no JSON (line {error.lineno}: {error.msg}); fetch it again."
        ) from error
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if kind != "llama":
        raise ModelFormatError(
            f"{str(path)!r} has model_type={kind!r}, expected 'llama'; choose a model of the Llama "
            "architecture (Llama, TinyLlama, SmolLM2, ...)."
        )
    hf_config = LlamaConfig.from_pretrained(folder, local_files_only=True)
    hf_config.dtype = dtype
    return hf_config


def _read_litgpt_config(folder: Path, hf_config: LlamaConfig) -> Config:
    path = _existing(folder, "model_config.yaml", "convert the model again with litgpt")
    try:
        config = Config.from_file(path)
    except TypeError as error:
        raise ModelFormatError(
            f"{str(path)!r} is not a plain litgpt configuration ({error}); remove the keys that "
            "litgpt.Config doesn't know, such as those that start with 'lora_'."
        ) from error
    expected = litgpt_config(hf_config)
    for field in _ARCHITECTURE_FIELDS:
        given, wanted = getattr(config, field), getattr(expected, field)
        if given != wanted:
            raise ModelFormatError(
                f"{str(path)!r} has {field}={given!r}, but config.json beside it means {wanted!r}; "
                "both must describe the same model: convert it again."
            )
    return config


def _read_safetensors(folder: Path) -> dict[str, torch.Tensor]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        mapping = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(mapping.values()))
    else:
        shards = ["model.safetensors"]
    weights: dict[str, torch.Tensor] = {}
    for shard in shards:
        path = _existing(folder, shard, "save the model's weights as safetensors")
        try:
            weights.update(load_file(path))
        except SafetensorError as error:
            raise ModelFormatError(
                f"{path} can't be read ({error}); the file may be cut, save or copy it again."
            ) from error
    return weights


def read_tokenizer(folder: Path, hf_config: PreTrainedConfig) -> PreTrainedTokenizerFast:
    """The tokenizer exactly as tokenizer.json has it.

    Not through `AutoTokenizer`: it may put a class of the model's family in place of the file's
    own rules, and the token ids then are others than those the model was trained on.
    """
    _existing(folder, "tokenizer.json", "save the tokenizer in its fast form")
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
        folder, local_files_only=True
    )
    if len(tokenizer) > (hf_config.vocab_size or 0):
        raise ModelFormatError(
            f"The tokenizer in {str(folder)!r} has {len(tokenizer)} tokens, but the model embeds "
            f"only {hf_config.vocab_size}; give the tokenizer that belongs to the model."
        )
    if tokenizer.eos_token is None:
        tokenizer.eos_token = _end_token(tokenizer, hf_config, folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _end_token(
    tokenizer: PreTrainedTokenizerFast, hf_config: PreTrainedConfig, folder: Path
) -> str:
    ids: Any = hf_config.eos_token_id  # a list for some models, whatever its annotation says
    first = ids[0] if isinstance(ids, list) else ids
    token = None if first is None else tokenizer.convert_ids_to_tokens(first)
    if not isinstance(token, str):
        raise ModelFormatError(
            f"Neither tokenizer_config.json nor config.json in {str(folder)!r} names an "
            "end-of-sequence token; set `eos_token` in tokenizer_config.json."
        )
    return token


def _check_weights(state_dict: Mapping[str, torch.Tensor], config: Config, folder: Path) -> None:
    with torch.device("meta"):
        expected = {key: tuple(tensor.shape) for key, tensor in GPT(config).state_dict().items()}
    given = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}
    wrong = sorted(
        key for key in expected.keys() | given.keys() if expected.get(key) != given.get(key)
    )
    if wrong:
        key = wrong[0]
        raise ModelFormatError(
            f"The weights in {str(folder)!r} don't fit their configuration: {len(wrong)} entries "
            f"differ, the first is {key!r} with shape {given.get(key)}, expected "
            f"{expected.get(key)}. Convert the model again; adapters must be merged first."
        )


def _existing(folder: Path, file_name: str, remedy: str) -> Path:
    path = folder / file_name
    if not path.is_file():
        raise ModelNotFoundError(
            f"The model folder {str(folder)!r} has no {file_name}, which is needed; {remedy}."
        )
    return path
