"""Tune LoRA on a language model, compare the best trial with the untuned model, write a report.

`make tune` runs it as it is. Started again with the same settings it goes on with the same study;
started in several terminals with one `--storage`, the workers share it.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import optuna
from jsonargparse import ArgumentParser
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError
from tqdm import tqdm

import objectives
from objectives import FineTuneConfig, SearchSpace
from objectives.config import VALIDATION_LOSS
from optuna_partition import DIRECTSampler, SOOSampler
from optuna_partition.visualization import Section, plot_partition, write_report

START: Final = time.perf_counter()
DATA: Final = Path(__file__).parent / "data" / "wordnet"
DONE: Final = (TrialState.COMPLETE, TrialState.PRUNED)
SAMPLERS: Final = ("soo", "direct", "tpe", "gp", "random")
FAILURES_IN_A_ROW: Final = 5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to tune, on what data, with which sampler, and where the results go.

    Args:
        model: "smollm2-135m", a litgpt checkpoint folder, or a Hugging Face folder of a model of
            the Llama architecture.
        train_data: Training records, a JSON list in Alpaca format.
        validation_data: Validation records in the same format.
        metric: What is tuned: "val_loss", the mean loss on the validation records, or one of the
            tasks.
        tasks: lm-eval tasks, or .jsonl files of multiple-choice questions, that score each trial.
        questions: Questions of each task in tasks, the first ones.
        test_tasks: Final comparison of the untuned and the best model: lm-eval tasks, or .jsonl
            files of multiple-choice questions. No trial sees them.
        test_questions: Questions of each test task, the first ones.
        search_space: Preset of the search space: "demo", or "davouse2024" for layers of 500 and
            more.
        ranges: Other ranges by hyperparameter, [low, high], or one number to hold it fixed, as in
            --ranges '{"learning_rate": [1e-4, 1e-2], "dropout": 0}'.
        targets: Layers that get an adapter: query, key, value, projection, mlp, head.
        sampler: How the hyperparameters are chosen: soo, direct, tpe, gp or random.
        trials: Trials of the study in all, those of earlier runs and other workers included.
        train_samples: Training records of a trial, the first ones.
        validation_samples: Validation records, the first ones.
        micro_batch_size: Records in one forward and backward pass.
        max_length: Tokens of a record; longer ones are cut.
        prompt_style: How a record becomes a text: "plain" or a style of litgpt's, such as "alpaca".
        reports: How often a trial measures and reports its validation loss.
        prune: Whether to stop trials that fall behind the median of the others; needs 2 reports.
        device: Where to train; "auto" takes the first GPU if there is one.
        storage: URL of the study's database; an SQLite file in the output folder by default.
        study_name: Name of the study in its database.
        seed: Seeds the training, and those samplers that draw random numbers.
        output: Folder for the database, the adapters and the report.
    """

    model: str = "smollm2-135m"
    train_data: Path = DATA / "train.json"
    validation_data: Path = DATA / "validation.json"
    metric: str = VALIDATION_LOSS
    tasks: list[str] = field(default_factory=list)
    questions: int = 200
    test_tasks: list[str] = field(default_factory=lambda: [str(DATA / "questions.jsonl")])
    test_questions: int = 200
    search_space: str = "demo"
    ranges: dict[str, float | list[float]] = field(default_factory=dict)
    targets: list[str] = field(default_factory=lambda: ["query", "key", "value"])
    sampler: str = "soo"
    trials: int = 10
    train_samples: int = 96
    validation_samples: int = 40
    micro_batch_size: int = 4
    max_length: int = 64
    prompt_style: str = "plain"
    reports: int = 1
    prune: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    storage: str | None = None
    study_name: str = "lora"
    seed: int = 0
    output: Path = Path("output/lora")

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.storage or f"sqlite:///{self.output / 'study.db'}"

    @property
    def value_name(self) -> str:
        """What the tuned value is called."""
        return "validation loss" if self.metric == VALIDATION_LOSS else Path(self.metric).stem

    def config(self) -> FineTuneConfig:
        """The objective's configuration, checked."""
        if self.trials < 1:
            raise ValueError(f"trials is {self.trials}, expected 1 or more.")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {self.sampler!r}, expected one of {SAMPLERS}.")
        if self.prune and self.reports < 2:
            raise ValueError(
                f"prune needs values on the way, and reports is {self.reports}; give --reports 4."
            )
        # An interval of another length than two is an error of the search space's own.
        changes: dict[str, Any] = {
            name: tuple(change) if isinstance(change, list) else change
            for name, change in self.ranges.items()
        }
        return FineTuneConfig(
            model=self.model,
            train_data=self.train_data,
            validation_data=self.validation_data,
            output_dir=self.output,
            search_space=SearchSpace.preset(self.search_space).override(**changes),
            metric=self.metric,
            tasks=tuple(self.tasks),
            question_limit=self.questions,
            test_tasks=tuple(self.test_tasks),
            test_question_limit=self.test_questions,
            targets=tuple(self.targets),
            max_train_samples=self.train_samples,
            max_validation_samples=self.validation_samples,
            micro_batch_size=self.micro_batch_size,
            max_length=self.max_length,
            prompt_style=self.prompt_style,
            reports_per_epoch=self.reports,
            device=self.device,
            seed=self.seed,
        )

    def identity(self) -> dict[str, Any]:
        """What has to be the same in all trials of a study, for their values to be comparable."""
        names = (
            "model", "metric", "tasks", "questions", "search_space", "ranges", "targets",
            "train_samples", "validation_samples", "micro_batch_size", "max_length",
            "prompt_style", "seed",
        )  # fmt: skip
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        for name in ("train_data", "validation_data"):
            # By content: the same file lies elsewhere on another node.
            found[name] = hashlib.sha256(getattr(self, name).read_bytes()).hexdigest()
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune; returns the exit code: 0, 2 for unusable settings, 130 after Ctrl-C.

    Args:
        arguments: Command line; None takes that of the process.
    """
    settings = parse(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # every trial has a line of its own
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    try:
        config = settings.config()
        # A database elsewhere is the first thing to be missing; a file is made when all is well.
        storage = open_storage(settings) if settings.storage else None
        print(f"Loading {settings.model} and the data", flush=True)
        progress, objective = load(config)
        study = open_study(settings, storage or open_storage(settings), objective)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        code = optimize(settings, study, objective, progress)
        report(settings, study, objective, final=code == 0)
    except KeyboardInterrupt:
        print("\nStopped. The trials are kept; the same command makes the scores and the report.")
        return 130
    return code


def parse(arguments: Sequence[str] | None) -> Settings:
    """Settings from the command line, and from a YAML file given with --config."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", action="config", help="YAML file with any of these settings.")
    parser.add_class_arguments(Settings)
    given = parser.instantiate_classes(parser.parse_args(arguments))
    return Settings(**{setting.name: given[setting.name] for setting in fields(Settings)})


def open_storage(settings: Settings) -> BaseStorage:
    """Connect to the database; an error names the URL and what to do."""
    if settings.storage is None:
        settings.output.mkdir(parents=True, exist_ok=True)
    arguments = {"connect_args": {"timeout": 100}} if settings.url.startswith("sqlite") else {}
    try:
        try:
            return connect(settings.url, arguments)
        except (DBAPIError, StorageInternalError) as error:
            # Workers that start together on an empty database all make its tables.
            if not any(text in str(error) for text in ("already exists", "duplicate key")):
                raise
            time.sleep(2)
            return connect(settings.url, arguments)
    except Exception as error:  # every driver has errors of its own
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"can't open the storage {settings.url} ({reason}); start the database, or give "
            "--storage a URL such as sqlite:///study.db or postgresql://user@host/name."
        ) from error


def connect(url: str, arguments: dict[str, Any]) -> BaseStorage:
    """Open the database; its tables are made if they are missing."""
    # A worker that was killed stops sending heartbeats, and its trial is run again.
    return RDBStorage(url, engine_kwargs=arguments, heartbeat_interval=60, grace_period=180)


def load(config: FineTuneConfig) -> tuple[Progress, objectives.FineTuneObjective]:
    """Load weights, data and questions; everything that is wrong with them is an error now."""
    progress = Progress()
    return progress, objectives.FineTuneObjective(config, callbacks=[progress.callback()])


def open_study(
    settings: Settings, storage: BaseStorage, objective: objectives.FineTuneObjective
) -> optuna.Study:
    """Create the study, or go on with it if it was made with the same settings."""
    study = optuna.create_study(
        study_name=settings.study_name,
        storage=storage,
        pruner=optuna.pruners.MedianPruner() if settings.prune else optuna.pruners.NopPruner(),
        direction=objective.direction,
        load_if_exists=True,
    )
    study.sampler = make_sampler(settings, objective.search_space, len(study.trials))
    before, now = study.user_attrs.get("settings"), settings.identity()
    if before is None:
        study.set_metric_names([settings.value_name])
        study.set_user_attr("settings", now)
    elif before != now:
        name = next(name for name in now if before.get(name) != now[name])
        raise ValueError(
            f"the study {settings.study_name!r} in {settings.url} was made with {name} "
            f"{before.get(name)!r}, not {now[name]!r}; their values can't be compared. Give the "
            "same settings, or another --study_name and --output."
        )
    return study


def make_sampler(settings: Settings, space: SearchSpace, number_of_trials: int) -> BaseSampler:
    """The sampler of a name."""
    # Random numbers of their own for a study that goes on, and for each of several workers.
    stream = (settings.seed, number_of_trials, os.getpid() if settings.storage else 0)
    seed = int(np.random.SeedSequence(stream).generate_state(1)[0])
    match settings.sampler:
        case "soo":
            return SOOSampler(search_space=space)
        case "direct":
            return DIRECTSampler(search_space=space)
        case "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed)
        case _:
            return optuna.samplers.RandomSampler(seed=seed)


class Progress:
    """A bar over all trials that moves with every micro-batch; a line for every trial."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def start(
        self, study: optuna.Study, settings: Settings, *, samples: int, untuned: float
    ) -> None:
        """Show the bar, where it stands after the trials that are done."""
        done, trials = number_done(study), settings.trials
        self._samples, self._trials, self._untuned = samples, trials, untuned
        self._name = "loss" if settings.metric == VALIDATION_LOSS else settings.value_name
        self._bar = tqdm(
            total=trials * samples,
            initial=done * samples,
            unit=" samples",
            # Without a terminal the lines of the trials are enough.
            disable=None,
            bar_format="{desc} |{bar:20}| {percentage:3.0f}% [{elapsed}<{remaining}]{postfix}",
        )
        self._failures = 0
        self._describe(study)

    def callback(self) -> Any:
        """Move the bar with every micro-batch of the training."""
        from lightning.pytorch.callbacks import LambdaCallback

        def move(_: Any, __: Any, ___: Any, batch: Any, ____: int) -> None:
            if self._bar is not None:
                self._bar.update(batch.samples)

        return LambdaCallback(on_train_batch_end=move)

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Print what became of a trial."""
        assert self._bar is not None
        # A pruned or failed trial used fewer samples than it was counted with.
        self._bar.n = min(number_done(study), self._trials) * self._samples
        shown = ", ".join(f"{name} {short(value)}" for name, value in trial.params.items())
        value = "no value" if trial.value is None else f"{self._name} {trial.value:.4f}"
        seconds = sum(trial.user_attrs.get("seconds", {}).values())
        state = "" if trial.state is TrialState.COMPLETE else f" {trial.state.name.lower()}"
        self._bar.write(f"trial {trial.number}{state}: {value}  ({shown}; {seconds:.0f} s)")
        if "failure" in trial.user_attrs:
            self._bar.write(trial.user_attrs["failure"])
        self._failures = self._failures + 1 if trial.state is TrialState.FAIL else 0
        if self._failures == FAILURES_IN_A_ROW:
            study.stop()
        self._describe(study)

    def _describe(self, study: optuna.Study) -> None:
        assert self._bar is not None
        best = best_trial(study)
        self._bar.set_description(
            f"trial {min(number_done(study) + 1, self._trials)}/{self._trials}", refresh=False
        )
        value = "none yet" if best is None else f"{best.value:.4f}"
        self._bar.set_postfix_str(f"best {self._name} {value}, untuned {self._untuned:.4f}")

    @property
    def gave_up(self) -> bool:
        """Whether too many trials in a row have failed."""
        return self._failures >= FAILURES_IN_A_ROW

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def optimize(
    settings: Settings,
    study: optuna.Study,
    objective: objectives.FineTuneObjective,
    progress: Progress,
) -> int:
    """Run the trials that are left; returns 0, 1 if they all fail, 130 if Ctrl-C came."""
    if number_done(study) >= settings.trials:
        print(f"All {settings.trials} trials of the study {settings.study_name!r} are done.")
        return 0
    if number_done(study):
        print(f"Going on after {number_done(study)} of {settings.trials} trials.")
    try:
        untuned = untuned_value(settings, objective)
        progress.start(study, settings, samples=objective.samples_per_trial, untuned=untuned)
        study.optimize(
            objective,
            catch=(MemoryError, objectives.OutOfMemoryError),
            callbacks=[
                progress,
                # Counts the trials of all workers, so that together they make as many as asked.
                optuna.study.MaxTrialsCallback(settings.trials, states=DONE),
            ],
        )
    except KeyboardInterrupt:
        progress.close()
        print(
            f"\nStopped: {number_done(study)} of {settings.trials} trials are done and kept. "
            "The same command goes on."
        )
        return 130
    progress.close()
    if progress.gave_up:
        print(f"The last {FAILURES_IN_A_ROW} trials failed, so that the study stopped here.")
        return 1
    return 0


def untuned_value(settings: Settings, objective: objectives.FineTuneObjective) -> float:
    """What the untuned model reaches on the metric; measured once."""
    base = objective.base_result()
    if settings.metric == VALIDATION_LOSS:
        return base.val_loss
    return next(score.value for score in base.scores if score.task == settings.metric)


def report(
    settings: Settings, study: optuna.Study, objective: objectives.FineTuneObjective, *, final: bool
) -> None:
    """Print the outcome, score base and best model, and write adapter and report."""
    from objectives.timing import breakdown

    best = best_trial(study)
    rows: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {}
    untuned = untuned_value(settings, objective) if best is not None else None
    if best is not None and final:
        adapter = keep_adapter(settings, objective.best_adapter(study))
        rows = final_scores(study, best, objective, adapter)
        print_comparison(settings, best, untuned, rows)
        print(f"\nWhere the time of the trials went\n{breakdown(seconds_of(study))}")
        print(f"\nAdapter (PEFT)  {adapter}")
    page = write_report(
        study,
        settings.output / "report.html",
        title=f"LoRA on {settings.model}",
        baseline=untuned,
        scores=rows or None,
        sections=[] if best is None else partition_section(settings, study, objective),
    )
    print(f"Report          {page}")
    print(f"Time            {time.perf_counter() - START:.0f} s")
    print(f"Peak memory     {peak_memory():.1f} GB")
    print(f"Open the study  {Path(sys.executable).parent / 'optuna-dashboard'} {settings.url}")


def partition_section(
    settings: Settings, study: optuna.Study, objective: objectives.FineTuneObjective
) -> list[Section]:
    """A picture of the cells, if a partition sampler made them."""
    if settings.sampler not in ("soo", "direct"):
        return []
    figure = plot_partition(study, search_space=objective.search_space)
    about = (
        "The first two variables of the search space. Each point is a trial, each rectangle the "
        "cell it stands for; small cells are where the search closes in."
    )
    return [Section("Cells of the partition", figure, about)]


def keep_adapter(settings: Settings, adapter: Path) -> Path:
    """A copy of the best adapter under a name that doesn't change with the trial's number."""
    target = settings.output / "best-adapter"
    work = Path(tempfile.mkdtemp(prefix=".best-adapter-", dir=settings.output))
    shutil.copytree(adapter, work, dirs_exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    try:
        work.rename(target)
    except OSError:  # another worker has just put the same adapter there
        shutil.rmtree(work)
    return target


Measured = tuple[float, float]


def final_scores(
    study: optuna.Study, best: FrozenTrial, objective: objectives.FineTuneObjective, adapter: Path
) -> dict[str, tuple[Measured, Measured]]:
    """Scores of base and best model with their standard errors, made once for each best trial."""
    kept: Mapping[str, Any] = study.user_attrs.get("final_scores", {})
    if kept.get("trial") != best.number or kept.get("config") != repr(objective.config):
        print("Scoring the untuned and the best model", flush=True)
        result = objective.evaluate_final(adapter)
        rows = {
            f"{Path(base.task).stem} {base.metric} ({base.questions} questions)": (
                (base.value, base.stderr),
                (tuned.value, tuned.stderr),
            )
            for base, tuned in zip(result.base, result.tuned, strict=True)
        }
        kept = {"trial": best.number, "config": repr(objective.config), "rows": rows}
        study.set_user_attr("final_scores", kept)
    return {name: (tuple(base), tuple(tuned)) for name, (base, tuned) in kept["rows"].items()}


def print_comparison(
    settings: Settings,
    best: FrozenTrial,
    untuned: float | None,
    rows: Mapping[str, tuple[Measured, Measured]],
) -> None:
    """Print a table of the best trial next to the untuned model."""
    table = [("", "untuned", f"best, trial {best.number}")]
    assert untuned is not None
    assert best.value is not None
    table.append((settings.value_name, f"{untuned:.4f}", f"{best.value:.4f}"))
    for name, (base, tuned) in rows.items():
        table.append((name, f"{base[0]:.3f} ± {base[1]:.3f}", f"{tuned[0]:.3f} ± {tuned[1]:.3f}"))
    table += [(name, "", short(value)) for name, value in best.params.items()]
    widths = [max(len(row[k]) for row in table) for k in range(3)]
    print()
    for row in table:
        print(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The best completed trial, None if there is none."""
    with suppress(ValueError):
        return study.best_trial
    return None


def number_done(study: optuna.Study) -> int:
    """Trials that count: completed or pruned."""
    return len(study.get_trials(deepcopy=False, states=DONE))


def seconds_of(study: optuna.Study) -> list[dict[str, float]]:
    """Seconds by phase of each completed trial."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial.user_attrs["seconds"] for trial in trials]


def short(value: Any) -> str:
    """A value with three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def peak_memory() -> float:
    """Largest resident memory of this process so far, in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


if __name__ == "__main__":
    sys.exit(main())
