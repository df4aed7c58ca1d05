"""Examples with the flag that runs their very code on the small model of this repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import optuna
import pytest
from optuna.trial import TrialState

Load = Callable[[str], ModuleType]


def states(output: Path) -> set[TrialState]:
    study = optuna.load_study(study_name="lora", storage=f"sqlite:///{output / 'study.db'}")
    return {trial.state for trial in study.trials}


@pytest.mark.parametrize("sampler", ["tpe", "direct"])
def test_bohb_ends_trials_early(
    load_example: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str], sampler: str
) -> None:
    assert load_example("bohb").main(sampler, trials=12, output=tmp_path, tiny=True) == 0
    printed = capsys.readouterr().out
    share = int(printed.split("Samples seen")[1].split("%")[0])
    assert 11 < share < 90
    assert states(tmp_path) == {TrialState.COMPLETE, TrialState.PRUNED}
