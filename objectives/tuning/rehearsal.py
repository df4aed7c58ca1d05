"""A few trials of nothing, in which samplers and pruners find out what they can't work with.

Optuna checks many arguments when they are first needed: in the middle of a trial, or after ten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import optuna
from optuna.samplers import RandomSampler

from objectives.tuning.named import make_pruner, make_sampler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.trial import Trial

    from objectives.search_space import SearchSpace

# Most samplers draw ten trials at random before they look at the rest of their arguments, pruners
# wait for five; the number is a setting.
_TRIALS, _MOST_TRIALS = 12, 200
_STARTUP: Final = "n_startup_trials"
# Places of reports, until it is known where a trial reports.
_POINTS: Final = (1, 3, 9, 27)
_STARTS: Final = ("min_resource", "n_warmup_steps")


def check_sampler(
    name: str, settings: Mapping[str, Any], *, space: SearchSpace, n_trials: int, objectives: int
) -> None:
    """Raise if a sampler fails with these settings; nothing is tried without settings.

    Args:
        name: One of `SAMPLERS`.
        settings: Arguments of its class.
        space: The search space.
        n_trials: Trials of the whole study.
        objectives: How many.

    Raises:
        ValueError: With what the sampler says.
    """
    if not settings:
        return
    sampler = make_sampler(name, settings, space=space, n_trials=n_trials, seed=0)

    def objective(trial: Trial) -> Sequence[float]:
        space.suggest(trial)
        return [float(trial.number)] * objectives

    study = optuna.create_study(sampler=sampler, directions=["minimize"] * objectives)
    _rehearse(study, objective, kind="sampler", name=name, settings=settings)


def check_pruner(
    name: str, settings: Mapping[str, Any], *, points: Sequence[int] | None = None
) -> None:
    """Raise if a pruner fails with these settings, or would never look at a trial.

    Args:
        name: One of `PRUNERS`.
        settings: Arguments of its class; nothing is tried without any.
        points: Where a trial reports, ascending; None if that is not known yet.

    Raises:
        ValueError: With what the pruner says.
    """
    if not settings:
        return
    first, *_, before_last, last = points or (*_POINTS,)
    for start in _STARTS if points else ():
        if isinstance(value := settings.get(start), int | float) and value > before_last:
            raise ValueError(
                f"pruner_settings has {start} {value}, but a trial is last judged at {before_last} "
                f"and ends at {last}, so that none would be pruned; give {before_last} or less."
            )
    low, high = (settings.get(f"{end}_resource") for end in ("min", "max"))
    if isinstance(low, int) and isinstance(high, int) and low > high:
        raise ValueError(
            f"pruner_settings has min_resource {low} above max_resource {high}; change them round."
        )
    pruner = make_pruner(name, settings, first=first, last=last)

    def objective(trial: Trial) -> float:
        for point in points or _POINTS:
            trial.report(float(trial.number), step=point)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(trial.number)

    study = optuna.create_study(sampler=RandomSampler(), pruner=pruner)
    _rehearse(study, objective, kind="pruner", name=name, settings=settings)


def _rehearse(
    study: optuna.Study, objective: Any, *, kind: str, name: str, settings: Mapping[str, Any]
) -> None:
    startup = settings.get(_STARTUP)
    wanted = startup + 2 if isinstance(startup, int) else _TRIALS
    try:
        study.optimize(objective, n_trials=min(max(wanted, _TRIALS), _MOST_TRIALS))
    except Exception as error:
        raise ValueError(
            f"{kind}_settings are {dict(settings)}, with which {name!r} fails: "
            f"{type(error).__name__}: {error}"
        ) from error
