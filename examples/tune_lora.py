"""Tune LoRA on a language model, compare the best trial with the untuned model, write a report.

`make tune` runs it as it is. Started again with the same settings it goes on with the same study;
started in several terminals with one `--storage`, the workers share it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

from jsonargparse import ArgumentParser

from objectives import FineTuneConfig
from objectives.config import VALIDATION_LOSS
from objectives.environment import spin_briefly
from objectives.tuning import StudySettings

DATA: Final = Path(__file__).parent / "data" / "wordnet"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to tune, on what data, with which sampler, and where the results go.

    Args:
        model: "smollm2-135m", a litgpt checkpoint folder, or a Hugging Face folder of an
            architecture that docs/models.md lists.
        train_data: Training records, a JSON list in Alpaca format.
        validation_data: Validation records in the same format.
        metric: What is tuned: "val_loss", the mean loss on the validation records, or one of the
            tasks.
        tasks: lm-eval tasks, or .jsonl files of multiple-choice questions, that score each trial.
        questions: Questions of each task in tasks, the first ones.
        test_tasks: Final comparison of the untuned and the best model: lm-eval tasks, or .jsonl
            files of multiple-choice questions. No trial sees them.
        test_questions: Questions of each test task, the first ones.
        search_space: Preset of the search space: "demo"; "recommended" for larger models; "wide"
            or "davouse2024" for layers of 500 and more.
        ranges: Other ranges by hyperparameter, [low, high], or one number to hold it fixed, as in
            --ranges '{"learning_rate": [1e-4, 1e-2], "dropout": 0}'.
        targets: Layers that get an adapter: query, key, value, projection, mlp, head.
        sampler: How the hyperparameters are chosen: partition_gp, direct, soo, bamsoo, imgpo,
            sequool, logo, stosoo, fda, botorch_gp; Optuna's tpe, gp, cmaes or random.
        sampler_settings: Arguments of the sampler's class.
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
    sampler: str = "partition_gp"
    sampler_settings: dict[str, Any] = field(default_factory=dict)
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

    def study(self) -> StudySettings:
        """The study, checked."""
        return StudySettings(
            storage=self.storage,
            study_name=self.study_name,
            sampler=self.sampler,
            sampler_settings=self.sampler_settings,
            pruner="median" if self.prune else "none",
            n_trials=self.trials,
        )

    def config(self) -> FineTuneConfig:
        """The objective's configuration, checked."""
        return FineTuneConfig(
            model=self.model,
            train_data=self.train_data,
            validation_data=self.validation_data,
            output_dir=self.output,
            search_space={"preset": self.search_space, **self.ranges},
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune; returns the exit code: 0, 2 for unusable settings, 130 after Ctrl-C.

    Args:
        arguments: Command line; None takes that of the process.
    """
    settings = parse(arguments)
    from objectives.tuning.session import complain, run  # loads torch

    try:
        config, study = settings.config(), settings.study()
    except ValueError as error:
        return complain(error)
    return run(config, study)


def parse(arguments: Sequence[str] | None) -> Settings:
    """Settings from the command line, and from a YAML file given with --config."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", action="config", help="YAML file with any of these settings.")
    parser.add_class_arguments(Settings)
    given = parser.instantiate_classes(parser.parse_args(arguments))
    return Settings(**{setting.name: given[setting.name] for setting in fields(Settings)})


if __name__ == "__main__":
    spin_briefly()
    sys.exit(main())
