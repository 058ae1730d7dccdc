"""compare: what two releases say of the same sources."""

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
from raypipe.catalog.models import choose_model
from raypipe.catalog.open import open_sources
from raypipe.catalog.schema import described
from raypipe.config import Config, as_config
from raypipe.discovery.manifest import choose_release
from raypipe.model.covariance import unpack
from raypipe.runs import record_run
from raypipe.workspace import Workspace, comparisons_folder

log = logging.getLogger(__name__)

_MOVED_P = 1e-3
"""Probability of a shift, were the source's latents the same, below which it has moved."""


def compare(
    workspace: str | Path | Workspace,
    first: str,
    second: str,
    *,
    model: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """Compare the sources of two releases' catalogs; returns how many did what, and the table.

    The table, W/comparisons/<first>-<second>/<model_id>.parquet, has one row a source of either
    release: how far its latents lie apart (`compare_sources`), how far its positions, and its most
    probable class in both. `model` is the id of a model that has a catalog of both, by default the
    second release's newest. Raises UsageError where there is none.
    """
    settings = as_config(config)
    workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    first, second = (choose_release(workspace, release) for release in (first, second))
    model_id = choose_model(workspace, second, model)
    choose_model(workspace, first, model_id)
    with record_run(workspace, "compare", settings) as figures:
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
    """One row per source of two tables of sources, matched by name; `classes` are the model's.

    `in_first`, `in_second`; `shift`: the distance of its latents, in units of their errors (square
    root of D (C1 + C2)^-1 D for the difference D and the posteriors' covariances C); `shift_p`: the
    probability of as much by chance, too large where detections are in both; `separation_arcsec`,
    NaN where a position is unknown;
    `class_first`, `class_second`: the most probable classes, None where there are none. `moved`
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
    """Sources by name; those without one by their detection, without its release."""
    names = sources["name"]
    nameless = sources["best_detection_id"].str.partition(":")[2]
    return sources.set_index(names.where(names.notna() & (names != ""), nameless))


def _shifts(
    before: pd.DataFrame, now: pd.DataFrame
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if not len(now):
        return np.zeros(0), np.zeros(0)
    first, second = (unpack(_triangles(frame["z_cov"])) for frame in (before, now))
    covariance = first + second
    names = [f"z{i}" for i in range(covariance.shape[1])]
    difference = now[names].to_numpy(np.float64) - before[names].to_numpy(np.float64)
    square = np.einsum(
        "ni,ni->n", difference, np.linalg.solve(covariance, difference[..., None])[..., 0]
    )
    return np.sqrt(square), np.asarray(chi2.sf(square, len(names)))


def _triangles(column: pd.Series[Any]) -> npt.NDArray[np.float64]:
    """The covariances of sources as the catalog keeps them, NaN where there are none."""
    measured = column.notna().to_numpy()
    known = np.stack(column[measured].to_list()) if measured.any() else np.zeros((0, 1))
    rows = np.full((len(column), known.shape[1]), np.nan)
    rows[measured] = known
    return rows


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
        "only_first": int((table["in_first"] & ~both).sum()),
        "only_second": int((table["in_second"] & ~both).sum()),
        "moved": int(table["moved"].sum()),
        "reclassified": int(table["reclassified"].sum()),
    }
