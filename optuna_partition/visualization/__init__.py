"""Figures of a study and a report that holds them all, drawn from the study alone.

plotly is imported at the first figure: it comes with the extra `plot`.
"""

from __future__ import annotations

from optuna_partition.visualization._convergence import plot_convergence
from optuna_partition.visualization._learning import plot_learning_curves
from optuna_partition.visualization._partition import plot_partition
from optuna_partition.visualization._report import Section, write_report
from optuna_partition.visualization._variables import plot_variables, plot_variables_over_trials

__all__ = [
    "Section",
    "plot_convergence",
    "plot_learning_curves",
    "plot_partition",
    "plot_variables",
    "plot_variables_over_trials",
    "write_report",
]
