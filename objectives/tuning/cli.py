"""`python -m objectives`: tune, and test what was tuned, from a YAML file or the command line."""

from __future__ import annotations

import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from objectives.config import FineTuneConfig
from objectives.tuning.messages import check_file, explained
from objectives.tuning.settings import StudySettings

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPACE: Final = "search_space"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Command line; None takes that of the process.

    Returns:
        The exit code: 0; 1 if all trials failed; 2 for settings that can't be used; 130 after
        Ctrl-C; 143 if SIGTERM stopped a study.
    """
    from objectives.tuning.session import complain

    given = _with_option(list(sys.argv[1:] if arguments is None else arguments))
    parser = make_parser()
    try:
        for option, file in pairwise(given):
            if option == "--config":
                check_file(Path(file))
        parsed = parser.parse_args(given)
    except ArgumentError as error:
        return complain(ValueError(explained(str(error), given)))
    except ValueError as error:
        return complain(error)
    from optuna.exceptions import StorageInternalError

    from objectives.memory import OutOfMemoryError

    command, values = parsed.subcommand, parsed[parsed.subcommand]
    try:
        config, settings = _built(values)
        return _run(command, values, config, settings)
    except (ValueError, ImportError, OSError, OutOfMemoryError, StorageInternalError) as error:
        return complain(error)
    except KeyboardInterrupt:
        return 130


def make_parser() -> ArgumentParser:
    """The parser; each command takes a YAML file, and options that come before it."""
    parser = ArgumentParser(
        prog="python -m objectives",
        description="Tune LoRA on a language model.",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(required=True)
    tune = _command()
    tune.add_argument(
        "--dry_run",
        "--dry-run",
        action="store_true",
        help="Load everything, then two optimizer steps, one validation batch and four questions "
        "of each task; the study stays as it is.",
    )
    commands.add_subcommand("tune", tune, help="Run the trials of a study that are left.")
    commands.add_subcommand(
        "test",
        _of_a_trial(),
        help="Score the untuned and the best model on test_tasks, once.",
    )
    export = _of_a_trial()
    export.add_argument("--to", type=Path, help="Folder to make.")
    export.add_argument(
        "--form",
        type=str,
        default="peft",
        help="The adapter (peft), or the model with it: a transformers folder (hf) or litgpt's.",
    )
    commands.add_subcommand(
        "export", export, help="Write the best trial's model for another program."
    )
    commands.add_subcommand(
        "estimate",
        _command(),
        help="Say how much memory a trial needs, at the lowest and the highest rank.",
    )
    return parser


def _of_a_trial() -> ArgumentParser:
    parser = _command()
    parser.add_argument(
        "--trial",
        type=int | None,
        help="Number of a trial instead of the best one; where there are two objectives, one of "
        "those that no other trial beats.",
    )
    return parser


def _command() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file with any of these settings; its path may come first, without --config.",
    )
    # Plain data only: a space is no class to a person at a terminal.
    parser.add_class_arguments(FineTuneConfig, skip={_SPACE})
    parser.add_argument(
        f"--{_SPACE}",
        type=str | dict[str, Any],
        default="demo",
        help="Name of a preset, or ranges and values by hyperparameter: "
        "{preset: recommended, rank: [4, 32], dropout: 0}.",
    )
    parser.add_class_arguments(StudySettings)
    return parser


def _with_option(arguments: list[str]) -> list[str]:
    """Let a YAML file follow the command as it is."""
    if len(arguments) > 1 and not arguments[1].startswith("-"):
        return [arguments[0], "--config", *arguments[1:]]
    return arguments


def _built(values: Namespace) -> tuple[FineTuneConfig, StudySettings]:
    config = FineTuneConfig(**{field.name: values[field.name] for field in fields(FineTuneConfig)})
    settings = {field.name: values[field.name] for field in fields(StudySettings)}
    return config, StudySettings(**settings)


def _run(command: str, values: Namespace, config: FineTuneConfig, settings: StudySettings) -> int:
    from objectives.tuning import session

    if command == "test":
        return _test(config, settings, number=values.trial)
    if command == "estimate":
        return _estimate(config)
    if command == "export":
        return _export(config, settings, values)
    if values.dry_run:
        return _dry_run(config, settings)
    return session.run(config, settings)


def _dry_run(config: FineTuneConfig, settings: StudySettings) -> int:
    from objectives.tuning.dry_run import QUESTIONS, STEPS, dry_run
    from objectives.tuning.progress import describe, value_name
    from objectives.tuning.session import peak_memory, say, score_rows, table, with_error

    say(f"Loading {config.model} and the data")
    trial, scores = dry_run(config, settings)
    asked = f", {QUESTIONS} questions of each task" if config.tasks or config.test_tasks else ""
    say(f"Dry run: {STEPS} steps at the highest rank, one batch of validation data{asked}")
    say(describe(trial, value_name(config)))
    if scores is not None:
        rows = score_rows(scores.base, scores.tuned)
        say(table([(name, *map(with_error, measured)) for name, measured in rows.items()]))
    say(f"Peak memory {peak_memory():.1f} GB; the study is as it was.")
    return 0


def _test(config: FineTuneConfig, settings: StudySettings, *, number: int | None) -> int:
    import objectives
    from objectives.finetune import chosen_trial
    from objectives.tuning.session import say, score_rows, table, with_error
    from objectives.tuning.study import load_study

    if not config.test_tasks:
        raise ValueError("test_tasks is empty; name at least one task that no trial has seen.")
    study = load_study(config, settings)
    tested = chosen_trial(study, number).number
    objective = objectives.FineTuneObjective(config)
    result = objective.final_test(
        study,
        config.test_tasks,
        limit=config.test_question_limit,
        ids=config.test_question_ids,
        number=tested,
    )
    rows: list[tuple[str, ...]] = [("", "untuned", f"{'best, ' * (number is None)}trial {tested}")]
    for name, measured in score_rows(result.base, result.tuned).items():
        rows.append((name, *map(with_error, measured)))
    say(table(rows))
    return 0


def _export(config: FineTuneConfig, settings: StudySettings, values: Namespace) -> int:
    import objectives
    from objectives.finetune import chosen_trial
    from objectives.tuning.session import say
    from objectives.tuning.study import load_study

    if values.to is None:
        raise ValueError("to is not given; name a folder to make: --to exported.")
    study = load_study(config, settings)
    number = chosen_trial(study, values.trial).number
    objective = objectives.FineTuneObjective(config)
    folder = objective.export_best(study, values.to, format=values.form, number=number)
    say(f"Trial {number} as {values.form}: {folder}")
    return 0


def _estimate(config: FineTuneConfig) -> int:
    import objectives
    from objectives.tuning.session import say

    space = config.space()
    searched = space.ranges.get("rank")
    ends = [space.highest("rank")] if searched is None else [searched.low, searched.high]
    objective = objectives.FineTuneObjective(config)
    for rank in ends:
        say(f"rank {rank}: {objective.estimate({'rank': rank})}")
    return 0
