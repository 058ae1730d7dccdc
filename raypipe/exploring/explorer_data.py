"""Gather the contents of an explorer: rows, columns, maps and spectra of a catalog."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.catalog.added_columns import read_whole
from raypipe.catalog.classes import catalog_classes, most_probable
from raypipe.catalog.hardness import hardness_ratios, has_band_counts
from raypipe.evaluation.evaluated_catalog import EvaluatedCatalog
from raypipe.evaluation.selection import has_latents, latents_of
from raypipe.evaluation.validation import sources_of
from raypipe.exploring.columns import ChosenColumns, choose_columns, join_table
from raypipe.exploring.latent_maps import make_maps
from raypipe.exploring.spectra import PackedSpectra, latent_covariance, pack_spectra
from raypipe.searching.strangest import BADLY_FIT, FAR, Significances, measure_significances
from raypipe.store.workspace import Workspace

MOST_ROWS = 50_000
"""Most detections on a page unless the user asks for more."""

RANKED = 25
"""Length of each list of the strangest detections."""

SIGMAS = {FAR: "far_sigmas", BADLY_FIT: "fit_sigmas"}
"""Columns that an explorer adds to its catalog: the significance of each ranking."""

MAP_SEED = 0
"""Seed of the maps and of the sample."""


@dataclass(frozen=True)
class PlacedMap:
    """Hold a map with `places` (n, 2) and `ellipses` (n, 3) of all rows, NaN without latents."""

    name: str
    method: str
    kept: float
    places: npt.NDArray[np.float64]
    ellipses: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ExplorerData:
    """Hold the contents of an explorer, one entry per row of `frame`.

    `sources` (n,) is the number of each row's source; `strangest` has the rows of each ranking with
    their probabilities by chance; `maps` may be empty; `notes` are sentences for the reader.
    """

    release: str
    model_id: str
    frame: pd.DataFrame
    columns: ChosenColumns
    sources: npt.NDArray[np.int64]
    strangest: dict[str, list[tuple[int, float]]]
    maps: list[PlacedMap]
    spectra: PackedSpectra
    notes: list[str]


def gather_explorer_data(
    store: Workspace,
    evaluated: EvaluatedCatalog,
    table: str | os.PathLike[str] | None,
    radius_arcsec: float,
    sample: int | None,
) -> ExplorerData:
    """Read a catalog, join the user's table, draw a sample, and read the spectra of its rows."""
    release, model_id, model = evaluated.release, evaluated.model_id, evaluated.model
    frame = read_whole(store, release, model_id).to_pandas()
    population = None if model is None else model.population
    found = measure_significances(frame, population)
    frame = frame.assign(**{SIGMAS[ranking]: each.sigmas for ranking, each in found.items()})
    frame = with_derived(frame, catalog_classes(store, release, model_id))
    chances = {ranking: each.chance for ranking, each in found.items()}
    ranked = {ranking: _most(each, frame) for ranking, each in found.items()}
    notes, brought = [], set[str]()
    if table is not None:
        frame, brought, sentence = join_table(frame, table, radius_arcsec)
        notes.append(sentence)
    rows = draw_sample(len(frame), sample or MOST_ROWS, np.concatenate([*ranked.values()]))
    if len(rows) < len(frame):
        notes.append(
            f"{len(rows):,} of {len(frame):,} detections are on this page: the strangest, and "
            f"others drawn at random; {len(frame) - len(rows):,} are left out."
        )
    place = np.full(len(frame), -1)
    place[rows] = np.arange(len(rows))
    frame = frame.iloc[rows].reset_index(drop=True)
    columns = choose_columns(frame, brought)
    if columns.left_out:
        notes.append(
            "Columns left out, which are neither numbers nor few different words, or too many: "
            + ", ".join(columns.left_out[:12])
            + (f" and {len(columns.left_out) - 12} more." if len(columns.left_out) > 12 else ".")
        )
    spectra = pack_spectra(store, release, frame, model)
    notes += _about_spectra(spectra, model is not None)
    return ExplorerData(
        release=release,
        model_id=model_id,
        frame=frame,
        columns=columns,
        sources=pd.factorize(sources_of(frame))[0].astype(np.int64),
        strangest={
            ranking: [(int(place[row]), float(chances[ranking][row])) for row in these]
            for ranking, these in ranked.items()
        },
        maps=_maps(frame),
        spectra=spectra,
        notes=notes,
    )


def draw_sample(n: int, wanted: int, always: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Draw `wanted` of n rows at random, in order; the rows of `always` are taken first."""
    if n <= wanted:
        return np.arange(n)
    first = np.unique(always)[:wanted]
    others = np.setdiff1d(np.arange(n), first)
    drawn = np.random.default_rng(MAP_SEED).permutation(others)[: wanted - len(first)]
    return np.sort(np.concatenate([first, drawn])).astype(np.int64)


def with_derived(frame: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """Add the most probable class, and the hardness ratios unless the catalog has them."""
    if classes:
        frame = frame.assign(likely_class=most_probable(frame, classes)["class"])
    if has_band_counts(frame):
        ratios = hardness_ratios(frame)
        missing = ratios[[name for name in ratios if name not in frame]]
        frame = pd.concat([frame, missing], axis=1)
    return frame


def _most(found: Significances, frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    score = frame["anomaly_score"].to_numpy(dtype=np.float64)
    rows = found.most(RANKED, score)
    return rows[np.isfinite(found.sigmas[rows])]


def _maps(frame: pd.DataFrame) -> list[PlacedMap]:
    """Make maps of the rows that have latents; the places of the others are NaN."""
    measured = has_latents(frame)
    z, covariance = latents_of(frame)[measured], latent_covariance(frame)[measured]
    return [
        PlacedMap(
            each.name,
            each.method,
            each.kept,
            spread(each.places, measured),
            spread(each.ellipses(z, covariance), measured),
        )
        for each in make_maps(z, MAP_SEED)
    ]


def spread(values: npt.NDArray[np.float64], rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return values (m, k) of the m marked `rows` (n,) as (n, k), with NaN in the other rows."""
    whole = np.full((len(rows), values.shape[1]), np.nan)
    whole[rows] = values
    return whole


def _about_spectra(spectra: PackedSpectra, has_model: bool) -> list[str]:
    notes = []
    if spectra.found < len(spectra.rows):
        missing = len(spectra.rows) - spectra.found
        notes.append(f"The workspace lacks the spectra of {missing:,} of these detections.")
    if not has_model:
        notes.append("The workspace lacks the model's bundle: spectra are shown without its fold.")
    if unfolded := int((~spectra.has_fold).sum()) if has_model else 0:
        notes.append(
            f"{unfolded:,} detections could not be measured: they are on the sky, not on the map."
        )
    return notes
