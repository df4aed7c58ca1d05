"""The tasks of `quality.py`: frozen, so that results of different years can be compared.

A task has instances, one a seed; what an instance knows is in `_instances.py`. Told and true value
differ where there is noise, where a run diverges (told: a huge number, or NaN, which fails the
trial) and where what is told has heavy tails (true: its logarithm).

**Normalized regret** is 100 * (value - minimum) / (median - minimum) on true values; `median` is
that of 1,000 points drawn uniformly from the instance's search space, log axes in log space. The
value is that of the trial which a user would take: the one with the smallest told value so far.
So 0 is perfect, 100 is one point of random search, and under noise the curve may rise.

A third of the tasks, some of every kind, is held out: a sampler is tuned on the others.

A task that is changed needs a new name, or stored results would lie.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.random import Generator
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks import _instances, _lora, _problems, _suites
from benchmarks._instances import Instance, Parameters, Space
from objectives import synthetic
from objectives.synthetic import Problem

NOISE: Final = 0.05  # standard deviation of the noisy tasks, in units of median - minimum


@dataclass(frozen=True, slots=True)
class Task:
    """A tuning task.

    Args:
        name: What results are stored under.
        kind: Its group in the tables.
        make: The instance of a seed.
        held_out: Whether it is kept apart from tuning.
    """

    name: str
    kind: str
    make: Callable[[int], Instance]
    held_out: bool = False

    def instance(self, seed: int) -> Instance:
        """The instance of a seed, made once a process."""
        return _instance(self.name, seed)


@functools.lru_cache(maxsize=64)
def _instance(name: str, seed: int) -> Instance:
    return TASKS[name].make(seed)


def draws(name: str, seed: int) -> Generator:
    """The random numbers of an instance."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def cut(problem: Problem, seed: int) -> Instance:
    """A copy whose box is cut by up to a tenth at every side: no optimum lies at a center."""
    return _instances.of(_problems.cut(problem, draws(problem.name, seed)))


def noisy_cut(problem: Problem, seed: int) -> Instance:
    """The same with noise."""
    return _instances.noisy(cut(problem, seed), NOISE)


def mixed_ackley(seed: int) -> Instance:
    """A rippled plain over three floats and three integers of 5, 12 and 64 values."""
    space: Space = {
        "x0": FloatDistribution(0.0, 1.0),
        "x1": FloatDistribution(1e-4, 1.0, log=True),
        "x2": FloatDistribution(-3.0, 10.0),
        "n3": IntDistribution(1, 5),
        "n4": IntDistribution(4, 15),
        "n5": IntDistribution(1, 64, log=True),
    }
    rng = draws("mixed_ackley", seed)
    value, _ = _instances.recentered(synthetic.ackley(6), space, 50.0, rng)
    return Instance(space, 0.0, value)


def mixed_rosenbrock(seed: int) -> Instance:
    """A curved valley over three floats and integers of 8 and 20 values."""
    space: Space = {
        "x0": FloatDistribution(1e-5, 1e-1, log=True),
        "n1": IntDistribution(0, 7),
        "x2": FloatDistribution(0.0, 2.0),
        "n3": IntDistribution(5, 100, step=5),
        "x4": FloatDistribution(-1.0, 1.0),
    }
    rng = draws("mixed_rosenbrock", seed)
    value, _ = _instances.recentered(synthetic.rosenbrock(5), space, 5.5, rng)
    return Instance(space, 0.0, value)


def mixed_choices(seed: int) -> Instance:
    """Three methods, each with its own best numbers, and the best of one is 0."""
    numbers: Space = {
        "x0": FloatDistribution(1e-4, 1.0, log=True),
        "x1": FloatDistribution(0.0, 1.0),
        "n2": IntDistribution(1, 30),
        "n3": IntDistribution(1, 6),
    }
    rng = draws("mixed_choices", seed)
    of_method = {
        method: _instances.recentered(synthetic.levy(4), numbers, 20.0, rng)[0]
        for method in ("a", "b", "c")
    }
    handicap = dict(zip(of_method, rng.permutation([0.0, 3.0, 8.0]).tolist(), strict=True))

    def value(at: Parameters) -> float:
        return float(handicap[at["method"]] + of_method[at["method"]](at))

    return Instance({"method": CategoricalDistribution(list(of_method)), **numbers}, 0.0, value)


def _lora_task(
    name: str, preset: str, cliff: _lora.Cliff, noise: float
) -> Callable[[int], Instance]:
    return lambda seed: _lora.lora(preset, cliff, noise, draws(name, seed))


def _index(data: str) -> Callable[[int], Instance]:
    return lambda seed: _suites.lookup(_suites.table("hpobench", data), seed)


def _steps(data: str, *, noisy: bool) -> Callable[[int], Instance]:
    return lambda seed: _suites.snapped(_suites.table("hpobench", data), seed, noisy=noisy)


def _losses(data: str, told: _suites.Told) -> Callable[[int], Instance]:
    return lambda seed: _suites.logarithmic(_suites.table("hpolib", data), seed, told=told)


TASKS: Final[Mapping[str, Task]] = {
    task.name: task
    for task in (
        Task("branin", "smooth", partial(cut, synthetic.BRANIN)),
        Task("goldstein_price", "smooth", partial(cut, synthetic.GOLDSTEIN_PRICE), held_out=True),
        Task("hartmann3", "smooth", partial(cut, synthetic.HARTMANN3)),
        Task("shekel10", "smooth", partial(cut, synthetic.SHEKEL10)),
        Task("rosenbrock5", "smooth", partial(cut, synthetic.rosenbrock(5))),
        Task("rastrigin5", "smooth", partial(cut, synthetic.rastrigin(5))),
        Task("ackley5", "smooth", partial(cut, synthetic.ackley(5)), held_out=True),
        Task("styblinski5", "smooth", partial(cut, synthetic.styblinski_tang(5))),
        Task("hartmann6", "smooth", partial(cut, synthetic.HARTMANN6)),
        Task("levy8", "smooth", partial(cut, synthetic.levy(8)), held_out=True),
        Task("mixed_ackley", "mixed", mixed_ackley),
        Task("mixed_rosenbrock", "mixed", mixed_rosenbrock, held_out=True),
        Task("mixed_choices", "mixed", mixed_choices),
        Task("noisy_branin", "noisy", partial(noisy_cut, synthetic.BRANIN)),
        Task("noisy_hartmann6", "noisy", partial(noisy_cut, synthetic.HARTMANN6)),
        Task("noisy_levy4", "noisy", partial(noisy_cut, synthetic.levy(4)), held_out=True),
        Task("cliff2", "LoRA-like", lambda seed: _lora.cliff(draws("cliff2", seed))),
        Task("lora_huge", "LoRA-like", _lora_task("lora_huge", "davouse2024", "huge", 0.0)),
        Task("lora_nan", "LoRA-like", _lora_task("lora_nan", "demo", "nan", 0.005)),
        Task(
            "lora_score",
            "LoRA-like",
            _lora_task("lora_score", "davouse2024", "chance", 0.0),
            held_out=True,
        ),
        *(
            Task(f"bbob_f{k}", "BBOB", partial(_suites.bbob, k), held_out=k in (15, 22))
            for k in (1, 10, 15, 20, 22)
        ),
        *(
            Task(f"mixint_f{k}", "bbob-mixint", partial(_suites.mixint, k), held_out=k == 20)
            for k in _suites.MIXINT_MINIMA
        ),
        Task("australian", "tabular", _index("australian")),
        Task("car", "tabular", _steps("car", noisy=True)),
        Task("phoneme", "tabular", _index("phoneme")),
        Task("blood", "tabular", _steps("blood_transfusion", noisy=True)),
        Task("kc1", "tabular", _steps("kc1", noisy=False), held_out=True),
        Task("naval", "tabular", _losses("naval_propulsion", "raw")),
        Task("slice", "tabular", _losses("slice_localization", "log"), held_out=True),
    )
}
TUNING: Final = tuple(task.name for task in TASKS.values() if not task.held_out)
HELD_OUT: Final = tuple(task.name for task in TASKS.values() if task.held_out)
