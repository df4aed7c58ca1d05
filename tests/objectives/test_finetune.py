from __future__ import annotations

import dataclasses
import logging
import pickle
import random
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.pruners import BasePruner
from optuna.trial import TrialState
from peft import PeftModel

from objectives import FineTuneConfig, FineTuneObjective, HyperParameters, SearchSpace, running
from objectives.data import DataError
from objectives.grading import Grader
from objectives.memory import OutOfMemoryError
from objectives.models import litgpt_backend
from objectives.models.backend import RankError
from objectives.models.errors import ModelNotFoundError
from objectives.models.lora import LitGPTLora, huggingface_model
from objectives.scoring import Score
from objectives.timing import overhead
from objectives.training import Estimate, NonFiniteLossError, mean_loss

MakeConfig = Callable[..., FineTuneConfig]

GOOD: dict[str, float] = {"learning_rate": 5e-3, "rank": 4, "alpha": 24.0, "dropout": 0.1}
DIVERGES: dict[str, float] = {"learning_rate": 1e30}


@pytest.fixture
def objective(make_config: MakeConfig) -> FineTuneObjective:
    return FineTuneObjective(make_config())


def study_of(objective: FineTuneObjective, **arguments: Any) -> optuna.Study:
    return optuna.create_study(
        direction=objective.direction,
        sampler=optuna.samplers.RandomSampler(seed=1),
        **arguments,
    )


def test_the_same_hyperparameters_give_the_same_result(objective: FineTuneObjective) -> None:
    first = objective.run(GOOD)
    torch.rand(7)
    objective.run({"learning_rate": 1e-4})
    second = objective.run(GOOD)
    assert first.value == second.value  # bit for bit
    assert first.value == first.val_loss
    assert first.value < objective.base_result().val_loss - 0.1
    assert first.parameters == HyperParameters.from_mapping(GOOD)


def test_another_seed_gives_another_result(
    make_config: MakeConfig, objective: FineTuneObjective
) -> None:
    other = FineTuneObjective(make_config(seed=1))
    assert other.run(GOOD).value != objective.run(GOOD).value
    assert other.base_result() == objective.base_result()


def test_random_generators_are_left_alone(objective: FineTuneObjective) -> None:
    torch.manual_seed(987)  # a state that no run leaves behind
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index] # noqa: NPY002
    objective.run(GOOD)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # type: ignore[index] # noqa: NPY002


def test_the_base_result_is_that_of_a_model_that_learned_nothing(
    objective: FineTuneObjective,
) -> None:
    assert objective.run({"dropout": 1.0}).value == objective.base_result().val_loss


def test_several_epochs_see_the_data_several_times(make_config: MakeConfig) -> None:
    reports: list[tuple[float, int]] = []
    objective = FineTuneObjective(make_config(epochs=2, max_train_samples=10, reports_per_epoch=1))
    objective.run(GOOD, report=lambda loss, samples: reports.append((loss, samples)))
    assert [samples for _, samples in reports] == [10, 20]
    assert objective.samples_per_trial == 20


def test_data_can_be_split_off_and_shared_out(
    make_config: MakeConfig, assets: Path, tmp_path: Path
) -> None:
    def questions(**changes: Any) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
        config = make_config(validation_data=None, validation_split=0.25, **changes)
        loaded = FineTuneObjective(config)._resources()
        train, validation = (
            {tuple(row.tolist()) for batch in batches for row in batch.input_ids}
            for batches in (loaded.train, loaded.validation)
        )
        return train, validation

    changes: dict[str, Any] = {"micro_batch_size": 1, "validation_batch_size": 1}
    train, validation = questions(**changes)
    assert (len(train), len(validation)) == (48, 16)
    quarter, same = questions(**changes, train_share=0.25, seed=9)
    assert same == validation
    assert len(quarter) == 12
    assert quarter < train
    assert questions(**changes, split_seed=1)[1] != validation


def test_packed_training_sees_the_same_records(make_config: MakeConfig) -> None:
    plain = FineTuneObjective(make_config())
    packed = FineTuneObjective(make_config(packing=True))
    assert packed.samples_per_trial == plain.samples_per_trial == 64
    assert len(packed._resources().train) < len(plain._resources().train)
    value = packed.run(GOOD | {"grad_batches": 1}).value
    assert value < packed.base_result().val_loss - 0.1


def test_a_second_objective_takes_the_tokens_from_the_cache(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    FineTuneObjective(make_config())
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2
    FineTuneObjective(make_config(seed=3))
    assert sorted((tmp_path / "cache").iterdir()) == files


def test_every_epoch_has_an_order_of_its_own(make_config: MakeConfig) -> None:
    train = FineTuneObjective(make_config(epochs=2))._resources().train
    first, second = (
        [batch.input_ids.tolist() for batch in half] for half in (train[:16], train[16:])
    )
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_study_runs_and_records_what_trials_cost(objective: FineTuneObjective) -> None:
    study = study_of(objective)
    study.optimize(objective, n_trials=3)
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        assert list(trial.intermediate_values) == [16, 32, 48, 64]
        assert trial.intermediate_values[64] == trial.value
        seconds = trial.user_attrs["seconds"]
        assert set(seconds) == {"build", "train", "validate", "score", "save", "other"}
        assert seconds["train"] > 0
        assert trial.user_attrs["tokens_per_second"] > 0
        assert 0 < trial.user_attrs["stderr"] < 1
        # q: (64 + 64) numbers for each rank, v: (64 + 32), in 2 layers
        assert trial.user_attrs["trainable_parameters"] == trial.params["rank"] * 224 * 2


def test_a_trial_equals_a_run_with_its_parameters(objective: FineTuneObjective) -> None:
    study = study_of(objective)
    study.optimize(objective, n_trials=1)
    assert objective.run(study.best_params).value == study.best_value


def test_a_fixed_trial_can_be_evaluated(objective: FineTuneObjective) -> None:
    values = HyperParameters.from_mapping(GOOD | {"weight_decay": 0.01}).as_dict()
    assert objective(optuna.trial.FixedTrial(values)) == objective.run(values).value


class PruneAtSecondReport(BasePruner):
    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return len(trial.intermediate_values) == 2


def test_a_pruner_stops_a_trial(objective: FineTuneObjective) -> None:
    study = study_of(objective, pruner=PruneAtSecondReport())
    study.optimize(objective, n_trials=2)
    for trial in study.trials:
        assert trial.state == TrialState.PRUNED
        assert list(trial.intermediate_values) == [16, 32]
        assert trial.value == trial.intermediate_values[32]
        assert trial.user_attrs["seconds"]["train"] > 0


class PruneAlways(BasePruner):
    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return True


def test_a_trial_that_is_through_is_not_pruned(make_config: MakeConfig) -> None:
    objective = FineTuneObjective(make_config(reports_per_epoch=1))
    study = study_of(objective, pruner=PruneAlways())
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state == TrialState.COMPLETE
    assert study.trials[0].intermediate_values == {64: study.best_value}


def test_a_diverging_trial_is_pruned_with_its_last_finite_loss(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    objective = FineTuneObjective(make_config())
    losses = iter([Estimate(9.5, 0.1), Estimate(float("inf"), float("nan"))])
    monkeypatch.setattr(running, "estimated_loss", lambda *_, **__: next(losses))
    objective._base_loss = Estimate(4.6, 0.1)
    study = study_of(objective)
    optuna.logging.enable_propagation()
    study.optimize(objective, n_trials=1)
    optuna.logging.disable_propagation()
    (trial,) = study.trials
    assert trial.state == TrialState.PRUNED
    assert trial.value == 9.5
    assert "validation loss became inf after 32 samples" in caplog.text


def test_a_diverging_run_is_an_error_outside_a_study(objective: FineTuneObjective) -> None:
    with pytest.raises(NonFiniteLossError, match="training loss became"):
        objective.run(DIVERGES)


def test_an_exception_is_a_failed_trial(
    objective: FineTuneObjective, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("the data are gone")

    monkeypatch.setattr(running, "fit", fail)
    study = study_of(objective)
    with pytest.raises(OSError, match="the data are gone"):
        study.optimize(objective, n_trials=1)
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[0].value is None
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("changes", [{}, {"backend": "peft"}, {"method": "adapter_v2"}])
def test_a_full_disk_costs_the_adapter_but_not_the_value(
    make_config: MakeConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    files_up_to: Callable[[int], AbstractContextManager[None]],
    changes: dict[str, Any],
) -> None:
    space = SearchSpace.preset("demo").override(rank=16, alpha=16, dropout=0)
    objective = FineTuneObjective(make_config(search_space=space, **changes))
    study = study_of(objective)
    with files_up_to(20_000), caplog.at_level(logging.WARNING):
        study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state == TrialState.COMPLETE
    assert trial.value == objective.run(dict(space.fixed) | trial.params).value
    assert trial.user_attrs["adapter_lost"]
    assert "The adapter of trial 0 could not be kept" in caplog.text
    assert "Checkpoints can't be kept" in caplog.text
    assert [path for path in (tmp_path / "results").rglob("*") if path.is_file()] == []
    assert objective.best_adapter(study).is_dir()  # once there is room again


def test_an_output_folder_that_is_taken_away_costs_no_value(
    objective: FineTuneObjective, make_config: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "results").write_text("", encoding="utf-8")
    study = study_of(objective)
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state == TrialState.COMPLETE
    assert "NotADirectoryError" in study.trials[0].user_attrs["adapter_lost"]
    with pytest.raises(ValueError, match=r"results.*is no folder; give another"):
        FineTuneObjective(make_config())


def test_several_adapters_are_kept(make_config: MakeConfig, tmp_path: Path) -> None:
    objective = FineTuneObjective(make_config(keep_adapters=2, reports_per_epoch=1))
    study = study_of(objective)
    study.optimize(objective, n_trials=4)
    objective.best_adapter(study)
    best = sorted(study.trials, key=lambda trial: trial.value or 0.0)[:2]
    kept = {path.name for path in (tmp_path / "results" / "adapters").iterdir()}
    assert kept == {f"trial-{trial.number}" for trial in best}


def test_another_machine_finds_the_best_adapter_in_the_artifact_store(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = optuna.artifacts.FileSystemArtifactStore(tmp_path)
    here = FineTuneObjective(make_config(), artifact_store=store)
    study = study_of(here)
    study.optimize(here, n_trials=2)
    expected = here.best_adapter(study)
    there = FineTuneObjective(make_config(output_dir=tmp_path / "there"), artifact_store=store)
    monkeypatch.setattr(running, "fit", lambda *_, **__: pytest.fail("trained again"))
    folder = there.best_adapter(study)
    assert folder.parent == tmp_path / "there" / "adapters"
    for file in expected.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()
    assert there.best_adapter(study) == folder


def test_a_broken_artifact_store_costs_no_value(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = optuna.artifacts.FileSystemArtifactStore(tmp_path)
    monkeypatch.setattr(store, "write", lambda *_: 1 / 0)
    objective = FineTuneObjective(make_config(), artifact_store=store)
    study = study_of(objective)
    study.optimize(objective, n_trials=1)
    assert study.trials[0].user_attrs["adapter_lost"].startswith("ZeroDivisionError")
    assert "adapter_artifact" not in study.trials[0].user_attrs


class InterruptOnce(Callback):
    def __init__(self) -> None:
        self.done = False

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if not self.done:
            self.done = True
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_stops_the_study_and_it_can_go_on(make_config: MakeConfig) -> None:
    objective = FineTuneObjective(make_config(), callbacks=(InterruptOnce(),))
    study = study_of(objective)
    with pytest.raises(KeyboardInterrupt):
        study.optimize(objective, n_trials=5)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]
    study.optimize(objective, n_trials=1)
    assert study.trials[1].state == TrialState.COMPLETE


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2 GiB."),
        (RuntimeError, "[enforce fail at alloc.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_exhausted_memory_is_explained_and_freed(
    objective: FineTuneObjective,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[RuntimeError],
    text: str,
) -> None:
    networks: list[weakref.ref[LitGPTLora]] = []

    class Watched(LitGPTLora):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            networks.append(weakref.ref(self))

    def exhausted(*_: object, **__: object) -> None:
        raise kind(text)

    objective.run(GOOD)
    monkeypatch.setattr(litgpt_backend, "LitGPTLora", Watched)
    monkeypatch.setattr(running, "fit", exhausted)
    with pytest.raises(OutOfMemoryError, match=r"rank 4 and max_length 64.*Lower") as caught:
        objective.run(GOOD)
    assert text in str(caught.value)  # and it is alive while the network is not:
    assert len(networks) == 1
    assert networks[0]() is None


def test_other_runtime_errors_pass(
    objective: FineTuneObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(running, "fit", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        objective.run(GOOD)


def test_the_best_adapter_reaches_the_best_value(
    objective: FineTuneObjective, tmp_path: Path
) -> None:
    study = study_of(objective)
    study.optimize(objective, n_trials=5)
    folder = objective.best_adapter(study)
    assert folder == tmp_path / "results" / "adapters" / f"trial-{study.best_trial.number}"
    assert list(folder.parent.iterdir()) == [folder]

    resources: Any = objective._resources()
    untuned = huggingface_model(resources.backend.base, resources.backend.base.state_dict)
    adapted = PeftModel.from_pretrained(untuned, str(folder))
    for model in (adapted, objective.load_tuned(folder)):
        assert loss_of(model, objective) == pytest.approx(study.best_value, abs=1e-4)


@torch.no_grad()
def loss_of(model: Any, objective: FineTuneObjective) -> float:
    batches = objective._resources().validation
    total = sum(
        torch.nn.functional.cross_entropy(
            model(batch.input_ids).logits.flatten(0, 1), batch.targets.flatten(), reduction="sum"
        ).item()
        for batch in batches
    )
    return total / sum(batch.target_tokens for batch in batches)


def test_loading_an_adapter_leaves_the_base_model_alone(
    objective: FineTuneObjective, tmp_path: Path
) -> None:
    study = study_of(objective)
    study.optimize(objective, n_trials=1)
    objective.load_tuned(objective.best_adapter(study))
    resources: Any = objective._resources()
    network = LitGPTLora(resources.backend.base, rank=1, alpha=1.0, max_length=64)
    assert mean_loss(network, resources.validation) == objective.base_result().val_loss


def test_a_missing_adapter_is_trained_again(
    objective: FineTuneObjective, caplog: pytest.LogCaptureFixture
) -> None:
    study = study_of(objective)
    study.optimize(objective, n_trials=2)
    folder = objective.best_adapter(study)
    weights = (folder / "adapter_model.safetensors").read_bytes()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with caplog.at_level(logging.WARNING):
        assert objective.best_adapter(study) == folder
    assert f"adapter of trial {study.best_trial.number} is missing" in caplog.text
    assert (folder / "adapter_model.safetensors").read_bytes() == weights


def test_a_study_without_results_has_no_best_adapter(objective: FineTuneObjective) -> None:
    with pytest.raises(ValueError, match="No trials are completed"):
        objective.best_adapter(study_of(objective))


SECOND_PROCESS = """
import pickle, sys, optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
objective = pickle.loads(bytes.fromhex(sys.argv[1]))
study = optuna.load_study(study_name="resumed", storage=sys.argv[2])
assert len(study.trials) == 2
print(objective.best_adapter(study).name, objective.run(study.best_params).value)
study.optimize(objective, n_trials=1)
"""


def test_a_study_goes_on_in_another_process(objective: FineTuneObjective, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = study_of(objective, storage=storage, study_name="resumed")
    study.optimize(objective, n_trials=2)
    pickled = pickle.dumps(objective)
    assert len(pickled) < 20_000  # no weights, no data
    second = subprocess.run(
        [sys.executable, "-c", SECOND_PROCESS, pickled.hex(), storage],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert second.returncode == 0, second.stderr
    best = min(study.trials[:2], key=lambda trial: trial.value or 0.0)
    assert second.stdout.split() == [f"trial-{best.number}", str(best.value)]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "gpt-9"}, ModelNotFoundError, "gpt-9"),
        ({"train_data": "absent.json"}, DataError, "absent.json"),
        ({"validation_data": "absent.json"}, DataError, "absent.json"),
        ({"prompt_style": "poem"}, ValueError, "poem"),
        ({"search_space": "davouse2024"}, RankError, r"500.*value layer.*of size 32"),
        ({"search_space": SearchSpace.preset("demo").override(rank=33)}, RankError, "33"),
        ({"targets": ("head",)}, ValueError, "shares the head's weights"),
        ({"max_length": 257}, ValueError, "at most 256"),
        ({"tasks": ("absent.jsonl",)}, ValueError, "absent.jsonl"),
        ({"test_tasks": ("no_such_task",)}, ValueError, "no_such_task"),
    ],
)
def test_bad_input_is_an_error_at_once(
    make_config: MakeConfig, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        FineTuneObjective(make_config(**changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_explained(make_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="torch sees no GPU"):
        FineTuneObjective(make_config(device="cuda"))


def test_a_rank_out_of_range_is_an_error_in_a_run(objective: FineTuneObjective) -> None:
    with pytest.raises(RankError, match="33"):
        objective.run({"rank": 33})


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_result(
    make_config: MakeConfig, objective: FineTuneObjective, precision: str
) -> None:
    half = FineTuneObjective(make_config(precision=precision))
    assert half.run(GOOD).value == pytest.approx(objective.run(GOOD).value, rel=0.03)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"activation_checkpointing": True}, 1e-6),
        ({"optimizer": "adamw_fused"}, 1e-4),
        ({"optimizer": "adamw_8bit"}, 0.05),
    ],
)
def test_cheaper_ways_to_train_end_at_the_same_loss(
    make_config: MakeConfig,
    objective: FineTuneObjective,
    changes: dict[str, Any],
    tolerance: float,
) -> None:
    expected, untuned = objective.run(GOOD).value, objective.base_result().val_loss
    assert untuned - expected > 2 * tolerance
    value = FineTuneObjective(make_config(**changes)).run(GOOD).value
    assert value == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("changes", [{"schedule": "constant"}, {"gradient_clip": 0.1}])
def test_the_recipe_reaches_the_training(
    make_config: MakeConfig, objective: FineTuneObjective, changes: dict[str, Any]
) -> None:
    assert FineTuneObjective(make_config(**changes)).run(GOOD).value != objective.run(GOOD).value


def test_a_missing_quant_extra_is_an_error_at_once(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"needs bitsandbytes.*optuna-partition\[quant\]"):
        FineTuneObjective(make_config(optimizer="adamw_8bit"))


def test_a_task_can_be_the_metric(make_config: MakeConfig, assets: Path) -> None:
    questions = str(assets / "questions.jsonl")
    objective = FineTuneObjective(make_config(metric=questions, tasks=(questions,)))
    assert objective.direction == "maximize"
    study = study_of(objective)
    study.optimize(objective, n_trials=2)
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        assert trial.value is not None
        assert 0.0 <= trial.value <= 1.0
        assert trial.intermediate_values == {}  # a loss is no score
        assert trial.user_attrs["val_loss"] == pytest.approx(
            objective.run(trial.params).val_loss, abs=0
        )
        (score,) = trial.user_attrs["scores"].values()
        assert score["value"] == trial.value
        assert score["stderr"] == trial.user_attrs["stderr"] > 0
        assert trial.user_attrs["seconds"]["score"] > 0
    base = objective.base_result()
    assert [score.task for score in base.scores] == [questions]


def test_a_metric_without_a_score_of_its_own_is_explained(
    objective: FineTuneObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Score(task="member", metric="acc", value=0.5, stderr=0.1, questions=9)
    monkeypatch.setattr(Grader, "__call__", lambda *_: (score,))
    objective.config = dataclasses.replace(objective.config, metric="tag", tasks=("tag",))
    with pytest.raises(ValueError, match=r"'tag', which has no score of its own.*'member'"):
        objective.run(GOOD)


def test_the_final_comparison_uses_the_test_tasks(
    make_config: MakeConfig, objective: FineTuneObjective, assets: Path
) -> None:
    with pytest.raises(ValueError, match="no test_tasks"):
        objective.evaluate_final("anywhere")
    questions = str(assets / "questions.jsonl")
    tested = FineTuneObjective(make_config(test_tasks=(questions,), test_question_limit=10))
    study = study_of(tested)
    study.optimize(tested, n_trials=1)
    comparison = tested.evaluate_final(tested.best_adapter(study))
    for (score,) in (comparison.base, comparison.tuned):
        assert (score.task, score.questions) == (questions, 10)


def test_a_copy_of_the_tuning_questions_can_not_be_the_final_test(
    make_config: MakeConfig, assets: Path, tmp_path: Path
) -> None:
    lines = (assets / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    tuning, test = tmp_path / "tuning.jsonl", tmp_path / "test.jsonl"
    tuning.write_text("\n".join(lines[:10]) + "\n", encoding="utf-8")
    test.write_text("\n".join(lines[9:]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="1 questions of test_tasks are asked by tasks too"):
        FineTuneObjective(make_config(tasks=(str(tuning),), test_tasks=(str(test),)))
    test.write_text("\n".join(lines[10:]) + "\n", encoding="utf-8")
    FineTuneObjective(make_config(tasks=(str(tuning),), test_tasks=(str(test),)))


def test_a_final_test_is_made_once_and_kept(
    make_config: MakeConfig, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = str(assets / "questions.jsonl")
    config = make_config(tasks=(questions,), question_ids={questions: (0, 2, 4)})
    objective = FineTuneObjective(config)
    study = study_of(objective)
    study.optimize(objective, n_trials=1)
    copy = Path(config.output_dir).parent / "copy.jsonl"
    copy.write_bytes((assets / "questions.jsonl").read_bytes())
    with pytest.raises(ValueError, match="used for tuning"):
        objective.final_test(study, [questions])
    with pytest.raises(ValueError, match="1 questions of test_tasks are asked by tasks too"):
        objective.final_test(study, [str(copy)], ids={str(copy): [4, 5]})
    with pytest.raises(ValueError, match="tasks is empty"):
        objective.final_test(study, [])
    result = objective.final_test(study, [str(copy)], ids={str(copy): range(3, 4)})
    assert [score.questions for score in (*result.base, *result.tuned)] == [1, 1]
    monkeypatch.setattr(objective, "_compared", lambda *_: pytest.fail("scored again"))
    again = objective.final_test(study, [str(copy)], ids={str(copy): range(3, 4)})
    assert repr(again) == repr(result)  # the standard error of one question is NaN


@pytest.mark.slow
def test_overhead_of_a_real_model_is_below_five_percent(tmp_path: Path) -> None:
    data = Path(__file__).resolve().parents[2] / "examples" / "data" / "wordnet"
    objective = FineTuneObjective(
        FineTuneConfig(
            model="smollm2-135m",
            train_data=data / "train.json",
            validation_data=data / "validation.json",
            output_dir=tmp_path,
            max_train_samples=64,
            max_validation_samples=16,
            prompt_style="plain",
            max_length=64,
            reports_per_epoch=1,
        )
    )
    study = study_of(objective)
    study.enqueue_trial({"learning_rate": 3e-3, "grad_batches": 1, "dropout": 0.0, "rank": 8})
    study.optimize(objective, n_trials=1)
    assert overhead(study.trials[0].user_attrs["seconds"]) < 0.05
    assert study.best_value < objective.base_result().val_loss - 0.3
