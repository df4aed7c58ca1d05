"""Checkpoints of a run: a trial that was killed goes on where it was."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from objectives.training import Estimate, LoraTraining

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from objectives.timing import Stopwatch
    from objectives.training import ValidationReports

ABANDONED: Final = 7 * 24 * 3600.0
"""Seconds after which a checkpoint that nobody has written is removed."""

_UNREADABLE: Final = (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError)

_logger = logging.getLogger(__name__)


class CheckpointFile:
    """The checkpoint of one run; it appears whole or not at all.

    Runs with the same key are the same run bit for bit, so it does not matter which trial, worker
    or process has written the file.

    Args:
        folder: Where the file is; made when it is first written.
        key: Names everything that the run depends on.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._path = folder / f"{key}.ckpt"
        self._warned = False

    def load(self) -> dict[str, Any] | None:
        """What was saved; None if there is nothing, or nothing that can be read."""
        if not self._path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            _logger.warning("The checkpoint %s can't be read (%s).", self._path, error)
            return None
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file; a folder that can't be written costs a warning and the checkpoint."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        try:
            self._write(buffer.getvalue())
        except OSError as error:
            if not self._warned:
                _logger.warning(
                    "Checkpoints can't be kept in %s (%s): if this run is killed, it will begin "
                    "anew.",
                    self._path.parent,
                    error,
                )
            self._warned = True

    def _write(self, content: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=".ckpt-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # else a machine that goes down may keep an empty file
            Path(name).replace(self._path)
        finally:
            Path(name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the file, and those of runs that have been abandoned."""
        with contextlib.suppress(OSError):  # another worker may be removing them too
            self._path.unlink(missing_ok=True)
            for path in self._path.parent.glob("*ckpt*"):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink(missing_ok=True)
            self._path.parent.rmdir()  # if it is empty


@contextlib.contextmanager
def removed_at_the_end(file: CheckpointFile | None) -> Iterator[None]:
    """Remove a checkpoint when its trial ends, in whatever way; an interrupt is no end."""
    try:
        yield
    except Exception:
        if file is not None:
            file.remove()
        raise
    if file is not None:
        file.remove()


class Checkpoints(Callback):
    """Writes a run's checkpoints while it is trained, always between two optimizer steps.

    Args:
        file: Where to; None on the devices that only add their part to what the first one writes.
        training: The run.
        reports: Its reports.
        losses: What it has measured so far; the last one counts.
        clock: What its time was spent on.
        every: Optimizer steps between checkpoints; None writes one after each report.
    """

    def __init__(
        self,
        file: CheckpointFile | None,
        *,
        training: LoraTraining,
        reports: ValidationReports,
        losses: list[Estimate],
        clock: Stopwatch,
        every: int | None,
    ) -> None:
        self._file = file
        self._training = training
        self._reports = reports
        self._losses = losses
        self._clock = clock
        self._every = every
        self._written = self._progress()

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take the run to where a file says it was."""
        self._training.resume(state["training"])
        self._reports.resume(state["reports"])
        self._losses.append(Estimate(*state["loss"]))
        self._clock.add(state["seconds"])
        self._written = self._progress()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Write a checkpoint if one is due."""
        # At the end there is nothing left to resume.
        if not self._training.between_windows or self._training.finished:
            return
        if self._progress() - self._written < (self._every or 1):
            return
        self._written = self._progress()
        with self._clock.measure("save"):
            loss = self._losses[-1]
            state = {
                "training": self._training.state(),
                "reports": self._reports.state(),
                "loss": (loss.value, loss.stderr),
                "seconds": self._clock.seconds(),
            }
            if self._file is not None:
                self._file.save(state)

    def _progress(self) -> int:
        return len(self._reports.made) if self._every is None else self._training.steps
