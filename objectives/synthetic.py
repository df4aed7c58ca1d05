"""Test problems of global optimization with known minima: cheap stand-ins for a training run.

Every problem is minimized over a box. Its function maps points (..., d) to values (...), and its
minimizers are known, so that a sampler's regret can be measured exactly.

Sources:
    Dixon and Szegö, "The global optimization problem: an introduction" (1978): Branin, six-hump
        camel, Goldstein-Price, Hartmann, Shekel.
    Jones, Perttunen and Stuckman, "Lipschitzian optimization without the Lipschitz constant"
        (1993): the same set with Shubert, as the benchmark of DIRECT.
    Surjanovic and Bingham, "Virtual library of simulation experiments" (2013): the others.

Rastrigin, Ackley and Levy are shifted: unshifted, their minimum lies at or near the center of the
box, which is the first point that a partition evaluates.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna.distributions import BaseDistribution, FloatDistribution

if TYPE_CHECKING:
    import optuna

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A function to minimize over a box.

    Args:
        name: What `by_name` calls it.
        function: Values (...) at points (..., d), in the box's own units.
        low: (d,) lower bounds.
        high: (d,) upper bounds.
        minimum: Smallest value in the box.
        minimizers: (k, d) every point of the box with that value.

    Raises:
        ValueError: If the shapes disagree, the box is empty, or a minimizer lies outside it.
    """

    name: str
    function: Callable[[FloatArray], FloatArray]
    low: FloatArray
    high: FloatArray
    minimum: float
    minimizers: FloatArray

    def __post_init__(self) -> None:
        """Freeze copies of the arrays: a problem is shared by every test and benchmark."""
        for name in ("low", "high", "minimizers"):
            array = np.array(getattr(self, name), dtype=np.float64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        d = self.low.size
        if self.low.shape != (d,) or self.high.shape != (d,) or self.minimizers.shape[1:] != (d,):
            raise ValueError(
                f"{self.name} has bounds of shapes {self.low.shape} and {self.high.shape} and "
                f"minimizers of shape {self.minimizers.shape}; expected (d,), (d,) and (k, d)."
            )
        if not np.all(self.low < self.high):
            raise ValueError(f"{self.name} has low {self.low} not below high {self.high}.")
        if not len(self.minimizers) or not np.all(self._contains(self.minimizers)):
            raise ValueError(
                f"{self.name} needs minimizers within [{self.low}, {self.high}], "
                f"got {self.minimizers}."
            )

    @property
    def dimension(self) -> int:
        """Number of variables."""
        return self.low.size

    @property
    def search_space(self) -> dict[str, BaseDistribution]:
        """Optuna distributions of the variables x0, x1, ... in order."""
        return {
            f"x{k}": FloatDistribution(float(low), float(high))
            for k, (low, high) in enumerate(zip(self.low, self.high, strict=True))
        }

    def __call__(self, x: ArrayLike) -> FloatArray:
        """Values (...) at points (..., d) in the box's own units.

        Raises:
            ValueError: If the last axis of `x` does not have `dimension` entries.
        """
        points = np.asarray(x, dtype=np.float64)
        if points.ndim == 0 or points.shape[-1] != self.dimension:
            raise ValueError(
                f"{self.name} got points of shape {points.shape}, expected (..., {self.dimension})."
            )
        return np.asarray(self.function(points), dtype=np.float64)

    def from_unit(self, u: ArrayLike) -> FloatArray:
        """Points (..., d) of the box at points (..., d) of the unit cube."""
        return self.low + (self.high - self.low) * np.asarray(u, dtype=np.float64)

    def regret(self, value: float) -> float:
        """How far a value lies above the minimum; never negative."""
        return max(0.0, value - self.minimum)

    def within(self, low: ArrayLike, high: ArrayLike) -> Problem:
        """The same function on a smaller box, which must keep at least one minimizer.

        Raises:
            ValueError: If the box is not inside this one or holds no minimizer.
        """
        new_low, new_high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        if np.any(new_low < self.low) or np.any(new_high > self.high):
            raise ValueError(
                f"[{new_low}, {new_high}] is not inside the box of {self.name}, "
                f"[{self.low}, {self.high}]."
            )
        kept = np.all((self.minimizers >= new_low) & (self.minimizers <= new_high), axis=-1)
        return Problem(
            self.name, self.function, new_low, new_high, self.minimum, self.minimizers[kept]
        )

    def objective(self, trial: optuna.Trial) -> float:
        """Objective of an Optuna study: suggests x0, x1, ... and returns the value there."""
        point = [
            trial.suggest_float(f"x{k}", float(low), float(high))
            for k, (low, high) in enumerate(zip(self.low, self.high, strict=True))
        ]
        return float(self(point))

    def _contains(self, points: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(np.all((points >= self.low) & (points <= self.high), axis=-1))


def _branin(x: FloatArray) -> FloatArray:
    x0, x1 = x[..., 0], x[..., 1]
    valley = x1 - 5.1 / (4 * np.pi**2) * x0**2 + 5 / np.pi * x0 - 6
    return np.asarray(valley**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x0) + 10)


def _six_hump_camel(x: FloatArray) -> FloatArray:
    x0, x1 = x[..., 0], x[..., 1]
    return np.asarray((4 - 2.1 * x0**2 + x0**4 / 3) * x0**2 + x0 * x1 + (-4 + 4 * x1**2) * x1**2)


def _goldstein_price(x: FloatArray) -> FloatArray:
    a, b = x[..., 0], x[..., 1]
    left = 19 - 14 * a + 3 * a**2 - 14 * b + 6 * a * b + 3 * b**2
    right = 18 - 32 * a + 12 * a**2 + 48 * b - 36 * a * b + 27 * b**2
    return np.asarray((1 + (a + b + 1) ** 2 * left) * (30 + (2 * a - 3 * b) ** 2 * right))


def _shubert(x: FloatArray) -> FloatArray:
    j = np.arange(1, 6)
    waves = j * np.cos((j + 1) * x[..., np.newaxis] + j)
    return np.asarray(np.prod(np.sum(waves, axis=-1), axis=-1))


_HARTMANN_WEIGHTS: Final = np.array([1.0, 1.2, 3.0, 3.2])
_HARTMANN_SCALES: Final = {
    3: np.array([[3, 10, 30], [0.1, 10, 35], [3, 10, 30], [0.1, 10, 35]]),
    6: np.array(
        [
            [10, 3, 17, 3.5, 1.7, 8],
            [0.05, 10, 17, 0.1, 8, 14],
            [3, 3.5, 1.7, 10, 17, 8],
            [17, 8, 0.05, 10, 0.1, 14],
        ]
    ),
}
_HARTMANN_CENTERS: Final = {
    3: np.array(
        [
            [0.3689, 0.117, 0.2673],
            [0.4699, 0.4387, 0.747],
            [0.1091, 0.8732, 0.5547],
            [0.03815, 0.5743, 0.8828],
        ]
    ),
    6: np.array(
        [
            [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
            [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
            [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.665],
            [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
        ]
    ),
}


def _hartmann(x: FloatArray, d: int) -> FloatArray:
    offset = x[..., np.newaxis, :] - _HARTMANN_CENTERS[d]
    wells = np.exp(-np.sum(_HARTMANN_SCALES[d] * offset**2, axis=-1))
    return np.asarray(-np.sum(_HARTMANN_WEIGHTS * wells, axis=-1))


_SHEKEL_CENTERS: Final = np.array(
    [
        [4, 4, 4, 4],
        [1, 1, 1, 1],
        [8, 8, 8, 8],
        [6, 6, 6, 6],
        [3, 7, 3, 7],
        [2, 9, 2, 9],
        [5, 5, 3, 3],
        [8, 1, 8, 1],
        [6, 2, 6, 2],
        [7, 3.6, 7, 3.6],
    ]
)
_SHEKEL_WIDTHS: Final = np.array([0.1, 0.2, 0.2, 0.4, 0.4, 0.6, 0.3, 0.7, 0.5, 0.5])


def _shekel(x: FloatArray, m: int) -> FloatArray:
    offset = x[..., np.newaxis, :] - _SHEKEL_CENTERS[:m]
    return np.asarray(-np.sum(1 / (np.sum(offset**2, axis=-1) + _SHEKEL_WIDTHS[:m]), axis=-1))


def _rosenbrock(x: FloatArray) -> FloatArray:
    head, tail = x[..., :-1], x[..., 1:]
    return np.asarray(np.sum(100 * (tail - head**2) ** 2 + (1 - head) ** 2, axis=-1))


def _rastrigin(x: FloatArray) -> FloatArray:
    z = x - 5.12 * _shift(x.shape[-1])
    return np.asarray(10 * z.shape[-1] + np.sum(z**2 - 10 * np.cos(2 * np.pi * z), axis=-1))


def _ackley(x: FloatArray) -> FloatArray:
    z = x - _ACKLEY_SHIFT * _shift(x.shape[-1])
    bowl = -20 * np.exp(-0.2 * np.sqrt(np.mean(z**2, axis=-1)))
    ripples = -np.exp(np.mean(np.cos(2 * np.pi * z), axis=-1))
    return np.asarray(bowl + ripples + 20 + np.e)


def _levy(x: FloatArray) -> FloatArray:
    w = 1 + (x - 5 * _shift(x.shape[-1]) - 1) / 4
    first, middle, last = w[..., 0], w[..., :-1], w[..., -1]
    ridges = (middle - 1) ** 2 * (1 + 10 * np.sin(np.pi * middle + 1) ** 2)
    end = (last - 1) ** 2 * (1 + np.sin(2 * np.pi * last) ** 2)
    return np.asarray(np.sin(np.pi * first) ** 2 + np.sum(ridges, axis=-1) + end)


def _styblinski_tang(x: FloatArray) -> FloatArray:
    return np.asarray(np.sum(x**4 - 16 * x**2 + 5 * x, axis=-1) / 2)


_ACKLEY_SHIFT: Final = 0.9 * 32.768


def _shift(d: int) -> FloatArray:
    """(d,) shift of the optimum in fractions of the half width; no trisection point is near it."""
    return np.resize(np.array([0.1371, -0.2213, 0.3127, -0.0871, 0.2659]), d)


def _shubert_minimizers() -> FloatArray:
    """(18, 2): one factor at its minimum and the other at its maximum, both 2 pi periodic."""
    lowest = -1.425128428319761 + 2 * np.pi * np.array([-1, 0, 1])
    highest = -0.8003211004719731 + 2 * np.pi * np.array([-1, 0, 1])
    pairs = [(a, b) for a in lowest for b in highest]
    return np.array(pairs + [(b, a) for a, b in pairs])


BRANIN: Final = Problem(
    name="branin",
    function=_branin,
    low=np.array([-5.0, 0.0]),
    high=np.array([10.0, 15.0]),
    minimum=0.39788735772973816,
    minimizers=np.array([[-np.pi, 12.275], [np.pi, 2.275], [3 * np.pi, 2.475]]),
)
SIX_HUMP_CAMEL: Final = Problem(
    name="six_hump_camel",
    function=_six_hump_camel,
    low=np.array([-3.0, -2.0]),
    high=np.array([3.0, 2.0]),
    minimum=-1.0316284534898774,
    minimizers=np.array(
        [[0.08984200893527233, -0.712656403019058], [-0.08984200893527233, 0.712656403019058]]
    ),
)
GOLDSTEIN_PRICE: Final = Problem(
    name="goldstein_price",
    function=_goldstein_price,
    low=np.full(2, -2.0),
    high=np.full(2, 2.0),
    minimum=3.0,
    minimizers=np.array([[0.0, -1.0]]),
)
SHUBERT: Final = Problem(
    name="shubert",
    function=_shubert,
    low=np.full(2, -10.0),
    high=np.full(2, 10.0),
    minimum=-186.73090883102384,
    minimizers=_shubert_minimizers(),
)
HARTMANN3: Final = Problem(
    name="hartmann3",
    function=partial(_hartmann, d=3),
    low=np.zeros(3),
    high=np.ones(3),
    minimum=-3.8627821478207554,
    minimizers=np.array([[0.11461434203082951, 0.5556488507905384, 0.8525469538460251]]),
)
HARTMANN6: Final = Problem(
    name="hartmann6",
    function=partial(_hartmann, d=6),
    low=np.zeros(6),
    high=np.ones(6),
    minimum=-3.322368011415515,
    minimizers=np.array(
        [
            [
                0.20168951037717156,
                0.150010691466166,
                0.4768739733716025,
                0.27533242885448195,
                0.3116516165628256,
                0.6573005308460204,
            ]
        ]
    ),
)


def _shekel_problem(m: int, minimum: float, minimizer: list[float]) -> Problem:
    return Problem(
        name=f"shekel{m}",
        function=partial(_shekel, m=m),
        low=np.zeros(4),
        high=np.full(4, 10.0),
        minimum=minimum,
        minimizers=np.array([minimizer]),
    )


SHEKEL5: Final = _shekel_problem(
    5,
    -10.153199679058229,
    [4.000037152376549, 4.000133278657566, 4.000037151057555, 4.000133277090425],
)
SHEKEL7: Final = _shekel_problem(
    7,
    -10.402940566818662,
    [4.000572914277084, 4.000689366040889, 3.9994897107938447, 3.9996061600067923],
)
SHEKEL10: Final = _shekel_problem(
    10,
    -10.536409816692045,
    [4.000746530253313, 4.000592936779709, 3.9996633957714787, 3.9995097993299975],
)


def rosenbrock(dimension: int = 5) -> Problem:
    """A curved valley on [-2.5, 3]^d; one global minimum at (1, ..., 1). Needs d >= 2."""
    d = _checked("rosenbrock", dimension, at_least=2)
    return Problem(
        f"rosenbrock{d}", _rosenbrock, np.full(d, -2.5), np.full(d, 3.0), 0.0, np.ones((1, d))
    )


def rastrigin(dimension: int = 5) -> Problem:
    """A bowl with a grid of about 10^d local minima on [-5.12, 5.12]^d, shifted off center."""
    d = _checked("rastrigin", dimension)
    return _symmetric(f"rastrigin{d}", _rastrigin, 5.12, 0.0, 5.12 * _shift(d))


def ackley(dimension: int = 5) -> Problem:
    """A rippled plain with one deep hole on [-32.768, 32.768]^d, shifted off center."""
    d = _checked("ackley", dimension)
    return _symmetric(f"ackley{d}", _ackley, 32.768, 0.0, _ACKLEY_SHIFT * _shift(d))


def levy(dimension: int = 5) -> Problem:
    """Ridges across a bowl on [-10, 10]^d, shifted off center."""
    d = _checked("levy", dimension)
    return _symmetric(f"levy{d}", _levy, 10.0, 0.0, 1 + 5 * _shift(d))


def styblinski_tang(dimension: int = 5) -> Problem:
    """A separable sum of quartics with 2^d local minima on [-5, 5]^d."""
    d = _checked("styblinski_tang", dimension)
    deepest = -2.9035340277711756  # root of 2 x^3 - 16 x + 5/2, the derivative of one term
    return _symmetric(
        f"styblinski_tang{d}", _styblinski_tang, 5.0, -39.16616570377141 * d, np.full(d, deepest)
    )


FIXED: Final[dict[str, Problem]] = {
    problem.name: problem
    for problem in (
        BRANIN,
        SIX_HUMP_CAMEL,
        GOLDSTEIN_PRICE,
        SHUBERT,
        HARTMANN3,
        HARTMANN6,
        SHEKEL5,
        SHEKEL7,
        SHEKEL10,
    )
}
FAMILIES: Final[dict[str, Callable[[int], Problem]]] = {
    "rosenbrock": rosenbrock,
    "rastrigin": rastrigin,
    "ackley": ackley,
    "levy": levy,
    "styblinski_tang": styblinski_tang,
}


def by_name(name: str) -> Problem:
    """The problem of that name: "branin", "shekel7", ... or a family with its dimension, "levy8".

    Raises:
        ValueError: If there is no such problem.
    """
    if name in FIXED:
        return FIXED[name]
    match = re.fullmatch(r"([a-z_]+?)(\d+)", name)
    if match and match[1] in FAMILIES:
        return FAMILIES[match[1]](int(match[2]))
    raise ValueError(
        f"{name!r} is no test problem; expected one of {', '.join(FIXED)}, or one of "
        f"{', '.join(FAMILIES)} followed by a dimension, such as 'levy8'."
    )


def _symmetric(
    name: str,
    function: Callable[[FloatArray], FloatArray],
    half_width: float,
    minimum: float,
    minimizer: FloatArray,
) -> Problem:
    """A problem on the cube [-half_width, half_width]^d with one minimizer (d,)."""
    d = len(minimizer)
    low, high = np.full(d, -half_width), np.full(d, half_width)
    return Problem(name, function, low, high, minimum, minimizer[np.newaxis])


def _checked(name: str, dimension: int, *, at_least: int = 1) -> int:
    if dimension < at_least:
        raise ValueError(f"{name} got dimension {dimension}, expected at least {at_least}.")
    return dimension
