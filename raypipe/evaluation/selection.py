"""Choose the detections to judge, and read their spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from raypipe.model.bundle import Model
from raypipe.model.covariance import latents_of_triangle
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.channel_bins import MOST_BINS, ChannelBins
from raypipe.spectra.decoding import COLUMNS, COUNTS, SpectraDecoder
from raypipe.spectra.detection_rows import iterate_spectra
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.workspace import Workspace

MIN_HELD_OUT = 50
"""Fewest detections of sources unknown to the model that are judged without the others."""

HELD_OUT = ("test", "unseen")
"""Splits whose sources the model never saw."""

MAX_JUDGED = 100_000
"""Most detections judged: with that many, errors are small; more only take memory and time."""

BATCH_ROWS = 256
"""Spectra per batch of reconstructions."""


@dataclass(frozen=True)
class BinnedSpectra:
    """Hold spectra in the channel bins of their responses, in the order of a frame.

    `counts` (n, 256) are those of the source region, `background` (n, 256) those of the background
    region, scaled to the source region, both 0 in bins that a response lacks; `bins` (n,) are the
    channel bins of each row; `model_counts` and `model_background` (n, 256) are a model's
    expectations of all counts and of the background, None without a model.
    """

    counts: npt.NDArray[np.float32]
    background: npt.NDArray[np.float32]
    bins: Sequence[ChannelBins] = ()
    model_counts: npt.NDArray[np.float32] | None = None
    model_background: npt.NDArray[np.float32] | None = None


def choose_rows(catalog: pd.DataFrame) -> tuple[npt.NDArray[np.bool_], str, str]:
    """Choose the rows to judge, and return a mask (n,), its name and the reason.

    These are held-out rows ("test", or "unseen" if the data were not part of the training) if there
    are at least MIN_HELD_OUT of them, or no others; else "all".
    """
    if "split" not in catalog:
        return np.ones(len(catalog), dtype=bool), "all", "the catalog has no column split"
    split = catalog["split"].astype(str).to_numpy()
    held_out = np.isin(split, HELD_OUT)
    if held_out.sum() < MIN_HELD_OUT and not held_out.all():
        why = (
            f"only {held_out.sum()} detections are of sources the model never saw "
            f"(at least {MIN_HELD_OUT} are needed): figures include sources it was trained on"
        )
        return np.ones(len(catalog), dtype=bool), "all", why
    names = "+".join(name for name in HELD_OUT if (split == name).any())
    return held_out, names or "all", "detections of sources the model never saw"


def limit_rows(
    catalog: pd.DataFrame, judged: npt.NDArray[np.bool_], seed: int, most: int = MAX_JUDGED
) -> tuple[npt.NDArray[np.bool_], str]:
    """Draw at most `most` of the judged rows at random, labeled ones first.

    Returns a mask (n,) and a remark on it, which is empty if all rows are kept.
    """
    rows = np.flatnonzero(judged)
    if len(rows) <= most:
        return judged, ""
    classes = catalog["class"] if "class" in catalog else pd.Series(None, catalog.index, object)
    unlabeled = classes.isna().to_numpy()[rows]
    order = np.lexsort([np.random.default_rng(seed).random(len(rows)), unlabeled])
    kept = np.zeros_like(judged)
    kept[rows[order[:most]]] = True
    return kept, f"; {most:,} of {len(rows):,} drawn at random, those with a class first"


def latent_columns(frame: pd.DataFrame) -> list[str]:
    """Return the names of a catalog's latents, z0, z1, ..., as many as `z_cov` has rows."""
    if "z_cov" in frame and frame["z_cov"].notna().any():
        latents = latents_of_triangle(len(frame["z_cov"].dropna().iloc[0]))
        return [f"z{i}" for i in range(latents)]
    columns: list[str] = []
    while f"z{len(columns)}" in frame:
        columns.append(f"z{len(columns)}")
    return columns


def latents_of(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the latents of a catalog's rows, (n, latents)."""
    return frame[latent_columns(frame)].to_numpy(dtype=np.float64)


def has_latents(frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return a mask (n,) of the rows whose latents are all finite."""
    return np.asarray(np.isfinite(latents_of(frame)).all(axis=1))


def read_spectra(
    workspace: Workspace, release: str, frame: pd.DataFrame, model: Model | None = None
) -> BinnedSpectra | None:
    """Read binned spectra of a catalog's rows, with the expectation of `model` if there is one.

    Returns None unless the workspace has the spectrum of every row.
    """
    pair = (2, len(frame), MOST_BINS)
    measured = np.zeros(pair, np.float32)
    expected = np.zeros(pair if model is not None else (2, 0, 0), np.float32)
    library = ResponseLibrary(workspace)
    decoder = SpectraDecoder(library)
    bins: list[ChannelBins | None] = [None] * len(frame)
    index = pd.Index(frame["detection_id"].astype(str))
    columns = COLUMNS if model is not None else COUNTS
    for table in iterate_spectra(workspace, release, index.tolist(), columns):
        rows = index.get_indexer(pd.Index(table["detection_id"].to_pylist()))
        decoded = decoder.counts(table)
        measured[0, rows] = decoded.counts
        measured[1, rows] = decoded.background_counts * decoded.background_scale_by_bin
        for row, each in zip(rows, decoder.bins_of(decoded), strict=True):
            bins[row] = each
        if model is not None:
            expected[:, rows] = _expected_counts(model, table, library, latents_of(frame)[rows])
    found = [each for each in bins if each is not None]
    if len(found) < len(frame):
        return None
    spectra = BinnedSpectra(measured[0], measured[1], found)
    if model is None:
        return spectra
    return replace(spectra, model_counts=expected[0], model_background=expected[1])


def bin_true_counts(
    counts: Sequence[npt.NDArray[np.float64] | None], bins: Sequence[ChannelBins]
) -> npt.NDArray[np.float64]:
    """Sum expected counts on native channels into channel bins, (n, 256); NaN without a truth.

    Raises ValueError where a row has not as many channels as its response.
    """
    binned = np.full((len(bins), MOST_BINS), np.nan)
    for padded, row, each in zip(binned, counts, bins, strict=True):
        if row is not None:
            padded[:] = 0.0
            padded[: len(each)] = each.bin_counts(row)
    return binned


def _expected_counts(
    model: Model, table: pa.Table, library: ResponseLibrary, z: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Compute all expected counts and those of the background, (2, rows, bins)."""
    pieces = []
    for start in range(0, table.num_rows, BATCH_ROWS):
        batch = SpectraBatch.from_table(table.slice(start, BATCH_ROWS), library)
        expected = model.reconstruct(batch, z[start : start + BATCH_ROWS])
        pieces.append(np.stack([expected.total, expected.background]))
    return np.concatenate(pieces, axis=1)
