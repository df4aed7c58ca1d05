from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch.profiler import ProfilerActivity, profile

from objectives import FineTuneConfig, FineTuneObjective, HyperParameters, training
from objectives.data import Batch
from objectives.footprint import MemoryEstimate
from objectives.memory import OutOfMemoryError, available_memory, halving, is_out_of_memory
from objectives.models.backend import AdaptedModel
from objectives.running import new_network
from objectives.scoring import _LanguageModel
from objectives.training import LoraTraining, fit, summed_loss

MakeConfig = Callable[..., FineTuneConfig]

# Without dropout, whose draws depend on how many rows there are at once.
PARAMETERS = {"learning_rate": 5e-3, "rank": 8, "alpha": 24.0}


def exhausted_above(rows: int) -> Callable[..., torch.Tensor]:
    """The loss of batches of so many rows, and an error for others, after a part of the work."""

    def loss(network: AdaptedModel, batch: Batch, *, dtype: torch.dtype) -> torch.Tensor:
        found = summed_loss(network, batch, dtype=dtype)
        if batch.rows > rows:
            torch.autograd.backward(found)  # leaves a gradient that must not count
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return found

    return loss


@pytest.mark.parametrize(
    ("packing", "grad_batches", "fitting"), [(False, 1, 2), (False, 3, 1), (True, 3, 2)]
)
def test_half_a_micro_batch_gives_the_same_value(
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    packing: bool,
    grad_batches: int,
    fitting: int,
) -> None:
    objective = FineTuneObjective(
        make_config(packing=packing, max_train_samples=30, reports_per_epoch=2)
    )
    parameters = PARAMETERS | {"grad_batches": grad_batches}
    reports: list[list[tuple[float, int]]] = [[], []]
    expected = objective.run(parameters, lambda *report: reports[0].append(report))
    assert expected.micro_batch_size == 4
    monkeypatch.setattr(training, "summed_loss", exhausted_above(fitting))
    result = objective.run(parameters, lambda *report: reports[1].append(report))
    assert result.value == pytest.approx(expected.value, abs=1e-5)
    assert result.micro_batch_size == fitting
    assert [samples for _, samples in reports[0]] == [samples for _, samples in reports[1]]


def test_dropout_draws_the_same_as_in_a_run_that_began_with_fewer_rows(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes in the second micro-batch of the first window, whose draws are undone."""
    parameters = PARAMETERS | {"dropout": 0.4, "grad_batches": 4}
    objective = FineTuneObjective(make_config(max_train_samples=24, reports_per_epoch=1))
    monkeypatch.setattr(training, "summed_loss", exhausted_above(1))
    expected = objective.run(parameters)
    calls = iter(range(10**6))

    def later(network: AdaptedModel, batch: Batch, *, dtype: torch.dtype) -> torch.Tensor:
        first = batch.rows > 1 and next(calls) == 0
        return (summed_loss if first else exhausted_above(1))(network, batch, dtype=dtype)

    monkeypatch.setattr(training, "summed_loss", later)
    assert objective.run(parameters).value == expected.value


def test_a_validation_that_does_not_fit_is_made_in_pieces(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = FineTuneObjective(make_config()).base_result().val_loss
    losses = training._losses

    def exhausted(network: AdaptedModel, batch: Batch, *rest: Any) -> torch.Tensor:
        if batch.rows > 3:
            raise MemoryError
        return losses(network, batch, *rest)

    monkeypatch.setattr(training, "_losses", exhausted)
    found = FineTuneObjective(make_config()).base_result().val_loss
    assert found == pytest.approx(expected, abs=1e-6)


def test_scoring_that_does_not_fit_takes_fewer_sequences(
    make_config: MakeConfig, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = str(assets / "questions.jsonl")
    objective = FineTuneObjective(make_config(tasks=(questions,)))
    expected = objective.base_result().scores
    call: Callable[..., torch.Tensor] = _LanguageModel._model_call
    sizes = []

    def exhausted(self: Any, inps: torch.Tensor, **named: Any) -> torch.Tensor:
        sizes.append(len(inps))
        if len(inps) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return call(self, inps, **named)

    monkeypatch.setattr("objectives.scoring._LanguageModel._model_call", exhausted)
    monkeypatch.setattr(objective, "_grader", None)
    scores = objective.base_result().scores
    assert sizes[:3] == [16, 8, 4]
    assert [score.value for score in scores] == [score.value for score in expected]


def test_halving_ends_at_one() -> None:
    tried = []

    def attempt(size: int) -> int:
        tried.append(size)
        raise MemoryError("no room\nat all")

    with pytest.raises(OutOfMemoryError, match=r"^no room$"):
        halving(attempt, size=7)
    assert tried == [7, 3, 1]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_memory_errors_are_recognized(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def measured_peak(objective: FineTuneObjective) -> int:
    """Most bytes that a training run has allocated at once, by torch's profiler."""
    loaded = objective._resources()
    parameters = HyperParameters.from_mapping(PARAMETERS)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        network = new_network(objective.config, loaded, parameters)
        module = LoraTraining(network, loaded.train, parameters=parameters, recipe=loaded.recipe)
        fit(module, loaded.train)
    events: Any = profiler.profiler.kineto_results.events()
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation_checkpointing": True},
        {"backend": "peft", "targets": ("query", "key", "value", "projection", "mlp")},
        {"packing": True, "micro_batch_size": 2},
    ],
)
def test_the_estimate_is_near_what_a_run_allocates(
    make_config: MakeConfig, changes: dict[str, Any]
) -> None:
    objective = FineTuneObjective(make_config(**({"micro_batch_size": 8} | changes)))
    estimate = objective.estimate(PARAMETERS)
    assert estimate.adapter == estimate.gradients == estimate.optimizer / 2
    needed = estimate.total - estimate.base_weights
    assert 0.85 < needed / measured_peak(objective) < 1.3
    with torch.random.fork_rng():
        untuned: Any = objective._resources().backend.untuned()
    held = {p.data_ptr(): p.nbytes for p in untuned.parameters()}
    assert estimate.base_weights == sum(held.values())


def test_fewer_rows_need_less(make_config: MakeConfig) -> None:
    objective = FineTuneObjective(make_config())
    four, one = (objective.estimate(PARAMETERS, micro_batch_size=k).activations for k in (4, 1))
    assert 3 < four / one < 4.5
    with pytest.raises(ValueError, match="no hyperparameter"):
        objective.estimate({"rang": 3})


def test_a_hopeless_trial_is_refused_before_it_starts(make_config: MakeConfig) -> None:
    objective = FineTuneObjective(make_config(memory_limit=1e-3))
    study = optuna.create_study()
    study.enqueue_trial({"rank": 16})
    study.optimize(objective, n_trials=1, catch=OutOfMemoryError)
    (trial,) = study.trials
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["oom"] is True
    assert (
        "rank 16 and max_length 64 would need 1.2 MB: base weights" in trial.user_attrs["failure"]
    )
    assert trial.user_attrs["seconds"].keys() == {"build", "other"}


def test_a_run_begins_with_the_rows_that_fit(make_config: MakeConfig) -> None:
    estimate = FineTuneObjective(make_config()).estimate(PARAMETERS, micro_batch_size=2)
    limited = FineTuneObjective(make_config(memory_limit=(estimate.total + 1) / 1e9))
    expected = FineTuneObjective(make_config()).run(PARAMETERS)
    study = optuna.create_study()
    study.enqueue_trial(PARAMETERS | {"dropout": 0.0, "grad_batches": 1, "weight_decay": 0.01})
    study.optimize(limited, n_trials=1)
    assert study.best_value == pytest.approx(expected.value, abs=1e-5)
    assert study.best_trial.user_attrs["micro_batch_size"] == 2


def test_an_estimate_says_what_it_is_made_of() -> None:
    estimate = MemoryEstimate(
        base_weights=int(2e9), adapter=int(1.5e6), gradients=0, optimizer=0, activations=int(5e8)
    )
    assert str(estimate).startswith("2.50 GB: base weights 2.00 GB, adapter 1.5 MB, gradients")


def test_the_computer_has_memory_left() -> None:
    assert 1e7 < available_memory(torch.device("cpu")) < 1e15


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_bad_memory_limit_is_an_error(make_config: MakeConfig, limit: float) -> None:
    with pytest.raises(ValueError, match="memory_limit"):
        make_config(memory_limit=limit)


LIMITED = """
import logging, resource, sys
from pathlib import Path
import optuna, psutil, torch
from transformers import LlamaConfig, LlamaForCausalLM
from objectives import FineTuneConfig, FineTuneObjective, OutOfMemoryError, SearchSpace

assets, folder = Path(sys.argv[1]), Path(sys.argv[2])
optuna.logging.set_verbosity(optuna.logging.ERROR)
torch.manual_seed(0)
config = LlamaConfig.from_pretrained(assets / "tiny_llama")
config.vocab_size, config.tie_word_embeddings = 200_000, False
LlamaForCausalLM(config).save_pretrained(folder / "model")
for name in ("tokenizer.json", "tokenizer_config.json"):
    (folder / "model" / name).write_bytes((assets / "tiny_llama" / name).read_bytes())
objective = FineTuneObjective(
    FineTuneConfig(
        model=folder / "model",
        train_data=assets / "alpaca_train.json",
        validation_data=assets / "alpaca_validation.json",
        output_dir=folder / "results",
        cache_dir=folder / "cache",
        search_space=SearchSpace.preset("demo").override(
            rank=(2, 64), dropout=0, weight_decay=0, grad_batches=1
        ),
        targets=("head",),
        prompt_style="plain",
        max_length=64,
        max_train_samples=24,
        max_validation_samples=4,
        validation_batch_size=1,
        micro_batch_size=8,
        reports_per_epoch=1,
        memory_limit=1e6,
        precision="fp32",
    )
)
small = {"rank": 2, "learning_rate": 1e-3, "alpha": 4.0}
expected = objective.run(small)
study = optuna.create_study()
study.enqueue_trial(small | {"rank": 64})
study.enqueue_trial(small)
limit = psutil.Process().memory_info().vms + int(float(sys.argv[3]))
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
study.optimize(objective, n_trials=2, catch=OutOfMemoryError)
first, second = study.trials
print(first.state.name, first.user_attrs["oom"], "DefaultCPU" in first.user_attrs["failure"])
difference = abs(second.value - expected.value)
print(second.state.name, second.user_attrs["micro_batch_size"] < 8, difference < 1e-5)
"""


@pytest.mark.slow
def test_a_worker_outlives_a_trial_that_needs_too_much(assets: Path, tmp_path: Path) -> None:
    """The first trial's adapter, gradient and moments are 205 MB beside its activations."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(assets), str(tmp_path), "2.6e8"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["FAIL True True", "COMPLETE True True"]
    assert "Out of memory" in done.stderr
