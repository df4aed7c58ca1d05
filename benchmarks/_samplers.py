"""The samplers that the benchmarks compare. A new one is one line here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)

from optuna_partition import (
    BaMSOOSampler,
    BoTorchGPSampler,
    DIRECTSampler,
    FDASampler,
    IMGPOSampler,
    LOGOSampler,
    MOSOOSampler,
    PartitionGPSampler,
    SequOOLSampler,
    SOOSampler,
    StoSOOSampler,
)

Space = dict[str, BaseDistribution]


@dataclass(frozen=True, slots=True)
class Entry:
    """How to make a sampler.

    Args:
        make: The sampler for a search space, a number of trials and a seed.
        budgeted: Whether it plans for the number of trials, so that each budget is a run of its
            own.
        seeded: Whether it draws random numbers, so that one run says little.
        version: Stored with its results, which count for this version only. Change it when the
            sampler's decisions change.
    """

    make: Callable[[Space, int, int], BaseSampler]
    budgeted: bool = False
    seeded: bool = False
    version: str = "1"


def ours(
    sampler: Callable[..., BaseSampler],
    *,
    budget: str | None = None,
    seeded: bool = False,
    version: str = "1",
    **rest: Any,
) -> Entry:
    """A sampler of this library with its settings; `budget` names the one for the trials.

    `seeded` says whether it takes a seed.
    """

    def make(space: Space, n_trials: int, seed: int) -> BaseSampler:
        planned = {} if budget is None else {budget: n_trials}
        seeds = {"seed": seed} if seeded else {}
        return sampler(search_space=space, **planned, **seeds, **rest)

    return Entry(make, budgeted=budget is not None, seeded=seeded, version=version)


def peer(sampler: Callable[..., BaseSampler], *, package: str = "optuna", **rest: Any) -> Entry:
    """A sampler of a package with its settings; its version is the package's."""
    return Entry(
        lambda space, n_trials, seed: sampler(seed=seed, **rest),
        seeded=True,
        version=importlib.metadata.version(package),
    )


def _logo_by_dimension(*, search_space: Space) -> BaseSampler:
    return LOGOSampler(search_space=search_space, width=len(search_space))


def _botorch(**settings: Any) -> BaseSampler:
    from optuna_integration import BoTorchSampler  # loads torch, which takes seconds

    sampler: BaseSampler = BoTorchSampler(**settings)
    return sampler


OURS: Final[Mapping[str, Entry]] = {
    "DIRECT": ours(DIRECTSampler, version="3"),
    "DIRECT, refine=False": ours(DIRECTSampler, refine=False),
    "DIRECT-L": ours(DIRECTSampler, variant="locally_biased"),
    "DIRECT 1993": ours(DIRECTSampler, variant="jones1993"),
    "SOO": ours(SOOSampler),
    "SOO, refine=True": ours(SOOSampler, refine=True, version="3"),
    'SOO, h_max="sqrt"': ours(SOOSampler, h_max="sqrt"),
    "SequOOL": ours(SequOOLSampler, budget="n_trials"),
    "LOGO": ours(LOGOSampler),
    "LOGO, width d": ours(_logo_by_dimension),
    "LOGO, refine=True": ours(LOGOSampler, refine=True, version="3"),
    "FDA, depth 1": ours(FDASampler, depth=1),
    "FDA": ours(FDASampler),
    "StoSOO": ours(StoSOOSampler, budget="n_trials"),
    "BaMSOO": ours(BaMSOOSampler, version="3"),
    "BaMSOO, refine=False": ours(BaMSOOSampler, refine=False, version="2"),
    "IMGPO": ours(IMGPOSampler, version="2"),
    "PartitionGP": ours(PartitionGPSampler, seeded=True, version="4"),
    "BoTorchGP": ours(BoTorchGPSampler, seeded=True, version="2"),
}
# Ours with a model: dozens of ms an ask, and of these the slow ones: hundreds.
OURS_MODELS: Final = frozenset(
    {"BaMSOO", "BaMSOO, refine=False", "IMGPO", "PartitionGP", "BoTorchGP"}
)
OURS_SLOW: Final = frozenset({"BoTorchGP"})
RANDOM: Final = "random"
PEERS: Final[Mapping[str, Entry]] = {
    "TPE": peer(TPESampler),
    "TPE, constant_liar": peer(TPESampler, constant_liar=True),
    RANDOM: peer(RandomSampler),
}
SINGLE: Final[Mapping[str, Entry]] = {**OURS, **PEERS}
# Other samplers for expensive trials, too slow for the benchmarks that run for minutes.
MODELS: Final[Mapping[str, Entry]] = {
    "TPE, multivariate=False": peer(TPESampler, multivariate=False),
    "CMA-ES": peer(CmaEsSampler, warn_independent_sampling=False),
    "GPSampler": peer(GPSampler),
    "BoTorchSampler": peer(_botorch, package="optuna-integration", consider_running_trials=True),
}
# Several objectives.
OURS_MULTI: Final[Mapping[str, Entry]] = {"MO-SOO": ours(MOSOOSampler)}
MULTI: Final[Mapping[str, Entry]] = {
    **OURS_MULTI,
    "NSGA-II": peer(NSGAIISampler),
    "TPE": peer(TPESampler),
    RANDOM: peer(RandomSampler),
}
