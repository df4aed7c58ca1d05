"""Any causal language model of transformers, adapted by PEFT."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
)
from transformers.pytorch_utils import Conv1D

from objectives.data import attention_mask
from objectives.models.backend import (
    AdaptedModel,
    AdapterSpec,
    RankError,
    attention_kernel,
    check_packable,
)
from objectives.models.base import (
    load_base_model,
    model_folder,
    read_safetensors,
    read_tokenizer,
)
from objectives.models.errors import ModelFormatError
from objectives.models.lora import head_sees_only, huggingface_model, place
from objectives.models.text_part import (
    ADAPTER_NAMES,
    is_inside_whole,
    rename_adapter,
    target_pattern,
    text_config,
    text_weights,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from peft import PeftConfig
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

# Names of layers in transformers' models, by what they do; a longer name is looked for as a suffix.
_LAYERS: Final = {
    "query": ("q_proj", "q_lin"),
    "key": ("k_proj", "k_lin"),
    "value": ("v_proj", "v_lin"),
    "projection": (
        *("o_proj", "out_proj", "out_lin", "attn.c_proj"),
        *("attention.dense", "self_attn.dense", "self_attention.dense"),
    ),
    "mlp": (
        *("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2"),
        *("mlp.c_fc", "mlp.c_proj", "dense_h_to_4h", "dense_4h_to_h"),
    ),
    "head": ("lm_head", "embed_out"),
}
_FUSED: Final = ("c_attn", "query_key_value", "qkv_proj", "Wqkv")
"""Layers that hold query, key and value in one."""


class PeftBackend:
    """A model of transformers whose weights all adapters share.

    Args:
        name: Folder or name of the model; exported adapters refer to it.
        model: Its weights stay on their device and in their type, frozen.
        tokenizer: The model's tokenizer.
        inside_whole: Whether it is the text part of a model that transformers loads as a whole;
            exported adapters then have the names of the whole.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        inside_whole: bool = False,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self._inside_whole = inside_whole
        self._model = model.requires_grad_(False)
        self._model.name_or_path = name  # PEFT writes it into adapters
        self._model.train(False)

    @property
    def vocabulary(self) -> int:
        """As `Backend.vocabulary`."""
        embedding: Any = self._model.get_input_embeddings()
        return len(embedding.weight)

    def check(self, spec: AdapterSpec) -> None:
        """As `Backend.check`."""
        longest = getattr(self._model.config, "max_position_embeddings", None)
        if longest is not None and spec.max_length > longest:
            raise ValueError(
                f"max_length is {spec.max_length}, but {self.name!r} takes at most {longest} "
                "tokens; lower it."
            )
        if spec.packed:
            check_packable(self._model.config, spec.max_length)
        modules = self._modules(spec.targets)
        if spec.method == "ia3":
            return
        for suffix in modules:
            layer = next(m for n, m in self._model.named_modules() if _is(n, suffix))
            highest = _smaller_side(layer)
            if spec.rank > highest:
                raise RankError(
                    f"The LoRA rank is (or may become) {spec.rank}, but the layer {suffix!r} of "
                    f"{self.name!r} is of size {highest}, above which a rank is not low. Override "
                    f"the search space with rank=(2, {highest}) or lower, or adapt other layers."
                )

    def adapt(self, spec: AdapterSpec) -> AdaptedModel:
        """As `Backend.adapt`."""
        self.check(spec)
        model = get_peft_model(self._share(), self._peft_config(spec))
        if spec.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        adapted = PeftAdapted(cast("nn.Module", model), inside_whole=self._inside_whole)
        # The shared model is in its other mode, in which nothing is dropped or checkpointed.
        adapted.train(True)
        return adapted

    def untuned(self) -> AdaptedModel:
        """As `Backend.untuned`."""
        return PeftAdapted(self._share())

    def load_tuned(self, folder: Path) -> Any:
        """As `Backend.load_tuned`; the adapter is not merged."""
        names = ADAPTER_NAMES if self._inside_whole else None
        tuned = PeftModel.from_pretrained(self._share(), str(folder), key_mapping=names)
        tuned.train(False)
        return tuned

    def _share(self) -> PreTrainedModel:
        """Another model around the same weights: PEFT changes the modules that it is given."""
        memo: dict[int, Any] = {}
        for tensor in (*self._model.parameters(), *self._model.buffers()):
            # PEFT's merge puts other data into a parameter, which must not be the shared one; a
            # quantized weight is never merged and carries more than its data.
            plain = type(tensor) is nn.Parameter
            memo[id(tensor)] = nn.Parameter(tensor.data, requires_grad=False) if plain else tensor
        shared: PreTrainedModel = copy.deepcopy(self._model, memo)
        return shared

    def _peft_config(self, spec: AdapterSpec) -> PeftConfig:
        modules = self._modules(spec.targets)
        # GPT-2 keeps its weights the other way round.
        transposed = any(
            isinstance(layer, Conv1D) and any(_is(name, module) for module in modules)
            for name, layer in self._model.named_modules()
        )
        if spec.method == "ia3":
            feedforward = [
                m for m in modules if m in ("down_proj", "fc2", "mlp.c_proj", "dense_4h_to_h")
            ]
            config: PeftConfig = IA3Config(
                task_type="CAUSAL_LM",
                target_modules=self._targets(modules),
                feedforward_modules=self._targets(feedforward),
                fan_in_fan_out=transposed,
            )
        else:
            config = LoraConfig(
                task_type="CAUSAL_LM",
                r=spec.rank,
                lora_alpha=spec.alpha,  # type: ignore[arg-type]  # PEFT only divides by it
                lora_dropout=spec.dropout,
                target_modules=self._targets(modules),
                fan_in_fan_out=transposed,
                use_rslora=spec.method == "rslora",
                use_dora=spec.method == "dora",
            )
        config.base_model_name_or_path = self.name
        return config

    def _targets(self, modules: list[str]) -> list[str] | str:
        return target_pattern(modules) if self._inside_whole and modules else modules

    def _modules(self, targets: Sequence[str]) -> list[str]:
        """Names of the layers of some targets.

        Raises:
            ValueError: If the model has no such layer, or not one of its own.
        """
        present = [n for n, m in self._model.named_modules() if hasattr(m, "weight")]

        def found(candidates: Sequence[str]) -> list[str]:
            return [c for c in candidates if any(_is(name, c) for name in present)]

        if "head" in targets and self._model.config.tie_word_embeddings:
            raise ValueError(
                f"targets has 'head', but {self.name!r} shares the head's weights with its "
                "embedding, and adapting one would part them. Leave 'head' out."
            )
        modules: list[str] = []
        for target in targets:
            own = found(_LAYERS[target])
            fused = found(_FUSED) if target in ("query", "key", "value") else []
            if not own and fused and not {"query", "key", "value"} <= set(targets):
                raise ValueError(
                    f"targets has {target!r}, but {self.name!r} keeps query, key and value in one "
                    f"layer, {fused[0]!r}; give all three."
                )
            if target == "mlp" and any(_is(n, "experts") for n, _ in self._model.named_modules()):
                raise ValueError(
                    f"targets has 'mlp', but {self.name!r} is a mixture of experts, whose updates "
                    "PEFT takes without dropout only. Leave 'mlp' out."
                )
            if not own and not fused:
                names = sorted({name.rsplit(".", 1)[-1] for name in present})
                raise ValueError(
                    f"targets has {target!r}, but {self.name!r} has none of the layers "
                    f"{_LAYERS[target]}; its layers are {names}."
                )
            modules += own or fused
        return sorted(set(modules))


class PeftAdapted(nn.Module):
    """A model of transformers, with an adapter of PEFT's or without one.

    Args:
        model: The model.
        inside_whole: Whether exported adapters have the names of the whole that it is part of.
    """

    def __init__(self, model: nn.Module, *, inside_whole: bool = False) -> None:
        super().__init__()
        self.model = model
        self._inside_whole = inside_whole

    def logits_at(
        self, input_ids: torch.Tensor, mask: torch.Tensor, documents: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As `AdaptedModel.logits_at`."""
        arguments = {} if documents is None else _packed(documents)
        with head_sees_only(self._head(), mask):
            logits: torch.Tensor = self.model(
                input_ids=input_ids, use_cache=False, **arguments
            ).logits
        return logits

    def trainable_parameters(self) -> int:
        """As `AdaptedModel.trainable_parameters`."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def scoring_model(self) -> Any:
        """As `AdaptedModel.scoring_model`: not merged, so that no weight is copied."""
        return self.model

    def export(self, folder: Path) -> None:
        """As `AdaptedModel.export`, in PEFT's format."""
        cast("PeftModel", self.model).save_pretrained(str(folder))
        if self._inside_whole:
            rename_adapter(folder)

    def _head(self) -> nn.Module:
        model = self.model
        plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        head: nn.Module = plain.get_output_embeddings()
        return head


def load_peft_backend(
    model: str | Path, *, dtype: torch.dtype, device: torch.device, four_bit: bool = False
) -> PeftBackend:
    """Read a model for PEFT.

    Args:
        model: As `load_base_model` takes it, of any architecture of transformers'.
        dtype: Type of the weights, or of what 4-bit weights are multiplied in.
        device: Where to put them.
        four_bit: Whether to hold the weights in 4-bit NormalFloat with double quantization
            [Dettmers et al. 2023].

    Raises:
        ModelNotFoundError: If there is no such model or one of its files is missing.
        ModelFormatError: If the files are no causal language model.
        ImportError: If `four_bit` and bitsandbytes is not installed.
    """
    folder = model_folder(model)
    if (folder / "lit_model.pth").is_file():
        if four_bit:
            raise ModelFormatError(
                f"The model {str(model)!r} is a litgpt checkpoint, which can't be read in 4 bits; "
                "give its Hugging Face folder."
            )
        base = load_base_model(folder, dtype=dtype)
        placed = place(base, device)
        return PeftBackend(
            base.name,
            huggingface_model(placed, placed.state_dict),
            base.tokenizer,
            inside_whole=base.inside_whole,
        )
    try:
        whole = AutoConfig.from_pretrained(folder, local_files_only=True)
        loaded, lacking = _load(
            folder,
            whole,
            dtype=dtype,
            quantization_config=_four_bit(dtype) if four_bit else None,
            device_map={"": device} if four_bit else None,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelFormatError(
            f"The folder {str(folder)!r} holds no causal language model that transformers can "
            f"read ({error}); save the model as safetensors, with its config.json."
        ) from error
    if lacking:
        # transformers would go on with random numbers in their place.
        raise ModelFormatError(
            f"The folder {str(folder)!r} has no weights for {len(lacking)} layers of its model, "
            f"such as {min(lacking)!r}; give the folder of a causal language model, whole."
        )
    tokenizer = read_tokenizer(folder, text_config(whole))
    if four_bit:
        _keep_layout(loaded)
    return PeftBackend(
        str(folder) if folder.is_absolute() else str(model),
        loaded if four_bit else loaded.to(device),
        tokenizer,
        inside_whole=is_inside_whole(whole),
    )


def _load(folder: Path, whole: PreTrainedConfig, **settings: Any) -> tuple[Any, set[str]]:
    """A model of transformers, and the names of its weights that the folder lacks."""
    config = text_config(whole)
    make: Any = AutoModelForCausalLM
    source: Path | None = folder
    if is_inside_whole(whole):
        make = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        settings["state_dict"] = text_weights(read_safetensors(folder))
        source = None
    loaded, report = make.from_pretrained(
        source,
        config=config,
        attn_implementation=attention_kernel(config),
        local_files_only=True,
        output_loading_info=True,
        **settings,
    )
    return loaded, report["missing_keys"]


def _four_bit(dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _keep_layout(model: nn.Module) -> None:
    """Keep 4-bit weights as they are read.

    On a CPU with bf16 instructions bitsandbytes packs them anew at the first evaluation, in a
    layout that rounds their scales and has no backward pass; the next trial trains on the same.
    """
    layers: Iterable[Any] = model.modules()
    for module in layers:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _is(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith(f".{suffix}")


def _smaller_side(layer: nn.Module) -> int:
    # A 4-bit weight is stored flat, so the layer's own numbers are asked first.
    sides = [getattr(layer, side, None) for side in ("in_features", "out_features")]
    if None in sides:
        sides = list(cast("torch.Tensor", layer.weight).shape)
    return min(cast("list[int]", sides))


def _packed(documents: torch.Tensor) -> dict[str, torch.Tensor]:
    """Attention inside packed records, and positions that begin anew in each."""
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    first = torch.where(starts, index, 0).cummax(dim=1).values
    return {"attention_mask": attention_mask(documents), "position_ids": index - first}
