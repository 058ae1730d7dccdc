"""Search across an alignment: spectra like a view or a text, and views like a spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.alignment.opened import OpenedAlignment, open_alignment
from raypipe.alignment.spectrum_inputs import LatentPosteriors
from raypipe.catalog.added_columns import read_whole
from raypipe.ogip import Spectrum
from raypipe.searching.latent_search import LatentSearch, require_positive
from raypipe.searching.lookup import rows_of
from raypipe.searching.neighbors import Posterior
from raypipe.searching.query import measure_spectrum

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ViewSearch:
    """Hold the detections of a catalog and the rows of a view, in their shared space.

    `shared` (n, dimensions) are the unit vectors of the searched detections, NaN where one has
    none. Answers are DataFrames as those of `LatentSearch`, ranked by `similarity`, the cosine.
    """

    latents: LatentSearch
    opened: OpenedAlignment
    shared: Float32

    def like_view(self, view: str, k: int = 10) -> pd.DataFrame:
        """Find the k detections most similar to a row of the view, or to values given as JSON.

        A row is called by its name, its detection_id or #N. Column `is_own` marks detections of
        the source of that row. Raises UsageError for an unknown row, or values that do not fit.
        """
        if view.lstrip().startswith(("[", "{")):
            query = {"view": view}
            return self._spectra(self.opened.embed_values(view), query, None, k)
        row = self.opened.find_row(view)
        facts = {name: column[row].as_py() for name, column in self._columns()}
        return self._spectra(self.opened.shared[row], facts, facts.get("name"), k)

    def like_text(self, text: str, k: int = 10) -> pd.DataFrame:
        """Find the k detections most similar to a text, by the encoder of the alignment."""
        return self._spectra(self.opened.embed_text(text), {"text": text}, None, k)

    def views_like(self, posterior: Posterior, query: dict[str, Any], k: int = 10) -> pd.DataFrame:
        """Find the k rows of the view most similar to a spectrum."""
        covariance = np.nan_to_num(posterior.covariance)
        factors = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(covariance)))
        own = LatentPosteriors(posterior.z[None], factors[None].astype(np.float64))
        similarity = self.opened.shared @ self.opened.alignment.embed_spectra(own)[0]
        best = _best(similarity, k)
        found = self.opened.rows.take(best).to_pandas()
        found.insert(0, "rank", np.arange(1, len(found) + 1))
        found["similarity"] = similarity[best]
        return self._answered(found, query)

    def views_like_detection(self, detection_id: str, k: int = 10) -> pd.DataFrame:
        """Find the rows of the view most similar to a detection; see `views_like`."""
        rows, row = self.latents.detections, self.latents.row_of_detection(detection_id)
        return self.views_like(rows.posterior(row), rows.describe_row(row), k)

    def views_like_source(self, name: str, k: int = 10) -> pd.DataFrame:
        """Find the rows of the view most similar to a source; see `views_like`."""
        rows, row = self.latents.sources, self.latents.row_of_source(name)
        return self.views_like(rows.posterior(row), rows.describe_row(row), k)

    def views_like_spectrum(self, spectrum: Spectrum, k: int = 10) -> pd.DataFrame:
        """Find the rows of the view most similar to your own spectrum; see `views_like`."""
        measured = measure_spectrum(spectrum, self.latents.model, self.latents.config)
        return self.views_like(measured.posterior, measured.description, k)

    def _spectra(
        self, vector: Float32, query: dict[str, Any], own: str | None, k: int
    ) -> pd.DataFrame:
        similarity = self.shared @ vector
        best = _best(similarity, k)
        found = self.latents.detections.describe(best, similarity=similarity[best])
        if own is not None:
            mine = rows_of(self.latents.detections.table["name"], own)
            found["is_own"] = np.isin(best, mine)
        found.insert(0, "rank", np.arange(1, len(found) + 1))
        return self._answered(found, query)

    def _answered(self, found: pd.DataFrame, query: dict[str, Any]) -> pd.DataFrame:
        about = self.opened.alignment.about
        found.attrs["searched"] = {
            "release": self.latents.release,
            "model_id": self.latents.model_id,
            "detections": len(self.latents.detections),
            "alignment_id": about.alignment_id,
            "views": self.opened.rows.num_rows,
            "table": about.table,
            "found": "views" if "row" in found else "detections",
        }
        found.attrs["query"] = query
        return found

    def _columns(self) -> list[tuple[str, Any]]:
        return [(name, self.opened.rows[name]) for name in self.opened.rows.column_names]


def open_view_search(latents: LatentSearch) -> ViewSearch:
    """Open the alignment of a searched catalog; raises UsageError if it has none."""
    store, release, model_id = latents.workspace, latents.release, latents.model_id
    opened = open_alignment(store, release=release, model=model_id)
    names = [f"shared_{i}" for i in range(opened.alignment.dimensions)]
    columns = ["detection_id", *names]
    table = read_whole(store, release, model_id, "detections", columns, stale="refuse").to_pandas()
    wanted = latents.detections.table["detection_id"].to_pylist()
    shared = table.set_index("detection_id").loc[wanted, names].to_numpy(np.float32)
    return ViewSearch(latents, opened, shared)


def _best(similarity: Float32, k: int) -> npt.NDArray[np.int64]:
    """Return the rows of the k largest similarities, best first; NaN is never among them."""
    require_positive(k)
    order = np.argsort(-np.nan_to_num(similarity, nan=-np.inf), kind="stable")[:k]
    return order[np.isfinite(similarity[order])]
