"""One HTML file that shows a study to somebody who has only a browser and no network."""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial

from optuna_partition.visualization import _theme
from optuna_partition.visualization._convergence import plot_convergence
from optuna_partition.visualization._history import History, Mark, read_history
from optuna_partition.visualization._learning import plot_learning_curves
from optuna_partition.visualization._variables import (
    Variable,
    plot_variables,
    plot_variables_over_trials,
    variables,
)

if TYPE_CHECKING:
    from plotly import graph_objects as go

Measured = float | tuple[float, float]
"""A score, or a score and its standard error."""

_TITLE_HEIGHT = 36
_NOTHING = "\N{EN DASH}"
_NEAR = 0.02  # of a variable's range: a best value as close as this lies at the bound


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report.

    Args:
        heading: Its heading.
        body: A text, shown as it is, or a plotly figure.
        about: A sentence that says what is seen.
    """

    heading: str
    body: str | go.Figure
    about: str = ""


def write_report(
    study: optuna.Study,
    path: str | Path,
    *,
    title: str,
    baseline: float | None = None,
    baseline_name: str = "untuned model",
    scores: Mapping[str, tuple[Measured, Measured]] | None = None,
    sections: Sequence[Section] = (),
) -> Path:
    """Write a self-contained HTML report of a study, in any state, and return its path.

    The file holds plotly.js and refers to nothing outside itself. It replaces an older one at once
    when it is complete, so a reader never sees half of it.

    Args:
        study: A study with one objective.
        path: Where to write; missing folders are made.
        title: Heading of the report.
        baseline: Value to compare with, that of the untuned model for example.
        baseline_name: What it is called.
        scores: Further measures, each of the baseline and of the best trial, in this order.
        sections: What to add after the figures.

    Raises:
        ImportError: If plotly is not installed; the extra `plot` brings it.
        ValueError: If the study has several objectives.
    """
    offline = _theme.offline()
    history = read_history(study, baseline=baseline)
    trials = sorted(study.get_trials(deepcopy=False), key=lambda t: t.number)
    figures = _figures(study, trials, baseline, baseline_name)
    page = _template().substitute(
        title=html.escape(title),
        plotly=offline.get_plotlyjs(),
        lead=_lead(study, trials),
        cards=_cards(history, trials, baseline, baseline_name),
        tables=_best_table(history) + _score_table(history, baseline, baseline_name, scores or {}),
        sections="".join(map(_section, [*figures, *sections])) + _trial_table(history, trials),
        footer=f"Written by optuna-partition with Optuna {html.escape(optuna.__version__)}.",
    )
    return _replace(Path(path), page)


def _figures(
    study: optuna.Study, trials: Sequence[FrozenTrial], baseline: float | None, name: str
) -> list[Section]:
    shown = [
        Section(
            "Convergence",
            plot_convergence(study, baseline=baseline, baseline_name=name),
            "The value of every trial, and the best value so far.",
        ),
        Section(
            "Each variable against the value",
            plot_variables(study, baseline=baseline, baseline_name=name),
            "Dotted lines are the bounds of the search. If the best trial lies at one of them, a "
            "wider search may find better values.",
        ),
        Section(
            "Each variable over the trials",
            plot_variables_over_trials(study),
            "Where the search went. Dark trials are good; the line follows the best one so far.",
        ),
    ]
    if any(len(trial.intermediate_values) > 1 for trial in trials):
        about = "What the trials reported while they ran; curves that leave the axis diverged."
        shown.append(Section("Learning curves", plot_learning_curves(study), about))
    return shown


def _lead(study: optuna.Study, trials: Sequence[FrozenTrial]) -> str:
    starts = [t.datetime_start for t in trials if t.datetime_start is not None]
    ends = [t.datetime_complete for t in trials if t.datetime_complete is not None]
    parts = [f"Study “{html.escape(study.study_name)}”", f"{study.direction.name.lower()}d"]
    if starts:
        parts.append(f"started {min(starts):%Y-%m-%d %H:%M}")
    if ends:
        parts.append(f"last trial ended {max(ends):%Y-%m-%d %H:%M}")
    return " · ".join(parts)


def _cards(
    history: History, trials: Sequence[FrozenTrial], baseline: float | None, name: str
) -> str:
    best = history.best
    value = None if best is None else best.value
    note = "no trial completed" if best is None else f"trial {best.number}"
    cards = [_card("best", f"best {history.value_name}", _number(value), note)]
    if baseline is not None:
        cards.append(_card("baseline", name, _number(baseline), history.value_name))
    if baseline is not None and value is not None:
        gain = value - baseline if history.axis.maximize else baseline - value
        note = "better" if gain > 0 else f"no better than the {name}"
        cards.append(_card("", "change", f"{value - baseline:+.4g}", note))
    counts = {mark.value: history.count(mark) for mark in Mark if mark is not Mark.COMPLETE}
    counts["unfinished"] = history.unfinished
    note = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    cards.append(_card("", "trials", str(len(trials)), note or "all completed" * bool(trials)))
    spent = sum((t.duration for t in trials if t.duration is not None), timedelta())
    cards.append(_card("", "time in trials", _duration(spent), ""))
    return "".join(cards)


def _card(kind: str, label: str, figure: str, note: str) -> str:
    return (
        f'<div class="card {kind}"><div class="label">{html.escape(label)}</div>'
        f'<div class="figure">{html.escape(figure)}</div>'
        f'<div class="note">{html.escape(note)}</div></div>'
    )


def _best_table(history: History) -> str:
    best = history.best
    if best is None:
        return ""
    rows = []
    for variable in variables(history):
        if variable.name not in best.params:
            continue
        value = best.params[variable.name]
        cells = [
            _cell(variable.name),
            _cell(_theme.number(value), "number strong"),
            _cell(_range(variable), "number"),
            _cell(_remark(variable, value), "wrap remark"),
        ]
        rows.append("".join(cells))
    head = [("hyperparameter", ""), ("best", "number"), ("searched", "number"), ("", "")]
    return f"<section><h2>Best hyperparameters</h2>{_table(head, rows)}</section>"


def _score_table(
    history: History,
    baseline: float | None,
    name: str,
    scores: Mapping[str, tuple[Measured, Measured]],
) -> str:
    best = history.best
    rows = []
    if baseline is not None and best is not None and best.value is not None:
        rows.append(_score_row(history.value_name, baseline, best.value))
    rows += [_score_row(measure, *values) for measure, values in scores.items()]
    if not rows:
        return ""
    head = [("measure", ""), (name, "number"), ("best trial", "number"), ("difference", "number")]
    return f"<section><h2>Scores</h2>{_table(head, rows)}</section>"


def _score_row(measure: str, before: Measured, after: Measured) -> str:
    difference = _split(after)[0] - _split(before)[0]
    cells = [
        _cell(measure, "wrap"),
        _cell(_measured(before), "number"),
        _cell(_measured(after), "number strong"),
        _cell(f"{difference:+.4g}", "number"),
    ]
    return "".join(cells)


def _trial_table(history: History, trials: Sequence[FrozenTrial]) -> str:
    if not trials:
        return ""
    names = list(history.distributions)
    columns = ["trial", "state", history.value_name, *names, "time"]
    values = {point.number: point.value for point in history.points}
    rows = []
    for trial in trials:
        time = "" if trial.duration is None else _duration(trial.duration)
        cells = [_cell(str(trial.number), "number"), _cell(trial.state.name.lower())]
        cells.append(_cell(_number(values.get(trial.number)), "number"))
        cells += [_cell(_theme.number(trial.params.get(name, "")), "number") for name in names]
        rows.append("".join([*cells, _cell(time, "number")]))
    head = [(column, "" if column == "state" else "number") for column in columns]
    return (
        f"<section><details><summary>All trials</summary>{_table(head, rows)}</details></section>"
    )


def _section(section: Section) -> str:
    about = f'<p class="about">{html.escape(section.about)}</p>' if section.about else ""
    if isinstance(section.body, str):
        body = f'<div class="text">{html.escape(section.body)}</div>'
    else:
        body = _untitled(section.body).to_html(
            full_html=False,
            include_plotlyjs=False,
            default_width="100%",
            config={"displaylogo": False, "responsive": True},
        )
    return f"<section><h2>{html.escape(section.heading)}</h2>{about}{body}</section>"


def _untitled(figure: go.Figure) -> go.Figure:
    """A copy without the title and its room: the section's heading says the same."""
    copy = type(figure)(figure)
    layout = copy.layout
    if layout.title.text and layout.height and layout.margin.t:
        layout.height -= _TITLE_HEIGHT
        layout.margin.t -= _TITLE_HEIGHT
    layout.title = None
    return copy


def _table(head: Iterable[tuple[str, str]], rows: Iterable[str]) -> str:
    header = "".join(f'<th class="{kind}">{html.escape(text)}</th>' for text, kind in head)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str, kind: str = "") -> str:
    return f'<td class="{kind}">{html.escape(text)}</td>'


def _number(value: object) -> str:
    return _NOTHING if value is None else _theme.number(value)


def _split(measured: Measured) -> tuple[float, float | None]:
    return measured if isinstance(measured, tuple) else (measured, None)


def _measured(measured: Measured) -> str:
    value, error = _split(measured)
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"


def _range(variable: Variable) -> str:
    if variable.choices is not None:
        return ", ".join(map(str, variable.choices))
    scale = " (log)" if variable.log else ""
    return f"{variable.low:.4g} to {variable.high:.4g}{scale}"


def _remark(variable: Variable, value: object) -> str:
    """Whether the value lies at a bound of a range that could be wider."""
    if variable.choices is not None or not variable.high > variable.low:
        return ""
    position = variable.unit(variable.position(value))
    if position <= _NEAR:
        return "at the lower bound"
    return "at the upper bound" if position >= 1 - _NEAR else ""


def _duration(time: timedelta) -> str:
    seconds = time.total_seconds()
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def _template() -> Template:
    page = resources.files("optuna_partition.visualization").joinpath("report.html")
    return Template(page.read_text(encoding="utf-8"))


def _replace(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # mkstemp makes the file private; a report is as readable as any other new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
