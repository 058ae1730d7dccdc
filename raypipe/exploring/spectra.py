"""Pack the spectra of an explorer: counts, the model's fold and flux, and errors of the latents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch

from raypipe.evaluation.selection import BATCH_ROWS, latents_of
from raypipe.exploring.packing import logarithms, packed_block, varints
from raypipe.model.bundle import Model
from raypipe.model.channel_axes import ChannelAxes
from raypipe.model.covariance import triangles_in, unpack
from raypipe.model.flux_density import at_resolution
from raypipe.model.presets import Folded
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.channel_bins import ChannelBins
from raypipe.spectra.decoding import COLUMNS
from raypipe.spectra.detection_rows import iterate_spectra
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.workspace import Workspace

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BLOCK_ROWS = 32
"""Spectra per block, so that the page unpacks one in a few milliseconds."""

STEP = 0.01
"""Step of the logarithms of fold and background: values are exact within 0.5%."""

FLUX_STEP = 0.02
BAND_STEP = 0.01
CORRELATION_STEP = 0.001
"""Step of the latents' correlations, fine enough that sums of covariances stay positive."""

NO_ERRORS = -(2**15)
"""Width of latents without errors."""


LEAST_COUNTS = 1e-6
LEAST_FLUX = 1e-12
_STD_RANGE = (1e-6, 1e6)
_FLUX_POINTS = 96


@dataclass
class PackedSpectra:
    """Hold the spectra of a page, in the order of the catalog's rows.

    `rows` are the bytes of each spectrum (`varints`), empty where the workspace has none: its
    counts per channel bin and, where it has latents, the logarithms of the fold and of the
    background (in units of `STEP`), of the flux at `flux_kev` (`FLUX_STEP`), and the 68% half width
    of the logarithm of the flux (`BAND_STEP`). A preset without a flux lacks the last two. All
    logarithms are differences from the one before, except those of the band. `bins` has the edges
    of each kind of channel bins, and `kind` (n,) which of them a row has.
    """

    rows: list[bytes]
    kind: Integers
    has_fold: npt.NDArray[np.bool_]
    flux_kev: Floats
    bins: list[ChannelBins] = field(default_factory=list)

    @property
    def found(self) -> int:
        """Return the number of rows that have a spectrum."""
        return sum(len(row) > 0 for row in self.rows)

    def blocks(self) -> list[str]:
        """Return the blocks of the page, `BLOCK_ROWS` spectra each."""
        starts = range(0, len(self.rows), BLOCK_ROWS)
        return [packed_block(self.rows[start : start + BLOCK_ROWS]) for start in starts]


def pack_spectra(
    workspace: Workspace, release: str, frame: pd.DataFrame, model: Model | None
) -> PackedSpectra:
    """Read and pack the spectra of a catalog's rows; without a model they have only counts."""
    has_flux = model is not None and isinstance(model.network, Folded)
    z = latents_of(frame)
    spectra = PackedSpectra(
        rows=[b""] * len(frame),
        kind=np.zeros(len(frame), np.int64),
        has_fold=np.asarray(np.isfinite(z).all(axis=1) & (model is not None)),
        flux_kev=EnergyGrid().mid_kev[flux_energies()] if has_flux else np.zeros(0),
    )
    covariance = latent_covariance(frame)
    library = ResponseLibrary(workspace)
    index = pd.Index(frame["detection_id"].astype(str))
    kinds: dict[tuple[bytes, bytes], int] = {}
    for table in iterate_spectra(workspace, release, index.tolist(), COLUMNS):
        places = index.get_indexer(pd.Index(table["detection_id"].to_pylist()))
        for start in range(0, table.num_rows, BATCH_ROWS):
            part = table.slice(start, BATCH_ROWS)
            rows = places[start : start + BATCH_ROWS]
            _pack_batch(spectra, rows, part, library, kinds, (z[rows], covariance[rows]), model)
    return spectra


def latent_covariance(frame: pd.DataFrame) -> Floats:
    """Return the posterior covariances of the latents of rows, (n, k, k), NaN where unknown."""
    latents = latents_of(frame).shape[1]
    cells = frame["z_cov"] if "z_cov" in frame else [None] * len(frame)
    return unpack(triangles_in(cells, latents))


def quantized_covariance(covariance: Floats) -> tuple[Integers, Integers]:
    """Quantize covariances (n, k, k): logarithms of the widths (k, n), and correlations.

    The widths are in units of `STEP`, and `NO_ERRORS` where a covariance is unknown. The
    correlations are those below the diagonal, row by row, (k (k - 1) / 2, n), in units of
    `CORRELATION_STEP`.
    """
    variance = np.nan_to_num(np.diagonal(covariance, axis1=1, axis2=2))
    std = np.clip(np.sqrt(np.maximum(variance, 0.0)), *_STD_RANGE)
    correlation = np.nan_to_num(covariance) / (std[:, :, None] * std[:, None, :])
    below = np.tril_indices(covariance.shape[1], -1)
    steps = np.rint(np.clip(correlation, -1, 1)[:, below[0], below[1]] / CORRELATION_STEP)
    widths = np.rint(np.log(std) / STEP).astype(np.int64)
    widths[~np.isfinite(covariance).all(axis=(1, 2))] = NO_ERRORS
    return widths.T, steps.astype(np.int64).T


def flux_energies() -> Integers:
    """Return the bins of the energy grid at which a page has the flux, even in the logarithm."""
    middle = EnergyGrid().mid_kev
    wanted = np.geomspace(middle[0], middle[-1], _FLUX_POINTS)
    return np.unique(np.abs(np.log(middle / wanted[:, None])).argmin(axis=1)).astype(np.int64)


def _pack_batch(
    spectra: PackedSpectra,
    rows: npt.NDArray[Any],
    table: pa.Table,
    library: ResponseLibrary,
    kinds: dict[tuple[bytes, bytes], int],
    posterior: tuple[Floats, Floats],
    model: Model | None,
) -> None:
    batch = SpectraBatch.from_table(table, library)
    z, covariance = posterior
    predicted = None if model is None else predict(model, batch, z, covariance)
    counts, others = ([], []) if predicted is None else _quantized(predicted)
    for i, row in enumerate(rows):
        bins = batch.bins[batch.response_index[i]]
        key = bins.lo_kev.tobytes(), bins.hi_kev.tobytes()
        if key not in kinds:
            kinds[key] = len(kinds)
            spectra.bins.append(bins)
        spectra.kind[row] = kinds[key]
        n = len(bins)
        parts = [batch.counts[i, :n].astype(np.int64)]
        if predicted is not None and spectra.has_fold[row]:
            parts += [part[i, :n] for part in counts]
            parts += [part[i] for part in others]
        spectra.rows[row] = varints(np.concatenate(parts))


@dataclass(frozen=True)
class Predicted:
    """Hold the predictions of a model for n spectra.

    `fold` and `background` (n, 256) are counts per channel bin; `flux` (n, points), in
    photon/cm2/s/keV, is the flux at the energies `flux_energies`, averaged at the instrument's
    resolution, and `band` (n, points) is the 68% half width of its logarithm; both have no points
    for a preset without a flux.
    """

    fold: npt.NDArray[np.floating[Any]]
    background: npt.NDArray[np.floating[Any]]
    flux: npt.NDArray[np.floating[Any]]
    band: npt.NDArray[np.floating[Any]]


def predict(model: Model, batch: SpectraBatch, z: Floats, covariance: Floats) -> Predicted:
    """Predict spectra from latents `z` (n, k) with `covariance` (n, k, k)."""
    safe = np.nan_to_num(z)
    fold = model.reconstruct(batch, safe)
    if fold.flux is None:
        nothing = np.zeros((len(z), 0))
        return Predicted(fold.total, fold.background, nothing, nothing)
    chosen = flux_energies()
    source = (fold.total - fold.background).sum(axis=1)
    flux = _at_resolution(batch, fold.flux)[:, chosen]
    band = _flux_scatter(model, batch, safe, covariance, source)[:, chosen]
    return Predicted(fold.total, fold.background, flux, band)


def _at_resolution(batch: SpectraBatch, flux: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Average fluxes (n, ..., n_energy) over the width of a line of each row's response."""
    axes, index = ChannelAxes.of(batch.bins), torch.from_numpy(batch.response_index)
    return np.asarray(at_resolution(torch.from_numpy(flux), EnergyGrid(), axes, index).numpy())


def _quantized(predicted: Predicted) -> tuple[list[Integers], list[Integers]]:
    """Quantize predictions: those per channel bin, and those of the flux."""
    counts = [
        logarithms(part, STEP, LEAST_COUNTS) for part in (predicted.fold, predicted.background)
    ]
    if not predicted.flux.shape[1]:
        return counts, []
    band = np.rint(np.clip(predicted.band, 0, 50) / BAND_STEP).astype(np.int64)
    return counts, [logarithms(predicted.flux, FLUX_STEP, LEAST_FLUX), band]


@torch.no_grad()
def _flux_scatter(
    model: Model, batch: SpectraBatch, z: Floats, covariance: Floats, source: npt.NDArray[Any]
) -> Floats:
    """Return the standard deviation of the flux's logarithm over the posterior, (n, n_energy).

    The flux is averaged at the instrument's resolution. Two deviations are added in quadrature.
    That of the shape follows from the unscented transform (Julier and Uhlmann 2004, Proc. IEEE 92,
    401): the points are z +- sqrt(k) L_j, where L L^T is the covariance of the k latents, each with
    the amplitude that keeps the total of the `source` counts (n,). That of the amplitude is
    sqrt(counts) / source counts.
    """
    network = model.network
    assert isinstance(network, Folded)
    device = next(network.parameters()).device
    latents = z.shape[1]
    values, vectors = np.linalg.eigh(np.nan_to_num(covariance))
    factors = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    steps = np.sqrt(latents) * np.swapaxes(factors, 1, 2)
    points = np.concatenate([z[:, None] + steps, z[:, None] - steps], axis=1)
    tensor = torch.tensor(points.reshape(-1, latents), dtype=torch.float32, device=device)
    shapes = network.log_shape(tensor).cpu().numpy().astype(np.float64)
    shapes = shapes.reshape(*points.shape[:2], -1)
    # A unit of flux in an energy bin brings this many of the counts in the channel bins, up to a
    # factor that is the same for all energies.
    caught = batch.responses.sum(axis=2)[batch.response_index] * batch.arf_cm2
    caught = caught * np.diff(EnergyGrid().edges_kev)
    total = np.einsum("nse,ne->ns", np.exp(shapes), caught)
    logs = shapes - np.log(np.maximum(total, 1e-300))[:, :, None]
    variance = np.log(_at_resolution(batch, np.exp(logs))).var(axis=1)
    amplitude = np.sqrt(batch.counts.sum(axis=1)) / np.maximum(source, 1.0)
    return np.asarray(np.sqrt(variance + amplitude[:, None] ** 2))
