"""The sampler behind all partition rules: read the claims, ask the rule, claim, decode."""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_partition.samplers._compat import (
    fixed_by_sampler,
    independent_sampling_warning,
    is_multi_objective,
    storage_of,
)
from optuna_partition.samplers._geometry import Geometry, Search
from optuna_partition.samplers._journal import (
    ClaimFormatError,
    Entry,
    Journal,
    Rule,
    read_entry,
    resolve,
    write_entry,
)
from optuna_partition.samplers._space import (
    SearchSpace,
    SharedSpace,
    axis_of,
    box_of,
    space_of,
    without_single_values,
)
from optuna_partition.samplers._trials import Follower, Reader, fixed_parameters, is_stale

_logger = logging.getLogger(__name__)

# Threads of one process choose one after the other; between processes the claims decide.
_LOCK = threading.RLock()


class SpaceExhaustedError(optuna.TrialPruned):
    """Every point of a finite `search_space=` has been evaluated or is being evaluated.

    Inside `study.optimize` the study stops, and the trial that met this ends as pruned, without an
    evaluation. In an ask-and-tell loop it is raised by the first `suggest_*` (or by `study.ask`
    with fixed distributions): end the loop.
    """


class PartitionSampler(BaseSampler):
    """Base of the partition samplers. It keeps no truth: all that it knows is read from the study.

    Args:
        rule: Chooses the next claim of what the geometry makes of a study.
        geometry: How the space is divided.
        search_space: The parameters to search, in the order in which ties between equally long
            sides are broken: most important first. None: the parameters that all completed trials
            have in common, by name; the first trial then evaluates the center of each range. With
            several workers give it, so that the second worker need not wait for the first result. A
            finite one is enumerated once, and then the study stops.
        max_retries: How often the cell of a failed trial is handed out again before it counts as
            the worst.
        claim_timeout: Seconds after which a running trial is taken for dead and its cell is free
            again; longer than any trial takes. None for never. A trial's age is taken by local
            clocks: workers need one time zone, and a margin for the difference of their clocks.
        independent_sampler: Samples parameters outside the search space. None: uniformly, seeded by
            trial number and name.
        warn_independent_sampling: Whether to log a warning when that happens.
        multi_objective: Whether the rule can rank several objectives.
        stderr_attr: User attribute that holds the standard error of a trial's value, for rules that
            take it into account; None: none.
    """

    def __init__(
        self,
        *,
        rule: Rule,
        geometry: Geometry,
        search_space: SearchSpace | None,
        max_retries: int,
        claim_timeout: float | None,
        independent_sampler: BaseSampler | None,
        warn_independent_sampling: bool,
        multi_objective: bool = False,
        stderr_attr: str | None = None,
    ) -> None:
        if not is_count(max_retries):
            raise ValueError(f"max_retries is {max_retries!r}, expected an integer of 0 or more.")
        if claim_timeout is not None and not claim_timeout > 0:
            raise ValueError(
                f"claim_timeout is {claim_timeout}, expected seconds above 0, or None for never."
            )
        self._rule = rule
        self._geometry = geometry
        self._search_space = _checked(search_space)
        self._max_retries = max_retries
        self._claim_timeout = claim_timeout
        self._independent_sampler = independent_sampler
        self._warn_independent_sampling = warn_independent_sampling
        self._multi_objective = multi_objective
        self._stderr_attr = stderr_attr
        self._forget()

    def _forget(self) -> None:
        """Start without a cache, which changes nothing but the time that the next ask takes."""
        self._cache: _StudyCache | None = None
        self._local = threading.local()
        self._finite: bool | None = None
        self._warned_exhausted = False

    def __getstate__(self) -> dict[str, Any]:
        """All but the cache."""
        dropped = ("_cache", "_local", "_finite", "_warned_exhausted")
        return {name: value for name, value in self.__dict__.items() if name not in dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without a cache."""
        self.__dict__.update(state)
        self._forget()

    # Optuna's sampler contract

    def reseed_rng(self) -> None:
        """Reseed the independent sampler; the partition itself draws no random number."""
        if self._independent_sampler is not None:
            self._independent_sampler.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The given search space, or the one that all completed trials share."""
        if self._search_space is not None:
            self._local.space_known = True
            return without_single_values(self._search_space)
        with _LOCK:
            cache = self._cache_of(study)
            shared = cache.shared_space(cache.reader.before(study, trial))
            self._local.space_known = shared.known
            return without_single_values(dict(shared))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Parameters at the center of the cell that the trial has claimed.

        Raises:
            ValueError: If the study has several objectives.
            SpaceExhaustedError: If the given search space is finite and has been enumerated.
        """
        self._check_objectives(study)
        with _LOCK:
            cache = self._cache_of(study)
            if not search_space:
                if not getattr(self._local, "space_known", False):
                    self._claim_unknown_root(study, trial, cache.reader)
                return {}
            journal = cache.journal(self, study, search_space)
            if fixed_parameters(trial).keys() & search_space.keys():
                journal.sync(cache.reader.before(study, trial))
                claim = journal.preview(self._rule)
            else:
                claim = journal.claim(study, trial, self._rule, cache.reader)
            if claim is None:
                return self._without_claim(study, trial, search_space, journal.search)
            return journal.decode(claim)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A parameter outside the search space: for the first trial the center of its range.

        Raises:
            ValueError: If the study has several objectives.
        """
        self._check_objectives(study)
        if _holds_unknown_root(trial):
            return axis_of(param_name, param_distribution).value(0, 0)
        sampler = self._fallback(trial, param_name)
        if self._warn_independent_sampling and getattr(self._local, "space_known", False):
            _logger.warning(independent_sampling_warning(self, sampler, trial, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the independent sampler."""
        if self._independent_sampler is not None:
            self._independent_sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Stop the study when this was the last point of a finite `search_space=`."""
        if self._independent_sampler is not None:
            self._independent_sampler.after_trial(study, trial, state, values)
        with _LOCK:
            if self._cache is not None and self._cache.belongs_to(study):
                self._cache.reader.told(trial)
        if self._search_space is None or (is_multi_objective(study) and not self._multi_objective):
            return
        space = without_single_values(self._search_space)
        if not space or not self._is_finite(space):
            return
        with _LOCK:
            cache = self._cache_of(study)
            journal = cache.journal(self, study, space)
            journal.sync(cache.reader.fresh(study))
            if journal.is_last(trial, failed=state is TrialState.FAIL):
                _stop(study)

    def partition_of(self, study: Study) -> Any:
        """What the sampler sees of a study: a tree, or another fold over claims, read afresh.

        None while no search space is known.
        """
        with _LOCK:
            cache = self._cache_of(study)
            trials = cache.reader.fresh(study)
            shared = cache.shared_space(trials)
            space = without_single_values(
                dict(shared) if self._search_space is None else self._search_space
            )
            if not space:
                return None
            journal = cache.journal(self, study, space)
            journal.sync(trials)
            return journal.search

    # Parts

    def _check_objectives(self, study: Study) -> None:
        if is_multi_objective(study) and not self._multi_objective:
            raise ValueError(
                f"the study has {len(study.directions)} objectives, expected one for "
                f"{type(self).__name__}; take MOSOOSampler."
            )

    def _cache_of(self, study: Study) -> _StudyCache:
        if self._cache is None or not self._cache.belongs_to(study):
            self._cache = _StudyCache(study)
        return self._cache

    def _is_finite(self, space: SearchSpace) -> bool:
        if self._finite is None:
            self._finite = box_of(space).finite
        return self._finite

    def _claim_unknown_root(self, study: Study, trial: FrozenTrial, reader: Reader) -> None:
        """Claim the center of a space that no trial has shown yet, unless it is taken."""

        def rivals(fresh: list[FrozenTrial]) -> list[FrozenTrial]:
            holders = [t for t in fresh if t.number != trial.number and _holds_unknown_root(t)]
            return [t for t in holders if not self._has_failed(t)]

        trials = reader.before(study, trial)
        failed = sum(_holds_unknown_root(t) and self._has_failed(t) for t in trials)
        if fixed_parameters(trial) or failed > self._max_retries or rivals(trials):
            return
        write_entry(
            study,
            trial,
            Entry(self._geometry.to_json(self._geometry.root(None)), None, self._geometry.name),
        )
        if not resolve(study, trial, reader, rivals):
            write_entry(study, trial, None)

    def _has_failed(self, trial: FrozenTrial) -> bool:
        return trial.state is TrialState.FAIL or is_stale(trial, self._claim_timeout)

    def _without_claim(
        self, study: Study, trial: FrozenTrial, search_space: SearchSpace, search: Search
    ) -> dict[str, Any]:
        """What to do when the rule has nothing to hand out."""
        if search.exhausted and self._search_space is not None:
            _stop(study)
            raise SpaceExhaustedError(
                f"all points over {sorted(search_space)} have been handed out; enlarge it, or end "
                "the study here."
            )
        if search.exhausted and not self._warned_exhausted:
            # Trials may suggest more than they have in common, so that the study need not be at its
            # end.
            self._warned_exhausted = True
            _logger.warning(
                f"All values of {sorted(search_space)} have been tried and are repeated from here "
                "on. Give search_space= to stop instead."
            )
        # Else all cells wait for the values that decide their shape: a uniform sample keeps the
        # worker busy.
        return {
            name: self._fallback(trial, name).sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }

    def _fallback(self, trial: FrozenTrial, name: str) -> BaseSampler:
        """The independent sampler; ours goes on in the same way when a study is resumed."""
        if self._independent_sampler is not None:
            return self._independent_sampler
        return RandomSampler(seed=zlib.crc32(f"{trial.number}:{name}".encode()))


class _StudyCache:
    """What a sampler remembers of one study to make the next ask cheap."""

    def __init__(self, study: Study) -> None:
        self._storage, self._study_id = storage_of(study)
        self.reader = Reader()
        self._follower = Follower()
        self._shared = SharedSpace()
        self._journal: Journal | None = None

    def belongs_to(self, study: Study) -> bool:
        storage, study_id = storage_of(study)
        return storage is self._storage and study_id == self._study_id

    def shared_space(self, trials: list[FrozenTrial]) -> SharedSpace:
        for trial in self._follower.news(trials):
            self._shared.add(trial)
        return self._shared

    def journal(
        self, sampler: PartitionSampler, study: Study, search_space: SearchSpace
    ) -> Journal:
        fixed = {n: v for n, v in fixed_by_sampler(study).items() if n not in search_space}
        if self._journal is None or not self._journal.space.is_of(search_space, fixed):
            self._journal = Journal(
                space_of(search_space, fixed),
                sampler._geometry,
                directions=study.directions,
                claim_timeout=sampler._claim_timeout,
                stderr_attr=sampler._stderr_attr,
            )
        return self._journal


def is_count(value: object) -> bool:
    """Whether a value is an integer of 0 or more, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _checked(search_space: SearchSpace | None) -> dict[str, BaseDistribution] | None:
    if search_space is None:
        return None
    if not search_space:
        raise ValueError(
            "search_space is empty, expected names and distributions, or None to infer it."
        )
    for name, distribution in search_space.items():
        if not isinstance(distribution, BaseDistribution):
            raise TypeError(
                f"search_space[{name!r}] is {distribution!r}, expected a distribution such as "
                "optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True)."
            )
        axis_of(name, distribution)
    return dict(search_space)


def _holds_unknown_root(trial: FrozenTrial) -> bool:
    try:
        entry = read_entry(trial)
    except ClaimFormatError:
        return False
    return entry is not None and entry.box is None


def _stop(study: Study) -> None:
    try:
        study.stop()
    except RuntimeError:
        _logger.info("The search space is exhausted.")  # outside optimize there is nothing to stop
