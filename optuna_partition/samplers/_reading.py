"""The partition of a study, read back from the study alone."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.study import Study

from optuna_partition.core import cell as cells
from optuna_partition.core.cell import Cell
from optuna_partition.core.shape import Division
from optuna_partition.core.tree import Tree
from optuna_partition.samplers._compat import is_multi_objective, read_trials
from optuna_partition.samplers._geometry import TreeGeometry
from optuna_partition.samplers._journal import ClaimFormatError, Entry, Journal, read_entry
from optuna_partition.samplers._space import (
    SearchSpace,
    SharedSpace,
    fingerprint,
    space_of,
    without_single_values,
)

DIVISIONS: dict[str, Division] = {
    rule.__name__: rule for rule in (cells.one_longest_side, cells.all_longest_sides)
}


@dataclass(frozen=True, slots=True)
class Partition:
    """A study's search space and how it is divided now.

    Args:
        space: Parameters in the order of the box's axes.
        tree: The tree of cells; values are minimized, so that those of a study that maximizes are
            negative.
    """

    space: SearchSpace
    tree: Tree

    def values(self) -> dict[Cell, float | None]:
        """Minimized value of every leaf; None while it is unknown."""
        return {leaf: self.tree.value(leaf) for leaf in self.tree.leaves}


def read_partition(study: Study, *, search_space: SearchSpace | None = None) -> Partition:
    """The partition that the trials of a study make up.

    Args:
        study: A study with one objective.
        search_space: The space that the sampler was given; None: the one that all completed trials
            share.

    Raises:
        ValueError: If the study has several objectives, no trial was chosen by a partition sampler,
            or the claims belong to another search space.
    """
    if is_multi_objective(study):
        raise ValueError(f"the study has {len(study.directions)} objectives, expected one.")
    trials = read_trials(study)
    shared = SharedSpace()
    entries: list[Entry] = []
    for trial in trials:
        shared.add(trial)
        try:
            entry = read_entry(trial)
        except ClaimFormatError:
            continue  # the samplers warn of it; a figure of all the others is still right
        entries.extend([] if entry is None else [entry])
    if not entries:
        raise ValueError(
            "no trial of the study holds a claim, expected a partition sampler such as SOOSampler."
        )
    given = dict(shared) if search_space is None else search_space
    if not without_single_values(given):
        raise ValueError(
            "no completed trial shows the search space yet; give search_space=, or wait for one."
        )
    space = _ordered(without_single_values(given), entries)
    division = entries[-1].division
    if division not in DIVISIONS:
        raise ValueError(f"the division is {division!r}, expected one of {sorted(DIVISIONS)}.")
    geometry = TreeGeometry(DIVISIONS[division], cells.depth)
    journal = Journal(space_of(space), geometry, directions=study.directions, claim_timeout=None)
    journal.sync(trials)
    return Partition(space, journal.search)


def _ordered(space: SearchSpace, entries: list[Entry]) -> SearchSpace:
    """The space with its axes in the order in which the latest claims count them."""
    latest = entries[-1].box
    orders = [entry.names for entry in entries if entry.box == latest and entry.names]
    ordered = [{n: space[n] for n in names} for names in orders if set(names) == set(space)]
    candidates = [space, *ordered]
    found = next((s for s in candidates if latest in (None, fingerprint(s))), None)
    if found is None:
        raise ValueError(
            f"the latest claims belong to another search space than {sorted(space)} as the trials "
            "suggested them; give search_space= as the sampler was given it."
        )
    return found
