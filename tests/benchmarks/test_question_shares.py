"""What pruners would have made of trials that are known."""

from __future__ import annotations

import pytest
from optuna.trial import FrozenTrial, create_trial

from benchmarks.question_shares import PRUNERS, best, correlation, error, replayed


def trial(*scores: float) -> FrozenTrial:
    steps = (20, 60, 200)
    return create_trial(value=scores[-1], intermediate_values=dict(zip(steps, scores, strict=True)))


LOSERS = [trial(0.3, 0.3, 0.31), trial(0.2, 0.2, 0.22)] * 6


@pytest.mark.parametrize("name", PRUNERS)
def test_a_trial_that_leads_at_every_share_is_kept_and_questions_are_saved(name: str) -> None:
    outcome = replayed(name, [*LOSERS, trial(0.8, 0.8, 0.8)], seed=0)
    assert outcome.lost == 0
    assert 0.1 < outcome.asked < 1


def test_the_median_pruner_loses_a_trial_that_starts_badly() -> None:
    order = [*LOSERS, trial(0.1, 0.5, 0.9)]
    outcome = replayed("median", order, seed=0)
    assert outcome.lost == pytest.approx(0.9 - 0.31)
    # The first trials are never ended; the last one is after a tenth.
    assert outcome.asked < 1 - 0.9 / len(order) + 1e-9


def test_scores_on_a_share_are_compared_with_those_on_all() -> None:
    trials = [trial(0.1, 0.2, 0.3), trial(0.3, 0.3, 0.5), trial(0.2, 0.6, 0.4)]
    assert best(trials) == 0.5
    assert correlation(trials, 20) == pytest.approx(1.0)
    assert correlation(trials, 60) == pytest.approx(0.5)
    assert error(trials, 20) == pytest.approx(0.2)
