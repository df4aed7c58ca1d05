"""Adapters of PEFT's added to the weights that they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from peft.tuners.tuners_utils import BaseTunerLayer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def merged(model: PeftModel) -> PreTrainedModel:
    """The model with its adapter added: formed in fp32, kept in the weights' own type.

    `model` itself is used up; the tensors that its weights had before are not written to.

    Raises:
        ValueError: If the weights are quantized.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            _merge(module)
    plain: PreTrainedModel = cast("Any", model.base_model).unload()
    plain.train(False)
    return plain


def _merge(layer: BaseTunerLayer) -> None:
    base: Any = layer.get_base_layer()
    dtype = base.weight.dtype
    if not dtype.is_floating_point:
        raise ValueError(
            "The model's weights are quantized, so that an adapter can't be added to them; load "
            "the base in bf16 and add the exported adapter there."
        )
    base.float()
    cast("Any", layer).merge(safe_merge=True)  # safe: into a copy of the weight
    base.to(dtype)
