from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import objectives
import objectives.tuning


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )


def test_the_package_alone_imports_no_framework() -> None:
    heavy = ("torch", "litgpt", "lightning", "transformers", "peft", "lm_eval")
    done = run(f"import sys, objectives; print([m for m in {heavy} if m in sys.modules])")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize(
    ("package", "name", "needed"),
    [("objectives", "FineTuneObjective", "litgpt"), ("objectives.tuning", "tune", "torch")],
)
def test_a_missing_extra_is_named(package: str, name: str, needed: str) -> None:
    done = run(f"import sys; sys.modules[{needed!r}] = None; from {package} import {name}")
    assert done.returncode == 1
    expected = f"ImportError: {name} needs the package {needed!r}; install it with: "
    assert done.stderr.strip().endswith(expected + "pip install 'optuna-partition[llm]'")


@pytest.mark.parametrize("package", [objectives, objectives.tuning])
def test_unknown_names_are_attribute_errors(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="no attribute 'Oracle'"):
        _ = package.Oracle


@pytest.mark.parametrize("package", [objectives, objectives.tuning])
def test_every_public_name_exists(package: ModuleType) -> None:
    for name in package.__all__:
        found = getattr(package, name)
        assert getattr(found, "__name__", name) == name
