"""The text part of models that see images too, such as Gemma 3 from 4B on.

Only the text part is read, tuned and scored. Adapters keep the names that its layers have in the
whole model, so that they fit the model that others load from the same folder.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from safetensors.torch import load_file, save_file
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import torch
    from transformers import PreTrainedConfig

    Weights = dict[str, torch.Tensor]

_MODELS: Final[Any] = MODEL_FOR_CAUSAL_LM_MAPPING  # of a lazy kind, which mypy does not know

_TEXT_NAMES: Final[Mapping[str, str]] = {
    r"^language_model\.model\.": "model.",  # as transformers writes Gemma 3
    r"^model\.language_model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^lm_head\.": "lm_head.",
}

ADAPTER_NAMES: Final[dict[str, str]] = {r"^model\.language_model\.": "model."}
"""PEFT's argument `key_mapping`: names in the whole model, to names in its text part."""


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the text part, of a model that has others too; else itself."""
    text: PreTrainedConfig = config.get_text_config(decoder=True)
    if config.is_encoder_decoder or type(text) not in _MODELS:
        return config
    return text


def is_inside_whole(config: PreTrainedConfig) -> bool:
    """Whether transformers loads a text part only inside of the whole model."""
    text = text_config(config)
    if text is config:
        return False
    whole = type(config)
    return whole not in _MODELS or _MODELS[whole].config_class is not type(text)


def text_weights(weights: Weights) -> Weights:
    """Weights of the text part of a whole model, under the names that it has as one of its own."""
    found: Weights = {}
    for name, tensor in weights.items():
        for pattern, replacement in _TEXT_NAMES.items():
            renamed, matches = re.subn(pattern, replacement, name)
            if matches:
                found[renamed] = tensor
                break
    return found


def name_in_whole(module: str) -> str:
    """The name of a module of the text part in the whole model."""
    return re.sub(r"^model\.", "model.language_model.", module)


def target_pattern(names: Iterable[str]) -> str:
    """PEFT's `target_modules` for layers of the text part.

    A list of names would fit layers of the image part too.

    Args:
        names: Ends of layers' names.
    """
    ends = "|".join(re.escape(name) for name in sorted(names))
    return rf"(?:model\.(?:language_model\.)?layers\..*\.)?(?:{ends})"


def rename_adapter(folder: Path) -> None:
    """Give the weights of a saved adapter the names that they have in the whole model."""
    path = folder / "adapter_model.safetensors"
    prefix = "base_model.model."
    weights = {
        prefix + name_in_whole(name.removeprefix(prefix)): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})
