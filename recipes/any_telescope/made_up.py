"""Make up responses that no telescope has, so that the encoder learns to read any of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from raypipe.spectra.channel_bins import FEWEST_BINS, MOST_BINS, ChannelBins
from raypipe.spectra.grid import EnergyGrid
from recipes.any_telescope.sky import Sky

LOWEST_KEV = (0.3, 4.0)
"""Range of the lowest energy that a made-up instrument sees."""
CUT_SHARE = 0.5
"""Share of the made-up instruments that begin above the lowest energy of their model."""
BLUR = (1.0, 3.0)
"""Range of the factor by which lines are wider than those of the model."""
MERGED = (1, 2, 3, 4)
"""Numbers of bins that are merged into one."""
AREA_KNOTS = 8
AREA_SIGMA = 0.4
"""Scatter of the natural logarithm of the area between knots in log energy."""
AREA_FACTOR = (0.1, 10.0)
MISSION = "made up"

FloatArray = npt.NDArray[np.float64]


def with_made_up(sky: Sky, number: int, seed: int) -> Sky:
    """Add `number` made-up instruments to a sky, each derived from one of its own."""
    rng = np.random.default_rng(seed)
    parents = rng.integers(len(sky.names), size=number)
    made = [_one(sky, parent, rng) for parent in parents]
    responses, areas, backgrounds, bins, lowest = zip(*made, strict=True)
    return replace(
        sky,
        seen=np.concatenate([sky.seen, _seen(sky, parents, np.array(lowest))], axis=1),
        responses=np.concatenate([sky.responses, np.stack(responses)]),
        areas=np.concatenate([sky.areas, np.stack(areas)]),
        backgrounds=np.concatenate([sky.backgrounds, np.stack(backgrounds)]),
        rate=np.append(sky.rate, sky.rate[parents]),
        backscal=np.concatenate([sky.backscal, sky.backscal[parents]]),
        shortest_s=np.append(sky.shortest_s, sky.shortest_s[parents]),
        bins=(*sky.bins, *bins),
        missions=(*sky.missions, *[MISSION] * number),
        names=(*sky.names, *[f"{sky.names[each]} made up" for each in parents]),
    )


def _one(
    sky: Sky, parent: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray, ChannelBins, float]:
    """Blur, merge, cut and rescale one instrument; returns its parts and its lowest energy."""
    own = sky.bins[parent]
    factor = rng.uniform(*BLUR)
    blur = _blurring(own, factor)
    merging = _merging(len(own), int(rng.choice(MERGED)))
    low = float(np.exp(rng.uniform(*np.log(LOWEST_KEV)))) if rng.random() < CUT_SHARE else 0.0
    groups = merging.argmax(axis=1)
    begins = np.unique(groups, return_index=True)[1]
    lo, hi = own.lo_kev[begins], own.hi_kev[np.append(begins[1:], len(own)) - 1]
    kept = lo >= low
    if kept.sum() < FEWEST_BINS:
        kept[:] = True
        low = 0.0
    fwhm = factor * own.fwhm_kev[begins][kept]
    size = int(kept.sum())
    bins = ChannelBins(np.arange(size + 1), lo[kept], hi[kept], fwhm, size)
    change = (blur @ merging)[:, kept]
    response = _padded(sky.responses[parent][:, : len(own)] @ change)
    # The background is not blurred: most of it does not come through the mirror.
    backgrounds = _padded(sky.backgrounds[parent][:, : len(own)] @ merging[:, kept])
    inside = (bins.mid_kev >= 0.5) & (bins.mid_kev < 7.0)
    backgrounds /= backgrounds[:, :size][:, inside].sum(axis=1, keepdims=True)
    areas = sky.areas[parent] * _area_change(rng)
    return response, areas.astype(np.float32), backgrounds, bins, low


def _blurring(bins: ChannelBins, factor: float) -> FloatArray:
    """Return the matrix (bins, bins) that widens lines by `factor` and keeps their counts."""
    sigma = bins.fwhm_kev / 2.355 * np.sqrt(max(factor**2 - 1.0, 1e-6))
    z = (bins.mid_kev[None, :] - bins.mid_kev[:, None]) / sigma[:, None]
    kernel: FloatArray = np.exp(-0.5 * z**2) * bins.width_kev
    return kernel / kernel.sum(axis=1, keepdims=True)


def _merging(size: int, number: int) -> FloatArray:
    """Return the matrix (size, merged) that adds up `number` neighboring bins."""
    group = np.arange(size) // number
    matrix: FloatArray = (group[:, None] == np.arange(group[-1] + 1)).astype(float)
    return matrix


def _area_change(rng: np.random.Generator) -> FloatArray:
    """Return a smooth random factor (n_energy,) of the area."""
    energies = EnergyGrid().mid_kev
    knots = np.linspace(np.log(energies[0]), np.log(energies[-1]), AREA_KNOTS)
    bends = np.interp(np.log(energies), knots, rng.normal(0.0, AREA_SIGMA, AREA_KNOTS))
    level = rng.uniform(*np.log(AREA_FACTOR))
    change: FloatArray = np.exp(bends + level)
    return change


def _seen(sky: Sky, parents: npt.NDArray[np.intp], lowest_kev: FloatArray) -> FloatArray:
    """Return the share of each source's photons, 0.5-7 keV, that made-up instruments see."""
    grid = EnergyGrid()
    inside = (grid.mid_kev >= 0.5) & (grid.mid_kev < 7.0)
    photons = np.exp(sky.log_flux[:, inside].astype(np.float32)) * grid.widths_kev[inside]
    above = (grid.mid_kev[inside][:, None] >= lowest_kev).astype(np.float32)
    share = (photons @ above) / photons.sum(axis=1, keepdims=True)
    seen: FloatArray = np.minimum(share, sky.seen[:, parents]).astype(np.float32)
    return seen


def _padded(values: FloatArray) -> FloatArray:
    padded = np.zeros((*values.shape[:-1], MOST_BINS), np.float32)
    padded[..., : values.shape[-1]] = values
    return padded
