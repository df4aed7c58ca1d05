"""The PEFT backend in a study of one's own: any causal language model of transformers, and DoRA.

Optuna alone drives the objective here, without the command line's bars and reports. The best
adapter is a folder in PEFT's format, which needs nothing of this package to be used.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import optuna
from jsonargparse import auto_cli

from objectives import FineTuneConfig, FineTuneObjective
from optuna_partition import PartitionGPSampler

ROOT: Final = Path(__file__).parents[1]
ASSETS: Final = ROOT / "tests" / "assets"
DATA: Final = ROOT / "examples" / "data" / "wordnet"
TINY: Final[dict[str, Any]] = {
    "model": ASSETS / "tiny_llama",
    "train_data": ASSETS / "alpaca_train.json",
    "validation_data": ASSETS / "alpaca_validation.json",
    "search_space": {"preset": "recommended", "rank": [2, 16]},
}


def main(
    model: str = "smollm2-135m",
    trials: int = 10,
    output: Path = Path("output/peft"),
    *,
    four_bit: bool = False,
    tiny: bool = False,
) -> Path:
    """Tune DoRA on dictionary definitions; returns the folder of the best adapter.

    Args:
        model: "smollm2-135m", a folder, or the hub's "organization/name".
        trials: Trials in all.
        output: Folder for the adapters.
        four_bit: Hold base weights in 4 bits; needs the extra quant.
        tiny: Tune a model of 68,000 parameters instead, in seconds.
    """
    config = FineTuneConfig(
        model=model,
        train_data=DATA / "train.json",
        validation_data=DATA / "validation.json",
        backend="peft",
        method="dora",
        four_bit=four_bit,
        search_space="recommended",
        targets=("query", "key", "value"),
        prompt_style="plain",
        max_length=64,
        max_train_samples=96,
        max_validation_samples=40,
        output_dir=output,
    )
    if tiny:
        config = dataclasses.replace(config, **TINY)
    objective = FineTuneObjective(config)
    study = optuna.create_study(
        direction=objective.direction,
        sampler=PartitionGPSampler(search_space=objective.search_space),
    )
    study.optimize(objective, n_trials=trials)

    adapter = objective.best_adapter(study)
    print(f"untuned  {objective.base_result().val_loss:.4f}")
    print(f"best     {study.best_value:.4f}  {study.best_params}")
    print(f"adapter  {adapter}")
    print("use it   peft.PeftModel.from_pretrained(base, adapter), base from transformers")
    return adapter


if __name__ == "__main__":
    auto_cli(main)
