"""Draw detections on the device while a network learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raypipe.model.channel_axes import ChannelAxes
from raypipe.model.features import Batch, as_batch
from raypipe.model.folding import redistribute
from raypipe.spectra.grid import EnergyGrid
from recipes.any_telescope.made_up import MISSION
from recipes.any_telescope.sky import Sky, in_band

COUNTS = (20.0, 100_000.0)
"""Range of the expected source counts, drawn log-uniformly."""
SEEN_SHARE = 0.01
LEAST_COUNTS = 0.1
ERG_PER_COUNT = 1.2e-11
TYPICAL_EXPOSURE_S = 25e3
EXPOSURE_DEX = 0.4
LONGEST_S = 250e3
BACKGROUND_SHARE = (3e-3, 2.0)
BACKGROUND_AREA = (15.0, 25.0)
BACKGROUND_RATE_DEX = 0.15
"""As in `raypipe.simulation.survey`, where each of these is explained. They are repeated because
that module needs packages that a machine with a GPU may not have."""
MADE_UP_SHARE = 0.15
"""Share of the detections that go through made-up responses, where there are any."""


@dataclass(frozen=True)
class Choices:
    """Hold what the host chooses for n detections: source, instrument and kind, (n,) each."""

    source: npt.NDArray[np.intp]
    instrument: npt.NDArray[np.intp]
    kind: npt.NDArray[np.intp]
    counts: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Expected:
    """Hold the expected counts of n detections, with their true flux densities.

    `counts` and `background_counts` (n, bins) are those of the source and the background region;
    `density` (n, n_energy) is in photon/cm2/s/keV. The others are those of a SpectraBatch.
    """

    counts: Tensor
    background_counts: Tensor
    background_scale: Tensor
    exposure_s: Tensor
    arf_cm2: Tensor
    response_index: Tensor
    density: Tensor

    def longer(self, factor: Tensor) -> Expected:
        """Return what is expected in an exposure that is longer by a factor, (n,)."""
        return replace(
            self,
            counts=self.counts * factor[:, None],
            background_counts=self.background_counts * factor[:, None],
            exposure_s=self.exposure_s * factor,
        )

    def as_batch(self, responses: Tensor, axes: ChannelAxes) -> Batch:
        """Make a batch of the detections."""
        return as_batch(
            counts=self.counts,
            background_counts=self.background_counts,
            background_scale=self.background_scale,
            exposure_s=self.exposure_s,
            arf_cm2=self.arf_cm2,
            response_index=self.response_index,
            responses=responses,
            axes=axes,
        )


@dataclass(frozen=True)
class NoiseFree:
    """Hold detections whose counts are the expected ones of a long exposure.

    `density` (n, n_energy) are the true flux densities, photon/cm2/s/keV, and `counts` (n,) the
    source counts that a usual exposure would have.
    """

    batch: Batch
    density: Tensor
    counts: npt.NDArray[np.float32]


class FreshStream:
    """Draw `size` new detections per epoch, each of a random source through a random instrument.

    `sources` are the indices of the sources to draw from, and `weights` (I,) the chance of each
    instrument among those that see a source. `sweep` draws nothing new: it yields `size`
    detections of a fixed seed, to validate with.
    """

    def __init__(
        self,
        sky: Sky,
        sources: npt.NDArray[np.intp],
        weights: npt.NDArray[np.float64],
        size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.sky, self.sources, self.weights = sky, sources, weights
        self.size, self.seed, self.device = size, seed, device

        def tensor(values: npt.NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        self.log_flux, self.scale = tensor(sky.log_flux), tensor(sky.scale)
        self.responses, self.areas = tensor(sky.responses), tensor(sky.areas)
        self.backgrounds, self.rate = tensor(sky.backgrounds), tensor(sky.rate)
        self.backscal, self.shortest_s = tensor(sky.backscal), tensor(sky.shortest_s)
        self.in_band = tensor(np.stack([in_band(each) for each in sky.bins]).astype(np.float32))
        self.axes = ChannelAxes.of(sky.bins, device)
        self.widths = tensor(EnergyGrid().widths_kev.astype(np.float32))

    def __len__(self) -> int:
        return self.size

    def steps(self, count: int, share: int, seed: int) -> Iterator[tuple[Tensor, Batch]]:
        """Yield `count` batches of `share` detections that were never drawn before."""
        yield from self._draws([share] * count, seed)

    def sweep(self) -> Iterator[tuple[Tensor, Batch]]:
        """Yield the same detections each time."""
        whole, rest = divmod(self.size, 256)
        yield from self._draws([256] * whole + [rest] * (rest > 0), self.seed)

    def _draws(self, sizes: list[int], seed: int) -> Iterator[tuple[Tensor, Batch]]:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, seed]))
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(1 << 62)))
        places = torch.arange(sum(sizes)).split(sizes)
        for place in places:
            yield place, self._observe(self._choose(rng, len(place)), generator)

    def _choose(self, rng: np.random.Generator, size: int) -> Choices:
        """Choose sources, and for each an instrument that sees at least `SEEN_SHARE` of it."""
        source = rng.choice(self.sources, size)
        seen = self.sky.seen[source]
        allowed = np.where(seen >= SEEN_SHARE, self.weights, 0.0)
        # A source that no instrument sees so well goes to the one that sees most of it.
        lost = allowed.sum(axis=1) == 0
        allowed[lost, np.where(self.weights > 0, seen, -1.0)[lost].argmax(axis=1)] = 1.0
        cumulative = allowed.cumsum(axis=1)
        at = rng.uniform(size=size) * cumulative[:, -1]
        instrument = np.minimum((cumulative <= at[:, None]).sum(axis=1), seen.shape[1] - 1)
        share = np.minimum(seen[np.arange(size), instrument] / SEEN_SHARE, 1.0)
        counts = np.exp(rng.uniform(np.log(COUNTS[0]), np.log(COUNTS[1]), size)) * share
        return Choices(
            source,
            instrument,
            rng.integers(self.sky.areas.shape[1], size=size),
            np.maximum(counts, LEAST_COUNTS).astype(np.float32),
        )

    def without_noise(self, counts: float) -> Iterator[NoiseFree]:
        """Yield the detections of `sweep`, all with that many source counts, without noise."""
        rng = np.random.default_rng(self.seed)
        generator = torch.Generator(self.device).manual_seed(self.seed)
        for rows in np.array_split(np.arange(self.size), -(-self.size // 256)):
            chosen = self._choose(rng, len(rows))
            expected = self._expect(chosen, generator)
            factor = counts / torch.from_numpy(chosen.counts).to(self.device)
            yield NoiseFree(
                batch=expected.longer(factor).as_batch(self.responses, self.axes),
                density=expected.density,
                counts=chosen.counts,
            )

    def _observe(self, chosen: Choices, generator: torch.Generator) -> Batch:
        """Draw the counts of both regions."""
        expected = self._expect(chosen, generator)
        counts = torch.poisson(expected.counts, generator=generator)
        background_counts = torch.poisson(expected.background_counts, generator=generator)
        drawn = replace(expected, counts=counts, background_counts=background_counts)
        return drawn.as_batch(self.responses, self.axes)

    def _expect(self, chosen: Choices, generator: torch.Generator) -> Expected:
        """Fold the sources, and choose exposures and backgrounds.

        The steps are those of `raypipe.simulation.survey.draw_batch`, in bins.
        """
        index = torch.from_numpy(chosen.instrument)
        there, kind, source, wanted = (
            torch.from_numpy(each).to(self.device)
            for each in (chosen.instrument, chosen.kind, chosen.source, chosen.counts)
        )
        n = len(index)

        def uniform(low: float, high: float) -> Tensor:
            drawn = torch.rand(n, generator=generator, device=self.device)
            return low + (high - low) * drawn

        def dex(typical: float, scatter: float) -> Tensor:
            drawn = torch.randn(n, generator=generator, device=self.device)
            return typical * 10.0 ** (scatter * drawn)

        area = self.areas[there, kind]
        flux = torch.exp(self.log_flux[source].float()) * self.scale[source][:, None]
        rate = redistribute(flux * self.widths * area, index, self.responses)
        band_rate = (rate * self.in_band[there]).sum(-1).clamp_min(1e-30)
        planned = wanted / dex(TYPICAL_EXPOSURE_S, EXPOSURE_DEX) * ERG_PER_COUNT
        exposure = (wanted / (planned * band_rate)).clamp(max=LONGEST_S)
        exposure = torch.maximum(exposure, self.shortest_s[there])
        per_area = self.rate[there] * dex(1.0, BACKGROUND_RATE_DEX) * exposure
        low, high = (float(np.log(each)) for each in BACKGROUND_SHARE)
        backscal = wanted * torch.exp(uniform(low, high)) / per_area
        limits = self.backscal[there]
        backscal = torch.minimum(torch.maximum(backscal, limits[:, 0]), limits[:, 1])
        background = self.backgrounds[there, kind] * (backscal * per_area)[:, None]
        ratio = uniform(*BACKGROUND_AREA)[:, None]
        fluence = (wanted / band_rate)[:, None]
        return Expected(
            counts=rate * fluence + background,
            background_counts=background * ratio,
            background_scale=1.0 / ratio,
            exposure_s=exposure,
            arf_cm2=area,
            response_index=index,
            density=flux * fluence / exposure[:, None],
        )


def weights_of(
    sky: Sky, *, without: str | None = None, only: str | None = None
) -> npt.NDArray[np.float64]:
    """Return the chance of each instrument, (I,).

    A telescope comes up in proportion to the square root of the number of its responses, and
    made-up responses together in `MADE_UP_SHARE` of all detections. `without` leaves out a
    telescope (the first word of its name) together with the responses made from it, `only` all
    others.
    """
    missions = np.array([each.split()[0] for each in sky.missions], object)
    made_up = np.array([each == MISSION for each in sky.missions])
    numbers = {each: (missions == each).sum() for each in missions}
    weights = np.array([1.0 / np.sqrt(numbers[each]) for each in missions])
    origin = dict(zip(sky.names, missions, strict=True))
    origins = np.array([origin[each.removesuffix(" made up")] for each in sky.names], object)
    if without is not None:
        weights[origins == without] = 0.0
    if only is not None:
        weights[(origins != only) | made_up] = 0.0
    own, others = weights[made_up].sum(), weights[~made_up].sum()
    if own > 0:
        weights[made_up] *= MADE_UP_SHARE / (1.0 - MADE_UP_SHARE) * others / own
    total: npt.NDArray[np.float64] = weights / weights.sum()
    return total
