from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import optunahub
import pytest
import yaml

import optuna_partition

REGISTRY = Path(__file__).parents[2] / "examples" / "hub" / "package"
PACKAGE = REGISTRY / "samplers" / "partition_samplers"
README = (PACKAGE / "README.md").read_text()


def load(package: str) -> Any:
    return optunahub.load_local_module(package, registry_root=str(REGISTRY))


def test_the_hub_hands_out_the_samplers_of_this_library() -> None:
    module = load("samplers/partition_samplers")
    # What needs more than the library's own requirements is left to an installation with extras.
    names = {name for name in optuna_partition.__all__ if name.endswith("Sampler")}
    assert set(module.__all__) == names
    for name in names:
        assert getattr(module, name) is getattr(optuna_partition, name)


def test_the_heading_is_what_the_registry_asks_for() -> None:
    _, heading, text = README.split("---\n", 2)
    fields = yaml.safe_load(heading)
    assert set(fields) == {"author", "title", "description", "tags", "optuna_versions", "license"}
    assert "sampler" in fields["tags"]
    assert optuna.__version__ in map(str, fields["optuna_versions"])
    assert fields["license"] == "MIT License"
    sections = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert sections == ["Abstract", "APIs", "Installation", "Example", "Others"]
    root = Path(__file__).parents[2]
    assert (PACKAGE / "LICENSE").read_text() == (root / "LICENSE").read_text()


def test_the_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(optunahub, "load_module", load)
    (example,) = re.findall(r"```python\n(.+?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {"__name__": "example"})
    assert "learning_rate" in capsys.readouterr().out
