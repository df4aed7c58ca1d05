"""A tuning run as a person sees it at a terminal: messages, exit codes, a report at the end."""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from tqdm import tqdm

from objectives.devices.team import LostDeviceError
from objectives.memory import OutOfMemoryError
from objectives.search_space import HARD_LIMITS
from objectives.timing import breakdown
from objectives.tuning.named import PARTITIONS
from objectives.tuning.progress import (
    FAILURES_IN_A_ROW,
    best_trials,
    describe,
    number_done,
    short,
    value_name,
)
from objectives.tuning.study import open_tuning, run_trials, storage_url
from objectives.tuning.termination import INTERRUPTED, terminable
from optuna_partition.analysis import bounds_report
from optuna_partition.visualization import Section, plot_partition, write_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.trial import FrozenTrial

    from objectives.config import FineTuneConfig
    from objectives.scoring import Score
    from objectives.tuning.settings import StudySettings
    from objectives.tuning.study import Tuning
    from optuna_partition.analysis import BoundsReport

ENOUGH: Final = 10
"""Completed trials from which on their places in the ranges say something."""

say = tqdm.write  # it does not tear a bar

Measured = tuple[float, float]


def run(config: FineTuneConfig, settings: StudySettings) -> int:
    """Tune, then write the report.

    Returns:
        The exit code: 0; 1 if all trials failed; 2 for settings that can't be used, a database
        that fails, or a device that is lost before the first trial; 130 after Ctrl-C and 143 after
        SIGTERM, with every trial kept that has ended.
    """
    with terminable() as stop:
        code = _run(config, settings)
    return stop.exit_code if code == INTERRUPTED else code


def _run(config: FineTuneConfig, settings: StudySettings) -> int:
    started = time.perf_counter()
    say(f"Loading {config.model} and the data")
    try:
        tuning = open_tuning(config, settings)
    except (ValueError, ImportError, OSError) as error:
        return complain(error)
    except KeyboardInterrupt:
        say("\nStopped before the first trial.")
        return INTERRUPTED
    try:
        code = _optimize(tuning)
        report(tuning, final=code == 0, started=started)
    except KeyboardInterrupt:
        say("\nStopped. The trials are kept; the same command makes the scores and the report.")
        return INTERRUPTED
    except (StorageInternalError, LostDeviceError, OutOfMemoryError) as error:
        return complain(error)  # trials fail by themselves: this is before the first one
    return code


def complain(error: BaseException) -> int:
    """Print an error without a traceback; returns the exit code 2."""
    message = str(error)
    if isinstance(error, StorageInternalError):  # a full disk, or a database that is gone
        reason = str(error.__cause__ or error).splitlines()[0]
        message = (
            f"the study's database failed ({reason}); trials that have ended are kept. Make room, "
            "or start the database, and give the same command again."
        )
    say(f"error: {message}", file=sys.stderr)
    return 2


def report(tuning: Tuning, *, final: bool, started: float) -> None:
    """Print the outcome; keep the best adapter and write `report.html` in the output folder.

    Args:
        tuning: Its study may be empty.
        final: Whether to score the untuned and the best model on the test tasks.
        started: Reading of `time.perf_counter` at the beginning.
    """
    config, study = tuning.config, tuning.study
    best = best_trials(study)
    if best and final:
        say(f"\n{_outcome(tuning, best)}")
        say(f"\nWhere the time of the trials went\n{breakdown(_seconds(tuning))}")
    if len(study.directions) == 1:
        _single_objective(tuning, best[0] if best else None, final=final)
    elif final:
        for trial in best:
            say(f"Adapter         {tuning.objective.best_adapter(study, number=trial.number)}")
    say(f"Time            {time.perf_counter() - started:.0f} s")
    say(f"Peak memory     {peak_memory():.1f} GB")
    dashboard = Path(sys.executable).parent / "optuna-dashboard"
    say(f"Open the study  {dashboard} {storage_url(config, tuning.settings)}")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def score_rows(base: Sequence[Score], tuned: Sequence[Score]) -> dict[str, tuple[Measured, ...]]:
    """Scores and standard errors of the untuned and the tuned model, by what was asked."""
    return {
        f"{Path(before.task).stem} {before.metric} ({before.questions} questions)": (
            (before.value, before.stderr),
            (after.value, after.stderr),
        )
        for before, after in zip(base, tuned, strict=True)
    }


def with_error(measured: Measured) -> str:
    """A score and its standard error."""
    return f"{measured[0]:.3f} ± {measured[1]:.3f}"


def _optimize(tuning: Tuning) -> int:
    study, total = tuning.study, tuning.settings.n_trials
    done = number_done(study)
    if done >= total:
        say(f"All {total} trials of the study {study.study_name!r} are done.")
        return 0
    if done:
        say(f"Going on after {done} of {total} trials.")
    try:
        run_trials(tuning)
    except KeyboardInterrupt:
        say(
            f"\nStopped: {number_done(study)} of {total} trials are done and kept. "
            "The same command goes on."
        )
        return INTERRUPTED
    if tuning.progress.gave_up:
        say(f"The last {FAILURES_IN_A_ROW} trials failed, so that the study stopped here.")
        return 1
    return 0


def _outcome(tuning: Tuning, best: Sequence[FrozenTrial]) -> str:
    """The best trial next to the untuned model, or the trials that no other beats."""
    untuned = tuning.objective.base_result().value
    name = value_name(tuning.config)
    if len(tuning.study.directions) > 1:
        front = sorted(best, key=lambda trial: trial.values)
        lines = [f"{name} of the untuned model: {untuned:.4f}", "No other trial beats:"]
        return "\n".join(lines + [describe(trial, name) for trial in front])
    [trial] = best
    rows = [("", "untuned", f"best, trial {trial.number}")]
    rows.append((name, f"{untuned:.4f}", f"{trial.values[0]:.4f}"))
    for measure, (base, tuned) in _final_scores(tuning).items():
        rows.append((measure, with_error(base), with_error(tuned)))
    rows += [(parameter, "", short(value)) for parameter, value in trial.params.items()]
    return table(rows)


def _single_objective(tuning: Tuning, best: FrozenTrial | None, *, final: bool) -> None:
    objective, study = tuning.objective, tuning.study
    output = Path(tuning.config.output_dir).expanduser()
    if best is not None and final:
        if bounds := _pressed(tuning):
            say("\n" + "\n".join(map(str, bounds.pressed)))
        say(f"\nAdapter         {_keep(objective.best_adapter(study), output)}")
    if find_spec("plotly") is None:
        say("Report          none: it needs pip install 'optuna-partition[plot]'")
        return
    page = write_report(
        study,
        output / "report.html",
        title=f"LoRA on {_model_name(tuning.config.model)}",
        baseline=None if best is None else objective.base_result().value,
        scores=_final_scores(tuning) if best is not None and final else None,
        sections=[] if best is None else [*_bounds(tuning), *_partition(tuning)],
    )
    say(f"Report          {page}")


def _model_name(model: str | Path) -> str:
    """A folder's own name, or the name on the hub."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else str(model)


def _final_scores(tuning: Tuning) -> Mapping[str, Any]:
    config = tuning.config
    if not config.test_tasks:
        return {}
    result = tuning.objective.final_test(  # made once, then read from the study
        tuning.study,
        config.test_tasks,
        limit=config.test_question_limit,
        ids=config.test_question_ids,
    )
    return score_rows(result.base, result.tuned)


def _pressed(tuning: Tuning) -> BoundsReport | None:
    """The bounds of the search, if the best trials lie at one of them."""
    if len(tuning.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < ENOUGH:
        return None
    found = bounds_report(tuning.study, limits=HARD_LIMITS)
    return found if found.pressed else None


def _bounds(tuning: Tuning) -> list[Section]:
    found = _pressed(tuning)
    about = (
        "The best trials lie at a bound where an arrow stands: a larger range may hold better ones."
    )
    return [] if found is None else [Section("Bounds of the search", found.figure(), about)]


def _partition(tuning: Tuning) -> list[Section]:
    """A picture of the cells, if a partition sampler made them."""
    if tuning.settings.sampler not in PARTITIONS:
        return []
    figure = plot_partition(tuning.study, search_space=tuning.objective.search_space)
    about = (
        "The first two variables of the search space. Each point is a trial, each rectangle the "
        "cell it stands for; small cells are where the search closes in."
    )
    return [Section("Cells of the partition", figure, about)]


def _keep(adapter: Path, output: Path) -> Path:
    """A copy of the best adapter under a name that doesn't change with the trial's number."""
    target = output / "best-adapter"
    work = Path(tempfile.mkdtemp(prefix=".best-adapter-", dir=output))
    shutil.copytree(adapter, work, dirs_exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    try:
        work.rename(target)
    except OSError:  # another worker has just put the same adapter there
        shutil.rmtree(work)
    return target


def _seconds(tuning: Tuning) -> list[dict[str, float]]:
    trials = tuning.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial.user_attrs["seconds"] for trial in trials]


def peak_memory() -> float:
    """Largest resident memory of this process so far, in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
