"""Integrate a flux over energy bins, accurately even for lines narrower than a bin."""

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
"""Largest distance of the samples in bins up to 20 eV wide. A line is missed if no sample lies on
it; a line of sigma 0.1 eV is wide enough for one."""

FEWEST_SAMPLES, MOST_SAMPLES = 10, 17
"""Numbers of equally spaced energies at which the flux is evaluated in each bin, from edge to edge,
so that a jump between two bins is noticed."""

WITHIN = 1.0 - 1e-6
"""Distance of a bin's outermost samples from its middle, in half widths. It is just below 1: a flux
that jumps at the edge itself, like a histogram, counts as smooth."""

LEAST_ENERGY = 1.0 / 32.0
"""Lowest sample of a bin, as a fraction of its upper edge. Power laws diverge toward zero energy:
bins that begin lower are sampled from here, and not halved."""

DEGREE = 5
"""Degree of the least-squares polynomial through the samples; it is low enough that all weights of
the quadrature are positive."""

CHECKS = 4
"""Number of Legendre polynomials of the next degrees, of which a smooth flux has no share."""

SMOOTH = 1e-9
"""Largest share of those polynomials in a smooth flux, relative to its largest sample."""

CONVERGED = 1e-6
"""Halving of a bin ends when its integral changes by less than this, relative to itself."""

MAX_HALVINGS = 30
"""Largest number of times that a bin is halved: 20 eV become 2e-8 eV."""

MAX_PANELS_PER_BIN = 32
"""Largest number of panels (bins or parts of bins) per step and energy bin, enough for thousands of
narrow lines; a flux that needs more gets a warning."""

MIN_PANELS = 20_000
"""Number of panels that is always allowed in a step."""


def integrate(flux: Flux, low: Floats, high: Floats) -> Floats:
    """Integrate `flux` over the bins from `low` to `high` (m,), keV; returns (m,).

    The integral is that of a least-squares polynomial through 10 to 17 samples of each bin. Where
    samples are no smooth curve, the bin is halved repeatedly until the integral stays the same
    within `CONVERGED`. If the flux is too rough for that, the last estimate stays, with a warning.
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
    """Halve rough panels, at first whole bins, and add the changes to `integrals`, in place."""
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
        # Integrate both halves of each panel; their sum replaces the panel's integral in its bin.
        middle = 0.5 * (begin + end)
        begin = np.column_stack([begin, middle]).ravel()
        end = np.column_stack([middle, end]).ravel()
        halves, rough = _panels(flux, begin, end, rule)
        with np.errstate(invalid="ignore"):
            change = halves[::2] + halves[1::2] - before
            integrals += np.bincount(bins, change, len(integrals))
            # Next, halve those halves that are rough, where the panel's integral still changed.
            moved = np.abs(change) > CONVERGED * np.abs(integrals[bins])
        halved = np.repeat(moved, 2) & rough
        if not halved.any():
            return
        bins, before = np.repeat(bins, 2)[halved], halves[halved]
        begin, end = begin[halved], end[halved]


def _panels(
    flux: Flux, low: Floats, high: Floats, rule: _Rule
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the integral over each panel, and whether its samples are no smooth curve.

    Samples lie along the first axis, panels along the second: numpy reduces over the first faster.
    """
    half = 0.5 * (high - low)
    energies = 0.5 * (high + low) + rule.places[:, None] * half
    np.maximum(energies, LEAST_ENERGY * high, out=energies)
    density = np.asarray(flux(energies.ravel()), dtype=np.float64)
    samples = np.broadcast_to(density, energies.size).reshape(energies.shape)
    with np.errstate(invalid="ignore"):
        # The largest share of the samples that polynomials of higher degrees take.
        left = np.abs(rule.checks @ samples).max(axis=0)
        rough = left > SMOOTH * np.abs(samples).max(axis=0)
        integrals: Floats = (rule.weights @ samples) * half
    return integrals, rough


class _Rule(NamedTuple):
    """Hold a rule: places (k,) of samples in [-1, 1], weights (k,), checks (`CHECKS`, k)."""

    places: Floats
    weights: Floats
    checks: Floats


@cache
def _rule(samples: int) -> _Rule:
    """Derive the least-squares quadrature with this number of samples.

    Let P (k, DEGREE + 1 + CHECKS) be the Legendre polynomials at the samples, and P = Q R. The
    columns of Q are orthonormal. The first DEGREE + 1 of them span the least-squares polynomial,
    whose Legendre coefficients for samples f are R^-1 Q^T f; a smooth curve has no share of the
    others. The integral over [-1, 1] is 2 for the polynomial of degree 0 and zero for all others,
    so that the weights are twice the first row of R^-1 Q^T.
    """
    places = WITHIN * np.linspace(-1.0, 1.0, samples)
    basis = np.polynomial.legendre.legvander(places, DEGREE + CHECKS)
    orthonormal, triangle = np.linalg.qr(basis)
    fitted = DEGREE + 1
    to_coefficients = np.linalg.solve(triangle[:fitted, :fitted], orthonormal[:, :fitted].T)
    return _Rule(places, 2.0 * to_coefficients[0], orthonormal[:, fitted:].T.copy())
