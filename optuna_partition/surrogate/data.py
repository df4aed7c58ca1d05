"""What a surrogate learns from: points of the unit cube, values, and how well they are known.

Values are minimized. Those above the median are compressed logarithmically before anything else:
a learning rate that diverges says "not here", and how far it diverged must not decide the scale on
which the good trials are told apart.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optuna_partition.core.box import Axis, Box, ChoiceAxis, GridAxis

FloatArray = NDArray[np.float64]

# Squares of larger values, and sums of a thousand of them, would overflow.
_LARGEST = 1e150
# On the model's scale; what is known so poorly says nothing.
_LARGEST_SD = 1e6
# Standard deviation, on the model's scale, of the worst value that stands for a failed trial: a
# region of failures repels, and one crash among good values does not.
DOUBT = 1.0
# Where compression ends, in compressed spreads above the knee. What lies far above the median is
# bad in one way or another, and a cliff of losses next to the optimum must not be all that a model
# sees.
CEILING = 1.0
# For values whose size matters there too: of constraints, and of objectives that trade off.
HIGH_CEILING = 8.0


class Kind(enum.Enum):
    """How the values of an axis relate to each other."""

    CONTINUOUS = "continuous"
    ORDERED = "ordered"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class Variable:
    """One axis of the cube.

    Args:
        kind: How its values relate to each other.
        count: Number of its values; 0 if it is continuous.
    """

    kind: Kind = Kind.CONTINUOUS
    count: int = 0

    @property
    def spacing(self) -> float:
        """Mean distance of neighboring values in unit-cube lengths; 0 if continuous."""
        return 1 / self.count if self.count else 0.0


def variable_of(axis: Axis) -> Variable:
    """What a surrogate needs to know of an axis of the box."""
    if isinstance(axis, ChoiceAxis):
        return Variable(Kind.CHOICE, len(axis.choices))
    if isinstance(axis, GridAxis):
        return Variable(Kind.ORDERED, len(axis.values))
    return Variable()


def variables_of(box: Box) -> tuple[Variable, ...]:
    """What a surrogate needs to know of a box."""
    return tuple(variable_of(axis) for axis in box.axes)


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Evaluated points; rows whose value is NaN are left out.

    Args:
        variables: The axes, d of them.
        points: (n, d) in unit-cube lengths, as `Box.units` and `Box.middle` give them.
        values: (n,) minimized values. +inf counts as the worst finite value, -inf as the best one:
            a failed trial that the search has concluded to be bad is +inf, one that says nothing is
            NaN.
        noise: (n,) variances of the values where they are known (a squared standard error), NaN
            where they are not; empty if no variance is known.

    Raises:
        ValueError: If the shapes differ, or a point is not a point of the cube.
    """

    variables: tuple[Variable, ...]
    points: FloatArray
    values: FloatArray
    noise: FloatArray = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        """Check the shapes, and leave out what has no value."""
        d = len(self.variables)
        points, values = np.asarray(self.points, float), np.asarray(self.values, float)
        noise = np.asarray(self.noise, float)
        if noise.size == 0:
            noise = np.full(values.shape, np.nan)
        if values.ndim != 1 or points.shape != (len(values), d) or noise.shape != values.shape:
            raise ValueError(
                f"points, values and noise have the shapes {points.shape}, {values.shape} and "
                f"{noise.shape}, expected (n, {d}), (n,) and (n,)."
            )
        if not ((points >= 0) & (points <= 1)).all():
            raise ValueError("points lie outside [0, 1], expected points of the unit cube.")
        if (noise < 0).any():
            raise ValueError(f"the least noise variance is {np.nanmin(noise)}, expected >= 0.")
        known = ~np.isnan(values)
        object.__setattr__(self, "points", points[known])
        object.__setattr__(self, "values", values[known])
        object.__setattr__(self, "noise", noise[known])

    def __len__(self) -> int:
        """Number of points with a value."""
        return len(self.values)

    def thinned(self, size: int) -> Data:
        """At most `size` points, those that matter most for the next choice.

        A third are the best ones, a third the nearest to the very best, and the rest the latest:
        what the optimum looks like, and what was explored last. Ties go to the earlier point.
        """
        if len(self) <= size:
            return self
        best = np.argsort(self.values, kind="stable")
        away = np.abs(self.points - self.points[best[0]])
        choice = [variable.kind is Kind.CHOICE for variable in self.variables]
        away[:, choice] = away[:, choice] > 0
        nearest = np.argsort((away**2).sum(axis=1), kind="stable")
        latest = np.arange(len(self))[::-1]
        chosen: dict[int, None] = {}
        for order, total in ((best, size // 3), (nearest, 2 * (size // 3)), (latest, size)):
            missing = (k for k in order.tolist() if k not in chosen)
            chosen.update(dict.fromkeys(itertools.islice(missing, total - len(chosen))))
        kept = np.array(sorted(chosen))
        return Data(self.variables, self.points[kept], self.values[kept], self.noise[kept])


@dataclass(frozen=True, slots=True)
class Warp:
    """The increasing map from values to the scale of the model, and back.

    Up to the knee it is linear; above, a value `w` counts as `knee + s log(1 + (w - knee) / s)`,
    up to `knee + c s`: with c = 1 what lies 1.7 s above the knee is as bad as it gets. The result
    is shifted and scaled to mean 0 and standard deviation 1 of the data.

    Args:
        knee: The median of the values.
        spread: Median minus minimum, s; 0 if nothing is compressed.
        mean: Mean of the compressed values.
        scale: Their standard deviation; 1 if they are all equal.
        ceiling: Where it ends, c.
    """

    knee: float = 0.0
    spread: float = 0.0
    mean: float = 0.0
    scale: float = 1.0
    ceiling: float = CEILING

    def __call__(self, values: FloatArray) -> FloatArray:
        """Values on the model's scale."""
        return (self._compressed(values) - self.mean) / self.scale

    def _compressed(self, values: FloatArray) -> FloatArray:
        if self.spread == 0:
            return np.asarray(values, float)
        logs = np.minimum(np.log1p(self._above(values)), self.ceiling)
        return np.asarray(np.minimum(values, self.knee) + self.spread * logs)

    def _above(self, values: FloatArray) -> FloatArray:
        """How far values lie above the knee, in spreads."""
        return np.maximum(np.asarray(values, float) - self.knee, 0.0) / self.spread

    def inverse(self, standardized: FloatArray) -> FloatArray:
        """Values of numbers on the model's scale; what is too large for a float is infinite."""
        compressed = np.asarray(standardized, float) * self.scale + self.mean
        if self.spread == 0:
            return compressed
        with np.errstate(over="ignore"):
            above = self.spread * np.expm1(self._above(compressed))
        return np.asarray(np.minimum(compressed, self.knee) + above)

    def slope(self, values: FloatArray) -> FloatArray:
        """Derivative at values, above the ceiling too: what a small error of a value becomes."""
        if self.spread == 0:
            return np.full(np.shape(values), 1 / self.scale)
        return np.asarray(1 / (1 + self._above(values)) / self.scale)

    def variances(self, values: FloatArray, variances: FloatArray) -> FloatArray:
        """Variances (n,) of values (n,) on the model's scale; NaN stays."""
        # The slope of very small values has no square that is a number.
        with np.errstate(over="ignore"):
            sds = np.minimum(np.sqrt(variances) * self.slope(values), _LARGEST_SD)
        return np.asarray(sds**2)


def bounded(values: FloatArray) -> FloatArray:
    """Values with the infinite ones replaced by the worst and the best finite one."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    return np.clip(np.clip(values, low, high), -_LARGEST, _LARGEST)


def noise_of(values: FloatArray, variances: FloatArray) -> FloatArray:
    """(n,) known variances of values: those given, and a doubt of infinite ones.

    An infinite value stands for a failure. Where some variances are given, the median of them
    stands in for the NaN among them.
    """
    finite = bounded(values)
    sds = DOUBT / warp_of(finite).slope(finite)
    known = variances[~np.isnan(variances)]
    if len(known):
        variances = np.where(np.isnan(variances), np.median(known), variances)
    return np.where(np.isinf(values), sds**2, variances)


def warp_of(values: FloatArray, *, ceiling: float = CEILING) -> Warp:
    """The map that suits finite values, (n,)."""
    if len(values) == 0:
        return Warp()
    knee, lowest, highest = float(np.median(values)), float(values.min()), float(values.max())
    spread = knee - lowest
    if spread == 0 and highest > lowest:  # more than half of them are equal
        spread = float(values[values > lowest].min()) - lowest
    warp = Warp(knee, spread, ceiling=ceiling)
    compressed = warp(values)
    mean, scale = float(compressed.mean()), float(compressed.std())
    # Equal values differ from their own mean by rounding.
    if scale <= 1e-14 * max(abs(mean), abs(lowest)):
        scale = 1.0
    return dataclasses.replace(warp, mean=mean, scale=scale)
