"""Pairs of spectra and views with a known relation, for tests of alignment."""

from __future__ import annotations

from typing import Any

import numpy as np

from raypipe.aligning.data import Division, divide
from raypipe.aligning.fit import Fitted, fit
from raypipe.aligning.measure import gallery_rows
from raypipe.aligning.pairs import Pairs
from raypipe.alignment.bundle import About, Alignment
from raypipe.alignment.spectrum_inputs import LatentPosteriors
from raypipe.alignment.view_table import ViewColumn
from raypipe.alignment.views import ViewScale
from raypipe.config import Config
from raypipe.config_align import AlignConfig

LATENTS = 4
QUICK: dict[str, Any] = {"width": 32, "epochs": 40, "batch_size": 64, "dropout": 0.0}
"""Settings with which a toy is aligned in about a second."""


def posteriors(
    rng: np.random.Generator, n: int, error: float, latents: int = LATENTS
) -> LatentPosteriors:
    """Latents of a unit normal, all with the same error."""
    factors = np.broadcast_to(error * np.eye(latents), (n, latents, latents)).copy()
    return LatentPosteriors(rng.standard_normal((n, latents)), factors)


def linear_view(z: np.ndarray, rng: np.random.Generator, noise: float = 0.1) -> list[ViewColumn]:
    """A vector that is a rotation of the latents, and their first one as a number."""
    latents = z.shape[1]
    rotation = np.linalg.qr(rng.standard_normal((latents, latents)))[0]
    seen = z @ rotation + noise * rng.standard_normal(z.shape)
    return [
        ViewColumn("turned", "vector", seen.astype(np.float32)),
        ViewColumn("first", "number", z[:, 0] + noise * rng.standard_normal(len(z))),
    ]


class Toy:
    """Align a view with the latents of n sources, and judge it on those held out."""

    def __init__(
        self,
        columns: list[ViewColumn],
        known: LatentPosteriors,
        config: AlignConfig,
        sources: np.ndarray | None = None,
    ) -> None:
        n = len(known)
        self.config = config
        keys = np.arange(n, dtype=np.int64) if sources is None else sources
        self.division: Division = divide(keys, config)
        self.scale = ViewScale.fit([c.take(self.division.train) for c in columns], 64)
        view = self.scale.transform(columns)
        self.pairs = Pairs(known, view, np.arange(n), keys, view.row_groups())

    def fit(self, permuted: bool = False) -> Fitted:
        parts = [self.pairs.take(r) for r in (self.division.train, self.division.validation)]
        if permuted:
            parts = [part.permuted(seed) for seed, part in enumerate(parts)]
        return fit(*parts, self.scale, self.config)

    def alignment(self, permuted: bool = False) -> Alignment:
        about = About("align-toy", "sim", "toy", "toy.parquet", "name")
        config = Config.model_validate({"align": self.config.model_dump()})
        return Alignment(about, config, self.fit(permuted).network)

    def judged(self, permuted: bool = False) -> Pairs:
        test = self.pairs.take(self.division.test)
        test = test.permuted(9) if permuted else test
        return test.take(gallery_rows(test, 0))
