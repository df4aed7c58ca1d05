"""Examples with the flag that runs their very code on the small model of this repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import optuna
import pytest
from optuna.trial import TrialState
from peft import PeftModel
from transformers import AutoModelForCausalLM

Load = Callable[[str], ModuleType]


def states(output: Path) -> set[TrialState]:
    study = optuna.load_study(study_name="lora", storage=f"sqlite:///{output / 'study.db'}")
    return {trial.state for trial in study.trials}


def test_bohb_ends_trials_early(
    load_example: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_example("bohb").main(trials=9, output=tmp_path, tiny=True) == 0
    printed = capsys.readouterr().out
    share = int(printed.split("Samples seen")[1].split("%")[0])
    assert 11 < share < 90
    assert states(tmp_path) == {TrialState.COMPLETE, TrialState.PRUNED}


def test_the_reference_recipe(
    load_example: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_example("finetune_tinyllama").main(trials=3, output=tmp_path, tiny=True) == 0
    study = optuna.load_study(study_name="lora", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert study.direction.name == "MAXIMIZE"
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 3
    assert set(study.trials[0].params) == {
        "learning_rate", "weight_decay", "rank", "alpha", "dropout", "grad_batches",
    }  # fmt: skip
    assert "questions acc_norm (12 questions)" in capsys.readouterr().out
    assert "LoRA on tiny_llama" in (tmp_path / "report.html").read_text()


def test_the_peft_backend(
    load_example: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load_example("peft_backend")
    adapter = example.main(trials=3, output=tmp_path, tiny=True)
    printed = capsys.readouterr().out
    untuned, best = (float(printed.split(name)[1].split()[0]) for name in ("untuned", "best"))
    assert best < untuned
    base = AutoModelForCausalLM.from_pretrained(example.TINY["model"])
    tuned = PeftModel.from_pretrained(base, adapter)
    assert tuned.peft_config["default"].to_dict()["use_dora"]
