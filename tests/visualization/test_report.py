from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import optuna
import pytest

from optuna_partition.visualization import Section, plot_convergence, write_report
from optuna_partition.visualization._report import Measured

MakeStudy = Callable[..., optuna.Study]


class Page(HTMLParser):
    """Collects what a browser would load, and the text of the page without its scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    @property
    def own_scripts(self) -> list[str]:
        return [script for script in self.scripts if "plotly.js v" not in script]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data")]

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.text += data + "|"


def test_report_is_self_contained(mixed: optuna.Study, tmp_path: Path) -> None:
    page = Page(write_report(mixed, tmp_path / "report.html", title="LoRA", baseline=4.19))
    own = "".join(page.own_scripts)
    assert page.loads == []
    assert len(page.scripts) - len(page.own_scripts) == 1
    assert not re.search(r"https?://(?!plotly\.com)", own)
    assert own.count("Plotly.newPlot") == 4


def test_report_forbids_the_browser_to_load_anything(mixed: optuna.Study, tmp_path: Path) -> None:
    text = write_report(mixed, tmp_path / "report.html", title="LoRA").read_text()
    assert """http-equiv="Content-Security-Policy" content="default-src 'none';""" in text


def test_report_shows_the_best_next_to_the_baseline(mixed: optuna.Study, tmp_path: Path) -> None:
    scores: dict[str, tuple[Measured, Measured]] = {
        "accuracy": ((0.61, 0.031), (0.65, 0.0309)),
        "bits per byte": (1.25, 1.125),
    }
    path = write_report(mixed, tmp_path / "r.html", title="LoRA", baseline=4.19, scores=scores)
    text = Page(path).text
    assert "best validation loss|3.1|trial 7|" in text
    assert "untuned model|4.19|validation loss|" in text
    assert "change|-1.09|better|" in text
    assert "validation loss|4.19|3.1|-1.09|" in text
    assert "accuracy|0.61 ± 0.031|0.65 ± 0.031|+0.04|" in text
    assert "bits per byte|1.25|1.125|-0.125|" in text
    assert "learning_rate|0.04|4e-05 to 0.4 (log)|" in text
    assert "dropout|0.1|0.1 to 0.7|at the lower bound|" in text
    assert "scheduler|None|cosine, None, True|" in text
    assert "10|2 pruned, 2 off the axis, 1 failed, 1 unfinished|" in text


def test_report_lists_every_trial(mixed: optuna.Study, tmp_path: Path) -> None:
    text = Page(write_report(mixed, tmp_path / "r.html", title="LoRA")).text
    table = text.partition("All trials|")[2]
    for trial in mixed.trials:
        assert f"{trial.number}|{trial.state.name.lower()}|" in table
    assert "4|complete|1e+06|4e-05|" in table


def test_report_says_when_the_best_is_no_better(study_of: MakeStudy, tmp_path: Path) -> None:
    down = write_report(study_of(5.0), tmp_path / "down.html", title="t", baseline=4.0)
    assert "change|+1|no better than the untuned model|" in Page(down).text
    up = study_of(5.0, direction="maximize")
    path = write_report(up, tmp_path / "up.html", title="t", baseline=4.0)
    assert "change|+1|better|" in Page(path).text


@pytest.mark.parametrize("baseline", [None, float("nan"), float("inf")])
def test_report_of_an_empty_study(
    study_of: MakeStudy, tmp_path: Path, baseline: float | None
) -> None:
    path = write_report(study_of(), tmp_path / "r.html", title="Nothing yet", baseline=baseline)
    text = Page(path).text
    assert "best value|\N{EN DASH}|no trial completed|" in text
    assert "Best hyperparameters" not in text


def test_texts_are_escaped(study_of: MakeStudy, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> & $plotly"
    path = write_report(
        study_of(1.0),
        tmp_path / "r.html",
        title=evil,
        baseline=2.0,
        baseline_name=evil,
        scores={evil: (1.0, 2.0)},
        sections=[Section(evil, evil, evil)],
    )
    page = Page(path)
    assert not any("alert(1)" in script and "newPlot" not in script for script in page.scripts)
    assert page.text.count(evil) >= 6


def test_sections_are_texts_or_figures(mixed: optuna.Study, tmp_path: Path) -> None:
    figure = plot_convergence(mixed)
    height = figure.layout.height
    sections = [Section("How to go on", "make tune"), Section("Again", figure)]
    page = Page(write_report(mixed, tmp_path / "r.html", title="t", sections=sections))
    assert "How to go on|make tune|" in page.text
    assert sum("newPlot" in script for script in page.own_scripts) == 5
    assert figure.layout.title.text == "Convergence"
    assert figure.layout.height == height


def test_report_replaces_an_older_one_and_leaves_nothing_else(
    mixed: optuna.Study, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "folder" / "r.html"
    assert write_report(mixed, path, title="first") == path
    write_report(mixed, str(path), title="second")
    assert "second|" in Page(path).text
    assert [file.name for file in path.parent.iterdir()] == ["r.html"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    mixed: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_report(mixed, tmp_path / "r.html", title="first")

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_report(mixed, path, title="second")
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]
    assert "first|" in Page(path).text


def test_several_objectives_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.raises(ValueError, match="2 objectives"):
        write_report(study, tmp_path / "new" / "r.html", title="t")
    assert not (tmp_path / "new").exists()
