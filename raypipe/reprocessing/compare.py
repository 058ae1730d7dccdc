"""Compare the sources of two releases."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from astropy.coordinates import angular_separation
from scipy.stats import chi2

from raypipe.catalog.classes import catalog_classes, most_probable
from raypipe.catalog.open import open_sources
from raypipe.catalog.schema import described
from raypipe.config import Config
from raypipe.model.choice import choose_model
from raypipe.model.covariance import latents_of_triangle, solve, triangles_in, unpack
from raypipe.store.layout import comparisons_folder
from raypipe.store.manifest import choose_release
from raypipe.store.workspace import Workspace
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

_MOVED_P = 1e-3
"""A source has moved if `shift_p` is below this."""


@verb
def compare(
    call: Call,
    workspace: str | Path | Workspace,
    first: str,
    second: str,
    *,
    model: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """Compare the sources of two releases' catalogs; returns counts of changes and the table's URI.

    The table, W/comparisons/<first>-<second>/<model_id>.parquet, has one row per source of either
    release: the distance of its latents (`compare_sources`), the separation of its positions, and
    its most probable class in both. `model` is the id of a model with a catalog of both releases,
    by default the newest of the second. Raises UsageError if there is none.
    """
    workspace = call.workspace
    first, second = (choose_release(workspace, release) for release in (first, second))
    model_id = choose_model(workspace, second, model)
    choose_model(workspace, first, model_id)
    with call.recorded() as figures:
        before, now = (
            open_sources(workspace, release=release, model=model_id) for release in (first, second)
        )
        table = compare_sources(before, now, catalog_classes(workspace, second, model_id))
        name = f"{comparisons_folder(first, second)}/{model_id}.parquet"
        columns = {str(column): pa.array(table[column]) for column in table}
        workspace.write_table(
            name, described(columns), {"first": first, "second": second, "model_id": model_id}
        )
        answer = {
            "first": first,
            "second": second,
            "model_id": model_id,
            "sources": _count(table),
            "table": workspace.absolute_uri(name),
        }
        figures.update(answer)
    return answer


def compare_sources(
    before: pd.DataFrame, now: pd.DataFrame, classes: Sequence[str]
) -> pd.DataFrame:
    """Match two tables of sources by name; returns one row per source. `classes` are the model's.

    `in_first` and `in_second` say which releases have the source. `shift` is the distance of its
    latents in units of their errors: the square root of D^T (C1 + C2)^-1 D, with the difference D
    and the posterior covariances C; it is NaN if one of the two has no latents. `shift_p` is the
    probability of a larger shift by chance, which is overestimated if the two releases share
    detections. `separation_arcsec` is the distance on the sky, NaN if a position is unknown.
    `class_first` and `class_second` are the most probable classes, None if there are none. `moved`
    says that `shift_p` is below 0.001, `reclassified` that the classes differ.
    """
    before, now = (_by_name(frame) for frame in (before, now))
    both = before.index.intersection(now.index)
    table = pd.DataFrame(index=before.index.union(now.index).sort_values())
    table["in_first"], table["in_second"] = (table.index.isin(f.index) for f in (before, now))
    shift, probability = _shifts(before.loc[both], now.loc[both])
    table["shift"] = pd.Series(shift, both, dtype=np.float64)
    table["shift_p"] = pd.Series(probability, both, dtype=np.float64)
    separation = _separations(before.loc[both], now.loc[both])
    table["separation_arcsec"] = pd.Series(separation, both, dtype=np.float64)
    for column, frame in ("class_first", before), ("class_second", now):
        table[column] = most_probable(frame, classes)["class"]
    table["moved"] = table["shift_p"] < _MOVED_P
    differ = table["class_first"] != table["class_second"]
    table["reclassified"] = differ & table[["class_first", "class_second"]].notna().all(axis=1)
    return table.rename_axis("name").reset_index()


def _by_name(sources: pd.DataFrame) -> pd.DataFrame:
    """Index sources by name, or by best detection (without its release) if they have no name."""
    names = sources["name"]
    nameless = sources["best_detection_id"].str.replace("^[^:]*:", "", regex=True)
    return sources.set_index(names.where(names.notna() & (names != ""), nameless))


def _shifts(
    before: pd.DataFrame, now: pd.DataFrame
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    known = pd.concat([before["z_cov"], now["z_cov"]]).dropna()
    if not len(known):
        nothing = np.full(len(now), np.nan)
        return nothing, nothing
    names = [f"z{i}" for i in range(latents_of_triangle(len(known.iloc[0])))]
    difference = now[names].to_numpy(np.float64) - before[names].to_numpy(np.float64)
    covariance = np.sum(
        [unpack(triangles_in(frame["z_cov"], len(names))) for frame in (before, now)], axis=0
    )
    # Without a change, D^T (C1 + C2)^-1 D is chi squared with one degree of freedom per latent.
    square = np.einsum("ni,ni->n", difference, solve(covariance, difference))
    return np.sqrt(square), np.asarray(chi2.sf(square, len(names)))


def _separations(before: pd.DataFrame, now: pd.DataFrame) -> npt.NDArray[np.float64]:
    places = []
    for frame in (before, now):
        ra, dec = (frame[name].to_numpy(np.float64) for name in ("ra", "dec"))
        on_sphere = np.isfinite(ra) & (np.abs(dec) <= 90.0)
        places += [np.radians(np.where(on_sphere, values, np.nan)) for values in (ra, dec)]
    return np.degrees(np.asarray(angular_separation(*places), dtype=np.float64)) * 3600.0


def _count(table: pd.DataFrame) -> dict[str, int]:
    both = table["in_first"] & table["in_second"]
    return {
        "both": int(both.sum()),
        "not_compared": int((both & table["shift"].isna()).sum()),
        "only_first": int((table["in_first"] & ~both).sum()),
        "only_second": int((table["in_second"] & ~both).sum()),
        "moved": int(table["moved"].sum()),
        "reclassified": int(table["reclassified"].sum()),
    }
