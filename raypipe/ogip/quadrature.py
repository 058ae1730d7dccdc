"""Integrals of a flux over energy bins, fine enough for lines narrower than a bin."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from raypipe.ogip.fits import Floats, Integers

Flux: TypeAlias = Callable[[Floats], Any]

PITCH_KEV = 0.00125
"""Largest distance of the samples in bins up to 20 eV wide. A line that no sample meets is not
seen, and one of sigma 0.1 eV is wide enough to meet one."""

FEWEST_SAMPLES, MOST_SAMPLES = 10, 17
"""Equally spaced energies at which each bin of a grid is looked at, from edge to edge, so that a
flux that jumps cannot jump unseen between two bins."""

WITHIN = 1.0 - 1e-6
"""Distance of a bin's outermost samples from its middle, in half widths: a flux that jumps at the
edge itself, as one that is constant over each bin does, counts as smooth."""

LEAST_ENERGY = 1.0 / 32.0
"""Lowest sample of a bin, as a fraction of its upper edge. Power laws diverge toward zero: bins
that begin lower are sampled from here on, and not halved."""

DEGREE = 5
"""Degree of the least-squares polynomial through the samples, low enough for positive weights."""

CHECKS = 4
"""Number of polynomials of higher degrees that are tested: a smooth flux has no share of them."""

SMOOTH = 1e-9
"""Largest share of them in a flux that counts as smooth, relative to its largest sample."""

CONVERGED = 1e-6
"""Change of an integral, relative to that of its bin, below which halving ends."""

MAX_HALVINGS = 30
"""Most times a bin is halved: 20 eV become 2e-8 eV."""

MAX_PANELS_PER_BIN = 32
"""Panels looked at in one step, per energy bin, enough for thousands of narrow lines; a flux that
needs more gets a warning."""

MIN_PANELS = 20_000
"""Panels that any flux may have in one step."""


def integrate(flux: Flux, low: Floats, high: Floats) -> Floats:
    """Integral (m,) of `flux` over the bins from `low` to `high` (m,), keV.

    A least-squares polynomial through 10 to 17 energies of each bin gives the integral. Bins that
    it does not explain are halved, again and again, until the integral stays the same within
    `CONVERGED`. A flux too rough for that keeps the last estimate, with a warning.
    """
    samples = math.ceil((high - low).max(initial=0.0) / PITCH_KEV) + 1
    rule = _rule(min(max(samples, FEWEST_SAMPLES), MOST_SAMPLES))
    integrals, rough = _panels(flux, low, high, rule)
    bins = np.flatnonzero(rough & (low >= LEAST_ENERGY * high))
    if bins.size:
        _refine(flux, low, high, integrals, bins, rule)
    return integrals


def _refine(
    flux: Flux, low: Floats, high: Floats, integrals: Floats, bins: Integers, rule: _Rule
) -> None:
    """Halve the panels that are rough, bins at first, and add to `integrals` what that changes."""
    most = max(MAX_PANELS_PER_BIN * len(integrals), MIN_PANELS)
    begin, end, before = low[bins], high[bins], integrals[bins]
    for _ in range(MAX_HALVINGS):
        if 2 * len(bins) > most:
            warnings.warn(
                f"the flux changes too fast for the energy bins, as at {begin[0]:.6g} keV: "
                "counts there are uncertain; smooth it, or name its lines (lines_kev)",
                stacklevel=5,
            )
            return
        middle = 0.5 * (begin + end)
        begin = np.column_stack([begin, middle]).ravel()
        end = np.column_stack([middle, end]).ravel()
        halves, rough = _panels(flux, begin, end, rule)
        with np.errstate(invalid="ignore"):
            change = halves[::2] + halves[1::2] - before
            integrals += np.bincount(bins, change, len(integrals))
            moved = np.abs(change) > CONVERGED * np.abs(integrals[bins])
        halved = np.repeat(moved, 2) & rough
        if not halved.any():
            return
        bins, before = np.repeat(bins, 2)[halved], halves[halved]
        begin, end = begin[halved], end[halved]


def _panels(
    flux: Flux, low: Floats, high: Floats, rule: _Rule
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Integral over each panel, and whether its samples are no smooth curve.

    Samples lie in the first axis, panels in the second: numpy reduces over the first faster.
    """
    half = 0.5 * (high - low)
    energies = 0.5 * (high + low) + rule.places[:, None] * half
    np.maximum(energies, LEAST_ENERGY * high, out=energies)
    density = np.asarray(flux(energies.ravel()), dtype=np.float64)
    samples = np.broadcast_to(density, energies.size).reshape(energies.shape)
    with np.errstate(invalid="ignore"):
        left = np.abs(rule.checks @ samples).max(axis=0)
        rough = left > SMOOTH * np.abs(samples).max(axis=0)
        integrals: Floats = (rule.weights @ samples) * half
    return integrals, rough


class _Rule(NamedTuple):
    """Places (k,) of the samples in [-1, 1], their weights (k,), and the checks (`CHECKS`, k)."""

    places: Floats
    weights: Floats
    checks: Floats


@cache
def _rule(samples: int) -> _Rule:
    """The least-squares rule with this number of samples.

    The columns of Q, from the polynomials at the samples, are orthonormal: the first `DEGREE` + 1
    of them span the least-squares polynomial, and the next have to vanish for a smooth curve. The
    Legendre polynomial of degree 0 alone has an integral other than zero, which is 2.
    """
    places = WITHIN * np.linspace(-1.0, 1.0, samples)
    basis = np.polynomial.legendre.legvander(places, DEGREE + CHECKS)
    orthonormal, triangle = np.linalg.qr(basis)
    fitted = DEGREE + 1
    to_coefficients = np.linalg.solve(triangle[:fitted, :fitted], orthonormal[:, :fitted].T)
    return _Rule(places, 2.0 * to_coefficients[0], orthonormal[:, fitted:].T.copy())
