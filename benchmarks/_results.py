"""Stored runs of `quality.py`: a line a run, a file a sampler."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BUDGETS: Final = (25, 50, 100)  # trials after which a run's regret is stored
FOLDER: Final = Path(__file__).parent / "results" / "quality"
HEADER: Final = ("version", "task", "seed", "workers", *(f"r{n}" for n in BUDGETS), "cpu")


@dataclass(frozen=True, slots=True)
class Key:
    """Which run: a repetition would be the same."""

    sampler: str
    version: str
    task: str
    seed: int
    workers: int


@dataclass(frozen=True, slots=True)
class Row:
    """A finished run.

    Args:
        key: Which.
        regrets: Normalized regret after each of the first of `BUDGETS`.
        cpu: Processor seconds of the whole run.
    """

    key: Key
    regrets: tuple[float, ...]
    cpu: float


def path_of(sampler: str, folder: Path) -> Path:
    """The sampler's file."""
    return folder / f"{re.sub(r'[^A-Za-z0-9.]+', '_', sampler).strip('_')}.csv"


def append(row: Row, folder: Path) -> None:
    """Add one run to the sampler's file, with a heading if it is new."""
    path = path_of(row.key.sampler, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [f"{regret:.3g}" for regret in row.regrets]
    cells += [""] * (len(BUDGETS) - len(cells))
    key = row.key
    with path.open("a", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if stream.tell() == 0:
            writer.writerow(HEADER)
        line = [key.version, key.task, key.seed, key.workers, *cells, f"{row.cpu:.2g}"]
        writer.writerow(line)


def load(samplers: Iterable[str], folder: Path) -> list[Row]:
    """All runs of these samplers; of a run that was done with fewer trials first, the longer one.

    Raises:
        ValueError: If a file has another heading.
    """
    found: dict[Key, Row] = {}
    for sampler in samplers:
        path = path_of(sampler, folder)
        if not path.exists():
            continue
        with path.open(newline="") as stream:
            heading, *lines = csv.reader(stream)
        if tuple(heading) != HEADER:
            raise ValueError(
                f"{path} starts with {heading}, expected {list(HEADER)}; "
                "move it away to compute its runs again."
            )
        for line in lines:
            row = _row(sampler, line)
            before = found.get(row.key)
            if before is None or len(before.regrets) < len(row.regrets):
                found[row.key] = row
    return list(found.values())


def _row(sampler: str, line: Sequence[str]) -> Row:
    version, task, seed, workers, *cells, cpu = line
    regrets = tuple(float(cell) for cell in cells if cell)
    return Row(Key(sampler, version, task, int(seed), int(workers)), regrets, float(cpu))
