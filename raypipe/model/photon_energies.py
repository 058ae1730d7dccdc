"""Carry counts back to photon energies: the encoder's input, alike for every telescope."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from raypipe.config import PRESET_BINS
from raypipe.model.features import Batch
from raypipe.model.folding import fold, redistribute
from raypipe.model.statistics import MU_MIN
from raypipe.spectra.grid import EnergyGrid

INPUT_BINS = PRESET_BINS["folded"]
"""Number of energy bins that the encoder reads."""

VALUES = 2
"""Features of a bin that follow the counts."""

MARKS = 4
"""Features of a bin that describe the observation: what it would give, and how well."""

FWHM_KEV = (0.5, 1.0, 2.0, 4.0, 6.0, 8.0)
"""Energies at which the encoder is given the resolution."""

CONDITIONS = 4 + len(FWHM_KEV)
"""Length of the vector that describes the observation as a whole."""

_EDGES_KEV = ((0.2, 110), (2.4, 70), (5.2, 50), (8.2, 26))
"""Where bins of one width begin, and their number: 20, 40, 60 and 146 eV, up to 12 keV. They are a
quarter to half of the resolution of CCDs."""

_PHOTON_INDEX = 1.7
_ABSORPTION = 0.2
_ABSORPTION_SLOPE = -2.5
"""Reference flux: E^-1.7 exp(-0.2 E^-2.5), about a column of 1e21 cm^-2 at solar abundance."""

_TYPICAL_FWHM_KEV = 0.12
_LEAST_SEEN = 1e-6
"""Share of the largest expectation below which a bin counts as not seen by the telescope."""
_LEAST_RELATIVE_AREA = math.exp(-5.0)
_OCTAVES = 8
"""Number of frequencies at which a patch is given its energy."""


class EncoderInput(NamedTuple):
    """Hold the arguments of the encoder for n spectra.

    `values` (n, VALUES, bins) follow the counts, `marks` (n, MARKS, bins) describe each bin, `seen`
    (n, bins) says which bins the telescope sees, `conditions` (n, CONDITIONS) describe the whole.
    """

    values: Tensor
    marks: Tensor
    seen: Tensor
    conditions: Tensor


class PhotonEnergies(nn.Module):
    """Turn spectra of any telescope into features on the same 256 bins of photon energy.

    Counts n_c in channel bins become photons in energy bins by one step of Richardson (1972) and
    Lucy (1974) from a reference flux: with expected counts mu_c = sum_k R_kc w_k + b_c, the photons
    of energy bin k are w_k sum_c R_kc n_c / mu_c. So each photon is spread over the energies at
    which it may have arrived, and no weight of the encoder belongs to a channel: a response that
    was never met in training is read like any other. This is only an input: the likelihood judges
    the counts in their own channels.
    """

    reference: Tensor
    widths_kev: Tensor
    pool: Tensor
    fwhm_at_kev: Tensor

    def __init__(self, grid: EnergyGrid) -> None:
        super().__init__()
        middle, edges = grid.mid_kev, input_edges_kev()
        reference = middle**-_PHOTON_INDEX * np.exp(-_ABSORPTION * middle**_ABSORPTION_SLOPE)
        place = np.clip(np.searchsorted(edges, middle, "right") - 1, 0, INPUT_BINS - 1)
        pool = np.zeros((grid.n_energy, INPUT_BINS), np.float32)
        pool[np.arange(grid.n_energy), place] = 1.0
        for name, values in (
            ("reference", reference),
            ("widths_kev", grid.widths_kev),
            ("pool", pool),
            ("fwhm_at_kev", FWHM_KEV),
        ):
            tensor = torch.tensor(values, dtype=torch.float32)
            self.register_buffer(name, tensor, persistent=False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> EncoderInput:
        """Compute the encoder's input from a batch.

        Values are the square roots of the photons per bin, and their excess over the reference's;
        marks are the square roots of the reference's photons and of the background's, the log of
        the relative area, and whether the bin is seen. Square roots are of shares of all counts,
        scaled to a root mean square near one.
        """
        total = batch.counts.sum(-1, keepdim=True).clamp_min(1.0)
        photons = self._photons(batch) / total[:, None] * INPUT_BINS
        measured, expected, background = photons.clamp_min(0.0).sqrt().unbind(1)
        seen = expected.square() > _LEAST_SEEN * expected.square().amax(-1, keepdim=True)
        exposed = batch.arf_cm2 * self.widths_kev
        mean_area = exposed.sum(-1, keepdim=True) / self.widths_kev.sum()
        mean_area = mean_area.clamp_min(1e-3)
        area = (exposed @ self.pool) / (self.widths_kev @ self.pool) / mean_area
        log_area = torch.log(area.clamp_min(_LEAST_RELATIVE_AREA)) * seen
        return EncoderInput(
            values=torch.stack([measured, measured - expected], 1),
            marks=torch.stack([expected, background, log_area, seen.float()], 1),
            seen=seen,
            conditions=self._conditions(batch, total, mean_area),
        )

    def _photons(self, batch: Batch) -> Tensor:
        """Return the photons of counts, reference and background per energy bin, (n, 3, bins)."""
        counts, background = batch.counts, batch.background
        shape = self.reference.expand(len(batch), -1)
        folded = fold(shape, batch, self.widths_kev)
        # The reference has as many counts as there are above the background, at least half of one.
        net = (counts - background).sum(-1, keepdim=True).clamp_min(0.5)
        scale = net / folded.sum(-1, keepdim=True).clamp_min(1e-30)
        mu = (scale * folded + background).clamp_min(MU_MIN)
        weights = scale * shape * self.widths_kev * batch.arf_cm2 * batch.exposure_s[:, None]
        # For counts equal to the reference's, n / mu would be one wherever there is no background.
        ratios = torch.stack([counts / mu, torch.ones_like(mu), background / mu], 1)
        back = redistribute(ratios, batch.response_index, batch.responses.transpose(1, 2))
        return (back * weights[:, None]) @ self.pool

    def _conditions(self, batch: Batch, total: Tensor, mean_area: Tensor) -> Tensor:
        """Compute log counts, exposure, mean area and FWHM, and the background share, (n, 10)."""
        background_share = (batch.background.sum(-1, keepdim=True) / total).clamp(0.0, 1.5)
        fwhm = self._fwhm_kev(batch)[batch.response_index_there]
        # Offsets bring typical values near zero: 300 counts, 30 ks, 100 cm2, 120 eV.
        return torch.cat(
            [
                torch.log10(total) - 2.5,
                torch.log10(batch.exposure_s[:, None].clamp_min(1.0)) - 4.5,
                background_share,
                torch.log10(mean_area) - 2.0,
                torch.log(fwhm / _TYPICAL_FWHM_KEV),
            ],
            -1,
        )

    def _fwhm_kev(self, batch: Batch) -> Tensor:
        """Return the FWHM of each response's channel bin nearest each of FWHM_KEV, (m, 6), keV."""
        middle = 0.5 * (batch.bin_lo_kev + batch.bin_hi_kev)
        middle = torch.where(batch.valid, middle, torch.inf)
        distance = (middle[:, None] - self.fwhm_at_kev[:, None]).abs()
        return batch.fwhm_kev.gather(1, distance.argmin(-1))


def input_edges_kev() -> npt.NDArray[np.float64]:
    """Return the edges of the energy bins that the encoder reads, (INPUT_BINS + 1,), keV."""
    ends = [start for start, _ in _EDGES_KEV[1:]] + [12.0]
    pieces = [
        np.linspace(start, end, number + 1)[:-1]
        for (start, number), end in zip(_EDGES_KEV, ends, strict=True)
    ]
    return np.append(np.concatenate(pieces), 12.0)


def patch_places(patch: int) -> Tensor:
    """Describe where each patch lies: log energy, and its sines and cosines, (patches, 17).

    Frequencies are octaves, the lowest with half a period over the whole range.
    """
    edges = input_edges_kev()
    log_kev = np.log(0.5 * (edges[1:] + edges[:-1])).reshape(-1, patch).mean(1)
    phase = log_kev[:, None] * (math.pi / math.log(12.0 / 0.2)) * 2.0 ** np.arange(_OCTAVES)
    places = np.concatenate([np.sin(phase), np.cos(phase), log_kev[:, None]], 1)
    return torch.tensor(places, dtype=torch.float32)
