"""Prepare what simulated detections are made of: sources, responses, areas and backgrounds.

The model is trained on detections that are drawn while it learns, so that it never sees the same
photons twice. What such a draw needs is computed here once and saved: the flux of each source on
the model's grid, and for each instrument its response with a few areas and background shapes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raypipe.spectra.channel_bins import MOST_BINS, ChannelBins

FLOOR = -30.0
"""Lowest natural logarithm of a flux relative to its maximum that half precision keeps."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sky:
    """Hold S sources and I instruments, each with K possible areas and backgrounds.

    `log_flux` (S, n_energy) float16: natural logarithm of the photon flux density over its maximum;
    `scale` (S,): that maximum, photon/cm2/s/keV, for 1 erg/cm2/s from 0.5 to 7 keV; `seen` (S, I):
    share of a source's photons at energies where the instrument has area. `responses` (I,
    n_energy, bins), `areas` (I, K, n_energy) in cm2, `backgrounds` (I, K, bins) normalized to one
    count from 0.5 to 7 keV, `rate` (I,) background counts/s there per unit of BACKSCAL,
    `backscal` (I, 2) its limits, `shortest_s` (I,) the shortest exposure. `missions` (I,) and
    `names` (I,) say what the instruments are.
    """

    log_flux: npt.NDArray[np.float16]
    scale: Floats
    seen: Floats
    responses: Floats
    areas: Floats
    backgrounds: Floats
    rate: Floats
    backscal: Floats
    shortest_s: Floats
    bins: tuple[ChannelBins, ...]
    missions: tuple[str, ...]
    names: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Save as one npz file without pickled objects."""
        arrays = {
            name: getattr(self, name)
            for name in (
                "log_flux",
                "scale",
                "seen",
                "responses",
                "areas",
                "backgrounds",
                "rate",
                "backscal",
                "shortest_s",
            )
        }
        for number, bins in enumerate(self.bins):
            for name, values in zip(_PARTS, bins.parts(), strict=True):
                arrays[f"{name}_{number}"] = values
        described = [
            [mission, name, bins.n_channels, bins.is_acis]
            for mission, name, bins in zip(self.missions, self.names, self.bins, strict=True)
        ]
        arrays["described"] = np.array(json.dumps(described))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Sky:
        """Load what `save` has written."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        described = json.loads(str(arrays.pop("described")))
        bins = tuple(
            ChannelBins(
                **{name: arrays.pop(f"{name}_{number}") for name in _PARTS},
                n_channels=channels,
                is_acis=is_acis,
            )
            for number, (_, _, channels, is_acis) in enumerate(described)
        )
        return cls(
            **arrays,
            bins=bins,
            missions=tuple(mission for mission, *_ in described),
            names=tuple(name for _, name, *_ in described),
        )


_PARTS = ("first", "lo_kev", "hi_kev", "fwhm_kev")


def in_band(bins: ChannelBins) -> npt.NDArray[np.bool_]:
    """Return which of all bins, (bins,), lie between 0.5 and 7 keV."""
    inside = np.zeros(MOST_BINS, bool)
    inside[: len(bins)] = (bins.mid_kev >= 0.5) & (bins.mid_kev < 7.0)
    return inside
