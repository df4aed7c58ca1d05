"""Hyperparameters of a LoRA fine-tuning run and the spaces that a sampler searches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Number = int | float
NumericDistribution = FloatDistribution | IntDistribution
Change = Number | tuple[Number, Number] | Sequence[Number] | Mapping[str, Any] | NumericDistribution


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperParameters:
    """One point of the search space, checked.

    Attributes:
        learning_rate: Peak learning rate of AdamW, above 0.
        weight_decay: Decoupled weight decay of AdamW, at least 0.
        rank: Rank of the LoRA matrices, at least 1.
        alpha: LoRA scale; the update is multiplied by `alpha / rank`. Above 0.
        dropout: Probability that an input of the LoRA branch is dropped, in [0, 1]; with 1 the
            adapter learns nothing.
        grad_batches: Micro-batches whose gradients make one optimizer step, at least 1.

    Raises:
        ValueError: If a value is outside its range.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    grad_batches: int = 1

    def __post_init__(self) -> None:
        for name, value in self.as_dict().items():
            _check_number(name, value)
            low, high, open_low = _LIMITS[name]
            too_low = value <= low if open_low else value < low
            if too_low or value > high:
                bracket = "(" if open_low else "["
                raise ValueError(
                    f"{name} is {value}, expected a value in {bracket}{low}, {high}]; "
                    "change the search space or the parameters given."
                )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Number]) -> HyperParameters:
        """Hyperparameters by name; names that are left out keep their default.

        Args:
            values: May hold `alpha_per_rank` instead of `alpha`, which is then that times the rank.

        Raises:
            ValueError: If a name is unknown or a value is outside its range.
        """
        for name in values:
            _check_name(name)
        given = {name: _typed(name, value) for name, value in values.items()}
        if ALPHA_PER_RANK in given:
            if "alpha" in given:
                raise ValueError(f"alpha and {ALPHA_PER_RANK} are both given; give one of them.")
            given["alpha"] = given.pop(ALPHA_PER_RANK) * given.get("rank", HyperParameters().rank)
        return cls(**given)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, Number]:
        """Plain values by name."""
        return asdict(self)


ALPHA_PER_RANK: Final = "alpha_per_rank"
"""Searched instead of alpha, it keeps the scale of the update when the rank changes."""

SCALES: Final = frozenset({"alpha", ALPHA_PER_RANK})
"""Two names of one thing: only one of them is searched, held fixed or given."""

NAMES: Final = (*(field.name for field in fields(HyperParameters)), ALPHA_PER_RANK)
_INTEGERS: Final = ("rank", "grad_batches")
# Lowest value, highest value, and whether the lowest itself is excluded.
_LIMITS: Final[Mapping[str, tuple[float, float, bool]]] = {
    "learning_rate": (0.0, math.inf, True),
    "weight_decay": (0.0, math.inf, False),
    "rank": (1, math.inf, False),
    "alpha": (0.0, math.inf, True),
    "dropout": (0.0, 1.0, False),
    "grad_batches": (1, math.inf, False),
}

HARD_LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    **{name: (low, high) for name, (low, high, _) in _LIMITS.items()},
    "dropout": (0.0, 0.95),  # with 1 the adapter learns nothing
    ALPHA_PER_RANK: (0.0, math.inf),
}
"""How far a range may grow, for `optuna_partition.analysis.bounds_report`."""


@dataclass(frozen=True, slots=True)
class SearchSpace(Mapping[str, BaseDistribution]):
    """Ranges to search, by hyperparameter, and values that are held fixed.

    It is a mapping of names to Optuna distributions, so it can be given to a sampler as its
    `search_space`.

    Attributes:
        ranges: Optuna distribution of each hyperparameter that is searched.
        fixed: Values of hyperparameters that are not searched.

    Raises:
        ValueError: If a name is unknown, is both searched and fixed, or a range leaves the values
            that the hyperparameter can take.
    """

    ranges: Mapping[str, NumericDistribution]
    fixed: Mapping[str, Number]

    def __post_init__(self) -> None:
        for name in (*self.ranges, *self.fixed):
            _check_name(name)
        if both := sorted(set(self.ranges) & set(self.fixed)):
            raise ValueError(f"{both[0]} is both searched and fixed; give it once.")
        if not self.ranges:
            raise ValueError("The search space has no range to search; leave at least one open.")
        for ends in zip(*((d.low, d.high) for d in self.ranges.values()), strict=True):
            HyperParameters.from_mapping(
                {**self.fixed, **dict(zip(self.ranges, ends, strict=True))}
            )

    @classmethod
    def preset(cls, name: str) -> SearchSpace:
        """A space by name.

        `"recommended"` is for models of a hundred million parameters and more: what matters most
        first, logarithmic ranks, alpha in units of the rank. `"wide"` is for a first look at an
        unknown model. `"davouse2024"` is the space of a study that tuned LoRA on models of one
        billion parameters; its rank of up to 500 needs layers of that size, as `"wide"` does.
        `"demo"` is for small models and few samples.

        Raises:
            ValueError: If there is no such preset.
        """
        if name not in _PRESETS:
            raise ValueError(
                f"The search space is {name!r}, expected one of {sorted(_PRESETS)}, plain data "
                "or a SearchSpace object."
            )
        return cls(_PRESETS[name], {})

    @classmethod
    def of(cls, given: str | Mapping[str, Any]) -> SearchSpace:
        """A space from a preset's name or from plain data, as a YAML file holds it.

        Args:
            given: Data are changes as `override` takes them, by hyperparameter. Under `preset` they
                may name the space that is changed; without it, nothing else is searched.

        Raises:
            ValueError: As `preset` and `override`.
        """
        if isinstance(given, SearchSpace):
            return given
        if isinstance(given, str):
            return cls.preset(given)
        if not isinstance(given, Mapping):
            raise ValueError(
                f"The search space is {given!r}, expected the name of a preset, or ranges and "
                "values by hyperparameter."
            )
        changes = dict(given)
        base = changes.pop("preset", None)
        return _changed({} if base is None else cls.preset(base).ranges, {}, changes)

    @property
    def distributions(self) -> dict[str, NumericDistribution]:
        """A copy of the ranges, for a sampler or `optuna.study.Study.ask`."""
        return dict(self.ranges)

    def suggest(self, trial: BaseTrial) -> dict[str, Number]:
        """Ask the trial for each hyperparameter that is searched and add the fixed ones."""
        suggested = {name: _suggest(trial, name, d) for name, d in self.ranges.items()}
        return suggested | dict(self.fixed)

    def override(self, **changes: Change) -> SearchSpace:
        """A space with other ranges or with values held fixed.

        Args:
            **changes: By hyperparameter either `(low, high)`, which keeps the kind of the axis
                (logarithmic or not); a mapping with `low`, `high` and, if they differ, `log` and
                `step`; an Optuna distribution; or a number, which takes the hyperparameter out of
                the search. `alpha` and `alpha_per_rank` take each other's place.

        Raises:
            ValueError: If a name is unknown, `low >= high`, a logarithmic axis would start at or
                below 0, or an int axis gets a fraction.
        """
        return _changed(self.ranges, self.fixed, changes)

    def highest(self, name: str) -> Number:
        """The largest value that `name` can take in this space."""
        if name in self.ranges:
            return self.ranges[name].high
        return self.fixed.get(name, HyperParameters().as_dict()[name])

    def as_data(self) -> dict[str, Any]:
        """Plain data that `of` makes the same space from."""
        ranges = {
            name: {"low": d.low, "high": d.high, "log": d.log}
            | ({} if d.step in (None, 1) else {"step": d.step})
            for name, d in self.ranges.items()
        }
        return {**ranges, **self.fixed}

    def __getitem__(self, name: str) -> BaseDistribution:
        return self.ranges[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.ranges)

    def __len__(self) -> int:
        return len(self.ranges)


_PRESETS: Final[Mapping[str, Mapping[str, NumericDistribution]]] = {
    "davouse2024": {
        "learning_rate": FloatDistribution(math.exp(-10), math.exp(-1), log=True),
        "weight_decay": FloatDistribution(math.exp(-5), math.exp(1), log=True),
        "rank": IntDistribution(2, 500),
        "alpha": FloatDistribution(1.0, 64.0),
        "dropout": FloatDistribution(0.0, 1.0),
        "grad_batches": IntDistribution(1, 32),
    },
    "wide": {
        "learning_rate": FloatDistribution(1e-6, 1.0, log=True),
        "alpha": FloatDistribution(0.5, 256.0, log=True),
        "grad_batches": IntDistribution(1, 64, log=True),
        "rank": IntDistribution(1, 512, log=True),
        "dropout": FloatDistribution(0.0, 1.0),
        "weight_decay": FloatDistribution(1e-5, 10.0, log=True),
    },
    # What matters most comes first: a partition sampler splits the axes in this order.
    "recommended": {
        "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
        "alpha_per_rank": FloatDistribution(0.25, 8.0, log=True),
        "grad_batches": IntDistribution(1, 32, log=True),
        "rank": IntDistribution(2, 128, log=True),
        "dropout": FloatDistribution(0.0, 0.5),
        "weight_decay": FloatDistribution(1e-4, 1.0, log=True),
    },
    "demo": {
        "learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
        "alpha": FloatDistribution(1.0, 64.0),
        "grad_batches": IntDistribution(1, 16, log=True),
        # Cost grows with the rank and a step at a low rank changes more, hence logarithmic.
        "rank": IntDistribution(2, 64, log=True),
        "dropout": FloatDistribution(0.0, 0.5),
        "weight_decay": FloatDistribution(1e-4, 1.0, log=True),
    },
}

_TEMPLATES: Final = dict(_PRESETS["recommended"]) | dict(_PRESETS["demo"])
_KEYS: Final = ("low", "high", "log", "step")


def _changed(
    ranges: Mapping[str, NumericDistribution],
    fixed: Mapping[str, Number],
    changes: Mapping[str, Change],
) -> SearchSpace:
    ranges, fixed = dict(ranges), dict(fixed)
    for name, change in changes.items():
        _check_name(name)
        template = ranges.pop(name, _TEMPLATES[name])
        fixed.pop(name, None)
        for twin in SCALES - {name} if name in SCALES else ():
            if twin not in changes:
                ranges.pop(twin, None)
                fixed.pop(twin, None)
        if isinstance(change, FloatDistribution | IntDistribution):
            ranges[name] = change
        elif isinstance(change, Mapping):
            ranges[name] = _from_data(name, template, change)
        elif isinstance(change, tuple | list):
            ranges[name] = _range(name, change, log=template.log, step=template.step)
        else:
            fixed[name] = _typed(name, change)
    return SearchSpace(ranges, fixed)


def _suggest(trial: BaseTrial, name: str, distribution: NumericDistribution) -> Number:
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name,
            distribution.low,
            distribution.high,
            step=distribution.step,
            log=distribution.log,
        )
    return trial.suggest_float(
        name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )


def _from_data(
    name: str, template: NumericDistribution, data: Mapping[str, Any]
) -> NumericDistribution:
    for key in data:
        if key not in _KEYS:
            raise ValueError(f"{name} has {key!r}, expected only {list(_KEYS)}.")
    for key in ("low", "high"):
        if key not in data:
            raise ValueError(f"{name} has no {key!r}; give both ends, or one number.")
    log, step = data.get("log", template.log), data.get("step")
    if not isinstance(log, bool):
        raise ValueError(f"{name} has log {log!r}, expected true or false.")
    if step is not None:
        _check_number(name, step, called=f"the step of {name}")
        if step <= 0:
            raise ValueError(f"the step of {name} is {step}, expected a number above 0.")
    if log and step not in (None, 1):
        raise ValueError(
            f"{name} has a step of {step}, but its axis is logarithmic and has no steps; give "
            "log: false, or no step."
        )
    return _range(name, (data["low"], data["high"]), log=log, step=step)


def _range(
    name: str, ends: Sequence[Number], *, log: bool, step: Number | None
) -> NumericDistribution:
    if len(ends) != 2:
        raise ValueError(f"{name} is {tuple(ends)}, expected (low, high) or one number.")
    for end in ends:
        _check_number(name, end)
    low, high = ends
    if low >= high:
        raise ValueError(
            f"{name} has low {low} and high {high}, expected low < high; "
            "give one number to hold it fixed."
        )
    if log and low <= 0:
        raise ValueError(
            f"{name} starts at {low}, but its axis is logarithmic; give a low end above 0."
        )
    if name in _INTEGERS:
        return IntDistribution(int(low), int(high), log=log, step=1 if step is None else int(step))
    return FloatDistribution(float(low), float(high), log=log, step=step)


def _check_name(name: str) -> None:
    if name not in NAMES:
        raise ValueError(f"{name!r} is no hyperparameter, expected one of {list(NAMES)}.")


def _check_number(name: str, value: object, *, called: str | None = None) -> None:
    given = f"{called or name} is {value!r}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{given}, expected a number.")
    if not math.isfinite(value):
        raise ValueError(f"{given}, expected a finite number.")
    if name in _INTEGERS and not (isinstance(value, Integral) or float(value).is_integer()):
        raise ValueError(f"{given}, expected a whole number.")


def _typed(name: str, value: Any) -> Number:
    _check_number(name, value)
    return int(value) if name in _INTEGERS else float(value)
