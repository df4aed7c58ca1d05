"""What training, scoring and export need of a model, whichever library it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from objectives.config import Method


class RankError(ValueError):
    """A LoRA rank that is no low rank for one of the adapted layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """An adapter to be made.

    Attributes:
        method: `"lora"` [Hu et al. 2021]; `"rslora"`, scaled by `alpha / sqrt(rank)`
            [Kalajdzievski 2023]; `"dora"` [Liu et al. 2024]; `"adapter"` [Zhang et al. 2023];
            `"adapter_v2"` [Gao et al. 2023]; `"ia3"` [Liu et al. 2022].
        rank: Rank of the LoRA update of each layer.
        alpha: The LoRA update is multiplied by `alpha / rank`.
        dropout: Share of the LoRA branches' inputs that is dropped while training, in [0, 1].
        targets: Layers to adapt: any of "query", "key", "value", "projection", "mlp", "head".
        max_length: Longest sequence that will be given.
        checkpointing: Whether a backward pass computes the layers' activations again instead of
            keeping them.
        packed: Whether rows will hold several records each.
    """

    method: Method = "lora"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("query", "value")
    max_length: int = 256
    checkpointing: bool = False
    packed: bool = False


def attention_kernel(config: PreTrainedConfig) -> str:
    """The implementation of attention in transformers that computes what a model asks for.

    Fused kernels leave a cap on the attention's scores out (Gemma 2), without a word.
    """
    return "sdpa" if getattr(config, "attn_logit_softcapping", None) is None else "eager"


def check_packable(config: PreTrainedConfig, max_length: int) -> None:
    """Raise if records can't be packed into rows of this length.

    Raises:
        ValueError: If attention can't be held inside the records.
    """
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) and window is not None and window < max_length:
        raise ValueError(
            f"packing is set and max_length is {max_length}, but the model's attention slides in a "
            f"window of {window} tokens, which can't be held inside packed records too; give "
            f"max_length: {window}, or packing: false."
        )
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise ValueError(
            "packing is set, but the model caps the scores of its attention, which can't be held "
            "inside packed records then; give packing: false."
        )


class AdaptedModel(Protocol):
    """A base model with a fresh or trained adapter; only the adapter's weights are trainable."""

    training: bool

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights, the frozen ones among them."""

    def train(self, mode: bool = True) -> Any:
        """Switch dropout on or off."""

    def logits_at(
        self, input_ids: torch.Tensor, mask: torch.Tensor, documents: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits of shape (mask.sum(), vocabulary) where `mask` (rows, length) is true.

        Args:
            input_ids: (rows, length) token ids.
            mask: (rows, length) bool.
            documents: (rows, length), which of a row's packed records each position is of;
                attention stays inside them.
        """

    def trainable_parameters(self) -> int:
        """How many numbers are trained."""

    def scoring_model(self) -> Any:
        """The model as lm-eval takes it: called like one of transformers, in its own mode."""

    def export(self, folder: Path) -> None:
        """Write the adapter into a folder; made if it is missing."""


class Backend(Protocol):
    """Base weights in memory, shared by all adapters over them and never written to."""

    @property
    def name(self) -> str:
        """What the user asked for."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Has an end-of-sequence and a padding token."""

    @property
    def vocabulary(self) -> int:
        """How many tokens have an embedding; the tokenizer may know more, for images."""

    def check(self, spec: AdapterSpec) -> None:
        """Raise if the model can't be adapted like this.

        Raises:
            RankError: If the rank exceeds the size of an adapted layer.
            ValueError: If a target or the length does not suit the model.
        """

    def adapt(self, spec: AdapterSpec) -> AdaptedModel:
        """The model with a fresh adapter, which changes nothing yet; in training mode.

        Raises:
            RankError: As `check`.
            ValueError: As `check`.
        """

    def untuned(self) -> AdaptedModel:
        """The model without an adapter."""

    def load_tuned(self, folder: Path) -> Any:
        """The model with an adapter from disk, as `AdaptedModel.scoring_model` gives it."""
