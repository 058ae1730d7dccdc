"""Measure a spectrum with a model: everything that a description needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from raypipe.config import EmbedConfig
from raypipe.describing.cautions import Circumstances, cautions
from raypipe.describing.description import Description, Fit, Flux, Interval, Neighbor
from raypipe.errors import OgipError, UsageError
from raypipe.fits import MODELS, fit_columns
from raypipe.model.bundle import Model
from raypipe.model.card import record_of
from raypipe.model.covariance import unpack
from raypipe.model.features import Batch, prepare
from raypipe.model.fluxes import BandFluxes, band_fluxes
from raypipe.model.posterior import Draws, draw
from raypipe.model.presets import Folded
from raypipe.model.refine import refine
from raypipe.ogip import Spectrum
from raypipe.searching.batched_gaussians import Posteriors
from raypipe.searching.strangest import far_sigmas, fit_sigmas
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.gridding import grid_detection

Floats = npt.NDArray[np.float64]

NEIGHBORS = 10
"""Number of labeled training spectra in a description."""
DRAWS = 512
"""Draws from the posterior: one spectrum affords more than a catalog, and smooth bands."""
_SMALLEST = 1e-12
PARTLY_SEEN = 0.95
"""Share of a band, in the logarithm of energy, below which its flux is partly extrapolated."""


@dataclass(frozen=True)
class Evidence:
    """Hold what the figures of a description need.

    `spectra` is the spectrum on the grid, and `batch` the same as tensors; `z` (1, latents) are its
    latents and `draws` those from their posterior; `apec_dir` names the tables
    with which plasma was fitted, None for raypipe's own.
    """

    network: Folded
    spectra: SpectraBatch
    batch: Batch
    z: npt.NDArray[np.float32]
    draws: Draws
    apec_dir: str | None

    def expected_counts(self) -> Tensor:
        """Return the counts per channel bin (1, bins) that the latents' fold expects."""
        with torch.no_grad():
            return self.network.expected_counts(torch.from_numpy(self.z), self.batch)


def _background_share(spectrum: Spectrum, background: float, total: int) -> float:
    """Return the share of the counts that is background; NaN without counts or a background."""
    if spectrum.background_counts is None or not total:
        return float("nan")
    return background / total


@contextmanager
def on_one_core() -> Iterator[None]:
    """Let PyTorch use one core for the block.

    One spectrum is many small steps, at each of which the threads of other cores have to be waited
    for. A second core gains 0.3 s of 3.8; on a busy machine it makes this several times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_spectrum(
    spectrum: Spectrum, model: Model, network: Folded, config: EmbedConfig
) -> Description:
    """Measure and describe a spectrum, which has its ARF and RMF.

    `network` is that of `model`. Raises OgipError where the model cannot use the spectrum.
    """
    gridded, _ = grid_detection(spectrum, model.grid)
    spectra = SpectraBatch.from_spectra([spectrum])
    row = model.encode_batch(spectra, config=config.without_draws()).iloc[0]
    latents = model.config.model.latents
    z = np.array([row[f"z{i}"] for i in range(latents)], dtype=np.float64)
    if not np.isfinite(z).all():
        raise OgipError(
            spectrum.path,
            "cannot be measured, a number would not be finite: look at its EXPOSURE, BACKSCAL and "
            "AREASCAL, and at its ARF and RMF",
        )
    batch = prepare(spectra)
    draws = _draws(network, batch, config.refine_steps)
    measured = band_fluxes(network, batch, draws)
    fits = _fits(fit_columns(batch, model.grid, tuple(MODELS), config.apec_dir))
    population = model.population
    shares = {name: float(row[f"p_{name}"]) for name in population.classes}
    background = float(batch.background.sum())
    total = int(row["total_counts"])
    ess = float(draws.ess[0])
    circumstances = Circumstances(
        spectrum=spectrum,
        gridded=gridded,
        total_counts=total,
        background=background,
        fluxes=_fluxes(measured),
        far_sigmas=float(far_sigmas(_posterior(z, row["z_cov"]), population)[0]),
        fit_sigmas=_fit_sigmas(row),
        effective_share=ess / draws.weights.shape[1],
    )
    return Description(
        file=spectrum.path,
        object=str(spectrum.header.get("OBJECT") or "").strip(),
        telescope=gridded.telescope,
        instrument=gridded.instrument,
        exposure_s=gridded.exposure_s,
        total_counts=total,
        background_share=_background_share(spectrum, background, total),
        fluxes=circumstances.fluxes,
        fits=fits,
        cash=float(row["cash"]),
        cash_expected=float(row["cash_expected"]),
        fit_zscore=float(row["fit_zscore"]),
        n_bins=int(row["n_bins"]),
        anomaly_score=float(row["anomaly_score"]),
        posterior_ess=ess,
        classes=dict(sorted(shares.items(), key=lambda item: -item[1])),
        classes_from=classes_from(model),
        neighbors=nearest_references(z, unpack(row["z_cov"][None])[0], model),
        n_references=len(population.reference_z),
        references=kind_of_references(model),
        warnings=cautions(circumstances, model),
        model_id=model.model_id,
        evidence=Evidence(
            network, spectra, batch, z[None].astype(np.float32), draws, config.apec_dir
        ),
    )


def nearest_references(z: Floats, covariance: Floats, model: Model) -> tuple[Neighbor, ...]:
    """Return the labeled training spectra nearest to latents (k,) of this covariance (k, k).

    The latents of the references are taken as exact: the model does not keep their errors.
    """
    population = model.population
    apart = population.reference_z - z
    squares = np.einsum("rk,kl,rl->r", apart, np.linalg.inv(covariance), apart)
    nearest = np.argsort(squares, kind="stable")[:NEIGHBORS]
    separation = np.linalg.norm(apart[nearest], axis=1)
    along = apart[nearest] / np.maximum(separation, _SMALLEST)[:, None]
    errors = np.sqrt(np.einsum("rk,kl,rl->r", along, covariance, along))
    names = population.reference_names
    return tuple(
        Neighbor(
            label=population.classes[population.reference_class[row]],
            distance=float(np.sqrt(squares[row])),
            separation=float(separation[place]),
            separation_err=float(errors[place]),
            name=names[row] if names else None,
            source=f"{int(population.reference_source[row]) & 0xFFFFFFFFFFFFFFFF:016x}",
        )
        for place, row in enumerate(nearest)
    )


def classes_from(model: Model) -> str:
    """State what the class probabilities of a model are of."""
    population = model.population
    if not population.classes:
        return "the model was trained without class labels"
    trained_on = record_of(model).trained_on
    kind = kind_of_references(model)
    origin = f" of {trained_on.survey}" if trained_on.survey else ""
    return (
        f"probabilities for a source drawn from the {len(population.reference_z):,} {kind}{origin} "
        f"that {model.model_id} was trained on, with all {len(population.classes)} classes equally "
        "frequent; a source of another kind gets the class that it resembles most"
    )


def kind_of_references(model: Model) -> str:
    """Name the spectra that class probabilities and neighbors are from."""
    simulated = record_of(model).trained_on.simulated
    kind = {True: "simulated ", False: "observed ", None: ""}[simulated]
    return f"labeled {kind}spectra"


def _draws(network: Folded, batch: Batch, steps: int) -> Draws:
    refined = refine(network, network.encode(batch), batch, steps)
    return draw(network, refined, batch, DRAWS, thorough=True)


def _fluxes(measured: BandFluxes) -> dict[str, Flux]:
    """Return the energy flux of each band of which the instrument sees enough."""
    estimate, seen = measured.energy_flux, measured.seen[0].tolist()
    fluxes = {}
    for place, band in enumerate(measured.bands):
        value, lolim, hilim, limit = (
            float(each[0, place])
            for each in (estimate.value, estimate.lolim, estimate.hilim, estimate.upper_limit)
        )
        upper_limit = limit if np.isfinite(limit) else None
        fluxes[band] = Flux(value, lolim, hilim, upper_limit, seen[place] < PARTLY_SEEN)
    return fluxes


def _fits(columns: Mapping[str, npt.NDArray[np.floating]]) -> dict[str, Fit]:
    """Group the columns of fits by model: <model>_stat, and parameters with their limits."""
    numbers = {name: each for name, each in columns.items() if each.dtype.kind == "f"}
    values = {name: float(column[0]) for name, column in numbers.items()}
    found = {}
    for name in (column.removesuffix("_stat") for column in values if column.endswith("_stat")):
        parameters = [
            each for each in values if each.startswith(f"{name}_") and f"{each}_lolim" in values
        ]
        found[name] = Fit(
            stat=values[f"{name}_stat"],
            parameters={
                each: Interval(values[each], values[f"{each}_lolim"], values[f"{each}_hilim"])
                for each in parameters
            },
        )
    return found


def _fit_sigmas(row: pd.Series) -> float:
    names = ("cash", "cash_expected", "fit_zscore")
    return float(fit_sigmas(*(np.array([row[name]], np.float64) for name in names))[0])


def _posterior(z: Floats, triangle: npt.NDArray[np.float32]) -> Posteriors:
    return Posteriors(z.astype(np.float32)[:, None], triangle.astype(np.float32)[:, None])


def folded_network(model: Model) -> Folded:
    """Return the network of a model; raise UsageError if it has no flux."""
    if not isinstance(model.network, Folded):
        raise UsageError(
            f"{model.model_id}: preset {model.preset} has no flux: give a model of preset folded"
        )
    return model.network
