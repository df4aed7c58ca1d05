"""Run a benchmark as a person does, and read its tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

Table = dict[tuple[str, ...], list[str]]
Command = Callable[..., list[Table]]


def run(name: str, *arguments: str | Path) -> list[Table]:
    """The tables that a benchmark prints: header and rows by their first cell."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / name, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return tables(done.stdout)


def tables(text: str) -> list[Table]:
    """Every Markdown table of a text: cells by row name; a repeated name gets its second cell."""
    found: list[Table] = []
    for block in text.split("\n\n"):
        lines = [line for line in block.strip().splitlines() if line.startswith("|")]
        if not lines:
            continue
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        header, rows = cells[0], cells[2:]
        names = [row[0] for row in rows]
        table: Table = {("",): header}
        for row in rows:
            table[tuple(row[: 1 if names.count(row[0]) == 1 else 2])] = row[1:]
        found.append(table)
    return found


@pytest.fixture
def command() -> Command:
    return run
