"""The representations compared: their features, and how they are made."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors.torch import save
from sklearn.decomposition import PCA

import raypipe.model
from benchmarks.latents.networks import BATCH_ROWS, Teacher
from benchmarks.latents.responses import GRID
from benchmarks.latents.samples import Sample
from benchmarks.latents.surveys import Survey, code_of, digest
from raypipe.evaluation.baselines import hardness_representation, min_max_rates, root_shares
from raypipe.evaluation.selection import BinnedSpectra
from raypipe.model.encode import encode_batch, reconstruct_batch
from raypipe.model.features import prepare
from raypipe.model.presets import Folded, Paper
from raypipe.model.refine import refine
from raypipe.spectra.band_counts import BANDS_KEV

FloatArray = npt.NDArray[np.float64]

PCA_SIZE = 8


class Rival(ABC):
    """A representation of spectra; `key` identifies its inputs."""

    name: str
    key: str

    def __init__(self, name: str, survey: Survey, *made_of: object) -> None:
        self.name = name
        self.survey = survey
        self.key = digest([name, survey.key, *made_of])

    @abstractmethod
    def features(self, sample: Sample) -> FloatArray:
        """Features of each detection, (n, d)."""

    @cached_property
    def trained(self) -> FloatArray:
        """Features of the training detections."""
        return self.features(self.survey.train)

    @cached_property
    def judged(self) -> FloatArray:
        """Features of the judged detections."""
        return self.features(self.survey.judged)


@dataclass(frozen=True)
class Explained:
    """The output of a network for detections.

    `z`, `z_err`, `z_std` (n, latents); `zscore` (n,), the goodness of fit; `mu` and its part
    `background` (n, bins), expected counts in the source region; `flux` (n, n_energy), None without
    one.
    """

    z: FloatArray
    z_err: FloatArray
    z_std: FloatArray
    zscore: FloatArray
    mu: npt.NDArray[np.float32]
    background: npt.NDArray[np.float32]
    flux: npt.NDArray[np.float32] | None


class Latents(Rival):
    """The latents of a trained autoencoder, refined by `steps` steps of Fisher scoring."""

    def __init__(self, name: str, survey: Survey, network: Folded | Paper, steps: int) -> None:
        weights = hashlib.sha256(save(network.state_dict())).hexdigest()
        code = code_of(raypipe.model) if isinstance(network, Folded) else ""
        super().__init__(name, survey, weights, steps, code)
        self.network = network
        self.steps = steps

    @torch.no_grad()
    def features(self, sample: Sample) -> FloatArray:
        """The latents only."""
        parts = []
        for rows in _chunks(len(sample)):
            batch = prepare(sample.spectra.take(rows))
            z = self.network.encode(batch)
            if self.steps and isinstance(self.network, Folded):
                z = refine(self.network, z, batch, self.steps).z
            parts.append(z.double().numpy())
        return np.concatenate(parts)

    def explain(self, sample: Sample) -> Explained:
        """Latents, errors, goodness of fit and expected counts, as `embed` computes them."""
        parts = []
        for rows in _chunks(len(sample)):
            spectra = sample.spectra.take(rows)
            columns = encode_batch(self.network, spectra, self.steps)
            size = sum(name.endswith("_err") for name in columns)
            z, z_err, z_std = (
                np.stack([columns[name.format(i)] for i in range(size)], 1)
                for name in ("z{}", "z{}_err", "z{}_std")
            )
            fit = reconstruct_batch(self.network, spectra, z.astype(np.float32))
            zscore = columns["fit_zscore"]
            parts.append(Explained(z, z_err, z_std, zscore, fit.total, fit.background, fit.flux))
        return Explained(
            **{
                field.name: _joined([getattr(part, field.name) for part in parts])
                for field in dataclasses.fields(Explained)
            }
        )

    @cached_property
    def explained(self) -> Explained:
        """The output for the judged detections."""
        return self.explain(self.survey.judged)


class RootFlux(Rival):
    """Square roots of the shape of the decoded flux, reduced to 8 components.

    Euclidean distances between them are Hellinger distances between the decoded photon fluxes.
    """

    def __init__(self, latents: Latents) -> None:
        super().__init__("folded, root flux", latents.survey, latents.key)
        self.latents = latents

    @cached_property
    def _pca(self) -> PCA:
        return PCA(PCA_SIZE, random_state=0).fit(self._roots(self.latents.trained))

    @torch.no_grad()
    def _roots(self, z: FloatArray) -> FloatArray:
        network = self.latents.network
        assert isinstance(network, Folded)
        bins = self.latents.survey.train.spectra.bins[0]
        seen = (GRID.mid_kev > bins.lo_kev[0]) & (GRID.mid_kev < bins.hi_kev[-1])
        log_shape = network.log_shape(torch.from_numpy(z).float()).double().numpy()[:, seen]
        shape = np.exp(log_shape - log_shape.max(axis=1, keepdims=True)) * GRID.widths_kev[seen]
        roots: FloatArray = np.sqrt(shape / shape.sum(axis=1, keepdims=True))
        return roots

    def features(self, sample: Sample) -> FloatArray:
        """Components of the roots."""
        return self._reduced(self.latents.features(sample))

    def _reduced(self, z: FloatArray) -> FloatArray:
        reduced: FloatArray = self._pca.transform(self._roots(z))
        return reduced

    @cached_property
    def trained(self) -> FloatArray:
        """Features of the training detections, from existing latents."""
        return self._reduced(self.latents.trained)

    @cached_property
    def judged(self) -> FloatArray:
        """Features of the judged detections, from existing latents."""
        return self._reduced(self.latents.judged)


SCALES = {"min-max rates": min_max_rates, "sqrt shares": root_shares}
"""Ways to scale spectra before the principal component analysis."""


class Components(Rival):
    """Principal components of the detected spectra, fitted to the training ones."""

    def __init__(self, scale: str, survey: Survey) -> None:
        super().__init__(f"PCA-{PCA_SIZE} of {scale}", survey)
        self.scale = SCALES[scale]

    @cached_property
    def _pca(self) -> PCA:
        scaled = self.scale(_binned(self.survey.train)).astype(np.float32)
        return PCA(PCA_SIZE, random_state=0).fit(scaled)

    def features(self, sample: Sample) -> FloatArray:
        """Components of the scaled spectra."""
        components: FloatArray = self._pca.transform(self.scale(_binned(sample)))
        return components


class Hardness(Rival):
    """The three hardness ratios of the CSC's bands, from background-subtracted counts."""

    def __init__(self, survey: Survey) -> None:
        super().__init__("hardness ratios", survey)

    def features(self, sample: Sample) -> FloatArray:
        """The ratios; a channel bin belongs to the band that contains its center."""
        spectra = sample.spectra
        energy = spectra.bins[0].mid_kev  # those of ACIS are the same for every response
        columns = {"background_scale": spectra.background_scale}
        for band, (low, high) in BANDS_KEV.items():
            inside = (energy >= low) & (energy < high)
            columns[f"counts_{band}"] = spectra.counts[:, inside].sum(1)
            columns[f"background_counts_{band}"] = spectra.background_counts[:, inside].sum(1)
        return hardness_representation(pd.DataFrame(columns)).features


RIVALS = ("folded", "paper", "pca", "hardness")
"""Names of the rivals on the command line."""


def make_rivals(names: list[str], teacher: Teacher, steps: int) -> list[Rival]:
    """Make these rivals and train their networks; `folded` also refined, with `steps` given."""
    survey = teacher.survey
    rivals: list[Rival] = []
    if "folded" in names:
        network = teacher.autoencoder("folded")
        variants = [Latents("folded, encoder", survey, network, 0)]
        if steps:
            variants.append(Latents("folded, refined", survey, network, steps))
        rivals += [*variants, RootFlux(variants[-1])]
    if "paper" in names:
        rivals.append(Latents("paper", survey, teacher.autoencoder("paper"), 0))
    if "pca" in names:
        rivals += [Components(scale, survey) for scale in SCALES]
    if "hardness" in names:
        rivals.append(Hardness(survey))
    return rivals


def _binned(sample: Sample) -> BinnedSpectra:
    spectra = sample.spectra
    return BinnedSpectra(
        spectra.counts, spectra.background_counts * spectra.background_scale[:, None]
    )


def _joined(parts: list[Any]) -> Any:
    return None if parts[0] is None else np.concatenate(parts)


def _chunks(rows: int) -> list[npt.NDArray[np.int64]]:
    return np.array_split(np.arange(rows), max(1, -(-rows // BATCH_ROWS)))
