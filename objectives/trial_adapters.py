"""Adapters of a study's best trials: kept while they are, found again later."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

from objectives.adapters import AdapterStore, worth_keeping
from objectives.artifacts import ARTIFACT, download_adapter, upload_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from optuna.study import Study
    from optuna.trial import BaseTrial, FrozenTrial, Trial

    from objectives.artifacts import ArtifactStore
    from objectives.models.backend import AdaptedModel
    from objectives.results import TrialResult
    from objectives.search_space import HyperParameters

_logger = logging.getLogger(__name__)


class TrialAdapters:
    """Keeps the adapters of a study's best trials.

    Args:
        folder: Where to.
        keep: How many.
        artifact_store: Gets a copy of each; one that is not in the folder is looked for there.
    """

    def __init__(self, folder: Path, *, keep: int, artifact_store: ArtifactStore | None) -> None:
        self._store = AdapterStore(folder, keep=keep)
        self._keep = keep
        self._artifacts = artifact_store

    def keep_if_best(self, trial: BaseTrial, network: AdaptedModel, result: TrialResult) -> None:
        """Keep a trial's adapter if it is one of the best so far; what fails is only a warning."""
        study: Study | None = getattr(trial, "study", None)
        if study is None:  # a FixedTrial belongs to none
            return
        values = [result.value] if result.cost is None else [result.value, result.cost]
        try:
            if worth_keeping(study, values, keep=self._keep):
                folder = self.save(study, trial.number, network, result)
                if self._artifacts is not None:
                    upload_adapter(self._artifacts, cast("Trial", trial), folder)
            self._store.remove_beaten(study)
        except Exception as error:
            # A full disk, or whatever a store's library raises: the value is worth more.
            _logger.warning(
                "The adapter of trial %d could not be kept.", trial.number, exc_info=True
            )
            trial.set_user_attr("adapter_lost", f"{type(error).__name__}: {error}")

    def find(self, study: Study, trial: FrozenTrial, parameters: HyperParameters) -> Path | None:
        """The folder of a trial's adapter, fetched from the artifact store if it is there only."""
        self._store.remove_beaten(study)
        folder = self._store.find(study.study_name, trial.number, parameters.as_dict())
        artifact, artifacts = trial.user_attrs.get(ARTIFACT), self._artifacts
        if folder is not None or artifact is None or artifacts is None:
            return folder
        return self._store.save(
            study.study_name,
            trial.number,
            parameters.as_dict(),
            value=trial.values[0],
            export=lambda work: download_adapter(artifacts, artifact, work),
        )

    def save(self, study: Study, number: int, network: AdaptedModel, result: TrialResult) -> Path:
        """Write a trial's adapter; returns its folder."""
        return self._store.save(
            study.study_name,
            number,
            result.parameters.as_dict(),
            value=result.value,
            export=network.export,
        )
