"""One worker of the stress test: `stress_worker.py STORAGE SAMPLER SEED`.

It works until the search space is exhausted.
"""

from __future__ import annotations

import random
import sys
import time

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from optuna_partition import DIRECTSampler, SOOSampler
from optuna_partition.samplers import PartitionSampler

NAME = "stress"
SPACE: dict[str, BaseDistribution] = {
    "layers": IntDistribution(1, 10),
    "rank": IntDistribution(2, 5, log=True),
    "schedule": CategoricalDistribution(["cosine", "constant", "linear"]),
}  # 120 cells


def open_storage(url: str) -> BaseStorage:
    if url.startswith("journal:"):
        return JournalStorage(JournalFileBackend(url.removeprefix("journal:")))
    # Workers that write to one SQLite file at once have to wait for each other.
    arguments = {"connect_args": {"timeout": 100}} if url.startswith("sqlite") else {}
    return RDBStorage(url, engine_kwargs=arguments)


def close(storage: BaseStorage) -> None:
    storage.remove_session()
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()


def make_sampler(name: str) -> PartitionSampler:
    # The test fails the trials of the dead, as a heartbeat would; no slow worker is taken for one.
    if name == "soo":
        return SOOSampler(search_space=SPACE, max_retries=5, claim_timeout=None)
    return DIRECTSampler(search_space=SPACE, max_retries=5, claim_timeout=None)


def objective(trial: optuna.Trial) -> float:
    layers = trial.suggest_int("layers", 1, 10)
    rank = trial.suggest_int("rank", 2, 5, log=True)
    schedule = trial.suggest_categorical("schedule", ["cosine", "constant", "linear"])
    time.sleep(random.uniform(0.0, 0.05))
    return abs(layers - 3.3) + abs(rank - 4.2) + len(schedule)


def work(url: str, sampler: str, seed: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    random.seed(seed)
    study = optuna.load_study(
        study_name=NAME, storage=open_storage(url), sampler=make_sampler(sampler)
    )
    study.optimize(objective, n_trials=500)


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]))
