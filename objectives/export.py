"""A tuned model in the form that another program takes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
from litgpt.utils import save_config
from peft import PeftModel

from objectives.models.architectures import litgpt_config
from objectives.models.base import load_base_model, model_folder, read_hf_config
from objectives.models.errors import ModelFormatError
from objectives.models.litgpt_backend import ADAPTER_FILE
from objectives.models.merging import merged
from objectives.models.rotary import NOT_IN_LITGPT, rope_type
from objectives.models.text_part import text_config

if TYPE_CHECKING:
    from objectives.models.backend import Backend

Format = Literal["peft", "hf", "litgpt"]
FORMATS: Final = get_args(Format)

_BESIDE_WEIGHTS: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
"""Files of a Hugging Face folder that a litgpt checkpoint has too."""


def export_tuned(backend: Backend, adapter: Path, out: Path, *, format: Format) -> Path:
    """Write a model with its adapter into a folder, which appears whole or not at all.

    Args:
        backend: Base weights.
        adapter: Folder of the adapter.
        out: The folder to make.
        format: `"peft"`, the adapter alone; `"hf"`, weights with the adapter added, for
            transformers; `"litgpt"`, the same as a checkpoint of litgpt's.

    Raises:
        ValueError: If there is no such format, the model has no such form, or `out` is not empty.
        ModelFormatError: If it is litgpt and litgpt does not compute the model's architecture.
    """
    check_export(out, format)
    if (adapter / ADAPTER_FILE).is_file():
        raise ValueError(
            f"The adapter in {str(adapter)!r} is litgpt's own kind, which has no PEFT form and "
            "can't be added to weights; load it with load_tuned, or with litgpt."
        )
    if format == "litgpt":
        _check_litgpt_computes(backend)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        made = Path(folder) / _name(backend)
        if format == "peft":
            shutil.copytree(adapter, made)
        else:
            dtype = _write_merged(backend, adapter, made)
            if format == "litgpt":
                made = _as_litgpt(made, Path(folder) / "litgpt", dtype)
        made.chmod(0o755)
        if out.exists():
            out.rmdir()
        made.rename(out)
    return out


def check_export(out: Path, format: str) -> None:
    """Raise if nothing can be exported like this.

    Raises:
        ValueError: If there is no such format, or `out` is not empty.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected one of {FORMATS}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{str(out)!r} is there already; give a new folder, or remove it.")


def _check_litgpt_computes(backend: Backend) -> None:
    """Raise before anything is merged if litgpt can't go on with the model.

    Raises:
        ModelFormatError: If it can't.
    """
    hf_config = text_config(read_hf_config(model_folder(backend.name)))
    litgpt_config(hf_config)
    if (kind := rope_type(hf_config)) in NOT_IN_LITGPT:
        raise ModelFormatError(
            f"format is 'litgpt', but litgpt's programs would compute {backend.name!r} otherwise: "
            f"they leave its rotary embeddings' rope_type={kind!r} out. Export it as 'hf' or "
            "'peft'."
        )


def _name(backend: Backend) -> str:
    return Path(backend.name).name


def _write_merged(backend: Backend, adapter: Path, folder: Path) -> torch.dtype:
    tuned: Any = backend.load_tuned(adapter)
    plain = merged(tuned) if isinstance(tuned, PeftModel) else tuned
    plain.save_pretrained(folder)
    backend.tokenizer.save_pretrained(folder)
    dtype: torch.dtype = plain.dtype
    return dtype


def _as_litgpt(folder: Path, target: Path, dtype: torch.dtype) -> Path:
    """Write the model of a Hugging Face folder as a litgpt checkpoint."""
    base = load_base_model(folder, dtype=dtype)
    target.mkdir()
    torch.save(base.state_dict, target / "lit_model.pth")
    save_config(base.config, target)  # whose name tells litgpt the family
    for name in _BESIDE_WEIGHTS:
        if (folder / name).is_file():
            shutil.copy(folder / name, target)
    return target
