"""Open a latent catalog once and search it many times."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raypipe.config import Config, EmbedConfig
from raypipe.config_toml import as_config
from raypipe.errors import UsageError
from raypipe.model.bundle import Model, load_model
from raypipe.model.choice import choose_model
from raypipe.ogip import Spectrum
from raypipe.searching.batched_gaussians import Rows
from raypipe.searching.catalog import SearchedRows, read_detection_rows, read_source_rows
from raypipe.searching.lookup import (
    id_called,
    nearest_spellings,
    position_in,
    rows_of,
    separations_arcsec,
    why_unnamed,
)
from raypipe.searching.neighbors import Posterior, nearest
from raypipe.searching.query import SpectrumFiles, measure_spectrum
from raypipe.searching.strangest import (
    BADLY_FIT,
    FAR,
    Significances,
    far_sigmas,
    fit_sigmas,
)
from raypipe.store.layout import model_folder
from raypipe.store.manifest import choose_release
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)
_NOBODY = np.array([], dtype=np.int64)


@dataclass(frozen=True)
class LatentSearch:
    """Hold the detections of a catalog in memory: 0.75 GB per million, about 0.1 s per query.

    Answers are DataFrames, best first. `attrs["searched"]` names the release, the model and the
    number of detections among which the answer was found, `attrs["query"]` describes the query.
    Columns: rank, detection_id, name, ra, dec, class (if the catalog has it), likely_class and
    p_likely_class, total_counts, hardness ((h - s) / (h + s) of net counts), log_overlap (which
    sets the rank), distance, euclidean and log_bayes_factor as defined in
    `raypipe.searching.neighbors`, flags, and causes in the instrument for which the spectrum may
    look as it does (`raypipe.searching.causes`).
    """

    workspace: Workspace
    release: str
    model_id: str
    detections: SearchedRows
    config: EmbedConfig

    def __repr__(self) -> str:
        return (
            f"LatentSearch({self.workspace.uri}: {self.release} by {self.model_id}, "
            f"{len(self.detections)} detections)"
        )

    def _repr_html_(self) -> str:
        from raypipe.display.table import summary_table

        rows = {
            "workspace": self.workspace.uri,
            "release": self.release,
            "model": self.model_id,
            "detections": f"{len(self.detections):,}",
        }
        return summary_table("LatentSearch", rows)

    @cached_property
    def sources(self) -> SearchedRows:
        """Return the table of sources, loaded on first use."""
        return read_source_rows(self.workspace, self.release, self.model_id)

    @cached_property
    def model(self) -> Model:
        """Return the model of the catalog; raise RaypipeError if the workspace no longer has it."""
        return load_model(self.workspace.absolute_uri(model_folder(self.model_id)))

    def like_detection(self, detection_id: str, k: int = 10) -> pd.DataFrame:
        """Find the k detections most similar to one of the catalog, which is left out itself.

        Other detections of the same source may be among them. Raises UsageError for an unknown id.
        """
        row = self.row_of_detection(detection_id)
        description = self.detections.describe_row(row)
        return self._like(self.detections.posterior(row), description, k, np.array([row]))

    def row_of_detection(self, detection_id: str) -> int:
        """Return the row of a detection; raises UsageError for an unknown id."""
        return int(_only(self.detections, "detection_id", detection_id, "detection")[0])

    def row_of_source(self, name: str) -> int:
        """Return the row of a source; raises UsageError for an unknown name."""
        return int(_only(self.sources, "name", name, "source")[0])

    def like_source(self, name: str, k: int = 10) -> pd.DataFrame:
        """Find the k detections most similar to a source, whose own detections are left out.

        The query is the combined posterior of the source's detections. A name that is no source's
        but a detection's id, with or without its beginning ("file:"), is taken as that. Raises
        UsageError for an unknown name.
        """
        if not len(rows_of(self.sources.table["name"], name)):
            ids = (
                self.detections.table["detection_id"],
                self.detections.unmeasured["detection_id"],
            )
            known = (id_called(some, name, self.release) for some in ids)
            if detection_id := next(filter(None, known), None):
                log.info("%s: no source has this name; taken as %s", name, detection_id)
                return self.like_detection(detection_id, k)
            columns = ["detection_id", "name", "target_name"]
            found = read_detections(self.workspace, self.release, self.model_id, columns)
            if reason := why_unnamed(name, found):
                raise UsageError(reason)
        row = self.row_of_source(name)
        description = self.sources.describe_row(row)
        own = rows_of(self.detections.table["name"], name)
        return self._like(self.sources.posterior(row), description, k, own)

    def like_spectrum(self, spectrum: Spectrum | SpectrumFiles, k: int = 10) -> pd.DataFrame:
        """Find the k detections most similar to your spectrum, measured with the catalog's model.

        Raises OgipError if the spectrum has no ARF or RMF, or if the model cannot use it.
        """
        read = spectrum.read() if isinstance(spectrum, SpectrumFiles) else spectrum
        measured = measure_spectrum(read, self.model, self.config)
        return self._like(measured.posterior, measured.description, k, _NOBODY)

    def strangest(self, k: int = 10) -> pd.DataFrame:
        """Find the k detections farthest from the population, and the k with the worst fit.

        Column `ranking` separates the two. Both are ordered by `sigmas`, a significance that
        accounts for the errors of the latents or the noise of the counts, so that faint detections
        are not favored. `chance` is the probability that noise alone makes at least one of all
        detections of the catalog this unusual; `beyond_chance` marks those for which it is below
        `raypipe.searching.strangest.UNUSUAL_CHANCE`. `attrs["remarks"]` states for each ranking
        whether any detection is unusual. Known causes are reported; no detection is left out
        because of them.
        """
        require_positive(k)
        rows = self.detections
        score, zscore = rows.column("anomaly_score"), rows.column("fit_zscore")
        far = far_sigmas(rows.posteriors, self.model.population)
        bad = fit_sigmas(rows.column("cash"), rows.column("cash_expected"), zscore)
        rankings = Significances(FAR, far), Significances(BADLY_FIT, bad)
        answers = []
        for ranking, tie in zip(rankings, (score, zscore), strict=True):
            chosen = ranking.most(k, tie)
            answer = rows.describe(
                chosen,
                sigmas=ranking.sigmas[chosen],
                chance=ranking.chance[chosen],
                beyond_chance=ranking.beyond_chance[chosen],
                anomaly_score=score[chosen],
                fit_zscore=zscore[chosen],
            )
            answer.insert(0, "ranking", ranking.ranking)
            answer.insert(1, "rank", np.arange(1, len(chosen) + 1))
            answers.append(answer)
        whole = pd.concat(answers, ignore_index=True)
        whole.attrs["searched"] = self._searched()
        whole.attrs["remarks"] = {ranking.ranking: ranking.remark() for ranking in rankings}
        return whole

    def _searched(self) -> dict[str, Any]:
        return {
            "release": self.release,
            "model_id": self.model_id,
            "detections": len(self.detections),
        }

    def _like(
        self, posterior: Posterior, description: dict[str, Any], k: int, excluded: Rows
    ) -> pd.DataFrame:
        require_positive(k)
        found = nearest(posterior, self.detections.posteriors, k, excluded)
        answer = self.detections.describe(
            found.rows,
            log_overlap=found.log_overlap,
            distance=found.distance,
            euclidean=found.euclidean,
            log_bayes_factor=found.log_bayes_factor,
        )
        answer.insert(0, "rank", np.arange(1, len(answer) + 1))
        answer.attrs["searched"] = self._searched()
        answer.attrs["query"] = description
        return answer


def open_search(
    workspace: str | os.PathLike[str] | Workspace,
    *,
    release: str | None = None,
    model: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> LatentSearch:
    """Open a latent catalog for many queries; `release` and `model` as in `open_catalog`.

    Your spectra are measured with the settings `embed` of `config`. Raises UsageError if there
    is no such catalog.
    """
    store = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    release = choose_release(store, release)
    model_id = choose_model(store, release, model)
    return LatentSearch(
        workspace=store,
        release=release,
        model_id=model_id,
        detections=read_detection_rows(store, release, model_id),
        config=as_config(config).embed,
    )


def require_positive(k: int) -> None:
    """Raise UsageError unless the number of results is at least 1."""
    if k < 1:
        raise UsageError(f"-k {k}: must be at least 1")


def _only(rows: SearchedRows, column: str, name: str, what: str) -> Rows:
    """Return the row of a name; raise UsageError, with similar names, if it has no latents."""
    found = rows_of(rows.table[column], name)
    if len(found):
        return found[:1]
    if len(rows_of(rows.unmeasured[column], name)):
        raise UsageError(f"{name}: this {what} is not measured (flag not_measured): no latents")
    spellings = nearest_spellings(rows.table[column], name)
    mend = f"; is it {', or '.join(spellings)}?" if spellings else ""
    place = position_in(name)
    if what == "source" and place is not None and len(rows):
        separations = separations_arcsec(rows.column("ra"), rows.column("dec"), place)
        if np.isfinite(separations).any():
            at = int(np.nanargmin(separations))
            mend += (
                f" The nearest on the sky is {rows.table['name'][at].as_py()}, "
                f"{separations[at]:.1f} arcsec away"
            )
    raise UsageError(f"{name}: the catalog has no {what} of this name{mend}")
