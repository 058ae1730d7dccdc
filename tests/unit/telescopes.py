"""Real responses and spectra of several telescopes, and made ones, for the tests of the grid."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from raypipe.ogip import Arf, Rmf, Spectrum, read_arf, read_pha, read_rmf
from raypipe.ogip.spectrum import assemble
from raypipe.spectra.channel_bins import ChannelBins, channel_bins_of

ACIS = {
    "csc": "csc/acisf02779_001N001_r0004_{}3.fits.gz",
    "ciao": "ciao/9774.{}",
}
OTHERS = ["xmm-pn", "swift-xrt", "nicer", "nustar-a", "nustar-b", "asca-sis"]


class Telescope:
    """The files of a set in the folder of real data, each read once."""

    def __init__(self, data: Path, name: str) -> None:
        self.name, self._data = name, data

    @cached_property
    def _files(self) -> dict[str, str | None]:
        if self.name == "csc":
            files: dict[str, str | None] = {
                kind: ACIS["csc"].format(kind) for kind in ("pha", "arf", "rmf")
            }
            return files
        if self.name == "ciao":
            names = {"pha": "pi", "arf": "arf", "rmf": "rmf.gz"}
            files = {kind: ACIS["ciao"].format(end) for kind, end in names.items()}
            return files | {"background": "ciao/9774_bg.pi"}
        index = json.loads((self._data / "missions/index.json").read_text())
        own = next(each for each in index if each["name"] == self.name)
        return {kind: file and f"missions/{file}" for kind, file in own.items() if kind != "name"}

    @property
    def pha(self) -> Path:
        return self._data / str(self._files["pha"])

    @cached_property
    def rmf(self) -> Rmf:
        return read_rmf(self._data / str(self._files["rmf"]))

    @cached_property
    def arf(self) -> Arf:
        return read_arf(self._data / str(self._files["arf"]))

    @cached_property
    def bins(self) -> ChannelBins:
        return channel_bins_of(self.rmf, self.name)

    def spectrum(self, **changes: Any) -> Spectrum:
        """The spectrum of the set, but for `changes` of what its PHA says."""
        background = self._files.get("background")
        beside = None if background is None else read_pha(self._data / background)
        pha = replace(read_pha(self.pha), **changes)
        return assemble(str(self.pha), pha, beside or pha.background, self.arf, self.rmf)


def made(
    fwhm_kev: float = 0.1, width_kev: float = 0.01, channels: int = 1200, scale: float = 1.0
) -> Rmf:
    """An RMF with Gaussian lines of one width."""
    edges = width_kev * np.arange(channels + 1)
    energy = 0.1 + 0.02 * np.arange(601)
    middle, at = 0.5 * (edges[1:] + edges[:-1]), 0.5 * (energy[1:] + energy[:-1])
    values = np.exp(-0.5 * ((middle - at[:, None]) / (fwhm_kev / 2.3548)) ** 2)
    values *= scale / values.sum(1, keepdims=True)
    values[values < 1e-8 * scale] = 0.0
    matrix = sparse.csr_array(values.astype(np.float32))
    bounds = np.stack([edges[:-1], edges[1:]], 1)
    return Rmf(energy[:-1], energy[1:], np.arange(channels), bounds, matrix, scale > 1.5, {})
