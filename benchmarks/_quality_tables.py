"""Tables and the picture of `quality.py`, from stored runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.stats

from benchmarks import _common
from benchmarks._results import BUDGETS, Row
from benchmarks._samplers import OURS
from benchmarks._tasks import HELD_OUT, TASKS, TUNING

if TYPE_CHECKING:
    from plotly import graph_objects as go

Run = tuple[str, int]  # task and seed
SETS = {"tuning tasks": TUNING, "held-out tasks": HELD_OUT}


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of several samplers on one set of tasks with one number of workers.

    Args:
        tasks: The tasks.
        of: Rows of the samplers that have all these tasks, by sampler and then task and seed.
        lacking: How many of the tasks each other sampler has.
    """

    tasks: tuple[str, ...]
    of: Mapping[str, Mapping[Run, Row]]
    lacking: Mapping[str, int]

    def regrets(self, sampler: str, n: int) -> dict[Run, float]:
        """Regret after n trials, of the runs that had as many."""
        k = BUDGETS.index(n)
        found = self.of[sampler].items()
        return {run: row.regrets[k] for run, row in found if len(row.regrets) > k}


def group(
    rows: Sequence[Row], samplers: Sequence[str], tasks: Sequence[str], workers: int
) -> Group:
    """The samplers that have every task, and what the others lack."""
    known = set(tasks)
    of: dict[str, dict[Run, Row]] = {sampler: {} for sampler in samplers}
    for row in rows:
        if row.key.workers == workers and row.key.task in known:
            of[row.key.sampler][row.key.task, row.key.seed] = row
    counts = {sampler: len({task for task, _ in runs}) for sampler, runs in of.items()}
    complete = {sampler: of[sampler] for sampler in samplers if counts[sampler] == len(known)}
    lacking = {s: count for s, count in counts.items() if s not in complete and count}
    return Group(tuple(tasks), complete, lacking)


def by_task(values: Mapping[Run, float], tasks: Sequence[str]) -> list[list[float]]:
    """The values of each task."""
    return [[value for (name, _), value in values.items() if name == task] for task in tasks]


def mean(values: Mapping[Run, float], tasks: Sequence[str]) -> tuple[float, float]:
    """Mean over tasks of the mean over runs, and its standard error over runs.

    NaN are both if a task has no run, and the error if one has a single run.
    """
    each = by_task(values, tasks)
    if not all(each):
        return math.nan, math.nan
    center = float(np.mean([np.mean(of) for of in each]))
    if min(map(len, each)) < 2:
        return center, math.nan
    variance = sum(float(np.var(of, ddof=1)) / len(of) for of in each)
    return center, math.sqrt(variance) / len(each)


def ranks(found: Group, n: int) -> dict[str, float]:
    """Mean rank after n trials, over tasks, of the runs that all samplers have."""
    of = {sampler: found.regrets(sampler, n) for sampler in found.of}
    of = {sampler: values for sampler, values in of.items() if all(by_task(values, found.tasks))}
    common = sorted(set.intersection(*map(set, of.values()))) if of else []
    if not all(by_task(dict.fromkeys(common, 0.0), found.tasks)):
        return {}
    table = scipy.stats.rankdata([[of[s][run] for run in common] for s in of], axis=0)
    return {
        sampler: mean(dict(zip(common, line.tolist(), strict=True)), found.tasks)[0]
        for sampler, line in zip(of, table, strict=True)
    }


def difference(
    of: Mapping[Run, float], reference: Mapping[Run, float], tasks: Sequence[str]
) -> tuple[float, float, float]:
    """Mean over tasks of the paired difference, its standard error over tasks and Wilcoxon's p.

    NaN if a task has no pair; the error and p need two tasks.
    """
    pairs = {run: of[run] - reference[run] for run in of if run in reference}
    each = by_task(pairs, tasks)
    if not all(each):
        return math.nan, math.nan, math.nan
    means = np.array([np.mean(one) for one in each])
    if len(means) < 2:
        return float(means[0]), math.nan, math.nan
    error = float(np.std(means, ddof=1) / math.sqrt(len(means)))
    p = float(scipy.stats.wilcoxon(means).pvalue) if np.any(means) else 1.0
    return float(np.mean(means)), error, p


def tables(
    rows: Sequence[Row],
    samplers: Sequence[str],
    tasks: Sequence[str],
    reference: str,
    budgets: Sequence[int],
) -> Iterator[tuple[str, str]]:
    """Titles and tables of each set of tasks and number of workers."""
    for name, of_set in SETS.items():
        chosen = [task for task in of_set if task in tasks]
        if not chosen:
            continue
        for workers in sorted({row.key.workers for row in rows}):
            found = group(rows, samplers, chosen, workers)
            if not found.of:
                continue
            title = f"{len(chosen)} {name}, W = {workers}"
            lacking = ", ".join(f"{s} has {count}" for s, count in found.lacking.items())
            note = f" (incomplete: {lacking})" if lacking else ""
            yield f"Normalized regret and mean rank, {title}{note}", levels(found, budgets)
            if reference in found.of and len(found.of) > 1:
                yield f"Paired, {title}; + is worse", differences(found, reference, budgets)
            kinds = list(dict.fromkeys(TASKS[task].kind for task in chosen))
            middle = budgets[min(1, len(budgets) - 1)]
            yield f"By kind, {title}", of_kinds(found, kinds, middle)


def levels(found: Group, budgets: Sequence[int]) -> str:
    """Table of mean regrets and ranks."""
    header = ["regret after", *map(str, budgets)]
    header += [f"rank {n}" for n in budgets]
    header += ["runs", "CPU s a run"]
    rank = {n: ranks(found, n) for n in budgets}
    body = []
    for sampler, runs in found.of.items():
        row = [sampler]
        row += [with_error(*mean(found.regrets(sampler, n), found.tasks)) for n in budgets]
        row += [f"{rank[n][sampler]:.1f}" if sampler in rank[n] else "" for n in budgets]
        row += [str(len(runs)), f"{np.mean([run.cpu for run in runs.values()]):.2g}"]
        body.append(row)
    return _common.markdown(header, body)


def differences(found: Group, reference: str, budgets: Sequence[int]) -> str:
    """Table of paired differences to one sampler."""
    header = [f"regret minus that of {reference}"]
    for n in budgets:
        header += [str(n), "p"]
    body = []
    for sampler in found.of:
        if sampler == reference:
            continue
        row = [sampler]
        for n in budgets:
            of, against = found.regrets(sampler, n), found.regrets(reference, n)
            center, error, p = difference(of, against, found.tasks)
            row += [with_error(center, error, "+.1f"), "" if math.isnan(p) else f"{p:.3f}"]
        body.append(row)
    return _common.markdown(header, body)


def of_kinds(found: Group, kinds: Sequence[str], n: int) -> str:
    """Table of the mean regret on each kind of task."""
    header = [f"regret after {n}", *kinds]
    body = []
    for sampler in found.of:
        row = [sampler]
        for kind in kinds:
            tasks = [task for task in found.tasks if TASKS[task].kind == kind]
            row.append(with_error(*mean(found.regrets(sampler, n), tasks)))
        body.append(row)
    return _common.markdown(header, body)


def with_error(center: float, error: float, form: str = ".1f") -> str:
    """A mean with its standard error; nothing of what is not known."""
    if math.isnan(center):
        return ""
    return f"{center:{form}}" + ("" if math.isnan(error) else f" ± {error:.1f}")


def draw(
    rows: Sequence[Row], samplers: Sequence[str], tasks: Sequence[str], budgets: Sequence[int]
) -> go.Figure:
    """Mean regret and rank on all tasks against trials, a column a number of workers."""
    from plotly.subplots import make_subplots

    workers = sorted({row.key.workers for row in rows})
    figure = make_subplots(
        rows=2,
        cols=len(workers),
        subplot_titles=[f"W = {w}" for w in workers],
        shared_xaxes="all",
        shared_yaxes="rows",
        vertical_spacing=0.06,
        horizontal_spacing=0.04,
    )
    named: set[str] = set()
    for column, w in enumerate(workers, start=1):
        found = group(rows, samplers, tasks, w)
        rank = {n: ranks(found, n) for n in budgets}
        for position, sampler in enumerate(samplers):
            if sampler not in found.of:
                continue
            regret = [mean(found.regrets(sampler, n), tasks)[0] for n in budgets]
            of_rank = [rank[n].get(sampler, math.nan) for n in budgets]
            for row, y in ((1, regret), (2, of_rank)):
                figure.add_scatter(
                    x=list(budgets),
                    y=[None if math.isnan(value) else round(value, 3) for value in y],
                    name=sampler,
                    legendgroup=sampler,
                    showlegend=sampler not in named,
                    mode="lines+markers",
                    line=_common.line_style(position, peer=sampler not in OURS),
                    row=row,
                    col=column,
                )
                named.add(sampler)
    figure.update_xaxes(type="log", tickvals=list(budgets))
    figure.update_xaxes(title="trials", row=2)
    figure.update_yaxes(type="log", row=1)
    figure.update_yaxes(title="normalized regret", row=1, col=1)
    figure.update_yaxes(title="mean rank", row=2, col=1)
    title = f"Normalized regret and rank, {len(tasks)} tasks"
    return _common.style(figure, title=title, height=760)
