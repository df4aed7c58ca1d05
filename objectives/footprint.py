"""How much memory a run needs, before it is started."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from objectives.data import IGNORE, Batch
from objectives.devices.sharding import layers
from objectives.memory import gigabytes
from objectives.training import summed_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from objectives.config import OptimizerName
    from objectives.models.backend import AdaptedModel

_PROBES: Final = ((4, 1), (8, 1), (16, 1), (16, 16))
"""Lengths and numbers of targets of the rows whose activations are counted."""

_MOMENT_BYTES: Final = {"adamw": 8, "adamw_fused": 8, "adamw_8bit": 2}
"""Of AdamW's two moments, for each number that is trained."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that a training run needs at the moment when it needs most.

    Attributes:
        base_weights: Frozen weights; they are there before the run.
        adapter: Weights that are trained, in fp32.
        gradients: Of these weights.
        optimizer: AdamW's moments.
        activations: What the largest micro-batch keeps for its backward pass, and the gradient of
            its logits.
    """

    base_weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())

    def __str__(self) -> str:
        parts = {name.replace("_", " "): value for name, value in asdict(self).items()}
        listed = ", ".join(f"{name} {gigabytes(value)}" for name, value in parts.items())
        return f"{gigabytes(self.total)}: {listed}"


@dataclass(frozen=True, slots=True)
class Footprint:
    """From which the memory of runs with one adapter follows, for any micro-batch size.

    Attributes:
        frozen: Bytes of the base weights.
        trained: Numbers in the adapter.
        forward: Bytes kept by every forward pass.
        token: Bytes kept for each position.
        pair: Bytes kept for each pair of positions of a row.
        target: Bytes kept for each target.
    """

    frozen: int
    trained: int
    forward: float
    token: float
    pair: float
    target: float

    def estimate(
        self, batches: Sequence[Batch], *, rows: int, optimizer: OptimizerName
    ) -> MemoryEstimate:
        """Memory of a run.

        Args:
            batches: Micro-batches of the run.
            rows: The most rows that go through the model at once.
            optimizer: Name of the optimizer.
        """
        return MemoryEstimate(
            base_weights=self.frozen,
            adapter=4 * self.trained,
            gradients=4 * self.trained,
            optimizer=_MOMENT_BYTES[optimizer] * self.trained,
            activations=max(int(self._activations(batch, rows)) for batch in batches),
        )

    def _activations(self, batch: Batch, rows: int) -> float:
        height, length = min(rows, batch.rows), max(batch.lengths)
        targets = batch.target_tokens * height / batch.rows
        kept = height * length * (self.token + self.pair * length) + self.target * targets
        return self.forward + kept + self.target * targets  # the gradient of the logits


def footprint(network: AdaptedModel, *, dtype: torch.dtype, packed: bool = False) -> Footprint:
    """Count what a model holds, and what short forward passes keep for their backward pass.

    Kept are, for rows of equal length, a number of bytes a pass, a position, a pair of positions
    (where attention makes its matrix) and a target (the logits): four passes of one row give the
    four numbers, whatever the architecture and the adapter.

    Args:
        network: The model with its adapter.
        dtype: Of matrix products.
        packed: Whether rows hold several records, which takes an attention mask.
    """
    module = cast("nn.Module", network)
    weights = {_storage(p): p for p in module.parameters()}
    trained = sum(p.numel() for p in weights.values() if p.requires_grad)
    kept = [_kept_bytes(network, _probe(*p, module, packed), dtype, weights) for p in _PROBES]
    terms = np.array([(1, length, length**2, targets) for length, targets in _PROBES], dtype=float)
    forward, token, pair, target = (max(0.0, float(x)) for x in np.linalg.solve(terms, kept))
    return Footprint(
        frozen=sum(_bytes(p) for p in weights.values() if not p.requires_grad),
        trained=trained,
        forward=forward,
        token=token,
        pair=pair,
        target=target,
    )


class Footprints:
    """Footprints of adapters of any rank, from two that are counted.

    Every number of a footprint is linear in the rank.

    Args:
        build: Makes the model with an adapter, from its rank, its dropout, and whether it computes
            activations again.
        dtype: Of matrix products.
        packed: Whether rows hold several records.
        checkpointing: Whether runs compute activations again.
    """

    def __init__(
        self,
        build: Callable[[int, float, bool], AdaptedModel],
        *,
        dtype: torch.dtype,
        packed: bool,
        checkpointing: bool,
    ) -> None:
        self._build = build
        self._dtype = dtype
        self._packed = packed
        self._checkpointing = checkpointing
        self._counted: dict[bool, tuple[Footprint, Footprint]] = {}

    def at(self, rank: int, *, dropout: float) -> Footprint:
        """The footprint of an adapter; counted once with and once without dropout."""
        drops = dropout > 0.0
        if drops not in self._counted:
            self._counted[drops] = (self._count(1, drops), self._count(2, drops))
        first, second = (asdict(counted) for counted in self._counted[drops])
        return Footprint(
            **{name: first[name] + (rank - 1) * (second[name] - first[name]) for name in first}
        )

    def _count(self, rank: int, drops: bool) -> Footprint:
        network = self._build(rank, 0.5 * drops, self._checkpointing)
        found = footprint(network, dtype=self._dtype, packed=self._packed)
        if not self._checkpointing:
            return found
        number = len(layers(network))
        del network
        whole = footprint(
            self._build(rank, 0.5 * drops, False), dtype=self._dtype, packed=self._packed
        )
        return checkpointed(found, whole, layers=number)


def checkpointed(inputs: Footprint, whole: Footprint, *, layers: int) -> Footprint:
    """The footprint where activations are computed again, a layer at a time.

    Args:
        inputs: Footprint of the model that keeps the layers' inputs only.
        whole: Footprint of the same model that keeps everything.
        layers: How many layers it has.
    """
    names = ("forward", "token", "pair")
    given: dict[str, Any] = {
        name: getattr(inputs, name) + (getattr(whole, name) - getattr(inputs, name)) / layers
        for name in names
    }
    return replace(inputs, **given)


def _probe(length: int, targets: int, module: nn.Module, packed: bool) -> Batch:
    device = next(module.parameters()).device
    ids = torch.zeros((1, length), dtype=torch.int64, device=device)
    counted = torch.where(torch.arange(length, device=device)[None] < targets, ids, IGNORE)
    return Batch(
        ids,
        counted,
        samples=1,
        target_tokens=targets,
        lengths=(length,),
        documents=torch.ones_like(ids) if packed else None,
    )


def _kept_bytes(
    network: AdaptedModel, batch: Batch, dtype: torch.dtype, weights: dict[int, nn.Parameter]
) -> int:
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if _storage(tensor) not in weights:  # they are there anyway
            kept[_storage(tensor)] = _bytes(tensor)
        return tensor.detach()  # the tensor itself would hold its own graph, and stay for ever

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = summed_loss(network, batch, dtype=dtype)
    # While its graph is alive, no storage takes the place of another.
    total = sum(kept.values())
    del alive
    return total


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().nbytes()
