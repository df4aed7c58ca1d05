"""Adapters kept on disk: the best trial's survives the process, the others are removed."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optuna.trial import TrialState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from optuna.study import Study
    from optuna.trial import FrozenTrial

_RECORD: Final = "trial.json"
_logger = logging.getLogger(__name__)


class AdapterStore:
    """Folders `trial-N`, each with one adapter and a record of the trial it belongs to.

    A folder appears whole or not at all: it is written under another name and then renamed.

    Args:
        folder: Where the folders are; made when the first adapter is saved.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder).expanduser()

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
        best = {trial.number for trial in _best_trials(study)}
        for path in self._folder.glob("trial-*"):
            record = _read_record(path)
            if record is None or record.get("study") != study.study_name:
                continue
            number = record["trial"]
            finished = number < len(trials) and trials[number].state.is_finished()
            if finished and number not in best:
                shutil.rmtree(path, ignore_errors=True)  # another worker may be removing it too

    def _path(self, number: int) -> Path:
        return self._folder / f"trial-{number}"


def improves(study: Study, values: Sequence[float]) -> bool:
    """Whether no completed trial is at least as good as `values` in every objective."""
    signs = [1.0 if direction.name == "MINIMIZE" else -1.0 for direction in study.directions]

    def as_good(trial: FrozenTrial) -> bool:
        known = zip(signs, trial.values, values, strict=True)
        return all(sign * old <= sign * new for sign, old, new in known)

    return not any(as_good(trial) for trial in _best_trials(study))


def _best_trials(study: Study) -> list[FrozenTrial]:
    """The best trial, or with several objectives those that none dominates; else none."""
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return []
    return [study.best_trial] if len(study.directions) == 1 else study.best_trials


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # no folder, or none of ours
    return record if isinstance(record, dict) else None
