"""Adapters in Optuna's artifact store, where workers on other machines find them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from optuna.artifacts import download_artifact, upload_artifact

if TYPE_CHECKING:
    from optuna.trial import Trial

ARTIFACT: Final = "adapter_artifact"
"""User attribute of a trial: the id of its adapter in the artifact store."""

_NAME: Final = "adapter"


class ArtifactStore(Protocol):
    """An artifact store of Optuna's, which has no public name for what they have in common."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The content of an artifact."""

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store an artifact."""

    def remove(self, artifact_id: str) -> None:
        """Delete an artifact."""


def upload_adapter(store: ArtifactStore, trial: Trial, folder: Path) -> None:
    """Put the files of an adapter into the store as one archive, and its id into the trial.

    Args:
        store: Optuna's artifact store.
        trial: The adapter's trial, while it runs.
        folder: Holds the adapter.
    """
    with tempfile.TemporaryDirectory() as work:
        archive = shutil.make_archive(str(Path(work) / _NAME), "zip", folder)
        number = upload_artifact(artifact_store=store, file_path=archive, study_or_trial=trial)
    # Only now: another worker that reads it finds the whole file.
    trial.set_user_attr(ARTIFACT, number)


def download_adapter(store: ArtifactStore, number: str, folder: Path) -> None:
    """Take the files of an adapter out of the store.

    Args:
        store: Optuna's artifact store.
        number: The artifact's id.
        folder: Gets the files.
    """
    with tempfile.TemporaryDirectory() as work:
        archive = Path(work) / f"{_NAME}.zip"
        download_artifact(artifact_store=store, artifact_id=number, file_path=str(archive))
        shutil.unpack_archive(archive, folder)
