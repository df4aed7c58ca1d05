"""LoRA fine-tuning of a language model as an objective for any Optuna sampler."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optuna import TrialPruned
from optuna.trial import Trial, TrialState

from objectives.adapters import check_writable
from objectives.capacity import LESS_MEMORY, Capacity
from objectives.checkpoints import CheckpointFile, removed_at_the_end
from objectives.config import VALIDATION_LOSS
from objectives.devices.crew import Crew
from objectives.devices.team import LostDeviceError
from objectives.export import check_export, export_tuned
from objectives.grading import Grader
from objectives.identity import register, run_key
from objectives.memory import (
    OutOfMemoryError,
    first_line,
    is_out_of_memory,
    release_memory,
)
from objectives.metric import cost, measured
from objectives.resources import check_held_out, load_resources, make_scorer
from objectives.results import (
    BaseResult,
    FinalComparison,
    TrialResult,
    finite,
    rounded,
    score_attribute,
)
from objectives.running import Order, Run, report_points_of, seeded, validation_loss_untuned
from objectives.search_space import SCALES, HyperParameters
from objectives.timing import Stopwatch
from objectives.training import Estimate, NonFiniteLossError
from objectives.trial_adapters import TrialAdapters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lightning.pytorch import Callback
    from optuna.study import Study
    from optuna.trial import BaseTrial, FrozenTrial

    from objectives.artifacts import ArtifactStore
    from objectives.config import FineTuneConfig
    from objectives.export import Format
    from objectives.footprint import MemoryEstimate
    from objectives.grading import Report
    from objectives.models.backend import AdaptedModel
    from objectives.resources import Resources
    from objectives.scoring import Scorer
    from objectives.search_space import Number, SearchSpace

_logger = logging.getLogger(__name__)


class FineTuneObjective:
    """Fine-tunes a language model with LoRA and returns how good it became.

    Call it with a trial, as `study.optimize` does, or use `run` with plain hyperparameters. Base
    weights, tokens and questions are loaded when it is made and kept for all trials; a copy that
    was pickled for another process loads them there when they are first needed.

    A run with a loss that is no longer finite is pruned. Any other exception is a failed trial.
    Intermediate validation losses are reported only when the metric is the validation loss: a
    sampler or pruner would otherwise compare a loss with a task's score. Where it is a score,
    scores on shares of the questions may be reported (`FineTuneConfig.question_shares`). Optuna
    prunes no trials of studies with two objectives, so that nothing is reported there.

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
        self._adapters = TrialAdapters(
            folder / "adapters", keep=config.keep_adapters, artifact_store=artifact_store
        )
        self._registered: set[str] = set()
        self._base_loss: Estimate | None = None
        self._grader: Grader | None = None
        self._capacity: Capacity | None = None
        self._crew: Crew | None = None
        self._loaded: Resources | None = resources or load_resources(config)

    def __getstate__(self) -> dict[str, Any]:
        ours: dict[str, Any] = {
            "_loaded": None,
            "_grader": None,
            "_capacity": None,
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
    def pruning_points(self) -> tuple[int, ...]:
        """Steps at which a trial reports a value of the metric, ascending, the last at the end.

        Samples seen where the metric is the validation loss; questions answered where it is a
        score and `question_shares` are given; else there are none.
        """
        if self.config.cost is not None:
            return ()
        return (
            self.report_points if self.config.metric == VALIDATION_LOSS else self._grades().points
        )

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
        self._memory().footprint(parameters)  # likewise
        graded = self._grades().reporter(trial)
        clock = Stopwatch()
        file = self._checkpoint_file(trial, parameters)
        try:
            with removed_at_the_end(file):
                resume = functools.partial(self._resumed, trial)
                network, result = self._train(
                    parameters, self._reporter(trial), clock, file, resume, graded
                )
                with clock.measure("save"):
                    self._adapters.keep_if_best(trial, network, result)
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
            trial.set_user_attr("seconds", rounded(clock.seconds()))
        trial.set_user_attr("stderr", finite(result.stderr))
        trial.set_user_attr("tokens_per_second", round(result.tokens_per_second, 1))
        trial.set_user_attr("trainable_parameters", result.trainable_parameters)
        if result.micro_batch_size != self.config.micro_batch_size:
            trial.set_user_attr("micro_batch_size", result.micro_batch_size)
        if self.config.tasks:
            trial.set_user_attr("val_loss", result.val_loss)
            trial.set_user_attr("scores", score_attribute(result.scores))
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
        scores, loss = self._grades().untuned(), self._untuned_loss()
        return BaseResult(loss.value, scores, measured(self.config, loss, scores).value)

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
        folder = self._adapters.find(study, best, parameters)
        if folder is not None:
            return folder
        _logger.warning("The adapter of trial %d is missing; training it again.", best.number)
        network, result = self._train(parameters, None, Stopwatch())
        return self._adapters.save(study, best.number, network, result)

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
            return FinalComparison.from_json(kept)
        scorer = make_scorer(config, tasks, limit=limit, ids=ids or {})
        if scorer is None:
            raise ValueError("tasks is empty, expected at least one, such as ['hellaswag'].")
        check_held_out(self._resources().scorer, scorer)
        result = self._compared(scorer, self.best_adapter(study, number=tested))
        study.set_user_attr(key, result.to_json())
        return result

    def _compared(self, scorer: Scorer, adapter: str | Path) -> FinalComparison:
        tokenizer, on_device = self._resources().backend.tokenizer, self._grades().on_device
        base = scorer(on_device(self._resources().backend.untuned().scoring_model()), tokenizer)
        return FinalComparison(base, scorer(on_device(self.load_tuned(adapter)), tokenizer))

    def load_tuned(self, adapter: str | Path) -> Any:
        """The base model with an adapter from disk, called like a model of transformers."""
        return self._resources().backend.load_tuned(Path(adapter).expanduser())

    def _resources(self) -> Resources:
        if self._loaded is None:
            self._loaded = load_resources(self.config)
        return self._loaded

    def _untuned_loss(self) -> Estimate:
        if self._base_loss is None:
            with self._devices().on(Order()) as team:
                self._base_loss = validation_loss_untuned(self._resources(), team)
        return self._base_loss

    def _grades(self) -> Grader:
        if self._grader is None:
            self._grader = Grader(self.config, self._resources())
        return self._grader

    def _memory(self) -> Capacity:
        if self._capacity is None:
            self._capacity = Capacity(self.config, self._resources())
        return self._capacity

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
        graded: Report | None = None,
    ) -> tuple[AdaptedModel, TrialResult]:
        with clock.measure("build"):
            rows = self._memory().fitting_rows(parameters)
            order = Order(
                parameters=parameters,
                rows=rows,
                untuned=self._untuned_loss(),
                state=None if file is None else file.load(),
                checkpoints=file is not None,
            )
        try:
            with seeded(self.config.seed, self._resources().device):
                return self._train_seeded(parameters, order, report, clock, file, resumed, graded)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        release_memory()
        raise OutOfMemoryError(
            f"A run with rank {parameters.rank} and max_length {self.config.max_length} does not "
            f"fit into memory ({reason}). {LESS_MEMORY}"
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
        return self._memory().estimate(checked, micro_batch_size=micro_batch_size)

    def _train_seeded(
        self,
        parameters: HyperParameters,
        order: Order,
        report: Callable[[float, int], None] | None,
        clock: Stopwatch,
        file: CheckpointFile | None,
        resumed: Callable[[int, Sequence[tuple[float, int]]], None],
        graded: Report | None,
    ) -> tuple[AdaptedModel, TrialResult]:
        loaded = self._resources()
        with self._devices().on(order) as team:
            run = Run(self.config, loaded, order, team=team, clock=clock, report=report, file=file)
            if order.state is not None:
                resumed(run.samples_seen, run.reports.made)
            outcome = run.carry_out(self._callbacks)
        network = outcome.network
        with clock.measure("score"):
            scores = self._grades()(network, graded)
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

    def _parameters_of(self, given: Mapping[str, Number]) -> HyperParameters:
        """Hyperparameters by name, with what the search space holds fixed."""
        fixed = dict(self.search_space.fixed)
        if SCALES & given.keys():
            fixed = {name: value for name, value in fixed.items() if name not in SCALES}
        return HyperParameters.from_mapping(fixed | dict(given))


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
