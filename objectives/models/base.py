"""Base models: weights, architecture and tokenizer, read once per process and shared by all trials.

A base model is kept in litgpt's layout, which the trainer uses, next to the configuration of
transformers, which scoring and export use. Both describe the same network.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import torch
from huggingface_hub import snapshot_download
from litgpt import GPT, Config
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerFast

from objectives.models import smollm2
from objectives.models.architectures import litgpt_config, read_weights
from objectives.models.errors import ModelFormatError, ModelNotFoundError
from objectives.models.text_part import is_inside_whole, text_config, text_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

SMOLLM2_135M: Final = "smollm2-135m"
"""Name of the model that `objectives.models.smollm2` reads."""

_DOWNLOADS: Final = Path("checkpoints")
"""Where `litgpt download` puts models, and litgpt's own commands look for their names."""

_REPOSITORY: Final = re.compile(r"[\w.-]+/[\w.-]+")

STRUCTURE: Final = (
    "n_layer",
    "n_embd",
    "n_head",
    "n_query_groups",
    "head_size",
    "intermediate_size",
    "padded_vocab_size",
    "norm_class_name",
    "mlp_class_name",
    "moe_intermediate_size",
    "n_expert",
    "n_expert_per_token",
    "parallel_residual",
    "shared_attention_norm",
    "rotary_percentage",
    "rope_base",
    "rope_adjustments",
)
"""Fields in which a litgpt folder's two configurations must agree. Where they don't in others,
config.json counts: litgpt's own table has epsilons that differ from those of the models."""


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
        inside_whole: Whether it is the text part of a model that transformers loads as a whole;
            adapters then have the names of the whole.
    """

    name: str
    config: Config
    state_dict: dict[str, torch.Tensor]
    hf_config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerFast
    inside_whole: bool = False


def load_base_model(model: str | Path, *, dtype: torch.dtype = torch.float32) -> BaseModel:
    """Read a base model from the installed package, a litgpt folder or a Hugging Face folder.

    Args:
        model: `"smollm2-135m"`; or a litgpt checkpoint folder (`lit_model.pth`,
            `model_config.yaml`, `config.json`, `tokenizer.json`); or a Hugging Face folder
            (`config.json`, `*.safetensors`, `tokenizer.json`) of one of the
            `objectives.models.architectures`; or the hub's `organization/name` of one.
        dtype: Floating-point type of the weights in memory. Weights that are stored so already
            are mapped from the file instead of copied.

    Raises:
        ModelNotFoundError: If there is no such model or one of its files is missing.
        ModelFormatError: If the files are there but are no model that litgpt computes.
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
    whole_config = read_hf_config(folder)
    hf_config = text_config(whole_config)
    hf_config.dtype = dtype
    config = litgpt_config(hf_config, name=folder.resolve().name)
    weights = read_safetensors(folder)
    if hf_config is not whole_config:
        weights = text_weights(weights)
    if hf_config.tie_word_embeddings:
        for head in ("lm_head.weight", "embed_out.weight"):
            weights.pop(head, None)  # transformers ignores it too
    try:
        state_dict = read_weights(hf_config, config, weights, dtype)
    except KeyError as error:
        raise ModelFormatError(
            f"The weights in {str(folder)!r} have the entry {error}, which is not part of the "
            f"architecture {hf_config.model_type!r}; give the folder of a plain model, without "
            "adapters or quantization."
        ) from error
    _check_weights(state_dict, config, folder)
    tokenizer = read_tokenizer(folder, hf_config)
    return BaseModel(name, config, state_dict, hf_config, tokenizer, is_inside_whole(whole_config))


def _load_litgpt(folder: Path, *, name: str, dtype: torch.dtype) -> BaseModel:
    whole_config = read_hf_config(folder)
    hf_config = text_config(whole_config)
    hf_config.dtype = dtype
    config = _read_litgpt_config(folder, hf_config, is_part=hf_config is not whole_config)
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
    tokenizer = read_tokenizer(folder, hf_config)
    return BaseModel(name, config, state_dict, hf_config, tokenizer, is_inside_whole(whole_config))


def read_hf_config(folder: Path) -> PreTrainedConfig:
    """The configuration of transformers in a model's folder.

    Raises:
        ModelNotFoundError: If there is none.
        ModelFormatError: If it can't be read.
    """
    path = _existing(folder, "config.json", "fetch the model's Hugging Face configuration too")
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ModelFormatError(
            f"{str(path)!r} is no JSON (line {error.lineno}: {error.msg}); fetch it again."
        ) from error
    try:
        hf_config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelFormatError(
            f"{str(path)!r} is no configuration that transformers can read ({error}); fetch it "
            "again."
        ) from error
    return hf_config


def _read_litgpt_config(folder: Path, hf_config: PreTrainedConfig, *, is_part: bool) -> Config:
    path = _existing(folder, "model_config.yaml", "convert the model again with litgpt")
    try:
        config = Config.from_file(path)
    except TypeError as error:
        raise ModelFormatError(
            f"{str(path)!r} is not a plain litgpt configuration ({error}); remove the keys that "
            "litgpt.Config doesn't know, such as those that start with 'lora_'."
        ) from error
    if is_part and config.padded_vocab_size < hf_config.vocab_size:
        # litgpt leaves out the last rows of the embedding, which stand for images.
        hf_config.vocab_size = config.padded_vocab_size
    if config.rope_condense_ratio != 1:  # litgpt's other name for linear scaling
        config.rope_adjustments = {"factor": config.rope_condense_ratio}
    expected = litgpt_config(hf_config, name=config.name)
    for field in STRUCTURE:
        given, wanted = getattr(config, field), getattr(expected, field)
        if given != wanted:
            raise ModelFormatError(
                f"{str(path)!r} has {field}={given!r}, but config.json beside it means {wanted!r}; "
                "both must describe the same model: convert it again."
            )
    return expected


def read_safetensors(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of a Hugging Face folder by name.

    Raises:
        ModelNotFoundError: If a file is missing.
        ModelFormatError: If one can't be read.
    """
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
    embedded = hf_config.vocab_size
    # Gemma 3 has a token for images in the tokenizer of its smallest model too, which sees none.
    more = [token for token, number in tokenizer.get_added_vocab().items() if number >= embedded]
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    if len(tokenizer) - len(more) > embedded or not used.isdisjoint(more):
        raise ModelFormatError(
            f"The tokenizer in {str(folder)!r} has {len(tokenizer)} tokens, but the model embeds "
            f"only {embedded}; give the tokenizer that belongs to the model."
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
