"""Adapters kept on disk: the best trial's survives the process, the others are removed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optuna.trial import TrialState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from optuna.study import Study
    from optuna.trial import FrozenTrial

ABANDONED: Final = 24 * 3600.0
"""Seconds after which an adapter is removed whose process was killed while it wrote it."""

_RECORD: Final = "trial.json"
_logger = logging.getLogger(__name__)


class AdapterStore:
    """Folders `trial-N`, each with one adapter and a record of the trial it belongs to.

    A folder appears whole or not at all: it is written under another name and then renamed.

    Args:
        folder: Where the folders are; made when the first adapter is saved.
        keep: How many adapters a study keeps, the best ones.
    """

    def __init__(self, folder: str | Path, *, keep: int = 1) -> None:
        self._folder = Path(folder).expanduser()
        self._keep = keep

    def find(self, study_name: str, number: int, parameters: Mapping[str, Any]) -> Path | None:
        """The folder of a trial, if it is there and belongs to this trial of this study."""
        path = self._path(number)
        record = _read_record(path)
        wanted = {"study": study_name, "trial": number, "parameters": dict(parameters)}
        if record is None or any(record.get(key) != value for key, value in wanted.items()):
            return None
        return path

    def save(
        self,
        study_name: str,
        number: int,
        parameters: Mapping[str, Any],
        *,
        value: float,
        export: Callable[[Path], None],
    ) -> Path:
        """Write the adapter of a trial.

        Args:
            study_name: The trial's study.
            number: The trial's number in it.
            parameters: The trial's parameters.
            value: The trial's result.
            export: Writes the adapter into the folder given to it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(number)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=self._folder))
        try:
            export(work)
            record = {
                "study": study_name,
                "trial": number,
                "value": value,
                "parameters": dict(parameters),
            }
            (work / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            # mkdtemp and safetensors make them private, which results are not.
            work.chmod(0o755)
            for file in work.iterdir():
                file.chmod(0o644)
            if path.exists():
                _logger.warning("Replacing the adapter in %s.", path)
                shutil.rmtree(path)
            work.rename(path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return path

    def remove_beaten(self, study: Study) -> None:
        """Remove the folders of this study's finished trials other than the best ones.

        Trials that still run keep theirs: a moment later one of them may be the best.
        """
        trials = study.get_trials(deepcopy=False)
        best = {trial.number for trial in _best_trials(study, self._keep)}
        for path in self._folder.glob("trial-*"):
            record = _read_record(path)
            if record is None or record.get("study") != study.study_name:
                continue
            number = record["trial"]
            finished = number < len(trials) and trials[number].state.is_finished()
            if finished and number not in best:
                shutil.rmtree(path, ignore_errors=True)  # another worker may be removing it too
        for work in self._folder.glob(".trial-*"):
            if time.time() - work.stat().st_mtime > ABANDONED:
                shutil.rmtree(work, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"trial-{number}"


def worth_keeping(study: Study, values: Sequence[float], *, keep: int) -> bool:
    """Whether fewer than `keep` completed trials are as good as a new one.

    Args:
        study: The new trial's study.
        values: Its values, one an objective.
        keep: How many adapters are kept; with several objectives they are those that none
            dominates, however many.
    """
    signs = [_sign(study, k) for k in range(len(study.directions))]

    def as_good(trial: FrozenTrial) -> bool:
        known = zip(signs, trial.values, values, strict=True)
        return all(sign * old <= sign * new for sign, old, new in known)

    better = sum(as_good(trial) for trial in _best_trials(study, keep))
    return better < (keep if len(signs) == 1 else 1)


def check_writable(folder: Path) -> None:
    """Raise if files can't be written to a folder, or to the one that it is to be made in.

    Raises:
        ValueError: If they can't.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        state = "can't be written" if there.is_dir() else "is no folder"
        raise ValueError(
            f"output_dir is {str(folder)!r}, but {str(there)!r} {state}; give another folder."
        )


def _best_trials(study: Study, keep: int) -> list[FrozenTrial]:
    """The best trials, or with several objectives those that none dominates."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not trials or len(study.directions) > 1:
        return study.best_trials if trials else []
    best, sign = study.best_trial.number, _sign(study, 0)
    # Optuna's best trial is feasible, which others may not be.
    return sorted(trials, key=lambda trial: (trial.number != best, sign * trial.values[0]))[:keep]


def _sign(study: Study, objective: int) -> float:
    return 1.0 if study.directions[objective].name == "MINIMIZE" else -1.0


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # no folder, or none of ours
    return record if isinstance(record, dict) else None
