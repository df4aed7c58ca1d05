"""What scores on shares of the questions save, and what they cost.

Trials of random search are fine-tuned and answer all questions, with a score reported after a
tenth and three tenths of them. Then pruners of Optuna's are asked, on the same trials in many
random orders, which of them they would have ended. Random search does not look at its results, so
that this is what a study with the pruner would have done.

Columns: the share of the questions that are answered; how much lower the best score is than without
a pruner, in points of accuracy, with its standard error over the orders; in how many orders the
best trial, or one with the same score, was not ended. "fewer trials" answers the same number of
questions in full, and is what a pruner has to beat.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import spearmanr

from benchmarks import _common
from objectives import FineTuneConfig, FineTuneObjective
from objectives.tuning import make_pruner

ROOT: Final = Path(__file__).parents[1]
WORDNET: Final = ROOT / "examples" / "data" / "wordnet"
PRUNERS: Final = ("median", "halving", "hyperband")
SPACE: Final = {"preset": "demo", "learning_rate": [1e-5, 1.0]}  # part of it diverges


@dataclass(frozen=True, slots=True)
class Outcome:
    """A study with a pruner.

    Attributes:
        asked: Questions, as a share of those that all trials have.
        lost: By how much the best score is lower.
    """

    asked: float
    lost: float


def main() -> None:
    """Print the tables."""
    parser = _common.parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--trials", type=_common.positive, default=24)
    parser.add_argument("--questions", type=_common.positive, default=200)
    parser.add_argument("--orders", type=_common.positive, default=400)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("output/question_shares"),
        help="keeps the study, which goes on if the command is given again (default: %(default)s)",
    )
    given = parser.parse_args()
    _common.quiet()
    given.folder.mkdir(parents=True, exist_ok=True)
    objective = make_objective(given.model, given.questions, given.folder)
    trials = evaluated(objective, given.trials, given.folder)
    steps = sorted(trials[0].intermediate_values)
    finals = [_final(trial) for trial in trials]
    _common.report(
        f"{len(trials)} trials, {steps[-1]} questions: best {max(finals):.3f}, median "
        f"{statistics.median(finals):.3f}, worst {min(finals):.3f}",
        _common.markdown(
            ("after questions", "rank correlation with the score on all", "mean error"),
            [
                (str(step), f"{correlation(trials, step):.2f}", f"{error(trials, step):.3f}")
                for step in steps[:-1]
            ],
        ),
    )
    rng = np.random.default_rng(0)
    orders = [[trials[i] for i in rng.permutation(len(trials))] for _ in range(given.orders)]
    header = ("pruner", "questions", "best score lost", "best kept", "fewer trials lose")
    rows = [row(name, orders) for name in _common.progress(list(PRUNERS), "pruners")]
    _common.report(f"Over {given.orders} orders", _common.markdown(header, rows))


def make_objective(model: str, questions: int, folder: Path) -> FineTuneObjective:
    """Accuracy on questions about words, after LoRA on definitions."""
    return FineTuneObjective(
        FineTuneConfig(
            model=model,
            train_data=WORDNET / "train.json",
            validation_data=WORDNET / "validation.json",
            output_dir=folder,
            search_space=SPACE,
            tasks=(str(WORDNET / "questions.jsonl"),),
            metric=str(WORDNET / "questions.jsonl"),
            question_limit=questions,
            question_shares=(0.1, 0.3),
            targets=("query", "key", "value"),
            max_train_samples=96,
            max_validation_samples=8,
            micro_batch_size=4,
            max_length=64,
            prompt_style="plain",
        )
    )


def evaluated(objective: FineTuneObjective, n_trials: int, folder: Path) -> list[FrozenTrial]:
    """Completed trials with a score after each share; what the folder has is not repeated."""
    study = optuna.create_study(
        study_name="question shares",
        storage=f"sqlite:///{folder / 'study.db'}",
        direction="maximize",
        load_if_exists=True,
    )
    done = len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.RandomSampler(seed=done)  # not the same points again
    for _ in _common.progress(range(done, n_trials), "trials"):
        study.optimize(objective, n_trials=1)
    return study.get_trials(states=(TrialState.COMPLETE,))


def correlation(trials: Sequence[FrozenTrial], step: int) -> float:
    """Spearman's, between the value reported at a step and the final one."""
    reported = [trial.intermediate_values[step] for trial in trials]
    return float(spearmanr(reported, [_final(trial) for trial in trials]).statistic)


def error(trials: Sequence[FrozenTrial], step: int) -> float:
    """Mean absolute difference of the value reported at a step and the final one."""
    return statistics.fmean(abs(t.intermediate_values[step] - _final(t)) for t in trials)


def row(name: str, orders: Sequence[Sequence[FrozenTrial]]) -> tuple[str, ...]:
    """A line of the table."""
    outcomes = [replayed(name, order, seed) for seed, order in enumerate(orders)]
    asked = statistics.fmean(outcome.asked for outcome in outcomes)
    lost = [100 * outcome.lost for outcome in outcomes]
    fewer = [
        100 * (best(order) - best(order[: max(1, round(asked * len(order)))])) for order in orders
    ]
    kept = statistics.fmean(outcome.lost == 0 for outcome in outcomes)
    return (
        name,
        f"{100 * asked:.0f} %",
        f"{statistics.fmean(lost):.2f} ± {_standard_error(lost):.2f}",
        f"{100 * kept:.0f} %",
        f"{statistics.fmean(fewer):.2f} ± {_standard_error(fewer):.2f}",
    )


def best(trials: Sequence[FrozenTrial]) -> float:
    """The highest score on all questions."""
    return max(_final(trial) for trial in trials)


def replayed(name: str, order: Sequence[FrozenTrial], seed: int) -> Outcome:
    """What a pruner would have made of the trials in this order."""
    steps = sorted(order[0].intermediate_values)
    study = optuna.create_study(
        study_name=f"{name} {seed}",  # Hyperband draws a trial's bracket by it
        direction="maximize",
        pruner=make_pruner(name, first=steps[0], last=steps[-1]),
    )
    asked = 0
    found: list[float] = []
    for made in order:
        reported: Mapping[int, float] = made.intermediate_values
        trial = study.ask()
        for step in steps:
            trial.report(reported[step], step=step)
            if step < steps[-1] and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, reported[steps[-1]])
            found.append(reported[steps[-1]])
        asked += step
    return Outcome(asked / (len(order) * steps[-1]), best(order) - max(found, default=0.0))


def _final(trial: FrozenTrial) -> float:
    return trial.intermediate_values[max(trial.intermediate_values)]


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


if __name__ == "__main__":
    main()
