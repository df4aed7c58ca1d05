"""One LoRA fine-tuning run as a Lightning loop."""

from __future__ import annotations

import logging
import math
import signal
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from objectives.data import IGNORE
from objectives.devices.team import RunError, Team
from objectives.memory import halving
from objectives.optimization import Recipe, learning_rate_factor, make_optimizer
from objectives.timing import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch.optim import Optimizer

    from objectives.data import Batch
    from objectives.models.backend import AdaptedModel
    from objectives.search_space import HyperParameters

_Result = TypeVar("_Result")


class NonFiniteLossError(RunError):
    """The loss became infinite or NaN; the run can't recover."""


def summed_loss(
    network: AdaptedModel, batch: Batch, *, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Cross-entropy in nats, summed over the batch's targets: a scalar.

    Args:
        network: The model; the batch must be on its device.
        batch: Where its targets are `IGNORE`, nothing is computed beyond the last hidden layer.
        dtype: Of matrix products.
    """
    return _losses(network, batch, batch.targets != IGNORE, dtype).sum()


def _losses(
    network: AdaptedModel, batch: Batch, mask: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Cross-entropy of each target, row by row: (targets,) fp32."""
    reduced = dtype != torch.float32
    with torch.autocast(batch.input_ids.device.type, dtype=dtype, enabled=reduced):
        logits = network.logits_at(batch.input_ids, mask, batch.documents)
    return cross_entropy(logits.float(), batch.targets[mask], reduction="none")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its standard error; NaN for the error where there is one record only."""

    value: float
    stderr: float


def mean_loss(
    network: AdaptedModel, batches: Sequence[Batch], *, dtype: torch.dtype = torch.float32
) -> float:
    """Cross-entropy in nats per target over all batches, without dropout."""
    return estimated_loss(network, batches, dtype=dtype).value


def estimated_loss(
    network: AdaptedModel,
    batches: Sequence[Batch],
    *,
    dtype: torch.dtype = torch.float32,
    team: Team | None = None,
) -> Estimate:
    """Cross-entropy in nats per target over all batches, without dropout.

    The standard error is that of a ratio of two sums over records, the losses and the numbers of
    targets [Cochran 1977, eq. 6.4]: targets of one record are not independent, records are. Rows
    of packed batches count as records.

    Args:
        network: The model; the batches must be on its device.
        batches: Those of all devices.
        dtype: Of matrix products.
        team: Devices that share the rows; all get the same result.
    """
    team = team or Team()
    losses, targets = _all_row_losses(network, batches, dtype, team)
    mean = losses.sum() / targets.sum()
    number = len(losses)
    if number == 1:
        return Estimate(mean.item(), math.nan)
    spread = ((losses - mean * targets) ** 2).sum() * number / (number - 1)
    return Estimate(mean.item(), (spread.sqrt() / targets.sum()).item())


def _all_row_losses(
    network: AdaptedModel, batches: Sequence[Batch], dtype: torch.dtype, team: Team
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and numbers of targets of all rows in order, whichever device computes them."""

    def measured(at_once: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        pieces = (piece for batch in batches for piece in team.pieces(batch, at_once))
        found = [(_row_losses(network, piece, dtype), counts) for piece, counts in pieces]
        return [losses for losses, counts in found if counts]

    size = max(batch.rows for batch in batches)
    device = batches[0].input_ids.device
    found = torch.zeros((2, sum(batch.rows for batch in batches)), device=device).double()
    with _evaluating(network, team), _computing(team):
        rows = _attempt(team, measured, size=-(-size // team.size))
        if rows:
            own = torch.stack([torch.cat(column) for column in zip(*rows, strict=True)])
            found[:, team.rows(batches).to(device)] = own.double()
    team.add_up(found)
    return found[0], found[1]


@contextmanager
def _evaluating(network: AdaptedModel, team: Team) -> Iterator[None]:
    """Without dropout and gradients."""
    training = network.training
    network.train(False)
    # What divided weights are gathered into is used again in training, where it may not be tensors
    # of the inference mode.
    try:
        with torch.no_grad() if team.divided else torch.inference_mode():
            yield
    finally:
        network.train(training)


@contextmanager
def _computing(team: Team) -> Iterator[None]:
    """Keep an exception for the others, unless they are in a pass together with this device."""
    if team.divided:
        yield
        return
    with team.deferring():
        yield


def _attempt(team: Team, attempt: Callable[[int], _Result], *, size: int) -> _Result:
    """As `halving`; once where the base weights are divided, as all devices compute in step."""
    return attempt(size) if team.divided else halving(attempt, size=size)


def _row_losses(
    network: AdaptedModel, batch: Batch, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and numbers of targets of each row, summed."""
    mask = batch.targets != IGNORE
    losses = _losses(network, batch, mask, dtype)
    row = mask.nonzero()[:, 0]
    return torch.zeros(len(mask), device=losses.device).index_add(0, row, losses), mask.sum(dim=1)


class LoraTraining(LightningModule):
    """Trains the adapters; each optimizer step descends the mean over the targets of its window.

    A window is `grad_batches` micro-batches, or what is left of them at the end. Its gradient is
    that of one large batch: every target token has the same weight, in a short last window and in
    batches of unequal length too. Lightning's own accumulation divides by the nominal number of
    micro-batches and averages their means, which changes the effective learning rate.

    A micro-batch that does not fit into memory is computed in halves, and so are all that follow:
    the gradient is the same, as it is a sum over rows. Its window begins anew, because a backward
    pass that was cut off has left a part of its gradient.

    With several devices each has its share of the rows of every micro-batch; their gradients are
    summed once an optimizer step. Adapter weights are the same on all of them at all times.

    Attributes:
        position: Micro-batches so far.
        samples_seen: Training samples so far.
        steps: Optimizer steps so far.
        rows: The most rows that go through the model at once on this device.
    """

    def __init__(
        self,
        network: AdaptedModel,
        batches: Sequence[Batch],
        *,
        parameters: HyperParameters,
        recipe: Recipe | None = None,
        clock: Stopwatch | None = None,
        rows: int | None = None,
        team: Team | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.position = 0
        self.samples_seen = 0
        self.steps = 0
        self.rows = rows or max(batch.rows for batch in batches)
        self._window: list[Batch] = []
        self._window_start: tuple[torch.Tensor, ...] = ()
        self._resumed: Mapping[str, Any] | None = None
        # In a tuple, so that Lightning does not take it for a part of this module: it would send
        # the base weights, which all trials share, from the GPU to the CPU after each run.
        self._network = (network,)
        self._hyper = parameters
        self._recipe = recipe or Recipe()
        self._clock = clock or Stopwatch()
        self._team = team or Team()
        width = parameters.grad_batches
        starts = range(0, len(batches), width)
        self._window_tokens = [
            sum(batch.target_tokens for batch in batches[start : start + width]) for start in starts
        ]
        self._end = len(batches)
        self._trained = [p for p in network.parameters() if p.requires_grad]
        # Lightning has no fp16 on a CPU, so the scaling is ours; switched off it does nothing.
        self._scaler = torch.amp.GradScaler(
            batches[0].input_ids.device.type, enabled=self._recipe.dtype == torch.float16
        )

    @property
    def between_windows(self) -> bool:
        """Whether the last optimizer step has taken all gradients in."""
        return not self._window

    @property
    def finished(self) -> bool:
        """Whether all micro-batches have been trained on."""
        return self.position == self._end

    def state(self) -> dict[str, Any]:
        """All that a run consists of between two windows, for `resume`."""
        optimizer, schedule = self._optimizer()
        return {
            "position": self.position,
            "samples_seen": self.samples_seen,
            "steps": self.steps,
            "weights": [parameter.detach() for parameter in self._trained],
            "optimizer": optimizer.optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "devices": self._team.gather((self.rows, random_state(self._trained[0].device))),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`: `fit` is to be given the micro-batches from `position` on."""
        self._resumed = state
        for name in ("position", "samples_seen", "steps"):
            setattr(self, name, state[name])
        self.rows, _ = state["devices"][self._team.index]

    @torch.no_grad()
    def on_train_start(self) -> None:
        """Put the resumed state into what only exists now."""
        state = self._resumed
        if state is None:
            return
        for parameter, saved in zip(self._trained, state["weights"], strict=True):
            parameter.copy_(saved)
        optimizer, schedule = self._optimizer()
        optimizer.optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        _, random = state["devices"][self._team.index]
        set_random_state(random)

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """Add the gradient of one micro-batch; step when its window is complete."""
        del batch_index  # counts from where this process began
        with self._clock.measure("train"):
            if not self._window:
                self._window_start = random_state(batch.input_ids.device)
            self._window.append(batch)
            if not self._team.given_up:
                with _computing(self._team):
                    _attempt(self._team, self._accumulate, size=self.rows)
            self.position += 1
            self.samples_seen += batch.samples
            if len(self._window) == self._hyper.grad_batches or self.position == self._end:
                self._step()
                self._window = []

    def _accumulate(self, rows: int) -> None:
        """Add the gradient of the window's last micro-batch, or of all with fewer rows at once."""
        batches = self._window[-1:]
        if rows != self.rows:
            self.rows = rows
            batches = self._window
            for parameter in self._trained:
                parameter.grad = None
            set_random_state(self._window_start)
        tokens = self._window_tokens[self.position // self._hyper.grad_batches]
        for batch in batches:
            for piece, counts in self._team.pieces(batch, rows):
                self._add_gradient(piece, tokens if counts else math.inf)

    def _add_gradient(self, batch: Batch, divisor: float) -> None:
        loss = summed_loss(self._network[0], batch, dtype=self._recipe.dtype) / divisor
        if not math.isfinite(loss.item()):
            self._team.fail(
                NonFiniteLossError(
                    f"The training loss became {loss.item()} after {self.samples_seen} samples; "
                    "the learning rate is too high for these hyperparameters."
                )
            )
        self.manual_backward(self._scaler.scale(loss))

    def _sum_gradients(self) -> None:
        if self._team.size == 1:
            return
        for parameter in self._trained:
            if parameter.grad is None:  # there was no row for this device
                parameter.grad = torch.zeros_like(parameter)
        gradients = [cast("torch.Tensor", parameter.grad) for parameter in self._trained]
        total = torch.nn.utils.parameters_to_vector(gradients)
        self._team.add_up(total)
        torch.nn.utils.vector_to_parameters(total, gradients)

    def _step(self) -> None:
        self._sum_gradients()
        optimizer, schedule = self._optimizer()
        # A fused optimizer takes the scale itself, which Lightning's wrapper does not pass on.
        wrapped = cast("Optimizer", optimizer)  # at run time a subclass of what it wraps
        stepped = optimizer.optimizer if self._scaler.is_enabled() else wrapped
        self._scaler.unscale_(stepped)
        if self._recipe.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self._trained, self._recipe.gradient_clip)
        scale = self._scaler.get_scale()
        self._scaler.step(stepped)
        self._scaler.update()
        optimizer.zero_grad()
        if self._scaler.get_scale() >= scale:  # else the gradient overflowed: nothing was done
            schedule.step()
            self.steps += 1

    def _optimizer(self) -> tuple[LightningOptimizer, LambdaLR]:
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(schedule, LambdaLR)
        return optimizer, schedule

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR]]:
        """The recipe's optimizer on the adapter weights, with its schedule."""
        optimizer = make_optimizer(
            self._trained,
            name=self._recipe.optimizer,
            learning_rate=self._hyper.learning_rate,
            weight_decay=self._hyper.weight_decay,
        )
        steps, recipe = len(self._window_tokens), self._recipe
        schedule = LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, steps=steps, recipe=recipe)
        )
        return [optimizer], [schedule]

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_index: int
    ) -> Batch:
        """Lightning can't look into a frozen batch, so we move it."""
        del dataloader_index
        return batch.to(device)


def random_state(device: torch.device) -> tuple[torch.Tensor, ...]:
    """State of torch's generators on the CPU and, if it is a GPU, on `device`."""
    on_device = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return (torch.get_rng_state(), *on_device)


def set_random_state(state: tuple[torch.Tensor, ...]) -> None:
    """Put a state of `random_state` back; the GPU is the current one."""
    torch.set_rng_state(state[0])
    for on_device in state[1:]:
        torch.cuda.set_rng_state(on_device)


class ValidationReports(Callback):
    """Measures the validation loss at fixed numbers of training samples.

    Counting samples, not optimizer steps, makes the reports of trials with different
    `grad_batches` comparable, as pruners need it.

    Args:
        at: Sample counts, ascending; the last is the end of the run.
        validate: Computes the loss of the network as it is.
        initial: The loss before the first step.
        report: Called with each loss and the number of samples; may raise to stop the run.
        team: The run's devices: what stops one stops all.

    Attributes:
        loss: The last loss measured.
        made: Losses that were reported, each with its number of samples.
    """

    def __init__(
        self,
        *,
        at: Sequence[int],
        validate: Callable[[], float],
        initial: float,
        report: Callable[[float, int], None] | None = None,
        team: Team | None = None,
    ) -> None:
        self.loss = initial
        self._pending = list(at)
        self._validate = validate
        self._report = report
        self._team = team or Team()
        self._steps_measured = 0
        self.made: list[tuple[float, int]] = []

    def state(self) -> dict[str, Any]:
        """What was reported and measured, for `resume`."""
        return {"loss": self.loss, "made": self.made, "steps_measured": self._steps_measured}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; what was reported is not reported again."""
        self.loss = state["loss"]
        self._steps_measured = state["steps_measured"]
        self.made = [(loss, samples) for loss, samples in state["made"]]
        seen = max((samples for _, samples in self.made), default=0)
        self._pending = [samples for samples in self._pending if samples > seen]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Measure and report if another of the sample counts is reached."""
        assert isinstance(pl_module, LoraTraining)
        if not self._pending or pl_module.samples_seen < self._pending[0]:
            return
        while self._pending and self._pending[0] <= pl_module.samples_seen:
            self._pending.pop(0)
        if pl_module.steps != self._steps_measured:  # else the weights are still the same
            self._measure(pl_module)
        self.made.append((self.loss, pl_module.samples_seen))
        self._team.together(lambda: self._tell(pl_module.samples_seen))

    def _tell(self, samples: int) -> None:
        if self._report is not None:
            self._report(self.loss, samples)

    def _measure(self, module: LoraTraining) -> None:
        loss = self._validate()
        if not math.isfinite(loss):
            self._team.fail(
                NonFiniteLossError(
                    f"The validation loss became {loss} after {module.samples_seen} samples; "
                    "the learning rate is too high for these hyperparameters."
                )
            )
        self._team.agree()
        self.loss = loss
        self._steps_measured = module.steps


def report_points(samples: int, *, epochs: int, per_epoch: int) -> tuple[int, ...]:
    """Numbers of samples seen at which to report, ascending, the last one being the end.

    Args:
        samples: Samples in an epoch.
        epochs: Passes over them.
        per_epoch: Reports wanted in each; fewer if there are fewer samples.
    """
    fractions = range(1, epochs * per_epoch + 1)
    return tuple(sorted({math.ceil(samples * k / per_epoch) for k in fractions}))


def fit(
    module: LoraTraining, batches: Sequence[Batch], *, callbacks: Sequence[Callback] = ()
) -> None:
    """Run the training loop once over `batches`, on the device that they are on.

    Args:
        module: What is trained; made for the same batches.
        batches: Micro-batches of the whole run in order; several epochs are simply a longer list.
        callbacks: Lightning callbacks. A progress bar among them is shown; none is by default.

    Raises:
        NonFiniteLossError: If the loss becomes infinite or NaN.
        KeyboardInterrupt: On Ctrl-C, so that a study stops.
    """
    device = batches[0].input_ids.device
    on_gpu = device.type == "cuda"
    with _quiet(), _interruptible():
        trainer = Trainer(
            accelerator="gpu" if on_gpu else "cpu",
            devices=[device.index or 0] if on_gpu else 1,
            max_epochs=1,
            precision="32-true",  # the loss function chooses the precision itself
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=list(callbacks),
            # A loop is of one device: others of the same run have theirs in processes of their own.
            # When Slurm or another launcher started several processes, each is for a trial of its
            # own; Lightning would try to join them.
            plugins=[LightningEnvironment()],
        )
        trainer.fit(module, train_dataloaders=_Stream(batches))


class _Stream:
    """An iterable with a length; Lightning would take a bare list for several data loaders."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's greetings out of the log of a study with many trials."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 still builds a class that torch 2.13 has marked for removal.
            warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Give Ctrl-C back its meaning.

    Lightning answers it with `sys.exit` and ignores SIGINT from then on; a study would go on with
    neither the trial stopped properly nor a way to interrupt it.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error
