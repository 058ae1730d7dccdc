"""open_search: a latent catalog opened once and asked often."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raypipe.catalog.models import choose_model
from raypipe.config import Config, EmbedConfig, as_config
from raypipe.discovery.manifest import choose_release
from raypipe.errors import UsageError
from raypipe.model.bundle import Model, load_model
from raypipe.ogip import Spectrum
from raypipe.searching.catalog import SearchedRows, read_detection_rows, read_source_rows
from raypipe.searching.elimination import Rows
from raypipe.searching.lookup import nearest_spellings, position_in, rows_of, separations_arcsec
from raypipe.searching.neighbors import Posterior, nearest
from raypipe.searching.query import SpectrumFiles, measure_spectrum
from raypipe.searching.strangest import chance_sigmas, far_sigmas, fit_sigmas, most
from raypipe.workspace import Workspace, model_folder

FAR, BADLY_FIT = "far", "badly fit"
"""The two ways of being strange."""

_NOBODY = np.array([], dtype=np.int64)


@dataclass(frozen=True)
class LatentSearch:
    """The detections of a catalog in memory: 0.75 GB a million, some 0.1 s a question.

    Answers are DataFrames, best first; `attrs["query"]` has what is known of what was asked about.
    Columns: rank, detection_id, name, ra, dec, class (where the catalog has it), likely_class and
    p_likely_class, total_counts, log_overlap (by which rank is), distance, euclidean and
    log_bayes_factor as of `raypipe.searching.neighbors`, flags, and causes for which a spectrum may
    look as it does (`raypipe.searching.causes`).
    """

    workspace: Workspace
    release: str
    model_id: str
    detections: SearchedRows
    config: EmbedConfig

    @cached_property
    def sources(self) -> SearchedRows:
        """The table of sources, read when it is first asked for."""
        return read_source_rows(self.workspace, self.release, self.model_id)

    @cached_property
    def model(self) -> Model:
        """The model that made the catalog; RaypipeError where the workspace has it no more."""
        return load_model(self.workspace.absolute_uri(model_folder(self.model_id)))

    def like_detection(self, detection_id: str, k: int = 10) -> pd.DataFrame:
        """The k detections most like one of the catalog, which is not among them.

        Other detections of the same source are. UsageError for an id that is not there.
        """
        row = _only(self.detections, "detection_id", detection_id, "detection")
        told = self.detections.tell(int(row[0]))
        return self._like(self.detections.posterior(int(row[0])), told, k, row)

    def like_source(self, name: str, k: int = 10) -> pd.DataFrame:
        """The k detections most like a source: like what all of its detections say together.

        None of its own are among them. UsageError for a name that is not there.
        """
        row = _only(self.sources, "name", name, "source")
        told = self.sources.tell(int(row[0]))
        own = rows_of(self.detections.table["name"], name)
        return self._like(self.sources.posterior(int(row[0])), told, k, own)

    def like_spectrum(self, spectrum: Spectrum | SpectrumFiles, k: int = 10) -> pd.DataFrame:
        """The k detections most like a spectrum of one's own, measured by the catalog's model.

        OgipError for one that has no ARF or RMF, or is not the model's to judge.
        """
        read = spectrum.read() if isinstance(spectrum, SpectrumFiles) else spectrum
        measured = measure_spectrum(read, self.model, self.config)
        return self._like(measured.posterior, measured.told, k, _NOBODY)

    def strangest(self, k: int = 10) -> pd.DataFrame:
        """The k detections farthest out, and the k worst fit: column `ranking` keeps them apart.

        Both by their significance in `sigmas`, with their own errors and their own noise: few
        counts do not reach far. `beyond_chance` says which exceed what one of as many detections
        would reach by chance. Known causes are told, nothing is left out for them.
        """
        _require_positive(k)
        rows = self.detections
        score, zscore = rows.column("anomaly_score"), rows.column("fit_zscore")
        far = far_sigmas(rows.posteriors, self.model.population)
        bad = fit_sigmas(rows.column("cash"), rows.column("cash_expected"), zscore)
        answers = []
        for ranking, sigmas, other in ((FAR, far, score), (BADLY_FIT, bad, zscore)):
            chosen = most(sigmas, other, k)
            answer = rows.describe(
                chosen,
                sigmas=sigmas[chosen],
                beyond_chance=sigmas[chosen] > chance_sigmas(len(rows)),
                anomaly_score=score[chosen],
                fit_zscore=zscore[chosen],
            )
            answer.insert(0, "ranking", ranking)
            answer.insert(1, "rank", np.arange(1, len(chosen) + 1))
            answers.append(answer)
        return pd.concat(answers, ignore_index=True)

    def _like(
        self, posterior: Posterior, told: dict[str, Any], k: int, excluded: Rows
    ) -> pd.DataFrame:
        _require_positive(k)
        found = nearest(posterior, self.detections.posteriors, k, excluded)
        answer = self.detections.describe(
            found.rows,
            log_overlap=found.log_overlap,
            distance=found.distance,
            euclidean=found.euclidean,
            log_bayes_factor=found.log_bayes_factor,
        )
        answer.insert(0, "rank", np.arange(1, len(answer) + 1))
        answer.attrs["query"] = told
        return answer


def open_search(
    workspace: str | os.PathLike[str] | Workspace,
    *,
    release: str | None = None,
    model: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> LatentSearch:
    """Open a latent catalog for many questions; `release` and `model` as of `open_catalog`.

    Spectra of one's own are measured as `embed` of `config` says. UsageError where there is
    no such catalog.
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


def _require_positive(k: int) -> None:
    if k < 1:
        raise UsageError(f"-k {k}: ask for at least one")


def _only(rows: SearchedRows, column: str, name: str, what: str) -> Rows:
    """The row of a name; UsageError where it has no latents, or with the nearest spellings."""
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
    raise UsageError(f"{name}: no {what} of this name in the catalog{mend}")
