"""Several devices inside one trial: processes on this machine that meet over gloo."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import torch
from optuna.trial import TrialState
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from objectives import (
    FineTuneConfig,
    FineTuneObjective,
    HyperParameters,
    LostDeviceError,
    OutOfMemoryError,
    SearchSpace,
    training,
)
from objectives.data import Batch
from objectives.devices import crew
from objectives.devices.crew import Crew
from objectives.devices.sharding import divided_bytes
from objectives.devices.team import Team
from objectives.identity import identity, run_key
from objectives.models.backend import AdaptedModel
from objectives.models.base import load_base_model
from objectives.models.litgpt_backend import LitGPTBackend
from objectives.resources import device_of
from objectives.running import Order
from objectives.training import summed_loss
from objectives.tuning import StudySettings, tune
from objectives.tuning.workers import in_groups

MakeConfig = Callable[..., FineTuneConfig]
Objective = Callable[..., FineTuneObjective]

POINT: dict[str, float] = {
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "rank": 6,
    "alpha": 24.0,
    "dropout": 0.0,
    "grad_batches": 3,
}
# Trains, but every step is below the resolution of the weights.
STILL: dict[str, float] = POINT | {"learning_rate": 1e-300}
ALL_TARGETS = ("query", "key", "value", "projection", "mlp")


@pytest.fixture(scope="module")
def make_objective(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Objective]:
    """An objective for the tiny model; the one before is closed, as each has processes."""
    made: list[FineTuneObjective] = []

    def make(**changes: Any) -> FineTuneObjective:
        while made:
            made.pop().close()
        folder = tmp_path_factory.mktemp("devices")
        defaults: dict[str, Any] = {
            "model": assets / "tiny_llama",
            "train_data": assets / "alpaca_train.json",
            "validation_data": assets / "alpaca_validation.json",
            "output_dir": folder / "results",
            "cache_dir": folder / "cache",
            "search_space": SearchSpace.preset("demo").override(rank=(1, 32), dropout=(0.0, 0.9)),
            "prompt_style": "plain",
            "max_length": 64,
        }
        made.append(FineTuneObjective(FineTuneConfig(**(defaults | changes))))
        return made[-1]

    yield make
    while made:
        made.pop().close()


def study_at(*points: dict[str, float], **arguments: Any) -> optuna.Study:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1), **arguments)
    for point in points:
        study.enqueue_trial(point)
    return study


def trained_at(
    objective: FineTuneObjective, point: dict[str, float]
) -> tuple[optuna.trial.FrozenTrial, dict[str, torch.Tensor]]:
    """A trial, and the adapter that it has left."""
    study = study_at(point)
    study.optimize(objective, n_trials=1)
    [trial] = study.trials
    return trial, load_file(objective.best_adapter(study) / "adapter_model.safetensors")


# 21 micro-batches of 3 rows and one of a single row, which leaves a device without any.
UNEVEN: dict[str, Any] = {"micro_batch_size": 3, "gradient_clip": 0.3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("ddp", UNEVEN),
        ("ddp", {"packing": True, "micro_batch_size": 2, "backend": "peft"}),
        ("fsdp", UNEVEN | {"activation_checkpointing": True}),
        ("fsdp", {"backend": "peft", "method": "dora", "epochs": 2, "reports_per_epoch": 2}),
    ],
)
def test_two_devices_do_what_one_does(
    make_objective: Objective, strategy: str, changes: dict[str, Any]
) -> None:
    one = make_objective(targets=ALL_TARGETS, **changes)
    untuned = one.base_result()
    expected, adapter = trained_at(one, POINT)
    two = make_objective(targets=ALL_TARGETS, devices=2, strategy=strategy, **changes)
    assert two.base_result().val_loss == pytest.approx(untuned.val_loss, abs=1e-6)
    trial, same = trained_at(two, POINT)

    assert expected.value is not None
    assert expected.value < untuned.val_loss - 0.05  # something was learned
    assert trial.intermediate_values.keys() == expected.intermediate_values.keys()
    for samples, loss in expected.intermediate_values.items():
        assert trial.intermediate_values[samples] == pytest.approx(loss, abs=1e-5)
    assert trial.user_attrs["stderr"] == pytest.approx(expected.user_attrs["stderr"], abs=1e-5)
    assert "micro_batch_size" not in trial.user_attrs
    assert same.keys() == adapter.keys()
    for name, tensor in adapter.items():
        torch.testing.assert_close(same[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "backend", "precision"),
    [
        ("ddp", "litgpt", "bf16"),
        ("ddp", "peft", "fp16"),
        ("fsdp", "litgpt", "fp16"),
        ("fsdp", "peft", "bf16"),
    ],
)
def test_an_untrained_adapter_changes_nothing_on_two_devices(
    make_objective: Objective, assets: Path, strategy: str, backend: str, precision: str
) -> None:
    two = make_objective(
        backend=backend,
        precision=precision,
        devices=2,
        strategy=strategy,
        tasks=(str(assets / "questions.jsonl"),),
    )
    base = two.base_result()
    for rank, alpha in ((1, 64.0), (32, 1.0)):
        result = two.run(STILL | {"rank": rank, "alpha": alpha})
        assert result.val_loss == base.val_loss  # bit for bit
        assert result.scores == base.scores


@pytest.fixture(scope="module")
def two(make_objective: Objective) -> FineTuneObjective:
    """Two devices which are there for several tests, whatever these do to them."""
    objective = make_objective(devices=2)
    objective._crew = Crew(objective.config, objective._resources(), patience=15.0)
    objective.run(POINT)
    return objective


@pytest.fixture(scope="module")
def value(two: FineTuneObjective) -> float:
    return two.run(POINT).value


def processes(objective: FineTuneObjective) -> list[int]:
    assert objective._crew is not None
    return objective._crew.processes


class PruneFirstTrial(optuna.pruners.BasePruner):
    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.number == 0 and len(trial.intermediate_values) == 2


@pytest.mark.slow
def test_what_the_leader_prunes_ends_on_all(two: FineTuneObjective, value: float) -> None:
    before = processes(two)
    study = study_at(POINT, POINT, pruner=PruneFirstTrial())
    study.optimize(two, n_trials=2)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED, TrialState.COMPLETE]
    assert list(study.trials[0].intermediate_values) == [16, 32]
    assert study.trials[1].value == value
    assert processes(two) == before


@pytest.mark.slow
def test_a_loss_that_is_no_number_prunes(two: FineTuneObjective, value: float) -> None:
    before = processes(two)
    study = study_at(POINT | {"learning_rate": 1e30}, POINT)
    space = two.search_space.override(learning_rate=(1e-5, 1e30))
    two.search_space, narrow = space, two.search_space
    study.optimize(two, n_trials=2)
    two.search_space = narrow
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED, TrialState.COMPLETE]
    assert study.trials[1].value == value
    assert processes(two) == before


@pytest.mark.slow
def test_an_error_on_another_device_fails_the_trial_and_the_next_one_works(
    two: FineTuneObjective, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = processes(two)
    tell = crew._Follower.send

    def tell_wrongly(follower: Any, message: object) -> None:
        if isinstance(message, Order) and message.parameters is not None:
            wrong = dataclasses.replace(message.parameters, rank=5000)
            message = dataclasses.replace(message, parameters=wrong)
            monkeypatch.setattr(crew._Follower, "send", tell)
        tell(follower, message)

    monkeypatch.setattr(crew._Follower, "send", tell_wrongly)
    study = study_at(POINT, POINT)
    study.optimize(two, n_trials=2, catch=LostDeviceError)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert "On device 1: RankError: The LoRA rank" in study.trials[0].user_attrs["failure"]
    assert study.trials[1].value == value
    assert processes(two) == before  # it was agreed upon


@pytest.mark.slow
def test_an_error_outside_of_all_agreements_too(
    two: FineTuneObjective, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = processes(two)
    tell = crew._Follower.send

    def tell_wrongly(follower: Any, message: object) -> None:
        if isinstance(message, Order) and message.parameters is not None:
            wrong = dataclasses.replace(message.parameters)
            object.__setattr__(wrong, "learning_rate", -1.0)
            message = dataclasses.replace(message, parameters=wrong)
            monkeypatch.setattr(crew._Follower, "send", tell)
        tell(follower, message)

    monkeypatch.setattr(crew._Follower, "send", tell_wrongly)
    study = study_at(POINT, POINT)
    study.optimize(two, n_trials=2, catch=LostDeviceError)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert "learning rate: -1.0" in study.trials[0].user_attrs["failure"]
    assert study.trials[1].value == value
    assert processes(two) != before
    assert not psutil.pid_exists(before[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, "The process of device 1 ended with exit code -9"),
        (signal.SIGSTOP, "does not answer"),
    ],
)
def test_a_device_that_is_gone_or_silent_fails_the_trial_and_is_replaced(
    two: FineTuneObjective, value: float, number: signal.Signals, message: str
) -> None:
    [before] = processes(two)

    class Signal(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            if trial.number == 0 and len(trial.intermediate_values) == 1:
                os.kill(before, number)
            return False

    study = study_at(POINT, POINT, pruner=Signal())
    started = time.monotonic()
    study.optimize(two, n_trials=2, catch=LostDeviceError)
    assert time.monotonic() - started < 150.0
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert message in study.trials[0].user_attrs["failure"]
    assert study.trials[1].value == value
    assert processes(two) != [before]
    assert not psutil.pid_exists(before)


@pytest.mark.slow
def test_an_interrupted_trial_goes_on_from_its_checkpoint(two: FineTuneObjective) -> None:
    point = POINT | {"dropout": 0.3}  # each device draws numbers of its own
    expected = two.run(point)

    class Interrupt(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            if trial.number == 0 and len(trial.intermediate_values) == 3:
                raise KeyboardInterrupt
            return False

    study = study_at(point, point, pruner=Interrupt())
    with pytest.raises(KeyboardInterrupt):
        study.optimize(two, n_trials=1)
    study.optimize(two, n_trials=1)
    first, second = study.trials
    assert first.state == TrialState.FAIL
    assert second.user_attrs["resumed_at"] > 0
    assert second.value == expected.value  # bit for bit
    assert list(second.intermediate_values) == [16, 32, 48, 64]
    assert expected.value != two.run(POINT).value


@pytest.mark.slow
def test_a_device_short_of_memory_takes_fewer_rows_than_the_others(
    two: FineTuneObjective, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(network: AdaptedModel, batch: Batch, *, dtype: torch.dtype) -> torch.Tensor:
        if batch.rows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return summed_loss(network, batch, dtype=dtype)

    before = processes(two)
    monkeypatch.setattr(training, "summed_loss", short)  # of this process, which leads
    result = two.run(POINT)
    assert result.value == pytest.approx(value, abs=1e-5)
    assert result.micro_batch_size == 2  # a row on the first device, and twice that is said
    assert processes(two) == before


@pytest.mark.slow
def test_memory_that_another_device_lacks_fails_the_trial_and_the_next_one_works(
    make_objective: Objective, assets: Path, tmp_path: Path
) -> None:
    """The first trial's adapter, gradient and moments are 205 MB beside its activations."""
    config = LlamaConfig.from_pretrained(assets / "tiny_llama")
    config.vocab_size, config.tie_word_embeddings = 200_000, False
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")  # type: ignore[no-untyped-call]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes((assets / "tiny_llama" / name).read_bytes())
    two = make_objective(
        model=tmp_path / "model",
        targets=("head",),
        max_train_samples=8,
        max_validation_samples=4,
        reports_per_epoch=1,
        search_space=SearchSpace.preset("demo").override(rank=(2, 64)),
        devices=2,
    )
    small = POINT | {"rank": 2}
    value = two.run(small).value
    [pid] = processes(two)
    process = psutil.Process(pid)
    limit = process.memory_info().vms + 20_000_000
    process.rlimit(psutil.RLIMIT_AS, (limit, psutil.RLIM_INFINITY))
    study = study_at(POINT | {"rank": 64}, small)
    study.optimize(two, n_trials=1, catch=OutOfMemoryError)
    if psutil.pid_exists(pid):  # else it was replaced, and the new one has no limit
        process.rlimit(psutil.RLIMIT_AS, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    study.optimize(two, n_trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[0].user_attrs["oom"]
    assert "On device 1" in study.trials[0].user_attrs["failure"]
    assert study.trials[1].value == value


@pytest.mark.slow
def test_a_study_has_each_trial_once_and_the_values_of_one_device(
    assets: Path, tmp_path: Path
) -> None:
    settings = StudySettings(sampler="soo", n_trials=4)
    values = []
    for devices in (1, 2):
        config = FineTuneConfig(
            model=assets / "tiny_llama",
            train_data=assets / "alpaca_train.json",
            validation_data=assets / "alpaca_validation.json",
            output_dir=tmp_path / str(devices),
            search_space=SearchSpace.preset("demo").override(rank=(2, 16), dropout=0),
            prompt_style="plain",
            max_length=64,
            max_train_samples=16,
            max_validation_samples=8,
            devices=devices,
        )
        study = tune(config, settings)
        assert [trial.number for trial in study.trials] == list(range(4))
        assert len({tuple(trial.params.items()) for trial in study.trials}) == 4
        assert study.user_attrs["reproduction"]["config"]["devices"] == devices
        values.append([trial.value for trial in study.trials])
    one, two = values
    assert two == pytest.approx(one, abs=1e-5)


LEADER = """
import sys, time
from pathlib import Path
from objectives import FineTuneConfig, FineTuneObjective, SearchSpace

assets, folder = Path(sys.argv[1]), Path(sys.argv[2])
objective = FineTuneObjective(  # no `if __name__ == "__main__"` is needed
    FineTuneConfig(
        model=assets / "tiny_llama",
        train_data=assets / "alpaca_train.json",
        validation_data=assets / "alpaca_validation.json",
        output_dir=folder / "results",
        cache_dir=folder / "cache",
        search_space=SearchSpace.preset("demo").override(rank=(2, 16)),
        prompt_style="plain",
        max_length=64,
        devices=2,
    )
)
objective.base_result()
print(*objective._crew.processes, flush=True)
while sys.argv[3] == "run":
    objective.run({"learning_rate": 1e-3})
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("doing", ["run", "wait"])
def test_devices_end_with_a_leader_that_is_killed(assets: Path, tmp_path: Path, doing: str) -> None:
    leader = subprocess.Popen(
        [sys.executable, "-c", LEADER, str(assets), str(tmp_path), doing],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert leader.stdout is not None
    try:
        follower = psutil.Process(int(leader.stdout.readline()))
    finally:
        leader.kill()
        leader.communicate()
    follower.wait(timeout=60)


@pytest.mark.slow
def test_a_process_has_one_crew_at_a_time_and_a_copy_starts_its_own(
    make_objective: Objective,
) -> None:
    first = make_objective(devices=2)
    value = first.run(POINT).value
    [before] = processes(first)
    copy = pickle.loads(pickle.dumps(first))
    assert copy.run(POINT).value == value
    assert not psutil.pid_exists(before)
    [second] = processes(copy)
    copy.close()
    assert not psutil.pid_exists(second)
    assert processes(first) == []


def rows(*lengths: int) -> Batch:
    """Row k holds the number k + 1, as often as it is long."""
    width = max(lengths)
    ids = [[k + 1] * n + [0] * (width - n) for k, n in enumerate(lengths)]
    tensor = torch.tensor(ids)
    counted = torch.where(tensor > 0, tensor, -100)
    return Batch(
        tensor, counted, samples=len(ids), target_tokens=sum(lengths), lengths=tuple(lengths)
    )


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_devices_share_all_rows(size: int) -> None:
    batches = [rows(2, 3, 5, 5, 9), rows(4)]
    found: list[int] = []
    places: list[int] = []
    for index in range(size):
        team = Team(index, size)
        pieces = [piece for batch in batches for piece, _ in team.pieces(batch, 2)]
        assert all(piece.rows <= 2 for piece in pieces)
        assert all(piece.input_ids.shape[1] == max(piece.lengths) for piece in pieces)
        for piece in pieces:
            numbers = piece.input_ids[:, 0].tolist()
            found += [10 * k + n for k, n in zip(numbers, piece.lengths, strict=True)]
        places += team.rows(batches).tolist()
    assert sorted(found) == sorted([12, 23, 35, 45, 59, 14])
    assert sorted(places) == list(range(6))


def test_alone_nothing_is_deferred() -> None:
    team = Team()
    with pytest.raises(KeyError), team.deferring():
        raise KeyError
    with pytest.raises(OutOfMemoryError):
        team.fail(OutOfMemoryError("none left"))
    assert team.gather("all") == ["all"]
    team.agree()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 0}, "devices is 0, expected a whole number of at least 1"),
        ({"devices": 8}, "give a micro_batch_size of at least 8, or fewer devices"),
        ({"strategy": "fsdp"}, "and devices is 1; give the number of devices, or strategy 'ddp'"),
        ({"strategy": "deepspeed"}, "strategy is 'deepspeed', expected one of"),
        (
            {"strategy": "fsdp", "devices": 2, "backend": "peft", "four_bit": True},
            "can't divide the 4-bit weights",
        ),
    ],
)
def test_devices_that_make_no_sense_are_refused(
    make_config: MakeConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_a_launcher_is_refused(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    FineTuneObjective(make_config())  # each process has trials of its own
    with pytest.raises(ValueError, match="start it without a launcher"):
        FineTuneObjective(make_config(devices=2))


def test_more_devices_than_gpus_are_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(make_config(devices=2), index=1) == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="devices is 3, but torch sees 2 of this machine's GPUs"):
        device_of(make_config(devices=3))


def test_the_number_of_devices_is_part_of_a_run_and_not_of_a_study(
    make_config: MakeConfig,
) -> None:
    one, two = make_config(), make_config(devices=2)
    assert identity(one) == identity(two)
    keys = {
        run_key(config, HyperParameters(), data={}, device=torch.device("cpu"))
        for config in (one, two, make_config(devices=2, strategy="fsdp"))
    }
    assert len(keys) == 3  # a checkpoint has a state for each device


def test_divided_weights_need_less(assets: Path, make_config: MakeConfig) -> None:
    network = LitGPTBackend(load_base_model(assets / "tiny_llama")).untuned()
    held = {p.data_ptr(): p.nbytes for p in network.parameters()}
    whole = sum(held.values())
    # A part, the two layers that it has, and what is in none.
    for devices in (2, 8):
        assert divided_bytes(network, devices) == -(-whole // devices) + whole
    objective = FineTuneObjective(make_config(devices=2, strategy="fsdp"))
    estimate = objective.estimate({"rank": 4})
    assert estimate.base_weights == divided_bytes(network, 2)
    rows = FineTuneObjective(make_config()).estimate({"rank": 4}, micro_batch_size=2)
    assert estimate.activations == rows.activations  # two of the four rows


def test_devices_and_workers_share_the_gpus() -> None:
    assert in_groups(["0", "1", "2", "5", "7"], 2) == ["0,1", "2,5"]
    assert in_groups(["3", "1"], 1) == ["3", "1"]
    assert in_groups([], 2) == []
