"""Samplers and pruners by name, with their settings as plain data."""

from __future__ import annotations

import difflib
import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

_OURS: Final = "optuna_partition"
# Modules and classes; they are imported when they are asked for, as some need an extra.
_SAMPLERS: Final[Mapping[str, tuple[str, str]]] = {
    "partition_gp": (_OURS, "PartitionGPSampler"),
    "direct": (_OURS, "DIRECTSampler"),
    "soo": (_OURS, "SOOSampler"),
    "sequool": (_OURS, "SequOOLSampler"),
    "logo": (_OURS, "LOGOSampler"),
    "stosoo": (_OURS, "StoSOOSampler"),
    "bamsoo": (_OURS, "BaMSOOSampler"),
    "imgpo": (_OURS, "IMGPOSampler"),
    "fda": (_OURS, "FDASampler"),
    "mosoo": (_OURS, "MOSOOSampler"),
    "botorch_gp": (_OURS, "BoTorchGPSampler"),
    "tpe": ("optuna.samplers", "TPESampler"),
    "gp": ("optuna.samplers", "GPSampler"),
    "cmaes": ("optuna.samplers", "CmaEsSampler"),
    "nsga2": ("optuna.samplers", "NSGAIISampler"),
    "random": ("optuna.samplers", "RandomSampler"),
}
_PRUNERS: Final[Mapping[str, tuple[str, str]]] = {
    "none": ("optuna.pruners", "NopPruner"),
    "median": ("optuna.pruners", "MedianPruner"),
    "percentile": ("optuna.pruners", "PercentilePruner"),
    "halving": ("optuna.pruners", "SuccessiveHalvingPruner"),
    "hyperband": ("optuna.pruners", "HyperbandPruner"),
}

SAMPLERS: Final = tuple(_SAMPLERS)
"""Names of samplers: those of optuna-partition, then Optuna's."""

PRUNERS: Final = tuple(_PRUNERS)
"""Names of pruners, all of them Optuna's."""

SEVERAL_OBJECTIVES: Final = ("mosoo", "botorch_gp", "tpe", "gp", "nsga2", "random")
"""Samplers that take a study with several objectives."""

PARTITIONS: Final = ("partition_gp", "direct", "soo", "sequool", "logo", "stosoo")
"""Samplers whose trials stand for the cells of one tree, of which there is a picture."""


def make_sampler(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    space: Mapping[str, BaseDistribution],
    n_trials: int,
    seed: int,
    stream: tuple[int, ...] = (0,),
) -> BaseSampler:
    """The sampler of a name, one of `SAMPLERS`.

    Args:
        name: Its name.
        settings: Arguments of its class; they come before the following ones.
        space: The search space, for samplers that take one.
        n_trials: Trials of the whole study, for samplers that plan for them.
        seed: For samplers that take one. Those of optuna-partition take it as it is: the rest of
            what they know is in the study.
        stream: Numbers that tell this run from others of the same study, for samplers that draw
            from a generator of their own: they would draw the same points again otherwise.

    Raises:
        ValueError: If there is no such sampler, or it has no such argument.
    """
    # Our samplers must not change with the run: a study that was cut goes on as if it was not.
    mixed = int(np.random.SeedSequence((seed, *stream)).generate_state(1)[0])
    offered = {
        "search_space": dict(space),
        "n_trials": n_trials,
        "seed": seed if _SAMPLERS.get(name, ("", ""))[0] == _OURS else mixed,
    }
    made: BaseSampler = _make("sampler", _SAMPLERS, name, settings or {}, offered)
    return made


def make_pruner(
    name: str, settings: Mapping[str, Any] | None = None, *, first: int, last: int
) -> BasePruner:
    """The pruner of a name, one of `PRUNERS`.

    Args:
        name: Its name.
        settings: Arguments of its class; they come before the following ones.
        first: Samples seen at a trial's first report, for pruners that take a resource.
        last: Samples seen at its end.

    Raises:
        ValueError: If there is no such pruner, or it has no such argument.
    """
    offered = {"min_resource": first, "max_resource": last, "percentile": 50.0}
    made: BasePruner = _make("pruner", _PRUNERS, name, settings or {}, offered)
    return made


def check_named(settings: Mapping[str, Any], *, kind: str, name: str) -> None:
    """Raise if there is no sampler or pruner of a name, or it has no such settings.

    Raises:
        ValueError: With the nearest name that there is.
        ImportError: If it needs a package that is missing.
    """
    found = _class_of(kind, _SAMPLERS if kind == "sampler" else _PRUNERS, name)
    accepted = list(inspect.signature(found).parameters)
    for setting in settings:
        if setting not in accepted:
            raise ValueError(
                f"{kind}_settings has {setting!r}, which the {kind} {name!r} does not take"
                f"{did_you_mean(setting, accepted)} It takes {', '.join(accepted)}."
            )


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: a full stop, or the nearest known name."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else "."


def _class_of(kind: str, table: Mapping[str, tuple[str, str]], name: str) -> Any:
    if name not in table:
        raise ValueError(
            f"{kind} is {name!r}, expected one of {tuple(table)}{did_you_mean(name, table)}"
        )
    module, attribute = table[name]
    return getattr(import_module(module), attribute)


def _make(
    kind: str,
    table: Mapping[str, tuple[str, str]],
    name: str,
    settings: Mapping[str, Any],
    offered: Mapping[str, Any],
) -> Any:
    found = _class_of(kind, table, name)
    check_named(settings, kind=kind, name=name)
    accepted = inspect.signature(found).parameters
    taken = {key: value for key, value in offered.items() if key in accepted}
    try:
        return found(**(taken | dict(settings)))
    except (TypeError, ValueError) as error:
        if not settings:
            raise
        raise ValueError(
            f"{kind}_settings are {dict(settings)}, with which {name!r} can't be made: {error}"
        ) from error
