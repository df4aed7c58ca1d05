"""What is assumed of lengthscales and noise before any value is seen."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prior:
    """Log-normal priors of the hyperparameters.

    The signal variance, on values of variance 1, has an inverse gamma prior of shape and scale 1.

    Args:
        lengthscale: Median lengthscale of an ordered axis, in unit-cube lengths.
        lengthscale_sd: Standard deviation of its logarithm.
        choice_lengthscale: Median of a choice: two choices correlate by `exp(-1 / lengthscale)`.
        choice_lengthscale_sd: Standard deviation of its logarithm.
        noise: Median of the noise variance in units of the signal variance.
        noise_sd: Standard deviation of its logarithm.
        noise_floor: Smallest noise.

    Raises:
        ValueError: If a number is not above 0.
    """

    lengthscale: float = 0.2
    lengthscale_sd: float = 1.0
    choice_lengthscale: float = 1.0
    choice_lengthscale_sd: float = 1.0
    noise: float = 1e-6
    noise_sd: float = 2.5
    noise_floor: float = 1e-8

    def __post_init__(self) -> None:
        """Check the signs."""
        for name in self.__slots__:
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}, expected a finite number above 0.")


def short_prior(*, noisy: bool = False) -> Prior:
    """Functions that bend within a fifth of the cube; deterministic unless `noisy`."""
    if noisy:
        return Prior(noise=1e-3, noise_sd=1.5, noise_floor=1e-5)
    return Prior()


def long_prior(dimension: int, *, noisy: bool = True) -> Prior:
    """Functions that vary over the whole cube: median lengthscale `0.4 sqrt(d)`."""
    return dataclasses.replace(short_prior(noisy=noisy), lengthscale=0.4 * math.sqrt(dimension))
