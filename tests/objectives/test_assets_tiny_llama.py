"""The small model and data files of tests/assets, and the script that makes them."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import LlamaForCausalLM

from objectives._tasks import read_questions
from objectives.models.base import BaseModel

WORDNET = Path(__file__).resolve().parents[2] / "examples" / "data" / "wordnet"


@pytest.fixture(scope="module")
def script(assets: Path) -> ModuleType:
    path = assets / "make_tiny_llama.py"
    spec = importlib.util.spec_from_file_location("make_tiny_llama", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_assets_are_small(assets: Path) -> None:
    files = [path for path in assets.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(files) >= 8
    assert sum(path.stat().st_size for path in files) < 400_000


def test_data_files_are_taken_from_the_examples(assets: Path) -> None:
    for name, count in (("train", 64), ("validation", 24)):
        small = json.loads((assets / f"alpaca_{name}.json").read_text(encoding="utf-8"))
        large = json.loads((WORDNET / f"{name}.json").read_text(encoding="utf-8"))
        assert small == large[:count]
    small_questions = read_questions(assets / "questions.jsonl")
    assert small_questions == read_questions(WORDNET / "questions.jsonl")[:24]


def test_model_knows_something_and_has_more_to_learn(assets: Path, tiny_base: BaseModel) -> None:
    model = LlamaForCausalLM.from_pretrained(assets / "tiny_llama", dtype=torch.float32)
    records = json.loads((assets / "alpaca_validation.json").read_text(encoding="utf-8"))
    losses = []
    with torch.inference_mode():
        for record in records:
            ids = torch.tensor([tiny_base.tokenizer(record["output"])["input_ids"]])
            losses.append(model(input_ids=ids, labels=ids).loss.item())
    loss = sum(losses) / len(losses)
    uniform = math.log(768)
    assert 3 < loss < 0.75 * uniform


def test_script_makes_these_files(
    script: ModuleType, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two training steps: the tokenizer, the architecture and the data files don't depend on them.
    threads = torch.get_num_threads()
    monkeypatch.setattr(
        sys, "argv", ["make_tiny_llama.py", "--output", str(tmp_path), "--steps", "2"]
    )
    try:
        with torch.random.fork_rng(devices=[]):
            script.main()
    finally:
        torch.set_num_threads(threads)
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    shipped = {str(path.relative_to(assets)) for path in assets.rglob("*") if path.is_file()}
    assert made == {name for name in shipped if not name.endswith((".py", ".pyc"))}
    for name in sorted(made - {"tiny_llama/model.safetensors"}):
        assert (tmp_path / name).read_bytes() == (assets / name).read_bytes(), name
