"""One run, as each of its devices carries it out."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from objectives.checkpoints import Checkpoints
from objectives.devices.sharding import divide
from objectives.memory import once
from objectives.resources import adapter_spec
from objectives.timing import Stopwatch
from objectives.training import (
    Estimate,
    LoraTraining,
    ValidationReports,
    estimated_loss,
    fit,
    report_points,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lightning.pytorch import Callback
    from torch import nn

    from objectives.checkpoints import CheckpointFile
    from objectives.config import FineTuneConfig
    from objectives.devices.team import Team
    from objectives.models.backend import AdaptedModel
    from objectives.resources import Resources
    from objectives.search_space import HyperParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A run to be carried out, as all its devices are told of it.

    Attributes:
        parameters: Its hyperparameters; None only measures the untuned model's validation loss.
        rows: The most rows that go through the model at once on each device.
        untuned: The untuned model's validation loss.
        state: Where to go on, from a checkpoint; None begins at the beginning.
        checkpoints: Whether checkpoints are written.
    """

    parameters: HyperParameters | None = None
    rows: int = 1
    untuned: Estimate | None = None
    state: Mapping[str, Any] | None = None
    checkpoints: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has come to.

    Attributes:
        network: The model with its adapter, as a whole.
        loss: On the validation records.
        rows: The most rows that went through the model at once at the end, on the device with the
            fewest.
    """

    network: AdaptedModel
    loss: Estimate
    rows: int


def validation_loss_untuned(loaded: Resources, team: Team) -> Estimate:
    """The untuned model's validation loss; every device of a team is to call this."""
    network = team.together(lambda: once(lambda: _placed(loaded.backend.untuned(), loaded, team)))
    return estimated_loss(network, loaded.validation, dtype=loaded.recipe.dtype, team=team)


class Run:
    """A run on one of its devices; every device of the team has one and carries it out.

    Args:
        config: The objective.
        loaded: Weights and data.
        order: What is to be run; with parameters.
        team: The devices.
        clock: Gets the seconds by phase.
        report: As `ValidationReports` takes it; on the first device only.
        file: Where checkpoints go to; on the first device only.
    """

    def __init__(
        self,
        config: FineTuneConfig,
        loaded: Resources,
        order: Order,
        *,
        team: Team,
        clock: Stopwatch | None = None,
        report: Callable[[float, int], None] | None = None,
        file: CheckpointFile | None = None,
    ) -> None:
        assert order.parameters is not None
        assert order.untuned is not None
        self._config = config
        self._loaded = loaded
        self._parameters: HyperParameters = order.parameters
        self._order = order
        self._team = team
        self._clock = clock or Stopwatch()
        self._losses: list[Estimate] = [order.untuned]
        with self._clock.measure("build"):
            self._network = team.together(lambda: once(self._build))
            self._training = LoraTraining(
                self._network,
                loaded.train,
                parameters=self._parameters,
                recipe=loaded.recipe,
                clock=self._clock,
                rows=order.rows,
                team=team,
            )
        self.reports = ValidationReports(
            at=report_points_of(config, loaded),
            validate=self._validate,
            initial=order.untuned.value,
            report=report,
            team=team,
        )
        self._checkpoints = [self._checkpointing(file)] if order.checkpoints else []

    @property
    def samples_seen(self) -> int:
        """Training samples so far."""
        return self._training.samples_seen

    def carry_out(self, callbacks: Sequence[Callback] = ()) -> Outcome:
        """Train; every device of the team is to call this.

        Args:
            callbacks: Further Lightning callbacks.

        Raises:
            Exception: Whatever a report or a device raises, on all devices.
        """
        rest = self._loaded.train[self._training.position :]
        fit(self._training, rest, callbacks=[self.reports, *self._checkpoints, *callbacks])
        rows = min(self._team.gather(self._training.rows))
        with self._clock.measure("build"):
            return Outcome(self._whole(), self._losses[-1], rows)

    def _build(self) -> AdaptedModel:
        network = _placed(
            new_network(self._config, self._loaded, self._parameters), self._loaded, self._team
        )
        if self._team.index > 0:  # each device drops other inputs; adapters are drawn alike
            torch.manual_seed((self._team.index << 32) + self._config.seed)
        return network

    def _validate(self) -> float:
        with self._clock.measure("validate"):
            loss = estimated_loss(
                self._network,
                self._loaded.validation,
                dtype=self._loaded.recipe.dtype,
                team=self._team,
            )
        self._losses.append(loss)
        return loss.value

    def _checkpointing(self, file: CheckpointFile | None) -> Checkpoints:
        every = self._config.checkpoint_every
        checkpoints = Checkpoints(
            file,
            training=self._training,
            reports=self.reports,
            losses=self._losses,
            clock=self._clock,
            every=every if isinstance(every, int) else None,
        )
        if self._order.state is not None:
            checkpoints.resume(self._order.state)
        return checkpoints

    @torch.no_grad()
    def _whole(self) -> AdaptedModel:
        if not self._team.divided:
            return self._network
        network = new_network(self._config, self._loaded, self._parameters)
        for parameter, trained in zip(_trained(network), _trained(self._network), strict=True):
            parameter.copy_(trained)
        return network


def report_points_of(config: FineTuneConfig, loaded: Resources) -> tuple[int, ...]:
    """Numbers of samples seen at which runs measure the validation loss, the last at the end."""
    samples = sum(batch.samples for batch in loaded.train)
    return report_points(
        samples // config.epochs, epochs=config.epochs, per_epoch=config.reports_per_epoch
    )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from fresh generators and put the old ones back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def new_network(
    config: FineTuneConfig, loaded: Resources, parameters: HyperParameters
) -> AdaptedModel:
    """The model with a fresh adapter for a run with these hyperparameters."""
    return loaded.backend.adapt(
        adapter_spec(
            config,
            rank=parameters.rank,
            alpha=parameters.alpha,
            dropout=parameters.dropout,
        )
    )


def _placed(network: AdaptedModel, loaded: Resources, team: Team) -> AdaptedModel:
    if team.mesh is not None:
        divide(network, team.mesh, loaded.device)
    return network


def _trained(network: AdaptedModel) -> list[nn.Parameter]:
    return [p for p in cast("nn.Module", network).parameters() if p.requires_grad]
