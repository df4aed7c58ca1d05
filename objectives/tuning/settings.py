"""What a study is beside its objective: where it is kept, who chooses, how long it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from objectives.tuning.named import check_named


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    """A study: its storage, sampler, pruner, and end.

    Attributes:
        storage: URL of the database, such as sqlite:///study.db or postgresql://user@host/name;
            by default an SQLite file `study.db` in the objective's output folder.
        study_name: Name of the study in its database. A study that is there goes on.
        sampler: Name of the sampler: partition_gp, direct, soo, sequool, logo, stosoo, bamsoo,
            imgpo, fda, mosoo (several objectives), botorch_gp; Optuna's tpe, gp, cmaes, nsga2,
            random.
        sampler_settings: Arguments of the sampler's class, such as `{variant: jones1993}`. Its
            seed is the objective's unless given.
        pruner: Name of the pruner: none, median, percentile, halving, hyperband.
        pruner_settings: Arguments of the pruner's class. Resources are training samples, or
            questions with `question_shares`; they start at the first report unless given.
        n_trials: Trials of the study in all, completed or pruned; those of earlier runs and of
            other workers count.
        workers: Processes on this machine that work on the study at once. Each holds a model; on
            a machine with several GPUs they take one each in turn.
        timeout: Seconds after which no further trial starts; None is for ever.

    Raises:
        ValueError: If a value can't be used; the message says what to give instead.
    """

    storage: str | None = None
    study_name: str = "lora"
    sampler: str = "partition_gp"
    sampler_settings: Mapping[str, Any] = field(default_factory=dict)
    pruner: str = "none"
    pruner_settings: Mapping[str, Any] = field(default_factory=dict)
    n_trials: int = 50
    workers: int = 1
    timeout: float | None = None

    def __post_init__(self) -> None:
        for name in ("n_trials", "workers"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected a whole number, 1 or more.")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout}, expected seconds above 0, or None.")
        check_named(self.sampler_settings, kind="sampler", name=self.sampler)
        check_named(self.pruner_settings, kind="pruner", name=self.pruner)
