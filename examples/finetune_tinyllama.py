"""LoRA on TinyLlama-1.1B: Alpaca, one epoch, HellaSwag, 50 trials, and MMLU as the final test.

The recipe of a published study of partition samplers on language models (space "davouse2024"),
with weights, data and tasks by name: the first run fetches them from the Hugging Face hub, later
ones take them from its cache. A trial trains on Alpaca's 52,002 records and answers the 10,042
questions of HellaSwag; `--questions 1000` is a tenth of the questions, and has a standard error of
about 0.015. Only the small run of `--tiny` is tested: this recipe needs a GPU.

Several GPUs: `--workers 4`, or the same command with `--storage postgresql://...` on each machine.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Final

from jsonargparse import auto_cli

from objectives import FineTuneConfig
from objectives.environment import spin_briefly
from objectives.tuning import StudySettings

ROOT: Final = Path(__file__).parents[1]
ASSETS: Final = ROOT / "tests" / "assets"
TINY_QUESTIONS: Final = str(ASSETS / "questions.jsonl")
TINY_TEST: Final = str(ROOT / "examples" / "data" / "wordnet" / "questions.jsonl")
TINY: Final[dict[str, Any]] = {
    "model": ASSETS / "tiny_llama",
    "train_data": ASSETS / "alpaca_train.json",
    "search_space": {"preset": "davouse2024", "rank": [2, 16]},
    "targets": ("query", "key", "value", "projection", "mlp"),  # its head is the embedding
    "metric": TINY_QUESTIONS,
    "tasks": (TINY_QUESTIONS,),
    "test_tasks": (TINY_TEST,),
    "test_question_ids": {TINY_TEST: range(100, 112)},  # the first ones are the tuning's
    "max_length": 128,
}


def main(
    sampler: str = "partition_gp",
    trials: int = 50,
    questions: int | None = None,
    workers: int = 1,
    storage: str | None = None,
    output: Path = Path("output/tinyllama"),
    *,
    tiny: bool = False,
) -> int:
    """Tune TinyLlama-1.1B on Alpaca for HellaSwag.

    Args:
        sampler: Name of the sampler: partition_gp, direct, bamsoo, soo, tpe, ...
        trials: Trials in all.
        questions: HellaSwag questions that score a trial, the first ones; all by default.
        workers: Processes on this machine, one for each GPU.
        storage: URL of the study's database; an SQLite file in the output folder by default.
        output: Folder for the study, the best adapter and the report.
        tiny: Run the same code on a model of 68,000 parameters, without a network.
    """
    from objectives.tuning.session import run  # loads torch

    config = FineTuneConfig(
        model="TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
        train_data="alpaca",
        # The study searched ranks up to 500; keys and values of this model have 256 numbers.
        search_space={"preset": "davouse2024", "rank": [2, 256]},
        metric="hellaswag",
        tasks=("hellaswag",),
        question_limit=questions,
        test_tasks=("mmlu",),
        targets=("query", "key", "value", "projection", "mlp", "head"),
        prompt_style="alpaca",
        max_length=512,
        epochs=1,
        reports_per_epoch=1,
        output_dir=output,
    )
    if tiny:
        config = dataclasses.replace(config, **TINY)
    settings = StudySettings(sampler=sampler, n_trials=trials, workers=workers, storage=storage)
    return run(config, settings)


if __name__ == "__main__":
    spin_briefly()
    sys.exit(auto_cli(main))
