"""BOHB [Falkner et al. 2018]: a model chooses the trials, Hyperband ends the hopeless ones early.

Every trial reports its validation loss at nine fixed numbers of training samples. Hyperband starts
brackets of trials with a ninth, a third, or all of the data, and lets the best third of a bracket
go on; the sampler learns from all of them.
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
DATA: Final = ROOT / "examples" / "data" / "wordnet"
TINY: Final[dict[str, Any]] = {
    "model": ROOT / "tests" / "assets" / "tiny_llama",
    "train_data": ROOT / "tests" / "assets" / "alpaca_train.json",
    "validation_data": ROOT / "tests" / "assets" / "alpaca_validation.json",
    "search_space": {"preset": "demo", "rank": [2, 16]},
    "max_train_samples": 36,
    "max_validation_samples": 8,
}


def main(
    sampler: str = "tpe",
    trials: int = 30,
    output: Path = Path("output/bohb"),
    *,
    tiny: bool = False,
) -> int:
    """Tune SmolLM2-135M on dictionary definitions.

    Args:
        sampler: Name of the sampler: tpe, as in the paper, or botorch_gp, partition_gp, direct, ...
        trials: Trials in all, those that Hyperband ends included.
        output: Folder for the study and the report.
        tiny: Tune a model of 68,000 parameters instead, in seconds.
    """
    from objectives.tuning.session import run  # loads torch
    from objectives.tuning.study import load_study

    config = FineTuneConfig(
        model="smollm2-135m",
        train_data=DATA / "train.json",
        validation_data=DATA / "validation.json",
        targets=("query", "key", "value"),
        prompt_style="plain",
        max_length=64,
        max_train_samples=216,
        max_validation_samples=40,
        reports_per_epoch=9,
        output_dir=output,
    )
    if tiny:
        config = dataclasses.replace(config, **TINY)
    settings = StudySettings(sampler=sampler, pruner="hyperband", n_trials=trials)
    code = run(config, settings)
    if code == 0:
        seen = [
            trial.last_step
            for trial in load_study(config, settings).get_trials(deepcopy=False)
            if trial.last_step is not None
        ]
        print(f"Samples seen    {sum(seen) / (len(seen) * max(seen)):.0%} of those of full trials")
    return code


if __name__ == "__main__":
    spin_briefly()
    sys.exit(auto_cli(main))
