"""Models in litgpt's layout, with litgpt's adapters."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from litgpt import adapter, adapter_v2
from litgpt.model import CausalSelfAttention
from peft import PeftModel
from torch import nn
from transformers.modeling_outputs import CausalLMOutput

from objectives.models.backend import AdaptedModel, AdapterSpec, check_packable
from objectives.models.errors import ModelFormatError
from objectives.models.lora import (
    LitGPTLora,
    attention_inside,
    check_adaptable,
    checkpoint_blocks,
    head_sees_only,
    huggingface_model,
    leave_out_windows,
    make_norms_exact,
)
from objectives.models.merging import merged
from objectives.models.rotary import set_rotary
from objectives.models.text_part import ADAPTER_NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

    from objectives.models.base import BaseModel

ADAPTER_FILE: Final = "lit_model.pth.adapter"
"""litgpt's name for the weights of an Adapter, as its own scripts write and read it."""


class LitGPTBackend:
    """A base model in litgpt's layout.

    Args:
        base: The model, on the device to train on.
    """

    def __init__(self, base: BaseModel) -> None:
        self.base = base

    @property
    def name(self) -> str:
        """As `Backend.name`."""
        return self.base.name

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """As `Backend.tokenizer`."""
        return self.base.tokenizer

    @property
    def vocabulary(self) -> int:
        """As `Backend.vocabulary`."""
        return len(self.base.state_dict["transformer.wte.weight"])

    def check(self, spec: AdapterSpec) -> None:
        """As `Backend.check`."""
        if spec.packed:
            check_packable(self.base.hf_config, spec.max_length)
        lora = spec.method in ("lora", "rslora")
        check_adaptable(
            self.base,
            rank=spec.rank if lora else 1,
            targets=spec.targets if lora else (),
            max_length=spec.max_length,
        )

    def adapt(self, spec: AdapterSpec) -> AdaptedModel:
        """As `Backend.adapt`."""
        if spec.method in ("adapter", "adapter_v2"):
            self.check(spec)
            return LitGPTAdapter(self.base, spec)
        return LitGPTLora(
            self.base,
            rank=spec.rank,
            alpha=spec.alpha,
            dropout=spec.dropout,
            targets=spec.targets,
            max_length=spec.max_length,
            checkpointing=spec.checkpointing,
            rslora=spec.method == "rslora",
        )

    def untuned(self) -> AdaptedModel:
        """As `Backend.untuned`."""
        longest = self.base.config.block_size
        return LitGPTLora(self.base, rank=1, alpha=1.0, targets=(), max_length=longest)

    def load_tuned(self, folder: Path) -> Any:
        """As `Backend.load_tuned`: a LoRA is merged, which makes scoring cheaper."""
        if (folder / ADAPTER_FILE).is_file():
            return self._load_adapter(folder).scoring_model()
        model = huggingface_model(self.base, self.base.state_dict)
        names = ADAPTER_NAMES if self.base.inside_whole else None
        tuned = PeftModel.from_pretrained(model, str(folder), key_mapping=names)
        return merged(tuned)

    def _load_adapter(self, folder: Path) -> LitGPTAdapter:
        weights = torch.load(folder / ADAPTER_FILE, weights_only=True)["model"]
        second = any("adapter_scale" in name for name in weights)
        spec = AdapterSpec(
            method="adapter_v2" if second else "adapter", max_length=self.base.config.block_size
        )
        adapted = LitGPTAdapter(self.base, spec)
        trained = {n: p for n, p in adapted.gpt.named_parameters() if p.requires_grad}
        if trained.keys() != weights.keys():
            raise ModelFormatError(
                f"The adapter in {str(folder)!r} does not fit {self.name!r}: give the model that "
                "it was trained on."
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(weights[name])
        return adapted


class LitGPTAdapter(nn.Module):
    """LLaMA-Adapter [Zhang et al. 2023] or its version 2 [Gao et al. 2023] over shared weights.

    A learned prompt of ten positions is attended to from the third layer on, or from the middle of
    a model of fewer than five, through gates that start at 0; version 2 also scales and shifts
    every linear layer and trains the norms. All of that is fp32.

    Args:
        base: The model to adapt.
        spec: Its method says which version; rank, alpha, dropout and targets play no part.
    """

    def __init__(self, base: BaseModel, spec: AdapterSpec) -> None:
        super().__init__()
        self.base = base
        kind: Any = adapter if spec.method == "adapter" else adapter_v2
        with torch.device("meta"):
            gpt = kind.GPT(
                kind.Config(
                    **asdict(base.config), adapter_start_layer=min(2, base.config.n_layer // 2)
                )
            )
        gpt.load_state_dict(base.state_dict, strict=False, assign=True)
        make_norms_exact(gpt)
        head = base.state_dict["lm_head.weight"]
        device = head.device
        for name, parameter in list(gpt.named_parameters()):
            trained = kind.adapter_filter(name, parameter)
            _replace(gpt, name, _fresh(name, parameter, device) if trained else parameter, trained)
        for block in gpt.transformer.h:
            block.attn.register_forward_pre_hook(_forget_prompt)
        set_rotary(gpt, base.hf_config, length=spec.max_length, device=device)
        gpt.register_forward_pre_hook(leave_out_windows)
        for module in gpt.modules():
            own = [p for p in module.parameters(recurse=False) if p.requires_grad]
            if own and not isinstance(module, CausalSelfAttention | nn.Embedding):
                # Scales and norms are fp32, and what they put out must be rounded as before.
                module.register_forward_hook(lambda _, __, output: output.to(head.dtype))
        if spec.checkpointing:
            checkpoint_blocks(gpt.transformer.h)
        self.gpt = gpt

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits of shape (rows, length, vocabulary) for ids of shape (rows, length)."""
        logits: torch.Tensor = self.gpt(input_ids)
        return logits

    def logits_at(
        self, input_ids: torch.Tensor, mask: torch.Tensor, documents: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As `AdaptedModel.logits_at`."""
        with head_sees_only(self.gpt.lm_head, mask), attention_inside(self.gpt, documents):
            return self.forward(input_ids)

    def trainable_parameters(self) -> int:
        """As `AdaptedModel.trainable_parameters`."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def scoring_model(self) -> Any:
        """As `AdaptedModel.scoring_model`: a learned prompt can't be merged into weights."""
        return _AsTransformers(self)

    def export(self, folder: Path) -> None:
        """As `AdaptedModel.export`, in litgpt's format."""
        folder.mkdir(parents=True, exist_ok=True)
        trained = {
            name: parameter.detach().cpu()
            for name, parameter in self.gpt.named_parameters()
            if parameter.requires_grad
        }
        torch.save({"model": trained}, folder / ADAPTER_FILE)


class _AsTransformers(nn.Module):
    """A litgpt model that is called like one of transformers."""

    def __init__(self, adapted: LitGPTAdapter) -> None:
        super().__init__()
        self.adapted = adapted
        self.config = adapted.base.hf_config
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.parameters()).device

    def tie_weights(self) -> None:
        """Called by lm-eval; the base weights are tied already if they are at all."""

    def forward(
        self, input_ids: torch.Tensor, *, logits_to_keep: int = 0, **_: Any
    ) -> CausalLMOutput:
        mask = torch.ones_like(input_ids, dtype=torch.bool)
        mask[:, : -logits_to_keep or None] = logits_to_keep == 0
        dtype = self.adapted.base.state_dict["lm_head.weight"].dtype
        reduced = dtype != torch.float32
        with torch.autocast(input_ids.device.type, dtype=dtype, enabled=reduced):
            logits = self.adapted.logits_at(input_ids, mask)
        logits = logits.view(len(input_ids), -1, logits.shape[-1])
        return CausalLMOutput(logits=cast("torch.FloatTensor", logits))


def _forget_prompt(attention: Any, _: Any) -> None:
    """Drop keys and values of the learned prompt.

    litgpt 0.5.13 keeps them for ever, also in training, where the prompt has changed by the next
    step, and where a checkpointed layer is computed twice.
    """
    attention.adapter_kv_cache = None


def _fresh(name: str, parameter: torch.Tensor, device: torch.device) -> torch.Tensor:
    """First weights of an adapter: what changes nothing, and for the prompt what torch draws."""
    if "adapter_wte" in name:
        return torch.randn(parameter.shape).to(device)
    if "gating_factor" in name or "adapter_bias" in name:
        return torch.zeros(parameter.shape, device=device)
    if "adapter_scale" in name:
        return torch.ones(parameter.shape, device=device)
    return parameter.detach().float().clone()  # a norm, which version 2 trains


def _replace(gpt: nn.Module, name: str, tensor: torch.Tensor, trained: bool) -> None:
    owner, _, leaf = name.rpartition(".")
    data = nn.Parameter(tensor.detach(), requires_grad=trained)
    setattr(gpt.get_submodule(owner), leaf, data)
