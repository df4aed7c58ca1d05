"""Models that see images too: only their text part is read, tuned and scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from litgpt.utils import save_config
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from objectives.data import Batch
from objectives.export import export_tuned
from objectives.models.backend import Backend
from objectives.models.base import BaseModel, load_base_model
from objectives.models.errors import ModelFormatError
from objectives.models.litgpt_backend import LitGPTBackend
from objectives.models.peft_backend import load_peft_backend
from tests.objectives.test_architectures import (
    ATTENTION,
    CASES,
    SIZES,
    adapted_logits,
    apart,
    logits_of,
    mean_loss,
    spec,
    trained,
)

CPU = torch.device("cpu")
ALL = (*ATTENTION, "mlp")
MODELS = ("gemma3", "mistral3")
IMAGES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def make_whole(kind: str, vocabulary: int) -> Any:
    text = {"gemma3": "gemma3_text scaled", "mistral3": "mistral all"}[kind]
    part: Any = AutoConfig.for_model(
        text.split()[0], **SIZES | CASES[text] | {"vocab_size": vocabulary, "eos_token_id": 0}
    )
    eyes = AutoConfig.for_model(
        {"gemma3": "siglip_vision_model", "mistral3": "pixtral"}[kind], **IMAGES
    )
    more = {"mm_tokens_per_image": 4} if kind == "gemma3" else {"tie_word_embeddings": False}
    return AutoConfig.for_model(
        kind, text_config=part.to_dict(), vision_config=eyes.to_dict(), image_token_id=7, **more
    )


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(kind: str, tiny_base: BaseModel, assets: Path, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    make: Any = AutoModelForImageTextToText.from_config
    model = make(make_whole(kind, len(tiny_base.tokenizer)), attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.3 * torch.randn_like(parameter)
            parameter.copy_(parameter + noise if "norm" in name else noise)
    path = tmp_path / "model"
    model.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((assets / "tiny_llama" / name).read_bytes())
    return path


@pytest.fixture(params=["litgpt", "peft"])
def backend(request: pytest.FixtureRequest, folder: Path) -> Backend:
    if request.param == "litgpt":
        return LitGPTBackend(load_base_model(folder))
    return load_peft_backend(folder, dtype=torch.float32, device=CPU)


def whole_model(folder: Path) -> Any:
    made: Any = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager")
    return made


def test_the_text_part_computes_what_the_whole_model_does(
    folder: Path, backend: Backend, tiny_batches: tuple[Batch, ...]
) -> None:
    ids = tiny_batches[0].input_ids
    expected = logits_of(whole_model(folder), ids)
    untuned = adapted_logits(backend.untuned(), ids)
    assert float(expected.std()) > 0.1
    assert apart(untuned, expected) < 1e-4
    assert apart(logits_of(backend.untuned().scoring_model(), ids), expected) < 1e-4
    assert torch.equal(adapted_logits(backend.adapt(spec(ALL)), ids), untuned)
    assert "vision" not in str([name for name, _ in named_parameters(backend)])


def named_parameters(backend: Backend) -> list[tuple[str, Any]]:
    model: Any = backend.untuned().scoring_model()
    return list(model.named_parameters())


def test_both_backends_have_the_same_loss(folder: Path, tiny_batches: tuple[Batch, ...]) -> None:
    ours = LitGPTBackend(load_base_model(folder)).untuned()
    theirs = load_peft_backend(folder, dtype=torch.float32, device=CPU).untuned()
    batch = tiny_batches[0]
    assert mean_loss(ours, batch) == pytest.approx(mean_loss(theirs, batch), abs=1e-5)


@pytest.mark.parametrize("method", ["lora", "rslora"])
def test_an_adapter_fits_the_whole_model(
    kind: str,
    folder: Path,
    backend: Backend,
    tiny_batches: tuple[Batch, ...],
    tmp_path: Path,
    method: str,
) -> None:
    ids = tiny_batches[0].input_ids
    tuned = trained(backend.adapt(spec(ALL, method=method)), tiny_batches[0])
    expected = adapted_logits(tuned, ids)
    assert apart(expected, adapted_logits(backend.untuned(), ids)) > 1e-2
    tuned.export(tmp_path / "adapter")
    assert apart(logits_of(backend.load_tuned(tmp_path / "adapter"), ids), expected) < 1e-4
    loaded: Any = PeftModel.from_pretrained(whole_model(folder), str(tmp_path / "adapter"))
    assert apart(logits_of(loaded, ids), expected) < 1e-4
    assert not [n for n, _ in loaded.named_parameters() if "vision" in n and "lora" in n]
    if kind == "gemma3":  # the other is no causal language model to transformers
        alone: Any = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
        assert apart(logits_of(alone, ids), expected) < 1e-4


def test_ia3_fits_the_whole_model(
    folder: Path, tiny_batches: tuple[Batch, ...], tmp_path: Path
) -> None:
    backend = load_peft_backend(folder, dtype=torch.float32, device=CPU)
    ids = tiny_batches[0].input_ids
    tuned = trained(backend.adapt(spec(("key", "value", "mlp"), method="ia3")), tiny_batches[0])
    expected = adapted_logits(tuned, ids)
    tuned.export(tmp_path / "adapter")
    loaded: Any = PeftModel.from_pretrained(whole_model(folder), str(tmp_path / "adapter"))
    assert apart(logits_of(loaded, ids), expected) < 1e-4


@pytest.mark.parametrize("format", ["hf", "litgpt"])
def test_what_is_exported_is_the_text_part_alone(
    backend: Backend, tiny_batches: tuple[Batch, ...], tmp_path: Path, format: Any
) -> None:
    batch = tiny_batches[0]
    tuned = trained(backend.adapt(spec(ALL)), batch)
    tuned.export(tmp_path / "adapter")
    out = export_tuned(backend, tmp_path / "adapter", tmp_path / "out", format=format)
    expected = adapted_logits(tuned, batch.input_ids)
    for again in (
        LitGPTBackend(load_base_model(out)),
        load_peft_backend(out, dtype=torch.float32, device=CPU),
    ):
        assert apart(adapted_logits(again.untuned(), batch.input_ids), expected) < 1e-4
    assert "vision_config" not in json.loads((out / "config.json").read_text())


@pytest.mark.parametrize("kind", ["gemma3"], indirect=True)
def test_names_of_newer_files_are_read_too(folder: Path, tiny_batches: tuple[Batch, ...]) -> None:
    ids = tiny_batches[0].input_ids
    expected = logits_of(whole_model(folder), ids)
    path = folder / "model.safetensors"
    weights = load_file(path)
    assert any(name.startswith("language_model.model.layers.") for name in weights)
    renamed = {
        f"model.{name}".replace("language_model.model.", "language_model."): tensor
        for name, tensor in weights.items()
    }
    save_file(renamed, path, metadata={"format": "pt"})
    for again in (
        LitGPTBackend(load_base_model(folder)),
        load_peft_backend(folder, dtype=torch.float32, device=CPU),
    ):
        assert apart(adapted_logits(again.untuned(), ids), expected) < 1e-4


@pytest.mark.parametrize("kind", ["gemma3"], indirect=True)
def test_a_checkpoint_of_litgpt_lacks_the_tokens_of_images(
    folder: Path, tiny_batches: tuple[Batch, ...], tmp_path: Path
) -> None:
    """As `litgpt download` makes it: the whole model's config.json beside fewer embeddings."""
    base = load_base_model(folder)
    ids = tiny_batches[0].input_ids
    expected = logits_of(whole_model(folder), ids)
    vocabulary = base.config.padded_vocab_size
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = vocabulary + 64
    target = tmp_path / "litgpt"
    target.mkdir()
    (target / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((folder / name).read_bytes())
    torch.save(base.state_dict, target / "lit_model.pth")
    save_config(base.config, target)
    for again in (
        LitGPTBackend(load_base_model(target)),
        load_peft_backend(target, dtype=torch.float32, device=CPU),
    ):
        assert again.vocabulary == vocabulary
        assert apart(adapted_logits(again.untuned(), ids), expected) < 1e-4


@pytest.mark.parametrize("kind", ["gemma3"], indirect=True)
def test_a_folder_without_some_weights_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["language_model.model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelFormatError, match=r"no weights for 1 layers.*layers\.1\.mlp\.up_proj"):
        load_peft_backend(folder, dtype=torch.float32, device=CPU)
    with pytest.raises(ModelFormatError, match=r"don't fit.*h\.1\.mlp\.fc_2"):
        load_base_model(folder)


def test_weights_that_are_lacking_are_not_drawn_at_random(assets: Path, tmp_path: Path) -> None:
    """transformers itself only warns."""
    folder = tmp_path / "model"
    model: Any = AutoModelForCausalLM.from_pretrained(assets / "tiny_llama")
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.norm.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((assets / "tiny_llama" / name).read_bytes())
    with pytest.raises(ModelFormatError, match=r"no weights for 1 layers.*model\.norm\.weight"):
        load_peft_backend(folder, dtype=torch.float32, device=CPU)
