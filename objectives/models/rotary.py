"""Rotary embeddings of litgpt's models, among them kinds that litgpt does not compute.

YaRN: Peng et al. 2023, arXiv:2309.00071. LongRoPE: Ding et al. 2024, arXiv:2402.13753.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedConfig

NOT_IN_LITGPT: Final = ("dynamic", "longrope", "yarn")
"""Kinds (`rope_type`) whose frequencies come from transformers."""

Tables = tuple[torch.Tensor, torch.Tensor]


def rope_type(hf_config: PreTrainedConfig) -> str:
    """Kind of a model's rotary embeddings, of its layers with full attention if they differ."""
    rope: Any = hf_config.rope_parameters
    kind: str = rope.get("full_attention", rope).get("rope_type", "default")
    return kind


def set_rotary(gpt: Any, hf_config: PreTrainedConfig, *, length: int, device: torch.device) -> None:
    """Give a litgpt model its tables of cosines and sines, which it has made on "meta" before.

    Args:
        gpt: The model.
        hf_config: What transformers computes it by.
        length: Longest row that it will be given.
        device: Where.
    """
    gpt.max_seq_length = length
    kind = rope_type(hf_config)
    if kind not in NOT_IN_LITGPT:
        gpt.cos, gpt.sin = gpt.rope_cache(device=device)
        return
    gpt.cos, gpt.sin = _tables(hf_config, kind, length, device)
    if kind != "longrope":
        return
    limit = hf_config.rope_parameters["original_max_position_embeddings"]
    if length > limit:
        for part, table in zip(
            ("short_cos", "short_sin", "long_cos", "long_sin"),
            (gpt.cos, gpt.sin, *_tables(hf_config, kind, length, device, seen=limit + 1)),
            strict=True,
        ):
            gpt.register_buffer(part, table, persistent=False)
        gpt.register_forward_pre_hook(functools.partial(_choose, limit=limit))


@contextmanager
def records_of(gpt: Any, documents: torch.Tensor) -> Iterator[None]:
    """Within it, rows are as long as the longest of their packed records to LongRoPE.

    Args:
        gpt: A litgpt model.
        documents: (rows, length), which record each position is of.
    """
    # Others need no count, which a GPU would have to be waited for.
    if not hasattr(gpt, "long_cos"):
        yield
        return
    gpt.longest_record = max(int(row.bincount().max()) for row in documents)
    try:
        yield
    finally:
        gpt.longest_record = None


def _choose(gpt: Any, inputs: tuple[torch.Tensor, ...], *, limit: int) -> None:
    """Rows that are longer than those of the first training have frequencies of their own."""
    length = getattr(gpt, "longest_record", None) or inputs[0].shape[1]
    kind = "long" if length > limit else "short"
    gpt.cos, gpt.sin = getattr(gpt, f"{kind}_cos"), getattr(gpt, f"{kind}_sin")


def _tables(
    hf_config: PreTrainedConfig,
    kind: str,
    length: int,
    device: torch.device,
    *,
    seen: int | None = None,
) -> Tables:
    """Cosines and sines, each (length, rotated part of a head)."""
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](hf_config, device, seq_len=seen)
    positions = torch.arange(length, device=device, dtype=torch.float32)
    angles = torch.outer(positions, frequencies.float()).repeat(1, 2)
    return angles.cos() * factor, angles.sin() * factor
