"""What Hyperband saves: training samples until the best value of full trials is reached again.

For each sampler and seed one study trains all its trials to their end. Another one lets Hyperband
end trials early, and stops when it has reached the first one's best loss ("same"), or has trained
on twice the first one's samples, which counts as a lower bound, marked by ">". "close" is a loss
that lacks at most 1 % of the gain over the untuned model. Shares are those of all samples of the
first study; "to reach" compares with the samples until that one found its best trial itself.

The model is the small one of the tests unless `--model smollm2-135m` is given. All trials see the
samples in the same order, so that shares of samples are shares of tokens to within a few percent.
"""

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchmarks import _common
from objectives import FineTuneConfig, FineTuneObjective
from objectives.tuning import SAMPLERS, make_pruner, make_sampler

ROOT: Final = Path(__file__).parents[1]
ASSETS: Final = ROOT / "tests" / "assets"
WORDNET: Final = ROOT / "examples" / "data" / "wordnet"
REPORTS: Final = 9
CLOSE: Final = 0.01  # of the gain
PATIENCE: Final = 2  # times the samples of the full study
SMALL: Final[dict[str, Any]] = {
    "model": ASSETS / "tiny_llama",
    "train_data": ASSETS / "alpaca_train.json",
    "validation_data": ASSETS / "alpaca_validation.json",
    "search_space": {"preset": "demo", "rank": [2, 16]},
    "micro_batch_size": 1,
    "reports_per_epoch": REPORTS,
}
REAL: Final[dict[str, Any]] = {
    "model": "smollm2-135m",
    "train_data": WORDNET / "train.json",
    "validation_data": WORDNET / "validation.json",
    "targets": ("query", "key", "value"),
    "max_train_samples": 72,
    "max_validation_samples": 24,
    "reports_per_epoch": REPORTS,
}
COMMON: Final[dict[str, Any]] = {
    "prompt_style": "plain",
    "max_length": 64,
}
DEFAULT: Final = ("tpe", "partition_gp", "direct", "random")


@dataclass(slots=True)
class Curve:
    """Samples trained on and the best loss, after each trial; a callback of a study."""

    stop_at: float = -math.inf
    at_most: float = math.inf
    samples: list[int] = field(default_factory=list)
    best: list[float] = field(default_factory=list)

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Add a trial; stop the study at its goal or out of samples."""
        before, lowest = (self.samples[-1], self.best[-1]) if self.samples else (0, math.inf)
        value = trial.value if trial.state is TrialState.COMPLETE else None
        self.samples.append(before + (trial.last_step or 0))
        self.best.append(lowest if value is None else min(lowest, value))
        if self.best[-1] <= self.stop_at or self.samples[-1] >= self.at_most:
            study.stop()

    def until(self, value: float) -> int | None:
        """Samples until the best loss is at most `value`; None if it never is."""
        reached = (n for n, b in zip(self.samples, self.best, strict=True) if b <= value)
        return next(reached, None)


def main() -> None:
    """Print the table."""
    parser = _common.parser(__doc__)
    parser.add_argument("--model", choices=["small", "smollm2-135m"], default="small")
    parser.add_argument("--trials", type=_common.positive, default=30, help="full trials")
    parser.add_argument("--seeds", type=_common.positive, default=3)
    _common.add_samplers(parser, SAMPLERS, default=DEFAULT)
    arguments = parser.parse_args()
    _common.quiet()
    # All studies use one folder for their adapters, one after the other.
    logging.getLogger("objectives.adapters").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        changes = SMALL if arguments.model == "small" else REAL
        objective = FineTuneObjective(FineTuneConfig(**changes, **COMMON, output_dir=folder))
        runs = [(name, seed) for name in arguments.samplers for seed in range(arguments.seeds)]
        rows = [
            compared(objective, name, seed, arguments.trials)
            for name, seed in _common.progress(runs, "studies")
        ]
    header = ("sampler, seed", "best", "with Hyperband", "same", "close", "same, to reach")
    title = f"Share of the samples of {arguments.trials} full trials, {arguments.model}"
    _common.report(title, _common.markdown(header, rows))


def compared(objective: FineTuneObjective, name: str, seed: int, trials: int) -> tuple[str, ...]:
    """One row: both studies of a sampler and a seed."""
    full = curve(objective, name, seed, trials=trials, pruner="none", follow=Curve())
    best, total = full.best[-1], full.samples[-1]
    follow = Curve(stop_at=best, at_most=PATIENCE * total)
    # Hyperband ends most trials after a ninth of the samples.
    many = PATIENCE * REPORTS * trials
    early = curve(objective, name, seed, trials=many, pruner="hyperband", follow=follow)
    near = best + CLOSE * (objective.base_result().val_loss - best)
    reach = full.until(best)
    assert reach is not None
    return (
        f"{name}, {seed}",
        f"{best:.4f}",
        f"{early.best[-1]:.4f}",
        share(early, best, total),
        share(early, near, total),
        share(early, best, reach),
    )


def share(early: Curve, goal: float, samples: int) -> str:
    """Samples until a goal, as a share of others; of all samples if it is not reached."""
    spent = early.until(goal)
    bound = "> " if spent is None else ""
    return f"{bound}{(early.samples[-1] if spent is None else spent) / samples:.2f}"


def curve(
    objective: FineTuneObjective,
    name: str,
    seed: int,
    *,
    trials: int,
    pruner: str,
    follow: Curve,
) -> Curve:
    """Run a study; returns `follow`, filled."""
    points = objective.report_points
    study = optuna.create_study(
        study_name=f"{name} {seed}",  # Hyperband draws a trial's bracket by it
        sampler=make_sampler(name, space=objective.search_space, n_trials=trials, seed=seed),
        pruner=make_pruner(pruner, first=points[0], last=points[-1]),
    )
    study.optimize(objective, n_trials=trials, callbacks=[follow])
    return follow


if __name__ == "__main__":
    main()
