"""Mixtures of experts: one tensor for all experts of a layer in transformers, one each in litgpt.

Both look at the same memory here: litgpt's tensors are parts of transformers'. A model of this kind
is mostly experts, and a copy of them for scoring would double it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Weights = dict[str, torch.Tensor]

_EXPERT: Final = re.compile(r"transformer\.h\.(\d+)\.mlp\.experts\.(\d+)\.(fc_1|fc_2|proj)\.weight")
_ROUTER: Final = re.compile(r"transformer\.h\.(\d+)\.mlp\.gate\.weight")
_TENSORS: Final[Mapping[str, tuple[str, ...]]] = {
    "gate_up_proj": ("fc_1", "fc_2"),
    "down_proj": ("proj",),
}
"""Tensors of transformers, and what of each expert lies in them, one above the other."""


def joined_experts(weights: Mapping[str, torch.Tensor], device: torch.device) -> Weights:
    """Experts on a device, those of a layer side by side in memory; nothing else.

    Args:
        weights: Under litgpt's names.
        device: Where to put them. Experts that lie there side by side already are not copied.
    """
    found: Weights = {}
    for tensors in _by_tensor(weights).values():
        names, parts = zip(*tensors, strict=True)
        if _whole(parts) is not None and parts[0].to(device) is parts[0]:
            found |= dict(zip(names, parts, strict=True))
            continue
        rows = sum(len(part) for part in parts)
        whole = torch.empty((rows, parts[0].shape[1]), dtype=parts[0].dtype, device=device)
        found |= dict(zip(names, torch.split(whole, [len(part) for part in parts]), strict=True))
        for name, part in zip(names, parts, strict=True):
            found[name].copy_(part)
    return found


def split_off(weights: Mapping[str, torch.Tensor]) -> tuple[Weights, Weights]:
    """Mixtures under transformers' names, and all other weights under litgpt's.

    Experts that lie side by side are not copied.
    """
    mixtures: Weights = {}
    for (layer, name), tensors in _by_tensor(weights).items():
        parts = [part for _, part in tensors]
        whole = _whole(parts)
        if whole is None:
            whole = torch.cat(parts)
        experts = len(parts) // len(_TENSORS[name])
        mixtures[f"model.layers.{layer}.mlp.experts.{name}"] = whole.view(
            experts, -1, whole.shape[1]
        )
    for name, tensor in weights.items():
        if match := _ROUTER.fullmatch(name):
            mixtures[f"model.layers.{match[1]}.mlp.gate.weight"] = tensor
    rest = {
        name: tensor
        for name, tensor in weights.items()
        if not _EXPERT.fullmatch(name) and not _ROUTER.fullmatch(name)
    }
    return mixtures, rest


def _by_tensor(
    weights: Mapping[str, torch.Tensor],
) -> dict[tuple[int, str], list[tuple[str, torch.Tensor]]]:
    """Names and weights of experts by layer and tensor of transformers, in their order there."""
    sorted_parts: dict[tuple[int, str], list[tuple[int, int, str]]] = defaultdict(list)
    for name in weights:
        if match := _EXPERT.fullmatch(name):
            layer, expert, part = int(match[1]), int(match[2]), match[3]
            tensor = next(t for t, parts in _TENSORS.items() if part in parts)
            sorted_parts[layer, tensor].append((expert, _TENSORS[tensor].index(part), name))
    return {
        key: [(name, weights[name]) for _, _, name in sorted(found)]
        for key, found in sorted_parts.items()
    }


def _whole(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The tensor (rows, inputs) that these are cut from, if it is nothing else than they."""
    whole = parts[0]._base
    if whole is None or whole.dim() != 2:
        return None
    place = whole.storage_offset()
    for part in parts:
        if part._base is not whole or part.storage_offset() != place or not part.is_contiguous():
            return None
        place += part.numel()
    return whole if place == whole.storage_offset() + whole.numel() else None
