"""From a configuration to a study that goes on: the one Python call."""

from __future__ import annotations

import dataclasses
import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.study import MaxTrialsCallback

import objectives
from objectives.config import VALIDATION_LOSS
from objectives.identity import IDENTITY, check_identity
from objectives.tuning.named import SEVERAL_OBJECTIVES, make_pruner, make_sampler
from objectives.tuning.progress import DONE, Progress, number_done, value_name
from objectives.tuning.rehearsal import check_pruner, check_sampler
from objectives.tuning.settings import StudySettings
from objectives.tuning.storage import open_storage
from objectives.tuning.workers import start_workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna.storages import BaseStorage
    from optuna.study import Study

    from objectives.config import FineTuneConfig


@dataclass(frozen=True)
class Tuning:
    """A study and its objective, ready to go on."""

    config: FineTuneConfig
    settings: StudySettings
    objective: objectives.FineTuneObjective
    study: Study
    progress: Progress


def tune(config: FineTuneConfig, settings: StudySettings | None = None) -> Study:
    """Run a study's trials, those that are left; a bar and a line for each trial show how it goes.

    `python -m objectives tune` with the same values, in a YAML file or on the command line, makes
    the same trials.

    Args:
        config: The objective.
        settings: The study; by default one of 50 trials by `PartitionGPSampler`.

    Raises:
        ValueError: If something in them can't be used, or the study in the storage was made with
            an objective whose values can't be compared.
        ImportError: If a package is missing; the message names the extra.
        KeyboardInterrupt: On Ctrl-C; trials that have ended are kept, and the same call goes on.
    """
    tuning = open_tuning(config, settings or StudySettings())
    run_trials(tuning)
    return tuning.study


def open_tuning(config: FineTuneConfig, settings: StudySettings) -> Tuning:
    """Load weights and data, and open the study; everything that is wrong is an error now.

    Raises:
        ValueError: As `tune`.
        ImportError: As `tune`.
    """
    with quiet():
        return _open(config, settings)


def _open(config: FineTuneConfig, settings: StudySettings) -> Tuning:
    check_settings(config, settings)
    # A database elsewhere is the first thing to be missing; a file is made when all is well.
    storage = open_storage(settings.storage) if settings.storage else None
    progress = Progress()
    objective = objectives.FineTuneObjective(config, callbacks=progress.callbacks())
    check_pruner(settings.pruner, settings.pruner_settings, points=objective.pruning_points)
    if storage is None:
        _make_folder(config)
        storage = open_storage(storage_url(config, settings))
    study = new_study(config, settings, objective, storage)
    return Tuning(config, settings, objective, study, progress)


def _make_folder(config: FineTuneConfig) -> None:
    try:
        Path(config.output_dir).expanduser().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"output_dir is {str(config.output_dir)!r}, which can't be made ({error.strerror}); "
            "give another folder."
        ) from error


def storage_url(config: FineTuneConfig, settings: StudySettings) -> str:
    """URL of the study's database."""
    return settings.storage or f"sqlite:///{Path(config.output_dir).expanduser() / 'study.db'}"


def run_trials(tuning: Tuning) -> None:
    """Run the trials that are left.

    Out-of-memory errors and failures on other devices are failed trials; after five failures in a
    row the study stops, which `Progress.gave_up` says.

    Raises:
        KeyboardInterrupt: On Ctrl-C.
    """
    settings, study, objective = tuning.settings, tuning.study, tuning.objective
    if number_done(study) >= settings.n_trials:
        return
    tuning.progress.start(
        study,
        n_trials=settings.n_trials,
        samples=objective.samples_per_trial,
        value_name=value_name(tuning.config),
        untuned=objective.base_result().value,
    )
    shared = dataclasses.replace(settings, storage=storage_url(tuning.config, settings), workers=1)
    try:
        more = settings.workers - 1
        with (
            quiet(),
            start_workers(more, _work, tuning.config, shared, devices=tuning.config.devices),
        ):
            study.optimize(
                objective,
                timeout=settings.timeout,
                catch=(MemoryError, objectives.OutOfMemoryError, objectives.LostDeviceError),
                callbacks=[
                    tuning.progress,
                    # Counts the trials of all workers: together they make as many as asked.
                    MaxTrialsCallback(settings.n_trials, states=DONE),
                ],
            )
    finally:
        tuning.progress.close()


def _work(config: FineTuneConfig, settings: StudySettings) -> None:
    run_trials(open_tuning(config, settings))


@contextmanager
def quiet() -> Iterator[None]:
    """Every trial has a line of its own, instead of Optuna's."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def check_settings(config: FineTuneConfig, settings: StudySettings) -> None:
    """Raise if an objective and a study do not fit together.

    Raises:
        ValueError: With what to give instead.
    """
    if settings.pruner != "none" and config.cost is not None:
        raise ValueError(
            f"pruner is {settings.pruner!r} and cost is {config.cost!r}, but Optuna prunes only "
            "studies with one objective; give pruner: none."
        )
    by_loss = config.metric == VALIDATION_LOSS
    if settings.pruner != "none" and not by_loss and not config.question_shares:
        raise ValueError(
            f"pruner is {settings.pruner!r} and metric is {config.metric!r}, which is known at "
            "a trial's end only; give question_shares: [0.1, 0.3], metric: val_loss, or "
            "pruner: none."
        )
    if settings.pruner != "none" and by_loss and config.reports_per_epoch * config.epochs < 2:
        raise ValueError(
            f"pruner is {settings.pruner!r}, which needs values on the way, and a trial reports "
            "once; give reports_per_epoch: 4."
        )
    if config.cost is not None and settings.sampler not in SEVERAL_OBJECTIVES:
        raise ValueError(
            f"sampler is {settings.sampler!r} and cost is {config.cost!r}, a second objective, "
            f"expected one of {SEVERAL_OBJECTIVES}."
        )
    check_pruner(settings.pruner, settings.pruner_settings)
    check_sampler(
        settings.sampler,
        settings.sampler_settings,
        space=config.space(),
        n_trials=settings.n_trials,
        objectives=1 if config.cost is None else 2,
    )


def new_study(
    config: FineTuneConfig,
    settings: StudySettings,
    objective: objectives.FineTuneObjective,
    storage: BaseStorage,
) -> Study:
    """Create the study, or go on with it.

    Raises:
        ValueError: If it was made with an objective whose values can't be compared.
    """
    points = objective.pruning_points or objective.report_points
    study = optuna.create_study(
        study_name=settings.study_name,
        storage=storage,
        pruner=make_pruner(
            settings.pruner, settings.pruner_settings, first=points[0], last=points[-1]
        ),
        directions=objective.directions,
        load_if_exists=True,
    )
    # Several processes with one database draw numbers of their own.
    process = os.getpid() if settings.storage else 0
    study.sampler = make_sampler(
        settings.sampler,
        settings.sampler_settings,
        space=objective.search_space,
        n_trials=settings.n_trials,
        seed=config.seed,
        stream=(len(study.trials), process),
    )
    if IDENTITY not in study.user_attrs:
        names = [value_name(config), config.cost]
        study.set_metric_names([name for name in names if name is not None])
    objective.register(study)
    return study


def load_study(config: FineTuneConfig, settings: StudySettings) -> Study:
    """The study, which must be there.

    Raises:
        ValueError: If there is no such study, or its values can't be compared.
    """
    with quiet():
        return _load_study(config, settings)


def _load_study(config: FineTuneConfig, settings: StudySettings) -> Study:
    url = storage_url(config, settings)
    if not settings.storage and not (Path(config.output_dir).expanduser() / "study.db").is_file():
        raise ValueError(f"there is no study in {url}; tune first, or name its storage.")
    storage = open_storage(url)
    if settings.study_name not in optuna.get_all_study_names(storage):
        raise ValueError(f"there is no study {settings.study_name!r} in {url}; tune first.")
    study = optuna.load_study(study_name=settings.study_name, storage=storage)
    check_identity(study, config)
    return study


def check_study(config: FineTuneConfig, settings: StudySettings) -> None:
    """Raise if the storage can't be opened, or holds the study for another objective.

    Raises:
        ValueError: With the difference.
    """
    file = Path(config.output_dir).expanduser() / "study.db"
    if not settings.storage and not file.is_file():
        return
    with quiet():
        storage = open_storage(storage_url(config, settings))
    if settings.study_name in optuna.get_all_study_names(storage):
        load_study(config, settings)
