from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import litgpt
import optuna
import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from objectives import FineTuneConfig, FineTuneObjective, SearchSpace
from objectives.export import Format
from objectives.models.errors import ModelFormatError

MakeConfig = Callable[..., FineTuneConfig]

METHODS: list[dict[str, Any]] = [
    {"targets": ("query", "key", "value", "projection", "mlp")},
    {"backend": "peft", "method": "dora"},
]


def tuned(config: FineTuneConfig) -> tuple[FineTuneObjective, optuna.Study]:
    objective = FineTuneObjective(config)
    study = optuna.create_study()
    study.enqueue_trial({"learning_rate": 1e-2, "alpha": 24.0, "rank": 4, "grad_batches": 1})
    study.optimize(objective, n_trials=1)
    assert study.best_value < objective.base_result().val_loss - 0.1
    return objective, study


def loaded_peft(folder: Path, assets: Path) -> Any:
    base = AutoModelForCausalLM.from_pretrained(assets / "tiny_llama", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(folder))
    return lambda ids: model(ids).logits


def loaded_hf(folder: Path, assets: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    return lambda ids: model(ids).logits


def loaded_litgpt(folder: Path, assets: Path) -> Any:
    model = litgpt.GPT(litgpt.Config.from_file(folder / "model_config.yaml"))
    model.load_state_dict(torch.load(folder / "lit_model.pth", weights_only=True))
    return model


LOADERS: dict[Format, Callable[[Path, Path], Any]] = {
    "peft": loaded_peft,
    "hf": loaded_hf,
    "litgpt": loaded_litgpt,
}


@torch.no_grad()
def loss_of(logits: Any, objective: FineTuneObjective) -> float:
    batches = objective._resources().validation
    total = sum(
        cross_entropy(
            logits(batch.input_ids).flatten(0, 1), batch.targets.flatten(), reduction="sum"
        ).item()
        for batch in batches
    )
    return total / sum(batch.target_tokens for batch in batches)


@pytest.mark.filterwarnings("ignore:.*prepare_model_inputs:UserWarning")
@pytest.mark.parametrize("changes", METHODS)
def test_every_format_is_loaded_with_the_best_loss(
    make_config: MakeConfig, assets: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    objective, study = tuned(make_config(**changes))
    untuned = objective.base_result().val_loss
    for format, load in LOADERS.items():
        folder = objective.export_best(study, tmp_path / "out" / format, format=format)
        assert folder == tmp_path / "out" / format
        assert loss_of(load(folder, assets), objective) == pytest.approx(study.best_value, abs=1e-5)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(LOADERS)
    assert FineTuneObjective(objective.config).base_result().val_loss == untuned
    objective._base_loss = None
    assert objective.base_result().val_loss == untuned  # nothing was added to the shared weights


def test_an_exported_model_can_be_tuned_further(
    make_config: MakeConfig, tmp_path: Path, assets: Path
) -> None:
    objective, study = tuned(make_config())
    for format in ("hf", "litgpt"):
        folder = objective.export_best(study, tmp_path / format, format=format)
        again = FineTuneObjective(make_config(model=folder, output_dir=tmp_path / "again"))
        assert again.base_result().val_loss == pytest.approx(study.best_value, abs=1e-5)
    text = "Define the word ox."
    ids = [
        PreTrainedTokenizerFast.from_pretrained(path)(text)["input_ids"]
        for path in (assets / "tiny_llama", tmp_path / "hf", tmp_path / "litgpt")
    ]
    assert ids[0] == ids[1] == ids[2]


def test_the_best_trial_of_a_half_precision_model(make_config: MakeConfig, tmp_path: Path) -> None:
    objective, study = tuned(make_config(precision="bf16"))
    folder = objective.export_best(study, tmp_path / "out", format="litgpt")
    weights = torch.load(folder / "lit_model.pth", weights_only=True)
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_what_can_not_be_exported_is_explained(make_config: MakeConfig, tmp_path: Path) -> None:
    space = SearchSpace.preset("demo").override(rank=8, alpha=16, dropout=0)
    objective = FineTuneObjective(make_config(method="adapter", search_space=space))
    study = optuna.create_study()
    study.optimize(objective, n_trials=1)
    with pytest.raises(ValueError, match="no PEFT form"):
        objective.export_best(study, tmp_path / "out", format="hf")
    with pytest.raises(ValueError, match=r"format is 'onnx', expected one of"):
        objective.export_best(study, tmp_path / "out", format="onnx")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="is there already"):
        objective.export_best(study, tmp_path / "out")


def test_only_llama_becomes_a_litgpt_checkpoint(make_config: MakeConfig, tmp_path: Path) -> None:
    model = tmp_path / "gpt2"
    kind: Any = GPT2LMHeadModel
    settings: Any = GPT2Config
    kind(settings(n_layer=1, n_head=2, n_embd=32, vocab_size=768)).save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        source = Path(make_config().model) / name
        (model / name).write_bytes(source.read_bytes())
    objective = FineTuneObjective(
        make_config(model=model, backend="peft", targets=("query", "key", "value"))
    )
    study = optuna.create_study()
    study.optimize(objective, n_trials=1)
    objective.export_best(study, tmp_path / "hf", format="hf")
    with pytest.raises(ModelFormatError, match="model_type='gpt2'"):
        objective.export_best(study, tmp_path / "litgpt", format="litgpt")
    assert not (tmp_path / "litgpt").exists()
