"""Detections on the model's grid with their truth: in memory, and as arrays in a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.channel_bins import ChannelBins

FloatArray = npt.NDArray[np.float32]

_BINS = ("first", "lo_kev", "hi_kev", "fwhm_kev")
"""Arrays of channel bins, one value per bin; `first` has one more."""

_TRUTHS = ("truth", "truth_background")


@dataclass(frozen=True)
class Sample:
    """Detections on the model's grid.

    `truth` and `truth_background` (n, bins) are the expected counts in the source region, in total
    and from the background; `table` has the columns of a survey's truth, one row per detection.
    """

    spectra: SpectraBatch
    truth: FloatArray
    truth_background: FloatArray
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)

    @property
    def source_counts(self) -> npt.NDArray[np.float64]:
        """Expected source counts, (n,)."""
        return self.table["source_counts"].to_numpy(np.float64)

    @property
    def names(self) -> npt.NDArray[np.object_]:
        """The source of each detection, (n,)."""
        return self.table["name"].to_numpy(object)

    @property
    def classes(self) -> npt.NDArray[np.object_]:
        """The class of each detection, (n,), None if unknown."""
        return self.table["class"].to_numpy(object)

    def take(self, rows: npt.ArrayLike) -> Sample:
        """Select detections by index."""
        chosen = np.asarray(rows)
        return Sample(
            self.spectra.take(chosen),
            self.truth[chosen],
            self.truth_background[chosen],
            self.table.iloc[chosen].reset_index(drop=True),
        )

    def with_counts(
        self, expected: npt.NDArray[Any], background: npt.NDArray[Any], seed: int | None
    ) -> Sample:
        """The same detections with counts drawn from other expectations, (n, bins) each.

        `background` is the expected background in the source region. With `seed` None the counts
        are the expectations themselves: an observation without noise.
        """
        pair = [expected, background / self.spectra.background_scale[:, None]]
        if seed is not None:
            rng = np.random.default_rng(seed)
            pair = [rng.poisson(each) for each in pair]
        counts, background_counts = (each.astype(np.float32) for each in pair)
        spectra = dataclasses.replace(
            self.spectra, counts=counts, background_counts=background_counts
        )
        return dataclasses.replace(self, spectra=spectra)

    def without_noise(self) -> Sample:
        """The same detections with exactly the expected counts."""
        return self.with_counts(self.truth, self.truth_background, seed=None)


def join(parts: Iterable[Sample]) -> Sample:
    """Concatenate samples of the same responses."""
    parts = list(parts)
    batches = [part.spectra for part in parts]
    joined = {
        field.name: np.concatenate([getattr(batch, field.name) for batch in batches])
        for field in dataclasses.fields(SpectraBatch)
        if field.name not in ("responses", "bins")
    }
    return Sample(
        SpectraBatch(**joined, responses=batches[0].responses, bins=batches[0].bins),
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.truth_background for part in parts]),
        pd.concat([part.table for part in parts], ignore_index=True),
    )


def save(sample: Sample, folder: Path, *, to_learn: bool = False) -> None:
    """Write a sample into a folder: counts as whole numbers, and a table beside them.

    With `to_learn` areas are in half precision, as the learner holds them, and the expected counts
    of the truth, which it does not need, are left out: 32,000 detections take about 50 MB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spectra = sample.spectra
    arrays = {
        field.name: getattr(spectra, field.name)
        for field in dataclasses.fields(SpectraBatch)
        if field.name != "bins"
    }
    for name in ("counts", "background_counts"):
        arrays[name] = arrays[name].astype(np.int32)
    sizes = [len(bins) for bins in spectra.bins]
    described = {
        "bins_n": np.array(sizes),
        "bins_n_channels": np.array([bins.n_channels for bins in spectra.bins]),
        "bins_is_acis": np.array([bins.is_acis for bins in spectra.bins]),
        **{
            f"bins_{name}": np.concatenate([getattr(bins, name) for bins in spectra.bins])
            for name in _BINS
        },
    }
    if to_learn:
        arrays["arf_cm2"] = arrays["arf_cm2"].astype(np.float16)
    else:
        arrays |= {"truth": sample.truth, "truth_background": sample.truth_background}
    np.savez_compressed(folder / "arrays.npz", allow_pickle=False, **arrays, **described)
    sample.table.to_parquet(folder / "table.parquet")


def load(folder: Path) -> Sample:
    """Read a sample that `save` wrote; the truth is NaN where it was left out."""
    spectra, truths = _load_arrays(folder)
    unknown = np.broadcast_to(np.float32(np.nan), spectra.counts.shape)
    truth, background = (truths.get(name, unknown) for name in _TRUTHS)
    return Sample(spectra, truth, background, pd.read_parquet(folder / "table.parquet"))


def load_spectra(folder: Path) -> SpectraBatch:
    """Read the spectra of a sample without its table."""
    return _load_arrays(folder)[0]


def _load_arrays(folder: Path) -> tuple[SpectraBatch, dict[str, FloatArray]]:
    """Read the spectra of a sample, and the truth by name if it is there."""
    with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    described = {name: arrays.pop(name) for name in list(arrays) if name.startswith("bins_")}
    truths = {name: arrays.pop(name) for name in _TRUTHS if name in arrays}
    for name in ("counts", "background_counts", "arf_cm2"):
        arrays[name] = arrays[name].astype(np.float32)
    return SpectraBatch(**arrays, bins=_bins(described)), truths


def _bins(described: dict[str, npt.NDArray[Any]]) -> tuple[ChannelBins, ...]:
    sizes = described["bins_n"]
    ends = np.cumsum(sizes)[:-1]
    lo, hi, fwhm = (np.split(described[f"bins_{name}"], ends) for name in _BINS[1:])
    first = np.split(described["bins_first"], np.cumsum(sizes + 1)[:-1])
    n_channels, is_acis = described["bins_n_channels"], described["bins_is_acis"]
    return tuple(
        ChannelBins(first[n], lo[n], hi[n], fwhm[n], int(n_channels[n]), bool(is_acis[n]))
        for n in range(len(sizes))
    )
