"""LoRA fine-tuning of a language model as an objective for any Optuna sampler."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from optuna import TrialPruned
from optuna.trial import Trial, TrialState

from objectives.adapters import AdapterStore, check_writable, worth_keeping
from objectives.artifacts import ARTIFACT, download_adapter, upload_adapter
from objectives.checkpoints import CheckpointFile, removed_at_the_end
from objectives.config import VALIDATION_LOSS
from objectives.devices.crew import Crew
from objectives.devices.sharding import divided_bytes
from objectives.devices.team import LostDeviceError
from objectives.export import check_export, export_tuned
from objectives.footprint import Footprints
from objectives.identity import register, run_key
from objectives.memory import (
    OutOfMemoryError,
    available_memory,
    first_line,
    gigabytes,
    is_out_of_memory,
    release_memory,
)
from objectives.metric import cost, measured
from objectives.resources import adapter_spec, check_held_out, load_resources, make_scorer
from objectives.running import Order, Run, report_points_of, seeded, validation_loss_untuned
from objectives.search_space import SCALES, HyperParameters
from objectives.timing import Stopwatch
from objectives.training import Estimate, NonFiniteLossError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lightning.pytorch import Callback
    from optuna.study import Study
    from optuna.trial import BaseTrial, FrozenTrial

    from objectives.artifacts import ArtifactStore
    from objectives.config import FineTuneConfig
    from objectives.export import Format
    from objectives.footprint import Footprint, MemoryEstimate
    from objectives.models.backend import AdaptedModel
    from objectives.resources import Resources
    from objectives.scoring import Score, Scorer
    from objectives.search_space import Number, SearchSpace

_logger = logging.getLogger(__name__)

_LESS_MEMORY: Final = (
    "Lower max_length, bound the rank in the search space, or set activation_checkpointing."
)


@dataclass(frozen=True, slots=True)
class BaseResult:
    """What the untuned model reaches.

    Attributes:
        val_loss: Cross-entropy on the validation data, nats per token.
        scores: Scores on the tuning tasks.
        value: The metric.
    """

    val_loss: float
    scores: tuple[Score, ...]
    value: float


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What one run reached, and what it cost.

    Attributes:
        value: The metric: validation loss or the score of a task.
        val_loss: Cross-entropy on the validation data at the end, nats per token.
        stderr: Standard error of the value: of the loss over the validation records, of a score
            over its questions; NaN where there is one only.
        scores: Scores on the tuning tasks.
        parameters: The hyperparameters of the run.
        seconds: Wall-clock seconds by phase: "build", "train", "validate", "score", "other".
        tokens_per_second: Training tokens, without padding, per second of training.
        trainable_parameters: Numbers in the adapter.
        cost: The second objective, None if there is none.
        micro_batch_size: The most rows that went through the model at once at the end of training,
            on all devices together; fewer than configured where memory was short.
    """

    value: float
    val_loss: float
    stderr: float
    scores: tuple[Score, ...]
    parameters: HyperParameters
    seconds: Mapping[str, float]
    tokens_per_second: float
    trainable_parameters: int
    cost: float | None
    micro_batch_size: int


@dataclass(frozen=True, slots=True)
class FinalComparison:
    """Scores on the test tasks, which no trial has seen."""

    base: tuple[Score, ...]
    tuned: tuple[Score, ...]


class FineTuneObjective:
    """Fine-tunes a language model with LoRA and returns how good it became.

    Call it with a trial, as `study.optimize` does, or use `run` with plain hyperparameters. Base
    weights, tokens and questions are loaded when it is made and kept for all trials; a copy that
    was pickled for another process loads them there when they are first needed.

    A run with a loss that is no longer finite is pruned. Any other exception is a failed trial.
    Intermediate validation losses are reported only when the metric is the validation loss: a
    sampler or pruner would otherwise compare a loss with a task's score. Optuna prunes no trials of
    studies with two objectives, so that nothing is reported there either.

    With several `devices` this process leads: it alone knows of trials, scores and keeps adapters.
    A process for each other device is started when it is first needed, and stays for all trials.
    What fails there fails the trial here, and the next trial finds the devices ready again.

    Threads of one process must not run trials at once: they share torch's random generator.

    Args:
        config: What to train and how to judge it.
        callbacks: Further Lightning callbacks for every run, such as a progress bar.
        resources: What was loaded for this configuration; it is loaded if it is not given.
        artifact_store: Gets a copy of every adapter that is kept; an adapter that is not in the
            output folder is looked for there.

    Raises:
        ValueError: If the configuration names a model, data file or task that can't be used, or
            the search space allows a rank above the size of an adapted layer.
    """

    def __init__(
        self,
        config: FineTuneConfig,
        *,
        callbacks: Sequence[Callback] = (),
        resources: Resources | None = None,
        artifact_store: ArtifactStore | None = None,
    ) -> None:
        folder = Path(config.output_dir).expanduser()
        check_writable(folder)
        self.config = config
        self.search_space: SearchSpace = config.space()
        self._callbacks = tuple(callbacks)
        self._artifact_store = artifact_store
        self._adapters = AdapterStore(folder / "adapters", keep=config.keep_adapters)
        self._registered: set[str] = set()
        self._base_loss: Estimate | None = None
        self._base_scores: tuple[Score, ...] | None = None
        self._footprints: Footprints | None = None
        self._crew: Crew | None = None
        self._loaded: Resources | None = resources or load_resources(config)

    def __getstate__(self) -> dict[str, Any]:
        ours: dict[str, Any] = {
            "_loaded": None,
            "_footprints": None,
            "_crew": None,
            "_registered": set(),
        }
        return self.__dict__ | ours

    def close(self) -> None:
        """End the processes of further devices now; else they end with this one.

        They are started again when they are needed.
        """
        if self._crew is not None:
            self._crew.close()

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Direction of the metric, for `optuna.create_study`."""
        return "minimize" if self.config.metric == VALIDATION_LOSS else "maximize"

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Directions for `optuna.create_study`: of the metric, and of the cost if there is one."""
        return [self.direction] if self.config.cost is None else [self.direction, "minimize"]

    @property
    def report_points(self) -> tuple[int, ...]:
        """Numbers of samples seen at which the validation loss is measured, the last at the end."""
        return report_points_of(self.config, self._resources())

    @property
    def samples_per_trial(self) -> int:
        """Training samples that a trial sees, all epochs together, if it is not stopped early."""
        return sum(batch.samples for batch in self._resources().train)

    def __call__(self, trial: Trial | BaseTrial) -> float | tuple[float, float]:
        """Train with the hyperparameters that `trial` suggests.

        Returns the metric, or the metric and the cost.

        Sets the user attributes "seconds" (by phase, for every trial), "stderr" (of the value),
        "tokens_per_second" and "trainable_parameters", with tasks also "val_loss" and "scores";
        keeps the adapter if it is one of the study's best so far, and sets "adapter_lost" (why) if
        that fails. A trial with the hyperparameters of
        one that was killed goes on from its checkpoint, and sets "resumed_at" (samples).

        Raises:
            ValueError: If the trial's study was made with other settings or other data.
            optuna.TrialPruned: If the trial's pruner says so or the loss is no longer finite.
            OutOfMemoryError: If the run does not fit into memory.
            LostDeviceError: If the process of another device fails.
        """
        if isinstance(trial, Trial):  # a FixedTrial belongs to no study
            self.register(trial.study)
        parameters = HyperParameters.from_mapping(self.search_space.suggest(trial))
        self._untuned_loss()  # before the clock starts: it is measured once, not for every trial
        self._footprint(parameters)  # likewise
        clock = Stopwatch()
        file = self._checkpoint_file(trial, parameters)
        try:
            with removed_at_the_end(file):
                resume = functools.partial(self._resumed, trial)
                network, result = self._train(
                    parameters, self._reporter(trial), clock, file, resume
                )
                self._keep_if_best(trial, network, result, clock)
        except NonFiniteLossError as error:
            raise TrialPruned(str(error)) from error
        except KeyboardInterrupt:
            trial.set_user_attr("interrupted", True)  # a sampler may try the same point again
            raise
        except OutOfMemoryError as error:
            trial.set_user_attr("oom", True)
            trial.set_user_attr("failure", str(error))
            raise
        except LostDeviceError as error:
            trial.set_user_attr("failure", str(error))
            raise
        finally:
            trial.set_user_attr("seconds", _rounded(clock.seconds()))
        trial.set_user_attr("stderr", _as_json(result.stderr))
        trial.set_user_attr("tokens_per_second", round(result.tokens_per_second, 1))
        trial.set_user_attr("trainable_parameters", result.trainable_parameters)
        if result.micro_batch_size != self.config.micro_batch_size:
            trial.set_user_attr("micro_batch_size", result.micro_batch_size)
        if self.config.tasks:
            trial.set_user_attr("val_loss", result.val_loss)
            trial.set_user_attr("scores", _as_attribute(result.scores))
        return result.value if result.cost is None else (result.value, result.cost)

    def register(self, study: Study) -> None:
        """Write into a study what its trials need to be made again; the first trial does it.

        Its user attributes are then "settings" (what values depend on) and "reproduction"
        (configuration, versions of packages, fingerprints of the data, device). A study that has
        them is compared instead; other versions of packages are only a warning.

        Raises:
            ValueError: If the study was made with other settings or other data.
        """
        if study.study_name in self._registered:
            return
        loaded = self._resources()
        register(study, self.config, data=loaded.fingerprints, device=loaded.device)
        self._registered.add(study.study_name)

    def run(
        self,
        parameters: Mapping[str, Number],
        report: Callable[[float, int], None] | None = None,
    ) -> TrialResult:
        """Train with given hyperparameters; the same ones give the same result, bit for bit.

        Args:
            parameters: By name, such as a trial's `params`; those left out take what the search
                space holds fixed, or else the defaults of `HyperParameters`.
            report: Called with each validation loss and the number of samples seen so far; may
                raise an exception to stop the run.

        Raises:
            ValueError: If a hyperparameter is unknown or outside its range.
            NonFiniteLossError: If the loss becomes infinite or NaN.
            OutOfMemoryError: If the run does not fit into memory.
            LostDeviceError: If the process of another device fails.
        """
        checked = self._parameters_of(parameters)
        self._untuned_loss()
        return self._train(checked, report, Stopwatch())[1]

    def base_result(self) -> BaseResult:
        """The untuned model's validation loss and scores; each is computed once."""
        if self._base_scores is None:
            self._base_scores = self._score(self._untuned())
        loss = self._untuned_loss()
        value = measured(self.config, loss, self._base_scores).value
        return BaseResult(loss.value, self._base_scores, value)

    def best_adapter(self, study: Study, *, number: int | None = None) -> Path:
        """Folder of the best trial's adapter in PEFT format.

        If it is neither there nor in the artifact store, the best trial is trained again, which
        gives the same adapter on the same machine.

        Args:
            study: Has a completed trial.
            number: A completed trial instead of the best one. Where there are two objectives it has
                to be given: one of `study.best_trials`.

        Raises:
            ValueError: If there is no such trial, or the study has two objectives and no number is
                given.
        """
        best = chosen_trial(study, number)
        parameters = self._parameters_of(best.params)
        self._adapters.remove_beaten(study)
        folder = self._adapters.find(study.study_name, best.number, parameters.as_dict())
        if folder is not None:
            return folder
        artifact = best.user_attrs.get(ARTIFACT)
        if self._artifact_store is not None and artifact is not None:
            store = self._artifact_store
            return self._adapters.save(
                study.study_name,
                best.number,
                parameters.as_dict(),
                value=best.values[0],
                export=lambda work: download_adapter(store, artifact, work),
            )
        _logger.warning("The adapter of trial %d is missing; training it again.", best.number)
        network, result = self._train(parameters, None, Stopwatch())
        return self._save(study.study_name, best.number, network, result)

    def export_best(
        self, study: Study, out: str | Path, *, format: Format = "peft", number: int | None = None
    ) -> Path:
        """Write the best trial's model for another program.

        Args:
            study: Has a completed trial.
            out: Folder to make.
            format: `"peft"`, the adapter; `"hf"`, a model of transformers with the adapter added;
                `"litgpt"`, a checkpoint of litgpt's with the adapter added.
            number: As in `best_adapter`.

        Returns:
            The folder.

        Raises:
            ValueError: As `best_adapter`; if there is no such format, the model has no such form,
                or the folder is there and not empty.
        """
        folder = Path(out).expanduser()
        check_export(folder, format)  # before an adapter that is lost is trained again
        return export_tuned(
            self._resources().backend,
            self.best_adapter(study, number=number),
            folder,
            format=format,
        )

    def evaluate_final(self, adapter: str | Path) -> FinalComparison:
        """Score the base model and a tuned one on the test tasks.

        Args:
            adapter: Folder of an adapter in PEFT format.

        Raises:
            ValueError: If the configuration has no test tasks.
        """
        scorer = self._resources().test_scorer
        if scorer is None:
            raise ValueError("The configuration has no test_tasks; name at least one.")
        return self._compared(scorer, adapter)

    def final_test(
        self,
        study: Study,
        tasks: Sequence[str],
        *,
        limit: int | None = None,
        ids: Mapping[str, Sequence[int]] | None = None,
        number: int | None = None,
    ) -> FinalComparison:
        """Score the untuned and the best model on tasks that no trial has seen, once.

        The result is kept in the study's user attributes; asked again for the same best trial and
        the same questions, it is taken from there, also in another process.

        Args:
            study: Has a completed trial.
            tasks: lm-eval tasks or `.jsonl` files of questions.
            limit: Questions of each task, the first ones; all by default.
            ids: Exactly which questions of a task, by its name.
            number: As in `best_adapter`.

        Raises:
            ValueError: If the tuning asked one of the questions; and as `best_adapter`.
        """
        tested = chosen_trial(study, number).number
        asked = {
            "tasks": list(tasks),
            "limit": limit,
            "ids": {name: list(chosen) for name, chosen in (ids or {}).items()},
        }
        config = dataclasses.replace(self.config, test_tasks=tuple(tasks))  # refuses tuning tasks
        key = f"final test of trial {tested}: {json.dumps(asked, sort_keys=True)}"
        kept = study.user_attrs.get(key)
        if kept is not None:
            return FinalComparison(_from_json(kept["base"]), _from_json(kept["tuned"]))
        scorer = make_scorer(config, tasks, limit=limit, ids=ids or {})
        if scorer is None:
            raise ValueError("tasks is empty, expected at least one, such as ['hellaswag'].")
        check_held_out(self._resources().scorer, scorer)
        result = self._compared(scorer, self.best_adapter(study, number=tested))
        study.set_user_attr(key, {"base": _to_json(result.base), "tuned": _to_json(result.tuned)})
        return result

    def _compared(self, scorer: Scorer, adapter: str | Path) -> FinalComparison:
        tokenizer = self._resources().backend.tokenizer
        base = scorer(self._on_device(self._untuned().scoring_model()), tokenizer)
        return FinalComparison(base, scorer(self._on_device(self.load_tuned(adapter)), tokenizer))

    def load_tuned(self, adapter: str | Path) -> Any:
        """The base model with an adapter from disk, called like a model of transformers."""
        return self._resources().backend.load_tuned(Path(adapter).expanduser())

    def _resources(self) -> Resources:
        if self._loaded is None:
            self._loaded = load_resources(self.config)
        return self._loaded

    def _untuned(self) -> AdaptedModel:
        return self._resources().backend.untuned()

    def _untuned_loss(self) -> Estimate:
        if self._base_loss is None:
            with self._devices().on(Order()) as team:
                self._base_loss = validation_loss_untuned(self._resources(), team)
        return self._base_loss

    def _devices(self) -> Crew:
        if self._crew is None:
            self._crew = Crew(self.config, self._resources())
        return self._crew

    def _train(
        self,
        parameters: HyperParameters,
        report: Callable[[float, int], None] | None,
        clock: Stopwatch,
        file: CheckpointFile | None = None,
        resumed: Callable[[int, Sequence[tuple[float, int]]], None] = lambda *_: None,
    ) -> tuple[AdaptedModel, TrialResult]:
        with clock.measure("build"):
            rows = self._fitting_rows(parameters)
            order = Order(
                parameters=parameters,
                rows=rows,
                untuned=self._untuned_loss(),
                state=None if file is None else file.load(),
                checkpoints=file is not None,
            )
        try:
            with seeded(self.config.seed, self._resources().device):
                return self._train_seeded(parameters, order, report, clock, file, resumed)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        release_memory()
        raise OutOfMemoryError(
            f"A run with rank {parameters.rank} and max_length {self.config.max_length} does not "
            f"fit into memory ({reason}). {_LESS_MEMORY}"
        )

    def estimate(
        self, parameters: Mapping[str, Number], *, micro_batch_size: int | None = None
    ) -> MemoryEstimate:
        """How much memory a run would need, for its largest micro-batch.

        Args:
            parameters: Hyperparameters by name; those left out as in `run`.
            micro_batch_size: Rows at once, on all devices together; by default those of the
                configuration.

        Returns:
            The memory of the first device, which has no less to do than the others.

        Raises:
            ValueError: If a hyperparameter is unknown or outside its range.
        """
        checked = self._parameters_of(parameters)
        rows = -(-(micro_batch_size or self.config.micro_batch_size) // self.config.devices)
        return self._estimated(self._footprint(checked), rows)

    def _estimated(self, needed: Footprint, rows: int) -> MemoryEstimate:
        return needed.estimate(self._resources().train, rows=rows, optimizer=self.config.optimizer)

    def _footprint(self, parameters: HyperParameters) -> Footprint:
        loaded = self._resources()
        if self._footprints is None:
            self._footprints = Footprints(
                self._bare_network,
                dtype=loaded.recipe.dtype,
                packed=self.config.packing,
                checkpointing=self.config.activation_checkpointing,
            )
        with seeded(self.config.seed, loaded.device):
            found = self._footprints.at(parameters.rank, dropout=parameters.dropout)
        if self.config.strategy == "fsdp":
            held = divided_bytes(self._untuned(), self.config.devices)
            return dataclasses.replace(found, frozen=held)
        return found

    def _bare_network(self, rank: int, dropout: float, checkpointing: bool) -> AdaptedModel:
        spec = adapter_spec(self.config, rank=rank, dropout=dropout)
        return self._resources().backend.adapt(
            dataclasses.replace(spec, checkpointing=checkpointing)
        )

    def _fitting_rows(self, parameters: HyperParameters) -> int:
        """This device's rows of a micro-batch, or a half, a quarter, ... of them that fit.

        Raises:
            OutOfMemoryError: If one row does not fit.
        """
        devices, limit = self.config.devices, self.config.memory_limit
        needed, rows = self._footprint(parameters), -(-self.config.micro_batch_size // devices)
        most = self._available(needed) if limit is None else int(limit * 1e9)
        while (estimate := self._estimated(needed, rows)).total > most:
            if rows == 1:
                raise OutOfMemoryError(
                    f"A run with rank {parameters.rank} and max_length {self.config.max_length} "
                    f"would need {estimate}, even with one row at a time, and {gigabytes(most)} "
                    f"are there. {_LESS_MEMORY} Or raise memory_limit."
                )
            rows //= 2
        return rows

    def _available(self, needed: Footprint) -> int:
        """Bytes of the device that a run may fill, those of its base weights among them."""
        device = self._resources().device
        left = available_memory(device)
        if device.type == "cpu":  # which all processes share
            left //= self.config.devices
        # Divided weights are brought there for each run, others are there.
        return left if self.config.strategy == "fsdp" else left + needed.frozen

    def _train_seeded(
        self,
        parameters: HyperParameters,
        order: Order,
        report: Callable[[float, int], None] | None,
        clock: Stopwatch,
        file: CheckpointFile | None,
        resumed: Callable[[int, Sequence[tuple[float, int]]], None],
    ) -> tuple[AdaptedModel, TrialResult]:
        loaded = self._resources()
        with self._devices().on(order) as team:
            run = Run(self.config, loaded, order, team=team, clock=clock, report=report, file=file)
            if order.state is not None:
                resumed(run.samples_seen, run.reports.made)
            outcome = run.carry_out(self._callbacks)
        network = outcome.network
        with clock.measure("score"):
            scores = self._score(network)
        measure = measured(self.config, outcome.loss, scores)
        seconds = clock.seconds()
        size = network.trainable_parameters()
        return network, TrialResult(
            value=measure.value,
            val_loss=outcome.loss.value,
            stderr=measure.stderr,
            scores=scores,
            parameters=parameters,
            seconds=seconds,
            tokens_per_second=sum(batch.tokens for batch in loaded.train) / seconds["train"],
            trainable_parameters=size,
            cost=cost(self.config, seconds=seconds, parameters=size),
            micro_batch_size=min(outcome.rows * self.config.devices, self.config.micro_batch_size),
        )

    def _reporter(self, trial: BaseTrial) -> Callable[[float, int], None] | None:
        if self.config.metric != VALIDATION_LOSS or self.config.cost is not None:
            return None

        def report(loss: float, samples_seen: int) -> None:
            trial.report(loss, step=samples_seen)
            # At the end nothing is left to save, and a complete result tells a sampler more.
            if samples_seen < self.samples_per_trial and trial.should_prune():
                raise TrialPruned(f"Pruned after {samples_seen} samples at loss {loss:.4f}.")

        return report

    def _checkpoint_file(
        self, trial: BaseTrial, parameters: HyperParameters
    ) -> CheckpointFile | None:
        if self.config.checkpoint_every == "never" or not hasattr(trial, "study"):
            return None
        folder = Path(self.config.output_dir).expanduser() / "checkpoints"
        loaded = self._resources()
        key = run_key(self.config, parameters, data=loaded.fingerprints, device=loaded.device)
        return CheckpointFile(folder, key)

    def _resumed(self, trial: BaseTrial, samples: int, made: Sequence[tuple[float, int]]) -> None:
        """Give a trial what its predecessor has reported."""
        trial.set_user_attr("resumed_at", samples)
        if self._reporter(trial) is None:
            return
        with warnings.catch_warnings():
            # Optuna's callback for retries may have copied them.
            warnings.filterwarnings("ignore", ".*already reported", UserWarning)
            for loss, step in made:
                trial.report(loss, step=step)

    def _score(self, network: AdaptedModel) -> tuple[Score, ...]:
        loaded = self._resources()
        if loaded.scorer is None:
            return ()
        return loaded.scorer(self._on_device(network.scoring_model()), loaded.backend.tokenizer)

    def _on_device(self, model: Any) -> Any:
        """A model for scoring; it waits on the CPU if its weights are divided for training."""
        return model.to(self._resources().device) if self.config.strategy == "fsdp" else model

    def _parameters_of(self, given: Mapping[str, Number]) -> HyperParameters:
        """Hyperparameters by name, with what the search space holds fixed."""
        fixed = dict(self.search_space.fixed)
        if SCALES & given.keys():
            fixed = {name: value for name, value in fixed.items() if name not in SCALES}
        return HyperParameters.from_mapping(fixed | dict(given))

    def _keep_if_best(
        self, trial: BaseTrial, network: AdaptedModel, result: TrialResult, clock: Stopwatch
    ) -> None:
        study: Study | None = getattr(trial, "study", None)
        if study is None:  # a FixedTrial belongs to none
            return
        with clock.measure("save"):
            try:
                self._keep(study, trial, network, result)
            except Exception as error:
                # A full disk, or whatever a store's library raises: the value is worth more.
                _logger.warning(
                    "The adapter of trial %d could not be kept.", trial.number, exc_info=True
                )
                trial.set_user_attr("adapter_lost", f"{type(error).__name__}: {error}")

    def _keep(
        self, study: Study, trial: BaseTrial, network: AdaptedModel, result: TrialResult
    ) -> None:
        values = [result.value] if result.cost is None else [result.value, result.cost]
        if worth_keeping(study, values, keep=self.config.keep_adapters):
            folder = self._save(study.study_name, trial.number, network, result)
            if self._artifact_store is not None:
                upload_adapter(self._artifact_store, cast("Trial", trial), folder)
        self._adapters.remove_beaten(study)

    def _save(
        self, study_name: str, number: int, network: AdaptedModel, result: TrialResult
    ) -> Path:
        return self._adapters.save(
            study_name,
            number,
            result.parameters.as_dict(),
            value=result.value,
            export=network.export,
        )


def chosen_trial(study: Study, number: int | None = None) -> FrozenTrial:
    """The best trial, or the one of a number.

    Raises:
        ValueError: If there is no such completed trial, or no number is given and the study has
            several objectives.
    """
    if number is None and len(study.directions) > 1:
        front = [trial.number for trial in study.best_trials]
        raise ValueError(
            f"The study {study.study_name!r} has two objectives and no single best trial; give the "
            f"number of one that no other trial beats: {front}."
        )
    if number is None:
        return study.best_trial
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    for trial in completed:
        if trial.number == number:
            return trial
    raise ValueError(
        f"Trial {number} of the study {study.study_name!r} has not completed, expected one of "
        f"{[trial.number for trial in completed]}."
    )


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {phase: round(value, 3) for phase, value in seconds.items()}


def _to_json(scores: tuple[Score, ...]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(score) | {"stderr": _as_json(score.stderr)} for score in scores]


def _from_json(kept: Sequence[Mapping[str, Any]]) -> tuple[Score, ...]:
    from objectives.scoring import Score

    return tuple(
        Score(**{**score, "stderr": math.nan if score["stderr"] is None else score["stderr"]})
        for score in kept
    )


def _as_json(stderr: float) -> float | None:
    # A standard error of one question is no number, and JSON has no NaN.
    return stderr if math.isfinite(stderr) else None


def _as_attribute(scores: tuple[Score, ...]) -> dict[str, dict[str, float | None]]:
    return {
        f"{score.task} {score.metric}": {
            "value": score.value,
            "stderr": _as_json(score.stderr),
        }
        for score in scores
    }
