"""How much memory runs need, and what a device has for them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from objectives.devices.sharding import divided_bytes
from objectives.footprint import Footprints
from objectives.memory import OutOfMemoryError, available_memory, gigabytes
from objectives.resources import adapter_spec
from objectives.running import seeded

if TYPE_CHECKING:
    from objectives.config import FineTuneConfig
    from objectives.footprint import Footprint, MemoryEstimate
    from objectives.models.backend import AdaptedModel
    from objectives.resources import Resources
    from objectives.search_space import HyperParameters

LESS_MEMORY: Final = (
    "Lower max_length, bound the rank in the search space, or set activation_checkpointing."
)


class Capacity:
    """Estimates of memory, measured once for each rank.

    Args:
        config: The objective.
        loaded: Its weights and data.
    """

    def __init__(self, config: FineTuneConfig, loaded: Resources) -> None:
        self._config = config
        self._loaded = loaded
        self._footprints = Footprints(
            self._bare_network,
            dtype=loaded.recipe.dtype,
            packed=config.packing,
            checkpointing=config.activation_checkpointing,
        )

    def footprint(self, parameters: HyperParameters) -> Footprint:
        """What a run keeps in memory on the first device, which has no less than the others."""
        with seeded(self._config.seed, self._loaded.device):
            found = self._footprints.at(parameters.rank, dropout=parameters.dropout)
        if self._config.strategy == "fsdp":
            held = divided_bytes(self._loaded.backend.untuned(), self._config.devices)
            return dataclasses.replace(found, frozen=held)
        return found

    def estimate(
        self, parameters: HyperParameters, *, micro_batch_size: int | None = None
    ) -> MemoryEstimate:
        """For the largest micro-batch, of so many rows on all devices together."""
        rows = -(-(micro_batch_size or self._config.micro_batch_size) // self._config.devices)
        return self._estimated(self.footprint(parameters), rows)

    def fitting_rows(self, parameters: HyperParameters) -> int:
        """A device's rows of a micro-batch, or a half, a quarter, ... of them that fit.

        Raises:
            OutOfMemoryError: If one row does not fit.
        """
        config, limit = self._config, self._config.memory_limit
        needed, rows = self.footprint(parameters), -(-config.micro_batch_size // config.devices)
        most = self._available(needed) if limit is None else int(limit * 1e9)
        while (estimate := self._estimated(needed, rows)).total > most:
            if rows == 1:
                raise OutOfMemoryError(
                    f"A run with rank {parameters.rank} and max_length {config.max_length} "
                    f"would need {estimate}, even with one row at a time, and {gigabytes(most)} "
                    f"are there. {LESS_MEMORY} Or raise memory_limit."
                )
            rows //= 2
        return rows

    def _estimated(self, needed: Footprint, rows: int) -> MemoryEstimate:
        return needed.estimate(self._loaded.train, rows=rows, optimizer=self._config.optimizer)

    def _bare_network(self, rank: int, dropout: float, checkpointing: bool) -> AdaptedModel:
        spec = adapter_spec(self._config, rank=rank, dropout=dropout)
        return self._loaded.backend.adapt(dataclasses.replace(spec, checkpointing=checkpointing))

    def _available(self, needed: Footprint) -> int:
        """Bytes of the device that a run may fill, those of its base weights among them."""
        device = self._loaded.device
        left = available_memory(device)
        if device.type == "cpu":  # which all processes share
            left //= self._config.devices
        # Divided weights are brought there for each run, others are there.
        return left if self._config.strategy == "fsdp" else left + needed.frozen
