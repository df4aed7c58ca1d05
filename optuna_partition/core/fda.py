"""Fractal decomposition algorithm [Nakib, Ouchraa, Shvai, Souquet and Talbi 2017].

The best sphere of the deepest level that has one is decomposed into 2 d smaller ones. Three points
decide how promising each of them is (promising hypersphere search); those of the last level are
searched by coordinate steps that are halved (intensive local search). When a level is used up the
search goes up one.

The article's text could not be consulted. The rules are those of two public implementations from
the groups of its authors: Zellij (T. Firmin; the three points, the corrected distance to the best
as quality, the depth first order, local search from the center with a first step as long as the
radius, the depth of 5 and the inflation of 1.75) and FDS (A. Llanza, N. Shvai, A. Nakib; an
inflated sphere is decomposed as it is, and the quality follows the best evaluation of the moment).
Ours: the root sphere is evaluated like all others, so that the first trial is the center of the
box; a local search that is clipped at the edge of the cube keeps to its lattice; `min_step` is a
practical length instead of 1e-20.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from optuna_partition.core.fractal import Fractal, FractalClaim, Path

# Spheres that are decomposed in one go although all points below them are evaluated or running.
# That many in a row mean that the box has hardly anything left for this geometry.
_MAX_PASSED = 8


def fda(fractal: Fractal) -> FractalClaim | None:
    """The next evaluation of FDA.

    Evaluations that run elsewhere are passed over. A local search goes on as if they brought
    nothing, which holds more and more often as its steps get small. Then the next sphere is taken
    early, and spheres that nobody knows yet are decomposed when nothing else is left.

    Args:
        fractal: The spheres, and what is known of them.

    Returns:
        A claim, or None if no evaluation is left to hand out.
    """
    if fractal.exhausted:
        return None
    return (
        fractal.root_point() or fractal.unfinished() or _decompose(fractal) or fractal.remaining()
    )


def _decompose(fractal: Fractal) -> FractalClaim | None:
    passed: set[Path] = set()
    while len(passed) < _MAX_PASSED:
        sphere = _most_promising(fractal, passed)
        if sphere is None:
            sphere = _shallowest_unknown(fractal, passed)
        if sphere is None:
            return None
        claim = fractal.below(sphere)
        if claim is not None:
            return claim
        passed.add(sphere)
    return None


def _most_promising(fractal: Fractal, passed: set[Path]) -> Path | None:
    """The best explored sphere of the deepest level that has one; the lowest path on ties."""
    for level in reversed(range(fractal.depth)):
        explored = filter(fractal.explored, _undivided(fractal, level, passed))
        best = min(explored, key=lambda path: (fractal.quality(path), path), default=None)
        if best is not None:
            return best
    return None


def _shallowest_unknown(fractal: Fractal, passed: set[Path]) -> Path | None:
    """A sphere whose values are not in yet: the best by what is known of it."""
    for level in range(fractal.depth):
        unknown = _undivided(fractal, level, passed)
        best = min(unknown, key=lambda path: (fractal.quality(path), path), default=None)
        if best is not None:
            return best
    return None


def _undivided(fractal: Fractal, level: int, passed: set[Path]) -> Iterator[Path]:
    """Spheres of a level that exist and have nobody below them."""
    if level == 0:
        candidates: Iterable[Path] = ((),)
    else:
        above = {*fractal.decomposed(level - 1), *(p for p in passed if len(p) == level - 1)}
        candidates = ((*path, number) for path in above for number in fractal.children)
    divided = {*fractal.decomposed(level), *passed}
    return (path for path in candidates if path not in divided)
