"""A trial in small, to find what is wrong before a study starts."""

from __future__ import annotations

import dataclasses
import tempfile
from typing import TYPE_CHECKING, Any, Final

import optuna
from optuna.trial import TrialState

import objectives
from objectives.grading import Grader
from objectives.resources import load_resources, make_scorer
from objectives.running import report_points_of
from objectives.tuning.rehearsal import check_pruner
from objectives.tuning.study import check_settings, check_study, new_study, quiet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.trial import FrozenTrial

    from objectives.config import FineTuneConfig
    from objectives.resources import Resources
    from objectives.results import FinalComparison
    from objectives.scoring import Scorer
    from objectives.search_space import Number, SearchSpace
    from objectives.tuning.settings import StudySettings

STEPS: Final = 2
QUESTIONS: Final = 4


def dry_run(
    config: FineTuneConfig, settings: StudySettings
) -> tuple[FrozenTrial, FinalComparison | None]:
    """Load everything, then two optimizer steps, one validation batch and four questions a task.

    The trial has the highest rank of the search space, so that memory is put to the test. The
    sampler is asked once, the adapter is saved and read again. Nothing is stored in the study, and
    nothing is left in the output folder.

    Returns:
        The small trial, and scores on the test tasks if there are any.

    Raises:
        Exception: Whatever would stop the study.
    """
    check_settings(config, settings)
    loaded = load_resources(config)
    points = Grader(config, loaded).points or report_points_of(config, loaded)
    check_pruner(settings.pruner, settings.pruner_settings, points=points)
    check_study(config, settings)
    with tempfile.TemporaryDirectory() as folder, quiet():
        small = _small(config, folder)
        parameters = _middle(config.space())
        width = int(parameters.get("grad_batches", config.space().highest("grad_batches")))
        objective = objectives.FineTuneObjective(
            small, resources=_shortened(loaded, small, batches=STEPS * width)
        )
        study = new_study(small, settings, objective, optuna.storages.InMemoryStorage())
        study.tell(study.ask(dict(config.space())), state=TrialState.FAIL)
        study.enqueue_trial(dict(parameters))
        study.optimize(objective, n_trials=1)
        trial = study.trials[-1]
        if trial.state is not TrialState.COMPLETE or not small.test_tasks:
            return trial, None
        return trial, objective.evaluate_final(objective.best_adapter(study, number=trial.number))


def _small(config: FineTuneConfig, folder: str) -> FineTuneConfig:
    return dataclasses.replace(config, output_dir=folder, epochs=1, reports_per_epoch=1)


def _shortened(loaded: Resources, config: FineTuneConfig, *, batches: int) -> Resources:
    def few(tasks: Sequence[str], ids: Mapping[str, Sequence[int]]) -> Scorer | None:
        chosen = {task: tuple(given)[:QUESTIONS] for task, given in ids.items()}
        return make_scorer(config, tasks, limit=QUESTIONS, ids=chosen)

    return dataclasses.replace(
        loaded,
        train=loaded.train[:batches],
        validation=loaded.validation[:1],
        scorer=few(config.tasks, config.question_ids),
        test_scorer=few(config.test_tasks, config.test_question_ids),
    )


def _middle(space: SearchSpace) -> dict[str, Number]:
    """The middle of every range, but the highest rank and the fewest batches a step."""
    ends: dict[str, Any] = {"rank": lambda d: d.high, "grad_batches": lambda d: d.low}

    def middle(d: Any) -> Number:
        center: float = (d.low * d.high) ** 0.5 if d.log else (d.low + d.high) / 2
        steps = None if d.step is None else round((center - d.low) / d.step)
        value: Number = center if steps is None else d.low + steps * d.step
        return value

    return {name: ends.get(name, middle)(d) for name, d in space.ranges.items()}
