"""SOO on the Branin function in twelve lines, and a picture of how it divided the space."""

from __future__ import annotations

import optuna

from objectives.synthetic import BRANIN
from optuna_partition import SOOSampler
from optuna_partition.visualization import plot_partition

study = optuna.create_study(sampler=SOOSampler())
study.optimize(BRANIN.objective, n_trials=100, show_progress_bar=True)
print(f"best value {study.best_value:.5f} at {study.best_params}; minimum {BRANIN.minimum:.5f}")
plot_partition(study).write_html("partition.html")
print("The cells are drawn in partition.html; open it in a browser.")
