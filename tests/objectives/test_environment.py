"""What programs set for themselves before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from objectives.environment import spin_briefly

ROOT = Path(__file__).parents[2]
PROGRAMS = [
    "examples/tune_lora.py",
    "examples/bohb.py",
    "examples/finetune_tinyllama.py",
    "objectives/__main__.py",
]
# Ends a program where it would set its variables, and tells what it has loaded by then.
STOPPED = """
import runpy, sys
import objectives.environment

def stop():
    print("torch" in sys.modules)
    raise SystemExit(0)

objectives.environment.spin_briefly = stop
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_say_how_threads_wait_before_torch_is_loaded(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, ROOT / program],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "1000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_settings_of_the_user_stay(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: dict[str, str]
) -> None:
    variables: dict[str, str] = dict(given)
    monkeypatch.setattr(os, "environ", variables)
    spin_briefly()
    assert variables == expected
