"""Samplers that partition the search space; those with a model are imported when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from optuna_partition.samplers._partition import PartitionSampler, SpaceExhaustedError
from optuna_partition.samplers.direct import DIRECTSampler
from optuna_partition.samplers.fda import FDASampler
from optuna_partition.samplers.logo import LOGOSampler
from optuna_partition.samplers.mosoo import MOSOOSampler
from optuna_partition.samplers.sequool import SequOOLSampler
from optuna_partition.samplers.soo import SOOSampler
from optuna_partition.samplers.stosoo import StoSOOSampler

if TYPE_CHECKING:
    from optuna_partition.samplers.bamsoo import BaMSOOSampler as BaMSOOSampler
    from optuna_partition.samplers.botorch_gp import BoTorchGPSampler as BoTorchGPSampler
    from optuna_partition.samplers.hybrid import PartitionGPSampler as PartitionGPSampler
    from optuna_partition.samplers.imgpo import IMGPOSampler as IMGPOSampler

__all__ = [
    "BaMSOOSampler",
    "DIRECTSampler",
    "FDASampler",
    "IMGPOSampler",
    "LOGOSampler",
    "MOSOOSampler",
    "PartitionGPSampler",
    "PartitionSampler",
    "SOOSampler",
    "SequOOLSampler",
    "SpaceExhaustedError",
    "StoSOOSampler",
]

LAZY: Final = {
    "BaMSOOSampler": "bamsoo",
    "BoTorchGPSampler": "botorch_gp",
    "IMGPOSampler": "imgpo",
    "PartitionGPSampler": "hybrid",
}
"""Samplers with a Gaussian process, and their modules: to import SciPy takes half a second."""


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{LAZY[name]}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "optuna_partition":
            raise
        raise ImportError(
            f"{name} needs the package {package!r}; "
            "install it with: pip install 'optuna-partition[gp]'"
        ) from error
    return getattr(module, name)
