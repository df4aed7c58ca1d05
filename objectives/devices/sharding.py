"""Base weights divided among devices (fully sharded data parallelism)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from objectives.models.backend import AdaptedModel


def divide(network: AdaptedModel, mesh: DeviceMesh, device: torch.device) -> None:
    """Leave each device with its part of the frozen weights; a layer is gathered when it is used.

    Adapter weights stay whole on every device: they are few, and so is their optimizer's state.
    Tensors that the network shares with others, such as the base weights it was made from, are not
    touched.

    Args:
        network: A model that no forward pass has been made with.
        mesh: The devices.
        device: That of this process; adapter weights are moved there, frozen ones with their layer.
    """
    module = cast("nn.Module", network)
    trained = {p for p in module.parameters() if p.requires_grad}
    for parameter in trained:
        parameter.data = parameter.data.to(device)
    [model] = module.children()
    for layer in layers(network):
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    fully_shard(model, mesh=mesh, ignored_params=trained)


def layers(network: AdaptedModel) -> nn.ModuleList:
    """The model's longest list of modules, which is that of its layers."""
    modules = cast("nn.Module", network).modules()
    return max((m for m in modules if isinstance(m, nn.ModuleList)), key=len)


def divided_bytes(network: AdaptedModel, devices: int) -> int:
    """Most bytes of frozen weights that one of the devices holds at a time.

    Its part, two layers (the next one is gathered while one computes), and the weights outside of
    all layers.

    Args:
        network: The model, not divided.
        devices: How many there are.
    """
    sizes = [_frozen_bytes(layer) for layer in layers(network)]
    whole = _frozen_bytes(cast("nn.Module", network))
    return -(-whole // devices) + 2 * max(sizes) + whole - sum(sizes)


def _frozen_bytes(module: nn.Module) -> int:
    # A dictionary, because a head may share its storage with the embedding.
    found = {p.data_ptr(): p.nbytes for p in module.parameters() if not p.requires_grad}
    return sum(found.values())
