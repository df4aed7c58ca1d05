"""What a person sees of a study that goes on: a bar over all trials, and a line for each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optuna.trial import TrialState
from tqdm import tqdm

from objectives.config import VALIDATION_LOSS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import Callback
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from objectives.config import FineTuneConfig

DONE: Final = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that count."""

FAILURES_IN_A_ROW: Final = 5
"""So many and no more; the next one would fail as well."""


class Progress:
    """A bar over all trials that moves with every micro-batch; a line for every trial.

    It stops a study whose trials all fail. Without a terminal there are only the lines.
    """

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._failures = 0

    def start(
        self, study: Study, *, n_trials: int, samples: int, value_name: str, untuned: float
    ) -> None:
        """Show the bar, where it stands after the trials that are done.

        Args:
            study: The study.
            n_trials: Its trials in all.
            samples: Training samples of a trial.
            value_name: What a value is called.
            untuned: Value of the untuned model.
        """
        self._samples, self._trials, self._untuned = samples, n_trials, untuned
        self._name, self._failures = value_name, 0
        self._bar = tqdm(
            total=n_trials * samples,
            initial=number_done(study) * samples,
            unit=" samples",
            disable=None,
            bar_format="{desc} |{bar:20}| {percentage:3.0f}% [{elapsed}<{remaining}]{postfix}",
        )
        self._describe(study)

    def callbacks(self) -> Sequence[Callback]:
        """Lightning callbacks that move the bar."""
        from lightning.pytorch.callbacks import LambdaCallback

        def move(_: Any, __: Any, ___: Any, batch: Any, ____: int) -> None:
            if self._bar is not None:
                self._bar.update(batch.samples)

        return [LambdaCallback(on_train_batch_end=move)]

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Print what became of a trial."""
        assert self._bar is not None
        # A pruned or failed trial used fewer samples than it was counted with.
        self._bar.n = min(number_done(study), self._trials) * self._samples
        self._bar.write(describe(trial, self._name))
        if "failure" in trial.user_attrs:
            self._bar.write(trial.user_attrs["failure"])
        self._failures = self._failures + 1 if trial.state is TrialState.FAIL else 0
        if self._failures == FAILURES_IN_A_ROW:
            study.stop()
        self._describe(study)

    def _describe(self, study: Study) -> None:
        assert self._bar is not None
        number = min(number_done(study) + 1, self._trials)
        self._bar.set_description(f"trial {number}/{self._trials}", refresh=False)
        best = best_trials(study)
        value = "none yet" if not best else f"{min_or_max(study, best):.4f}"
        self._bar.set_postfix_str(f"best {self._name} {value}, untuned {self._untuned:.4f}")

    @property
    def gave_up(self) -> bool:
        """Whether too many trials in a row have failed."""
        return self._failures >= FAILURES_IN_A_ROW

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def describe(trial: FrozenTrial, value_name: str) -> str:
    """A line about a finished trial."""
    shown = ", ".join(f"{name} {short(value)}" for name, value in trial.params.items())
    value = "no value" if not trial.values else f"{value_name} {trial.values[0]:.4f}"
    cost = "".join(f", cost {short(value)}" for value in (trial.values or [])[1:])
    seconds = sum(trial.user_attrs.get("seconds", {}).values())
    state = "" if trial.state is TrialState.COMPLETE else f" {trial.state.name.lower()}"
    return f"trial {trial.number}{state}: {value}{cost}  ({shown}; {seconds:.0f} s)"


def number_done(study: Study) -> int:
    """Trials that count: completed or pruned."""
    return len(study.get_trials(deepcopy=False, states=DONE))


def best_trials(study: Study) -> list[FrozenTrial]:
    """The best completed trial, or those that no other beats in all objectives; else none."""
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return []
    return [study.best_trial] if len(study.directions) == 1 else study.best_trials


def min_or_max(study: Study, trials: Sequence[FrozenTrial]) -> float:
    """The best first value of completed trials."""
    values: list[float] = [trial.values[0] for trial in trials]
    return min(values) if study.directions[0].name == "MINIMIZE" else max(values)


def value_name(config: FineTuneConfig) -> str:
    """What the tuned value is called."""
    if not isinstance(config.metric, str):
        return "weighted score"
    return "validation loss" if config.metric == VALIDATION_LOSS else Path(config.metric).stem


def short(value: Any) -> str:
    """A value with three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
