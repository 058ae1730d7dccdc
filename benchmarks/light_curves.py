"""Simulate light curves of X-ray sources: how each class varies, seen as counts in time bins.

Each class varies in one of four ways, in numbers chosen for this benchmark: stars flare, accreting
binaries and active galaxies flicker, magnetic white dwarfs and neutron stars pulse, and the rest is
steady.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

KINDS = {
    **dict.fromkeys(("LM-STAR", "HM-STAR", "YSO"), "flare"),
    **dict.fromkeys(("AGN", "LMXB", "HMXB"), "flicker"),
    **dict.fromkeys(("CV", "NS"), "pulse"),
}
"""How each class varies; any other class is steady."""
STEADY_SHARE = 0.2
"""Share of the sources of each class that do not vary."""


def kind_of(name: object, rng: np.random.Generator) -> str:
    """Return how a source of a class varies: flare, flicker, pulse or steady."""
    return "steady" if rng.random() < STEADY_SHARE else KINDS.get(str(name), "steady")


def light_curve(
    kind: str, counts: float, exposure_s: float, bins: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Simulate the rates of one observation: times (bins,), s, and counts per second (bins,).

    `counts` are those expected in the whole exposure; the bins have Poisson noise.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    middle = 0.5 * (edges[1:] + edges[:-1])
    shape = _SHAPES[kind](middle, rng)
    expected = counts * shape / shape.sum()
    width = exposure_s / bins
    return middle * exposure_s, rng.poisson(expected) / width


def _flare(time: Floats, rng: np.random.Generator) -> Floats:
    """A flare that rises within 3% of the exposure and decays within 5 to 25%."""
    start, decay, height = rng.uniform(0.05, 0.8), rng.uniform(0.05, 0.25), rng.uniform(3, 20)
    since = time - start
    rise = np.exp(-0.5 * (since / 0.015) ** 2)
    return 1.0 + height * np.where(since < 0, rise, np.exp(-since.clip(0) / decay))


def _flicker(time: Floats, rng: np.random.Generator) -> Floats:
    """Red noise: a log-normal process whose power falls as frequency^-1.5 to -2.5."""
    frequency = np.arange(1, len(time) // 2 + 1)
    amplitude = frequency ** (-0.5 * rng.uniform(1.5, 2.5))
    phase = rng.uniform(0, 2 * np.pi, len(frequency))
    waves = amplitude @ np.cos(2 * np.pi * frequency[:, None] * time + phase[:, None])
    return np.asarray(np.exp(rng.uniform(0.3, 0.6) * waves / waves.std()))


def _pulse(time: Floats, rng: np.random.Generator) -> Floats:
    """A sine with 3 to 10 cycles per exposure and a pulsed fraction of 40 to 80%."""
    phase = 2 * np.pi * (rng.uniform(3, 10) * time + rng.random())
    return np.asarray(1.0 + rng.uniform(0.4, 0.8) * np.sin(phase))


def _steady(time: Floats, rng: np.random.Generator) -> Floats:
    return np.ones_like(time)


_SHAPES: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "flare": _flare,
    "flicker": _flicker,
    "pulse": _pulse,
    "steady": _steady,
}
