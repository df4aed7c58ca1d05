from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import objective


@pytest.mark.slow
def test_the_table_compares_equal_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "objective.py --samples 16 --questions 4 --repeats 1 --skip_subprocesses"
    monkeypatch.setattr(sys, "argv", given.split())
    threads = torch.get_num_threads()
    try:
        objective.main()  # fails if the losses or the accuracies differ
    finally:
        torch.set_num_threads(threads)
    rows = {
        cells[1].strip(): cells[-2].strip()
        for line in capsys.readouterr().out.splitlines()
        if len(cells := line.split("|")) > 3
    }
    assert float(rows["bare loops"]) > 0
    assert float(rows["after loading"]) == pytest.approx(1.0, abs=0.1)
    assert float(rows["while questions are asked"]) < 1.5  # adapted layers only
    assert rows["after a trial"] == rows["after loading"]
