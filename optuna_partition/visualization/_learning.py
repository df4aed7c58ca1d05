"""The values that trials report while they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import optuna

from optuna_partition.visualization import _theme
from optuna_partition.visualization._history import read_history, value_axis

if TYPE_CHECKING:
    from plotly import graph_objects as go


def plot_learning_curves(study: optuna.Study) -> go.Figure:
    """Draw the intermediate values of every trial, the best trial's in front.

    The axis is clipped as in `plot_convergence`; a curve that leaves it has diverged.

    Args:
        study: A study with one objective.

    Raises:
        ImportError: If plotly is not installed; the extra `plot` brings it.
        ValueError: If the study has several objectives.
    """
    go = _theme.graph_objects()
    history = read_history(study)
    best = None if history.best is None else history.best.number
    trials = [t for t in study.get_trials(deepcopy=False) if t.intermediate_values]
    figure = go.Figure()
    for trial in sorted(trials, key=lambda t: (t.number == best, t.number)):
        steps = sorted(trial.intermediate_values)
        is_best = trial.number == best
        color, width = (_theme.BEST, 3) if is_best else ("rgba(107, 114, 128, 0.45)", 1.5)
        figure.add_scatter(
            x=steps,
            y=[trial.intermediate_values[step] for step in steps],
            mode="lines+markers",
            line={"color": color, "width": width},
            marker={"size": 6},
            name=f"best (trial {trial.number})" if is_best else f"trial {trial.number}",
            showlegend=is_best,
        )
    _theme.style(figure, title="Learning curves", height=420)
    maximize = history.axis.maximize
    axis = value_axis(
        [v for t in trials for v in t.intermediate_values.values()], maximize=maximize
    )
    figure.update_xaxes(title={"text": "step"})
    figure.update_yaxes(title={"text": history.value_name}, range=list(axis.range))
    return figure
