"""Which sampler tunes best: 36 tasks of seven kinds, one worker and eight, 25 to 100 trials.

Tasks and normalized regret (0: the minimum, 100: the median of random points) are defined in
`_tasks.py`, simulated workers in `_workers.py`. A run is one sampler on one task, seed and number
of workers; the seed also draws the task's instance, its noise and the workers' durations, so that
all samplers meet the same. Finished runs are stored in `results/`, a file a sampler, and only runs
that are missing are computed, the first seed of all tasks first. Results of a sampler count for one
version: that of its package, or for the samplers of this library the one in `_samplers.py`.

Means are over runs, then over tasks, and their standard error is that of repeating the runs on the
same tasks. Ranks are among the samplers shown. Differences are paired by task, seed and workers;
their standard error is over tasks, as for tasks of the same kinds, and so is Wilcoxon's signed-rank
test. Samplers that lack a task are left out of the tables and named. Differences at 100 trials of a
sampler that was run for 50 are blank.

To try a sampler that is not in the list, call `run` from a script of your own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import math
import multiprocessing
import os
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Final

import numpy as np
import optuna
import scipy.optimize
from numpy.typing import NDArray
from optuna.samplers import BaseSampler

from benchmarks import _common, _quality_tables, _results, _workers, rules
from benchmarks._instances import Instance, Space
from benchmarks._results import BUDGETS, FOLDER, Key, Row
from benchmarks._samplers import MODELS, SINGLE
from benchmarks._tasks import TASKS

FloatArray = NDArray[np.float64]

SAMPLERS: Final = {**SINGLE, **MODELS}
SCIPY: Final = "SciPy direct, locally biased"  # no sampler: it knows one worker only
NAMES: Final = (*SAMPLERS, SCIPY)


def run(
    task: str,
    make_sampler: Callable[[Space, int, int], BaseSampler],
    *,
    seed: int,
    workers: int = 1,
    trials: int = 100,
) -> FloatArray:
    """Normalized regret of one sampler on one instance of a task, nothing stored.

    For trying things out:

        from benchmarks.quality import run
        regrets = run("lora_huge", lambda space, trials, seed: MySampler(space, seed), seed=0)
        print(regrets[[24, 49, 99]])

    Names of tasks are in `benchmarks._tasks.TUNING`; those in `HELD_OUT` are for the final word.
    A run with the same arguments meets the same instance, noise and durations.

    Args:
        task: Name of the task.
        make_sampler: The sampler for a search space, a number of trials and a seed.
        seed: Seed of the instance and the sampler.
        workers: Simulated workers that share the study.
        trials: How many trials finish.

    Returns:
        (trials,) regret of the best told trial after each finished one; 100 until one succeeds.
    """
    instance = TASKS[task].instance(seed)
    study = optuna.create_study(sampler=make_sampler(instance.space, trials, seed))
    true: dict[int, float] = {}

    def objective(trial: optuna.Trial) -> float:
        told, true[trial.number] = instance.evaluate(trial.params, _noise(task, seed, trial.number))
        return told

    done = list(
        _workers.finished(
            study, objective, workers=workers, n=trials, seed=seed, space=instance.space
        )
    )
    return incumbents(instance, [end.value for end in done], [true[end.number] for end in done])


def incumbents(instance: Instance, told: Sequence[float], true: Sequence[float]) -> FloatArray:
    """(n,) normalized regret of the trial with the smallest told value so far; NaN is no value."""
    best, regret = math.inf, 100.0
    found = []
    for value, behind in zip(told, true, strict=True):
        if value < best:
            best, regret = value, instance.regret(behind)
        found.append(regret)
    return np.array(found)


def scipy_direct(task: str, *, seed: int, trials: int) -> FloatArray:
    """DIRECT of SciPy on the unit cube; failed trials count as the worst value so far."""
    instance = TASKS[task].instance(seed)
    told: list[float] = []
    true: list[float] = []

    def value(unit: Sequence[float] | FloatArray) -> float:
        rng = _noise(task, seed, len(told))
        one, behind = instance.evaluate(instance.box.at([float(u) for u in unit]), rng)
        told.append(one)
        true.append(behind)
        return one if not math.isnan(one) else max([1.0, *(x for x in told if not math.isnan(x))])

    cube = scipy.optimize.Bounds(np.zeros(len(instance.space)), np.ones(len(instance.space)))
    rules.direct(value, cube, trials, locally_biased=True)
    regrets = incumbents(instance, told, true)
    return regrets[np.minimum(np.arange(trials), len(regrets) - 1)]


def _noise(task: str, seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(task.encode()), seed, number])


def version_of(sampler: str) -> str:
    """The version whose results count."""
    if sampler == SCIPY:
        return importlib.metadata.version("scipy")
    return SAMPLERS[sampler].version


def compute(key: Key, budgets: Sequence[int]) -> Row:
    """Do one run; a sampler that plans for its number of trials is run for each of them."""
    start = time.process_time()
    where = {"seed": key.seed, "workers": key.workers}
    if key.sampler == SCIPY:
        of = scipy_direct(key.task, seed=key.seed, trials=budgets[-1])
    elif SAMPLERS[key.sampler].budgeted:
        make = SAMPLERS[key.sampler].make
        of = np.full(budgets[-1], np.nan)
        for n in budgets:
            of[n - 1] = run(key.task, make, trials=n, **where)[-1]
    else:
        of = run(key.task, SAMPLERS[key.sampler].make, trials=budgets[-1], **where)
    regrets = tuple(float(of[n - 1]) for n in budgets)
    return Row(key, regrets, time.process_time() - start)


def wanted(
    samplers: Sequence[str], tasks: Sequence[str], seeds: Sequence[int], workers: Sequence[int]
) -> list[Key]:
    """Every run asked for, in the order of its turn."""
    return [
        Key(sampler, version_of(sampler), task, seed, w)
        for seed, sampler, w, task in itertools.product(seeds, samplers, workers, tasks)
        if sampler != SCIPY or w == 1
    ]


def missing(keys: Sequence[Key], rows: Sequence[Row], budgets: Sequence[int]) -> list[Key]:
    """Those that are not stored with all the budgets."""
    done = {row.key for row in rows if len(row.regrets) >= len(budgets)}
    return [key for key in keys if key not in done]


def prepare() -> None:
    """Make a process fit for runs."""
    _common.quiet()
    # BoTorch advises on the scale of its data, which is the caller's business in BoTorchSampler.
    warnings.filterwarnings("ignore", module=r"(botorch|linear_operator|gpytorch)\b")


def work(
    keys: Sequence[Key], budgets: Sequence[int], *, jobs: int, minutes: float
) -> Iterator[Row]:
    """Do runs in processes of their own until all are done or the minutes are over.

    Raises:
        ExceptionGroup: After the others, if runs failed; each error has a note that names its run.
    """
    deadline = time.monotonic() + 60 * minutes
    # Fresh processes read the number of threads that `main` set; a fork would keep the old one.
    fresh = multiprocessing.get_context("spawn")
    queue = iter(keys)
    with ProcessPoolExecutor(jobs, mp_context=fresh, initializer=prepare) as pool:
        running: dict[Future[Row], Key] = {}
        failed: list[Exception] = []
        while True:
            while len(running) < jobs and time.monotonic() < deadline:
                key = next(queue, None)
                if key is None:
                    break
                running[pool.submit(compute, key, budgets)] = key
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key = running.pop(future)
                error = future.exception()
                if error is None:
                    yield future.result()
                elif isinstance(error, Exception):
                    error.add_note(f"The run was {key}.")
                    failed.append(error)
                else:
                    raise error
    if failed:
        raise ExceptionGroup(f"{len(failed)} runs failed; the others are stored.", failed)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = _common.parser(__doc__)
    stored = [name for name in NAMES if _results.path_of(name, FOLDER).exists()]
    _common.add_samplers(parser, NAMES, stored)
    number = _common.positive
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(10), metavar="SEED")
    parser.add_argument("--workers", type=number, nargs="+", default=[1, 8])
    parser.add_argument("--trials", type=int, choices=BUDGETS, default=BUDGETS[-1])
    parser.add_argument("--jobs", type=number, default=1, help="processes")
    parser.add_argument(
        "--budget-minutes",
        type=float,
        default=10.0,
        help="no run starts later than this; 0 only shows what is stored (default: %(default)s)",
    )
    parser.add_argument("--reference", choices=NAMES, default="TPE", metavar="NAME")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the stored runs")
    return parser.parse_args()


def main() -> None:
    """Do the runs that are missing, print the tables and draw the picture."""
    given = arguments()
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(threads, "1")
    budgets = [n for n in BUDGETS if n <= given.trials]
    names = list(dict.fromkeys([*given.samplers, given.reference]))
    keys = wanted(given.samplers, given.tasks, given.seeds, given.workers)
    todo = missing(keys, _results.load(given.samplers, given.results), budgets)
    bar = _common.bar(len(todo), "runs")
    for row in work(todo, budgets, jobs=given.jobs, minutes=given.budget_minutes):
        _results.append(row, given.results)
        bar.update()
    bar.close()
    known = set(wanted(names, given.tasks, given.seeds, given.workers))
    rows = [row for row in _results.load(names, given.results) if row.key in known]
    for title, table in _quality_tables.tables(rows, names, given.tasks, given.reference, budgets):
        _common.report(title, table)
    if given.output is not None:
        _common.save(_quality_tables.draw(rows, names, given.tasks, budgets), given.output)


if __name__ == "__main__":
    main()
