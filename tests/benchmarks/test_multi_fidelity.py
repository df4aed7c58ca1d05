from __future__ import annotations

import math

import optuna

from benchmarks.multi_fidelity import Curve, share


def run(follow: Curve, values: list[float | None]) -> Curve:
    """Completed trials of 9 samples, and pruned ones (None) of 3."""
    study = optuna.create_study()

    def objective(trial: optuna.Trial) -> float:
        value = values[trial.number]
        trial.report(9.0, 3)
        if value is None:
            raise optuna.TrialPruned
        trial.report(value, 9)
        return value

    study.optimize(objective, n_trials=len(values), callbacks=[follow])
    return follow


def test_a_curve_counts_samples_and_keeps_the_best() -> None:
    curve = run(Curve(), [None, 5.0, None, 7.0, 4.0])
    assert curve.samples == [3, 12, 15, 24, 33]
    assert curve.best == [math.inf, 5.0, 5.0, 5.0, 4.0]
    assert (curve.until(5.5), curve.until(4.0), curve.until(3.9)) == (12, 33, None)
    assert (share(curve, 4.0, 66), share(curve, 3.0, 66)) == ("0.50", "> 0.50")


def test_a_study_ends_at_its_goal_or_out_of_samples() -> None:
    assert run(Curve(stop_at=5.0), [6.0, 5.0, 4.0]).samples == [9, 18]
    assert run(Curve(at_most=10), [6.0, None, 5.0, 4.0]).samples == [9, 12]
