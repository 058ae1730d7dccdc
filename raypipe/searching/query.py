"""Read a user's spectrum and measure it with the catalog's model, as a query."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.catalog.hardness import hardness_ratios
from raypipe.config import EmbedConfig
from raypipe.errors import OgipError
from raypipe.model.bundle import Model
from raypipe.model.covariance import unpack
from raypipe.ogip import Spectrum, read_spectrum
from raypipe.searching.batched_gaussians import Posteriors
from raypipe.searching.causes import known_causes
from raypipe.searching.neighbors import Posterior
from raypipe.searching.strangest import far_sigmas, fit_sigmas
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.gridding import grid_detection

File = str | os.PathLike[str]


@dataclass(frozen=True)
class SpectrumFiles:
    """Name a PHA file, and files that replace those named in its header."""

    pha: File
    arf: File | None = None
    rmf: File | None = None
    background: File | None = None

    def read(self) -> Spectrum:
        """Read the spectrum; raise OgipError, with a remedy, if its ARF or RMF is missing.

        Its `warnings` collect the peculiarities of the files, which are not printed.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = {"arf": self.arf, "rmf": self.rmf, "background": self.background}
            spectrum = read_spectrum(
                self.pha, **{kind: file for kind, file in given.items() if file is not None}
            )
        has_area = spectrum.arf or (spectrum.rmf is not None and spectrum.rmf.includes_area)
        for kind, key, found in (
            ("ARF", "ANCRFILE", has_area),
            ("RMF", "RESPFILE", spectrum.rmf),
        ):
            if not found:
                named = str(spectrum.header.get(key, "")).strip()
                mend = f"give --{kind.lower()} FILE"
                if not named.lower().startswith(("none", "caldb")):
                    where = f"{named}, which {key} names," if named else f"its {kind}"
                    mend = f"put {where} beside it, or {mend}"
                raise OgipError(spectrum.path, f"its {kind} is missing: {mend}")
        return spectrum


@dataclass(frozen=True)
class Measured:
    """Hold a spectrum's latents, and the values that describe it, as in a row of the catalog."""

    posterior: Posterior
    description: dict[str, Any]


_FIT = ("cash", "cash_expected", "fit_zscore")


def measure_spectrum(spectrum: Spectrum, model: Model, config: EmbedConfig) -> Measured:
    """Measure the latents of a spectrum, which has its ARF and RMF, with the settings `config`.

    Raises OgipError if the model cannot use it.
    """
    gridded, _ = grid_detection(spectrum, model.grid)
    batch = SpectraBatch.from_spectra([spectrum])
    row = model.encode_batch(batch, config=config.without_draws()).iloc[0]
    if np.isnan(row["z0"]):
        raise OgipError(
            spectrum.path,
            "cannot be measured, a number would not be finite: look at its EXPOSURE, BACKSCAL and "
            "AREASCAL, and at its ARF and RMF",
        )
    latents = model.config.model.latents
    z = np.array([row[f"z{i}"] for i in range(latents)], dtype=np.float64)
    shares = {name: float(row[f"p_{name}"]) for name in model.population.classes}
    likely = max(shares, key=lambda name: shares[name], default=None)
    flags = "|".join(gridded.flags)
    judged = {
        "flags": flags,
        "exposure_s": gridded.exposure_s,
        "background_scale": gridded.background_scale,
        **gridded.bands,
    }
    description = {
        "file": spectrum.path,
        "total_counts": int(row["total_counts"]),
        **({"likely_class": likely, "p_likely_class": shares[likely]} if likely else {}),
        "hardness": float(hardness_ratios(pd.DataFrame([judged]))["hard_hs"].iloc[0]),
        "fit_zscore": float(row["fit_zscore"]),
        "anomaly_score": float(row["anomaly_score"]),
        "far_sigmas": float(far_sigmas(_posteriors(z, row["z_cov"]), model.population)[0]),
        "fit_sigmas": float(fit_sigmas(*row[list(_FIT)].to_numpy(np.float64)[:, None])[0]),
        "flags": flags,
        "causes": known_causes(pd.DataFrame([judged]))[0],
        "notes": list(spectrum.warnings),
    }
    return Measured(Posterior(z, unpack(row["z_cov"][None])[0]), description)


def _posteriors(z: npt.NDArray[np.float64], triangle: npt.NDArray[np.float32]) -> Posteriors:
    """Put the latents of one spectrum into the columns that `far_sigmas` expects."""
    return Posteriors(z.astype(np.float32)[:, None], triangle.astype(np.float32)[:, None])
