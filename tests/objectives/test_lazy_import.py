from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import objectives


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


def test_a_missing_extra_is_named() -> None:
    done = run("import sys; sys.modules['litgpt'] = None; from objectives import FineTuneObjective")
    assert done.returncode == 1
    expected = "ImportError: FineTuneObjective needs the package 'litgpt'; install it with: "
    assert done.stderr.strip().endswith(expected + "pip install 'optuna-partition[llm]'")


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Oracle'"):
        _ = objectives.Oracle


def test_every_public_name_exists() -> None:
    for name in objectives.__all__:
        found = getattr(objectives, name)
        assert getattr(found, "__name__", name) == name
