from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from choreographer.browsers.chromium import Chromium

from benchmarks import _common, _problems, _samplers


def test_a_table_has_a_rule_below_its_header() -> None:
    text = _common.markdown(["score", "50"], [["SOO", "-0.61"]])
    assert text == "| score | 50 |\n| --- | ---: |\n| SOO | -0.61 |"


@pytest.mark.parametrize("arguments", [["--output", "picture.gif"], ["--samplers", "SO"]])
def test_wrong_arguments_are_refused_before_anything_runs(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = _common.parser("Text.")
    _common.add_samplers(parser, _samplers.SINGLE)
    with pytest.raises(SystemExit):
        parser.parse_args(arguments)
    assert arguments[1] in capsys.readouterr().err


def test_a_still_picture_without_a_browser_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = _common.parser("Text.")
    monkeypatch.setattr(Chromium, "find_browser", lambda **_: "chromium")
    assert parser.parse_args(["--output", "a.svg"]).output == Path("a.svg")
    monkeypatch.setattr(Chromium, "find_browser", lambda **_: None)
    assert parser.parse_args(["--output", "a.html"]).output == Path("a.html")
    with pytest.raises(SystemExit):
        parser.parse_args(["--output", "a.svg"])
    assert "install chromium" in capsys.readouterr().err


def test_samplers_by_default_are_all_or_the_given_ones() -> None:
    every, some = _common.parser("Text."), _common.parser("Text.")
    _common.add_samplers(every, ["a", "b"])
    _common.add_samplers(some, ["a", "b"], ["b"])
    assert every.parse_args([]).samplers == ["a", "b"]
    assert some.parse_args([]).samplers == ["b"]


def test_lines_of_a_picture_can_be_told_apart(tmp_path: Path) -> None:
    names = [f"line {k}" for k in range(30)]
    figure = _common.curves(
        {name: ([1.0, 2.0], [3.0, 4.0]) for name in names},
        title="T",
        x_title="x",
        y_title="y",
        peers=names[10:24],
    )
    styles = [(trace.line.color, trace.line.dash) for trace in figure.data]
    assert len(set(styles)) == 30
    assert {dash for _, dash in styles[10:24]} == {"dot", "dashdot"}
    _common.save(figure, tmp_path / "deep" / "lines.html")
    page = (tmp_path / "deep" / "lines.html").read_text()
    assert all(name in page for name in names)


def parameters(entry: _samplers.Entry, seed: int) -> list[dict[str, float]]:
    problem = _problems.problems(copies=1, names=["branin"])[1]
    sampler = entry.make(problem.search_space, 15, seed)
    study = optuna.create_study(sampler=sampler)
    study.optimize(problem.objective, n_trials=15)
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("name", _samplers.SINGLE)
def test_a_seed_matters_to_the_samplers_that_say_so(name: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    entry = _samplers.SINGLE[name]
    assert (parameters(entry, 0) != parameters(entry, 1)) == entry.seeded


def test_the_budget_reaches_a_sampler_that_plans() -> None:
    def sampler(**given: object) -> optuna.samplers.BaseSampler:
        assert given == {"search_space": {}, "n_trials": 70, "seed": 5, "w": 3}
        return optuna.samplers.RandomSampler(seed=0)

    entry = _samplers.ours(sampler, budget="n_trials", seeded=True, w=3)
    assert isinstance(entry.make({}, 70, 5), optuna.samplers.RandomSampler)
    assert entry.budgeted
