"""Save and load trained models: weights, configuration, metrics and a model card."""

from __future__ import annotations

import hashlib
import os
import tomllib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from raypipe.box import MODEL_ID, box_folder
from raypipe.config import Config, EmbedConfig
from raypipe.config_toml import load_config
from raypipe.errors import OgipError, RaypipeError, UsageError
from raypipe.model.bundle_weights import (
    description_of,
    metadata_of,
    population_from,
    population_tensors,
    read_description,
)
from raypipe.model.card import model_card, model_summary, record_of
from raypipe.model.channel_axes import ChannelAxes
from raypipe.model.encode import (
    PosteriorSample,
    Reconstruction,
    as_frame,
    blank_unmeasured,
    encode_batch,
    reconstruct_batch,
    sample_batch,
)
from raypipe.model.flux_answers import density_of, flux_frame, require_draws
from raypipe.model.flux_density import FluxDensity, at_resolution
from raypipe.model.flux_errors import FluxErrors
from raypipe.model.inputs import SpectrumOrPath, identity_of, latents_in, read_all
from raypipe.model.integrity import (
    HASH,
    require_finite,
    require_population,
    safetensors_metadata,
)
from raypipe.model.latent_population import Population
from raypipe.model.presets import Folded, Paper, build, flux_errors_of
from raypipe.ogip import Spectrum
from raypipe.spectra.band_counts import BANDS_KEV
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.grid import EnergyGrid
from raypipe.store.workspace import Workspace, check_name

if TYPE_CHECKING:
    from raypipe.display.spectrum_figure import BinnedSpectrum

_MAX_WEIGHTS_BYTES = 1 << 30


@dataclass
class Model:
    """Hold a trained autoencoder with the population on which it was trained.

    `train_sources` and `validation_sources` hold the keys of the sources it has seen
    (`raypipe.identity.source_keys`), sorted; `fingerprint` is a hash of what the bundle holds.
    """

    model_id: str
    config: Config
    grid: EnergyGrid
    network: Folded | Paper
    population: Population
    train_sources: npt.NDArray[np.int64]
    validation_sources: npt.NDArray[np.int64]
    metrics: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def __repr__(self) -> str:
        classes = ", ".join(self.population.classes) or "no classes"
        return (
            f"Model({self.model_id}: preset {self.preset}, {self.config.model.latents} latents, "
            f"trained on {record_of(self).trained_on.sources or 0} sources; {classes})"
        )

    @property
    def preset(self) -> str:
        """Return the name of the recipe: folded or paper."""
        return self.network.name

    def _repr_html_(self) -> str:
        from raypipe.display.table import summary_table

        return summary_table(f"Model {self.model_id}", model_summary(self))

    def encode(self, spectra: SpectrumOrPath | Iterable[SpectrumOrPath]) -> pd.DataFrame:
        """Measure latents and goodness of fit of spectra, or of PHA files given by their paths.

        Returns one row per spectrum: detection_id and path of its file (`identity_of`), then z0..,
        z0_err.., z0_std.., z_cov, total_counts, cash, cash_expected, fit_zscore, anomaly_score and
        p_<class> as in the catalog. Each spectrum needs its ARF and RMF. A spectrum that cannot be
        measured, for instance without counts, has NaN latents, and a warning names it. Raises
        OgipError naming the file that cannot be read or that the model cannot use.
        """
        listed = read_all(spectra)
        frame = self.encode_batch(SpectraBatch.from_spectra(listed))
        for row in np.flatnonzero(frame["z0"].isna()):
            warnings.warn(f"{listed[row].path}: cannot be measured: latents are NaN", stacklevel=2)
        return pd.concat([pd.DataFrame(identity_of(listed)), frame], axis=1)

    def encode_batch(
        self,
        spectra: SpectraBatch,
        sources: npt.NDArray[np.int64] | None = None,
        config: EmbedConfig | None = None,
    ) -> pd.DataFrame:
        """Return the measured columns of the catalog for a batch; see `encode`.

        A row is NaN, except for `total_counts`, if one of its numbers would not be finite.
        `sources` (n,) are the keys of the rows' sources, so that their own training detections
        have no vote on their class. `config` defaults to the settings of the training, without
        posterior draws.
        """
        config = config or self.config.embed.without_draws()
        columns = encode_batch(
            self.network,
            spectra,
            config.refine_steps,
            config.errors,
            config.posterior_draws,
            config.fluxes,
        )
        latents = self.config.model.latents
        z = np.stack([columns[f"z{i}"] for i in range(latents)], 1).astype(np.float64)
        columns["anomaly_score"] = self.population.anomaly_score(z)
        probabilities = self.population.class_probabilities(z, sources, config.class_scheme)
        for name, column in zip(self.population.classes, probabilities.T, strict=True):
            columns[f"p_{name}"] = column
        blank_unmeasured(columns, errors=config.errors and isinstance(self.network, Folded))
        return as_frame(columns)

    def sample(
        self,
        spectra: SpectraBatch | SpectrumOrPath | Iterable[SpectrumOrPath],
        n: int = 1000,
        seed: int | None = None,
    ) -> PosteriorSample:
        """Draw `n` times from the exact posterior of each spectrum, with equal weights.

        Returns latents (spectra, n, latents), log amplitudes (spectra, n) and effective numbers of
        draws. Without a seed the draws are the same every time. Raises UsageError for preset paper,
        which has no likelihood.
        """
        if not isinstance(self.network, Folded):
            raise UsageError(f"{self.model_id}: preset {self.preset} has no posterior; use folded")
        require_draws(n)
        batch = self._batch(spectra)
        return sample_batch(self.network, batch, self.config.embed.refine_steps, n, seed)

    def reconstruct(
        self,
        spectra: SpectraBatch | SpectrumOrPath | Iterable[SpectrumOrPath],
        z: npt.ArrayLike | pd.DataFrame | None = None,
    ) -> Reconstruction:
        """Predict the counts of spectra, paths or a batch from latents.

        `z` (n, latents) is an array or what `encode` returned; without it the spectra are encoded.
        A row without latents is NaN.
        """
        batch = self._batch(spectra)
        z = self.encode_batch(batch) if z is None else z
        return reconstruct_batch(self.network, batch, latents_in(z, self.config.model.latents))

    def flux(
        self,
        spectra: SpectraBatch | SpectrumOrPath | Iterable[SpectrumOrPath],
        z: npt.ArrayLike | pd.DataFrame | None = None,
        smooth: bool = False,
    ) -> npt.NDArray[np.float32]:
        """Return the photon flux density of spectra, with the instrument's response removed.

        It is (n, n_energy), photon/cm2/s/keV, at the energies `model.grid.mid_kev`. The
        arguments are those of `reconstruct`. From bin to bin the flux is rough, for the bins are
        finer than any response resolves: fold or integrate it as it is, but draw it with `smooth`,
        which averages it at the instrument's resolution. Raises UsageError for preset paper, which
        has no flux.
        """
        batch = self._batch(spectra)
        flux = self.reconstruct(batch, z).flux
        if flux is None:
            raise self._has_no_flux
        if not smooth:
            return flux
        axes = ChannelAxes.of(batch.bins)
        index = torch.from_numpy(batch.response_index)
        return at_resolution(torch.from_numpy(flux), self.grid, axes, index).numpy()

    def band_flux(
        self,
        spectra: SpectraBatch | SpectrumOrPath | Iterable[SpectrumOrPath],
        bands: Mapping[str, tuple[float, float]] = BANDS_KEV,
        draws: int = 256,
    ) -> pd.DataFrame:
        """Measure the fluxes of spectra in energy bands, given by name with their edges in keV.

        Returns one row per spectrum. For each band, flux_<band> (erg/cm2/s) and photflux_<band>
        (photon/cm2/s) are medians of posterior draws, with _lolim and _hilim of 68%, which contain
        the error of the model where it is known (`FluxErrors`). They are absorbed fluxes. Where the
        source is not detected in a band, _lolim is 0 and _hilim the 90% upper limit, which
        _upper_limit holds, too; elsewhere that is NaN. seen_<band> is the share of the band that
        the instrument sees; fluxes are NaN below two thirds. Raises UsageError for a band outside
        0.2-12 keV, and for preset paper.
        """
        batch, steps = self._batch(spectra), self.config.embed.refine_steps
        if not isinstance(self.network, Folded):
            raise self._has_no_flux
        require_draws(draws)
        return flux_frame(self.network, batch, bands, steps, draws)

    def flux_density(
        self, spectra: SpectraBatch | SpectrumOrPath | Iterable[SpectrumOrPath], draws: int = 256
    ) -> FluxDensity:
        """Measure the photon flux density of spectra at the instrument's resolution, with limits.

        Value and 68% limits are quantiles of posterior draws, each averaged over the width of a
        line. Raises UsageError for preset paper.
        """
        batch, steps = self._batch(spectra), self.config.embed.refine_steps
        if not isinstance(self.network, Folded):
            raise self._has_no_flux
        require_draws(draws)
        return density_of(self.network, batch, steps, draws)

    @property
    def _has_no_flux(self) -> UsageError:
        return UsageError(f"{self.model_id}: preset {self.preset} has no flux; use folded")

    def _batch(
        self, spectra: SpectraBatch | SpectrumOrPath | Iterable[SpectrumOrPath]
    ) -> SpectraBatch:
        if isinstance(spectra, SpectraBatch):
            return spectra
        return SpectraBatch.from_spectra(read_all(spectra))

    def binned(self, spectrum: Spectrum) -> BinnedSpectrum:
        """Return a spectrum's counts in the model's channel bins, with those it expects.

        Raises OgipError if the spectrum cannot be measured.
        """
        from raypipe.display.spectrum_figure import BinnedSpectrum

        batch = SpectraBatch.from_spectra([spectrum])
        latents = self.encode_batch(batch)
        if latents["z0"].isna().any():
            raise OgipError(spectrum.path, "cannot be measured: it has no finite latents")
        fold, bins = self.reconstruct(batch, latents), batch.bins[0]
        counts, model, background = (
            values[0, : len(bins)].astype(np.float64)
            for values in (batch.counts, fold.total, fold.background)
        )
        return BinnedSpectrum(
            counts=counts,
            model=model,
            background=background,
            edges_kev=np.append(bins.lo_kev, bins.hi_kev[-1]),
            exposure_s=spectrum.exposure_s,
        )

    def split_of(self, sources: npt.NDArray[np.int64]) -> npt.NDArray[np.str_]:
        """Return how each source was used: "train", "validation", or "test" for not at all."""
        seen = np.where(np.isin(sources, self.validation_sources), "validation", "test")
        return np.where(np.isin(sources, self.train_sources), "train", seen)


def save_model(model: Model, workspace: Workspace, folder: str) -> None:
    """Write a model bundle; the weights come last, so that a bundle with weights is complete."""
    tensors = {
        f"network.{name}": value.detach().cpu().contiguous().numpy()
        for name, value in model.network.state_dict().items()
    }
    tensors |= population_tensors(model.population)
    tensors["sources.train"] = model.train_sources
    tensors["sources.validation"] = model.validation_sources
    if (flux_errors := flux_errors_of(model.network)) is not None:
        tensors |= flux_errors.tensors()
    description = description_of(model.model_id, model.grid, model.population)
    config = model.config.to_toml().encode()
    workspace.write_bytes(f"{folder}/config.toml", config)
    workspace.write_json(f"{folder}/metrics.json", model.metrics)
    workspace.write_bytes(f"{folder}/README.md", model_card(model).encode())
    weights = save_tensors(tensors, metadata=metadata_of(description, config, tensors))
    workspace.write_bytes(f"{folder}/model.safetensors", weights)


def load_model(path: str | os.PathLike[str] | None = None) -> Model:
    """Open a model bundle, a folder or s3:// prefix; by default the model in the box.

    `path` may also be the id of the model in the box, unless there is a bundle of that name in the
    working directory. Each call reads the bundle, which takes about 30 ms, and returns a new Model:
    one caller can move the network to a GPU without affecting another.

    Raises RaypipeError if it is not a bundle, is incomplete, has changed since it was saved, holds
    impossible numbers, or was made for another grid. The first bundles of this format carry no
    hash: in these, a change is noticed only if it makes the numbers impossible.
    """
    bundle = _locate(path)
    where = bundle.absolute_uri("model.safetensors")
    if not bundle.exists("model.safetensors"):
        raise RaypipeError(f"{where}: no such file; {bundle.uri} is not a model bundle")
    size = bundle.fs.get_file_info(bundle.path("model.safetensors")).size
    if size > _MAX_WEIGHTS_BYTES:
        raise RaypipeError(f"{where}: {size} bytes are more than a model bundle has")
    data = bundle.read_bytes("model.safetensors")
    config_bytes = bundle.read_bytes("config.toml")
    try:
        tensors = load_tensors(data)
        grid = EnergyGrid()
        header = read_description(data, config_bytes, tensors, grid, where)
        require_finite(tensors)
        config = load_config(settings=tomllib.loads(config_bytes.decode()))
        network = build(config.model, grid)
        network.load_state_dict(
            {
                name.removeprefix("network."): torch.from_numpy(value)
                for name, value in tensors.items()
                if name.startswith("network.")
            }
        )
        if isinstance(network, Folded):
            network.flux_errors = FluxErrors.from_tensors(tensors)
        population = population_from(tensors, header)
        require_population(population, config.model.latents)
        model_id = check_name(str(header["model_id"]), "model")
        sources = tensors["sources.train"], tensors["sources.validation"]
    except UsageError as error:
        raise RaypipeError(f"{bundle.absolute_uri()}: {error}; train it again") from error
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise RaypipeError(
            f"{where}: not a whole raypipe model ({error}); train it again"
        ) from error
    network.eval()
    metrics = bundle.read_object("metrics.json", {})
    # The order of the metadata in the file is not fixed, so that equal models have unequal files.
    fingerprint = safetensors_metadata(data).get(HASH) or hashlib.sha256(data).hexdigest()
    return Model(model_id, config, grid, network, population, *sources, metrics, fingerprint)


def _locate(path: str | os.PathLike[str] | None) -> Workspace:
    """Return the folder of a bundle, as described by `load_model`."""
    if path is None:
        return Workspace(box_folder())
    given = Workspace(path)
    if os.fspath(path) == MODEL_ID and not given.exists("model.safetensors"):
        return Workspace(box_folder())
    return given
