"""Every private Optuna name that a sampler plugin can't do without, in one place.

Optuna 5 removed the public ways to write system attributes and never had a public fresh read of a
study's trials.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from optuna.samplers import BaseSampler, PartialFixedSampler
from optuna.samplers._base import _INDEPENDENT_SAMPLING_WARNING_TEMPLATE
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial


def storage_of(study: Study) -> tuple[BaseStorage, int]:
    """The storage, and the study's id in it; also of the study that `HyperbandPruner` filters."""
    return study._storage, study._study_id


def read_trials(study: Study) -> list[FrozenTrial]:
    """All trials as the storage has them now, by number; not to be modified.

    The study's own cache is filled once a trial, so it misses what another worker has just written.
    """
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


def refreshed(
    study: Study, known: list[FrozenTrial], unfinished: Iterable[int]
) -> list[FrozenTrial]:
    """`read_trials`, given what it returned before and which of these trials had not finished.

    The list may be the same one, brought up to date. In the memory of this process that costs a few
    microseconds, and a copy of ten thousand references half a millisecond.
    """
    storage, study_id = storage_of(study)
    if not known or not isinstance(storage, InMemoryStorage):
        return read_trials(study)
    for number in unfinished:
        known[number] = storage.get_trial(known[number]._trial_id)
    with contextlib.suppress(KeyError):  # there is no trial of this number yet
        while True:
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, len(known))
            known.append(storage.get_trial(trial_id))
    return known


def read_trial(study: Study, trial: FrozenTrial) -> FrozenTrial:
    """The trial as the storage has it now; not to be modified.

    Storages on a database keep the finished trials that they have read, so that this costs nothing
    for a trial that had finished when the next one was asked for.
    """
    return study._storage.get_trial(trial._trial_id)


def write_attribute(study: Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Write a system attribute of a running trial."""
    study._storage.set_trial_system_attr(trial._trial_id, key, value)


def fixed_by_sampler(study: Study) -> dict[str, Any]:
    """Values that a `PartialFixedSampler` around the study's sampler sets."""
    sampler = study.sampler
    return dict(sampler._fixed_params) if isinstance(sampler, PartialFixedSampler) else {}


def is_multi_objective(study: Study) -> bool:
    """Whether the study has several objectives."""
    return study._is_multi_objective()


def independent_sampling_warning(
    sampler: BaseSampler, fallback: BaseSampler, trial: FrozenTrial, name: str
) -> str:
    """Optuna's own sentence for a parameter that is sampled outside the relative search space."""
    return _INDEPENDENT_SAMPLING_WARNING_TEMPLATE.format(
        param_name=name,
        trial_number=trial.number,
        independent_sampler_name=type(fallback).__name__,
        sampler_name=type(sampler).__name__,
        fallback_reason="it is not part of the search space that all completed trials share",
    )
