"""litgpt's GPT with LoRA adapters over base weights that all trials share.

LoRA: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.
"""

from __future__ import annotations

import functools
import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from accelerate import init_empty_weights
from litgpt.lora import GPT, Config, LoRALinear, LoRAQKVLinear, mark_only_lora_as_trainable
from litgpt.model import RMSNorm
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from objectives.data import attention_mask
from objectives.models.architectures import write_weights
from objectives.models.backend import RankError, attention_kernel
from objectives.models.experts import joined_experts
from objectives.models.rotary import records_of, set_rotary
from objectives.models.text_part import name_in_whole, target_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from transformers import PreTrainedModel

    from objectives.models.base import BaseModel

_QKV: Final = ("query", "key", "value")


@dataclass(frozen=True, slots=True)
class _Update:
    """A low-rank update of some rows of a layer.

    Attributes:
        first: Number of the first of these rows among those of all adapted layers.
        a: (rank, inputs).
        b: (rows, rank).
    """

    first: int
    a: torch.Tensor
    b: torch.Tensor


class LitGPTLora(nn.Module):
    """A base model with fresh LoRA adapters.

    The base weights are those of `base`, not a copy, and they are never written to. Adapter
    weights are fp32 whatever the base is, because an update of learning rate times gradient is
    often below the resolution of bf16. B starts at zero, so the untrained model computes exactly
    what the base model does. A is drawn from torch's global generator.

    Args:
        base: The model to adapt, on the device to train on.
        rank: Rank of the update of each layer.
        alpha: The update is multiplied by `alpha / rank`.
        dropout: Share of the adapters' inputs that is dropped while training, in [0, 1].
        targets: Layers to adapt: any of "query", "key", "value", "projection", "mlp", "head".
        max_length: Longest sequence that will be given.
        checkpointing: Whether a backward pass computes the layers' activations again instead of
            keeping them.
        rslora: Whether the update is multiplied by `alpha / sqrt(rank)` instead, which keeps large
            ranks from learning less [Kalajdzievski 2023].

    Raises:
        RankError: If the rank exceeds the size of an adapted layer.
        ValueError: If the head is to be adapted but shares its weights with the embedding, or the
            model can't take sequences of `max_length`.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        targets: Sequence[str] = ("query", "value"),
        max_length: int = 256,
        checkpointing: bool = False,
        rslora: bool = False,
    ) -> None:
        super().__init__()
        check_adaptable(base, rank=rank, targets=targets, max_length=max_length)
        self.base = base
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.targets = tuple(targets)
        self.rslora = rslora
        scale = alpha * math.sqrt(rank) if rslora else alpha  # litgpt divides it by the rank
        self.gpt = _build(base, rank, scale, dropout, targets, max_length)
        if checkpointing:
            checkpoint_blocks(self.gpt.transformer.h)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits of shape (samples, length, vocabulary) for ids of shape (samples, length)."""
        logits: torch.Tensor = self.gpt(input_ids)
        return logits

    def logits_at(
        self, input_ids: torch.Tensor, mask: torch.Tensor, documents: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits of shape (mask.sum(), vocabulary) where `mask` (samples, length) is true.

        The head is the largest layer of a small model; prompts and padding do not go through it.

        Args:
            input_ids: (samples, length) token ids.
            mask: (samples, length) bool.
            documents: (samples, length), which of a row's packed records each position is of;
                attention stays inside them. Rotary embeddings know differences of positions only,
                so a record computes the same wherever in the row it stands.
        """
        with head_sees_only(self.gpt.lm_head, mask), attention_inside(self.gpt, documents):
            return self.forward(input_ids)

    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @torch.no_grad()
    def merged_state_dict(self) -> dict[str, torch.Tensor]:
        """Weights in litgpt's layout with the adapters added, in the type of the base weights.

        The sum is formed in fp32. Layers without an adapter are the shared tensors themselves.
        """
        merged = dict(self.base.state_dict)
        for name, layer in self._adapted():
            weight = layer.linear.weight
            total = weight.float() + layer.get_lora_AB().float()
            merged[f"{name}.weight"] = total.to(weight.dtype)
        return merged

    def merged_hf_model(self) -> PreTrainedModel:
        """The tuned model for transformers, without an adapter."""
        return huggingface_model(self.base, self.merged_state_dict())

    def scoring_model(self) -> Any:
        """The merged model; layers without an adapter share the base weights."""
        return self.merged_hf_model()

    def export(self, folder: str | Path) -> None:
        """Write the adapter so that `peft.PeftModel.from_pretrained` can load it.

        Args:
            folder: Gets `adapter_config.json` and `adapter_model.safetensors`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        modules = dict(self._peft_modules())
        names = {module: module.rsplit(".", 1)[-1] for module in modules}
        # Where transformers keeps query, key and value in one layer, their updates side by side
        # are one of a higher rank; alpha makes up for what PEFT divides by.
        ranks = {names[module]: len(a) for module, (a, _) in modules.items() if len(a) != self.rank}
        power = 0.5 if self.rslora else 1.0
        ends = set(names.values())
        inside_whole = self.base.inside_whole
        config = LoraConfig(
            base_model_name_or_path=self.base.name,
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # PEFT only divides by it
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            target_modules=target_pattern(ends) if inside_whole else sorted(ends),
            rank_pattern=ranks,
            alpha_pattern={
                name: self.alpha * (rank / self.rank) ** power for name, rank in ranks.items()
            },
            inference_mode=True,
        )
        config.save_pretrained(str(folder))
        tensors = {
            f"base_model.model.{name}.lora_{part}.weight": tensor.detach().cpu().contiguous()
            for module, parts in modules.items()
            for name in [name_in_whole(module) if inside_whole else module]
            for part, tensor in zip("AB", parts, strict=True)
        }
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    def _adapted(self) -> Iterator[tuple[str, Any]]:
        for name, module in self.gpt.named_modules():
            if isinstance(module, LoRALinear) and hasattr(module, "lora_A"):
                yield name, module

    def _peft_modules(self) -> Iterator[tuple[str, tuple[torch.Tensor, torch.Tensor]]]:
        """Adapted modules of transformers by name, each with A (rank, inputs) and B (rows, rank).

        Numbers of rows go through the conversion in place of weights, and say which row is where.
        """
        updates: list[_Update] = []
        numbers: dict[str, torch.Tensor] = {}
        total = 0
        for name, layer in self._adapted():
            rows = layer.linear.out_features
            numbers[f"{name}.weight"] = torch.arange(total, total + rows)[:, None]
            updates += self._updates(layer, total)
            total += rows
        for name, found in write_weights(self.base.hf_config, self.base.config, numbers).items():
            rows = found[:, 0]
            inside = [u for u in updates if bool(((rows >= u.first) & (rows < _end(u))).any())]
            if inside:
                yield name.removesuffix(".weight"), _side_by_side(inside, rows)

    def _updates(self, layer: Any, first: int) -> Iterator[_Update]:
        if not isinstance(layer, LoRAQKVLinear):
            yield _Update(first, layer.lora_A, layer.lora_B)
            return
        config = self.base.config
        group = config.n_query_groups * config.head_size
        starts = dict(zip(_QKV, (0, config.n_head * config.head_size), strict=False))
        starts["value"] = starts["key"] + group
        targets = [target for target in _QKV if target in self.targets]
        parts_a = layer.lora_A.chunk(len(targets))
        parts_b = layer.lora_B.split(layer.qkv_shapes)
        for target, a, b in zip(targets, parts_a, parts_b, strict=True):
            yield _Update(first + starts[target], a, b)


def _end(update: _Update) -> int:
    return update.first + len(update.b)


def _side_by_side(
    updates: Sequence[_Update], rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One update of several, of rows (n,) by number; each keeps columns of B of its own."""
    ranks = [len(update.a) for update in updates]
    b = updates[0].b.new_zeros(len(rows), sum(ranks))
    end = 0
    for update, rank in zip(updates, ranks, strict=True):
        here = (rows >= update.first) & (rows < _end(update))
        start, end = end, end + rank
        b[here, start:end] = update.b.detach()[rows[here] - update.first]
    return torch.cat([update.a for update in updates]), b


def check_adaptable(base: BaseModel, *, rank: int, targets: Sequence[str], max_length: int) -> None:
    """Raise if the model can't be adapted like this.

    Raises:
        RankError: If the rank exceeds the size of an adapted layer.
        ValueError: If the head is to be adapted but shares its weights with the embedding, the MLPs
            are mixtures of experts, or the model can't take sequences of `max_length`.
    """
    if "mlp" in targets and base.config.n_expert:
        raise ValueError(
            f"targets has 'mlp', but {base.name!r} is a mixture of experts, whose updates PEFT "
            "takes without dropout only. Leave 'mlp' out."
        )
    highest, layer = _smallest_layer(base, targets)
    if rank > highest:
        raise RankError(
            f"The LoRA rank is (or may become) {rank}, but the {layer} layer of {base.name!r} is "
            f"of size {highest}, above which a rank is not low. Override the search space with "
            f"rank=(2, {highest}) or lower, or adapt other layers."
        )
    if "head" in targets and base.hf_config.tie_word_embeddings:
        raise ValueError(
            f"targets has 'head', but {base.name!r} shares the head's weights with its embedding, "
            "and adapting one would part them. Leave 'head' out."
        )
    if max_length > base.config.block_size:
        raise ValueError(
            f"max_length is {max_length}, but {base.name!r} takes at most "
            f"{base.config.block_size} tokens; lower it."
        )


def _smallest_layer(base: BaseModel, targets: Sequence[str]) -> tuple[int, str]:
    config = base.config
    key_value = config.n_query_groups * config.head_size
    sizes = {
        "query": config.n_head * config.head_size,
        "key": key_value,
        "value": key_value,
        "projection": config.n_head * config.head_size,
        "mlp": config.intermediate_size,
        "head": config.padded_vocab_size,
    }
    # The other side of every layer is the width of the model.
    return min(
        ((min(sizes[target], config.n_embd), target) for target in targets),
        default=(config.n_embd, "smallest"),
    )


def huggingface_model(base: BaseModel, state_dict: dict[str, torch.Tensor]) -> PreTrainedModel:
    """A transformers model around weights in litgpt's layout.

    Nothing is copied but what transformers stores in another order, such as the joined queries,
    keys and values of GPT-NeoX.

    Args:
        base: Says what the architecture is.
        state_dict: `base.state_dict` or merged weights.
    """
    weights = write_weights(base.hf_config, base.config, state_dict)
    # Buffers that are in no state dict, such as rotary frequencies, are made at once.
    with init_empty_weights(include_buffers=False):
        make: Any = AutoModelForCausalLM.from_config
        model: Any = make(base.hf_config, attn_implementation=attention_kernel(base.hf_config))
    model.load_state_dict(weights, assign=True)
    if base.hf_config.tie_word_embeddings:
        model.tie_weights()
    model.to(state_dict["lm_head.weight"].device)
    model.requires_grad_(False)
    model.train(False)
    made: PreTrainedModel = model
    return made


def place(base: BaseModel, device: torch.device) -> BaseModel:
    """The base model with its weights on `device`; weights that are there already are shared.

    Experts of a layer lie side by side then, as transformers has them.
    """
    experts = joined_experts(base.state_dict, device)
    moved: dict[int, torch.Tensor] = {}
    state_dict = {}
    for key, tensor in base.state_dict.items():
        if key in experts:
            state_dict[key] = experts[key]
            continue
        # Tied weights are one tensor under two names and must stay so.
        state_dict[key] = moved.setdefault(id(tensor), tensor.to(device))
    return replace(base, state_dict=state_dict)


def _build(
    base: BaseModel,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str],
    max_length: int,
) -> Any:
    config = Config(
        **asdict(base.config),
        lora_r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        **{f"lora_{target}": True for target in targets},
    )
    with torch.device("meta"):
        gpt = GPT(config)
    gpt.load_state_dict(base.state_dict, strict=False, assign=True)
    make_norms_exact(gpt)
    device = base.state_dict["lm_head.weight"].device
    for module in gpt.modules():
        if isinstance(module, LoRALinear) and hasattr(module, "lora_A"):
            _draw_adapter(module, device)
    set_rotary(gpt, base.hf_config, length=max_length, device=device)
    gpt.register_forward_pre_hook(leave_out_windows)
    mark_only_lora_as_trainable(gpt)
    if on_meta := [name for name, tensor in gpt.named_parameters() if tensor.is_meta]:
        raise ValueError(f"{base.name!r} has no weights for {on_meta[0]!r}; load it again.")
    return gpt


def _draw_adapter(layer: LoRALinear, device: torch.device) -> None:
    for name in ("lora_A", "lora_B"):
        shape = getattr(layer, name).shape
        setattr(layer, name, nn.Parameter(torch.empty(shape, dtype=torch.float32)))
    layer.reset_parameters()  # drawn on the CPU, so that a GPU starts from the same numbers
    for name in ("lora_A", "lora_B"):
        getattr(layer, name).data = getattr(layer, name).data.to(device)


def make_norms_exact(gpt: nn.Module) -> None:
    """Hold in fp32 the norms whose weights count from 1 (Gemma), as transformers computes them.

    litgpt adds the 1 in the weights' own type, which rounds what an adapter of the norms has
    learned, and the same weights otherwise than in an adapter.
    """
    for module in gpt.modules():
        if isinstance(module, RMSNorm) and module.add_unit_offset:
            weight = module.weight.detach().float()
            module.weight = nn.Parameter(weight, requires_grad=module.weight.requires_grad)


def leave_out_windows(gpt: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    """Attention in a window that is longer than the rows is attention as usual.

    A hook before a forward pass. litgpt makes the mask of a window in a loop over positions, for
    each layer anew, and drops a mask that is given.
    """
    config = gpt.config
    if config.sliding_window_size is None:
        return
    shorter = config.sliding_window_size < inputs[0].shape[1]
    for block, has_window in zip(gpt.transformer.h, config.sliding_window_indices, strict=False):
        block.attn.apply_sliding_window_attention = bool(has_window) and shorter


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Keep of each block only its input; a wrapper around it would change its weights' names."""
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


@contextmanager
def head_sees_only(head: nn.Module, mask: torch.Tensor) -> Iterator[None]:
    """Within it, `head` is applied where `mask` (rows, length) is true only."""
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][mask],))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def attention_inside(gpt: Any, documents: torch.Tensor | None) -> Iterator[None]:
    """Within it, attention of a litgpt model stays inside the records of packed rows."""
    if documents is None:
        yield
        return
    mask = attention_mask(documents)

    def give(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, cos, sin, _, *rest = inputs  # litgpt itself passes no mask in training
        return (hidden, cos, sin, mask, *rest)

    hooks = [block.register_forward_pre_hook(give) for block in gpt.transformer.h]
    try:
        with records_of(gpt, documents):
            yield
    finally:
        for hook in hooks:
            hook.remove()
