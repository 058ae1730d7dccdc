"""The verb `compare`: compare the sources of two releases."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from astropy.coordinates import SkyCoord
from scipy.stats import chi2

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
"""A source has moved if a shift this large has a smaller probability for unchanged latents."""


def compare(
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
    settings = as_config(config)
    workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    first, second = (choose_release(workspace, release) for release in (first, second))
    model_id = choose_model(workspace, second, model)
    choose_model(workspace, first, model_id)
    with record_run(workspace, "compare", settings) as figures:
        before, now = (
            open_sources(workspace, release=release, model=model_id) for release in (first, second)
        )
        table = compare_sources(before, now)
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


def compare_sources(before: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """Match two tables of sources by name; returns one row per source.

    `in_first`, `in_second`: where the source occurs. `shift`: the distance of its latents in units
    of their errors, the square root of D^T (C1 + C2)^-1 D for the difference D and the posterior
    covariances C. `shift_p`: the probability of a larger shift by chance; it is too large if the
    two releases share detections. `separation_arcsec`: the distance on the sky. `class_first`,
    `class_second`: the most probable classes, None if there are none. `moved`: `shift_p` is below
    0.001. `reclassified`: the classes differ.
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
        table[column] = _classes(frame)
    table["moved"] = table["shift_p"] < _MOVED_P
    differ = table["class_first"] != table["class_second"]
    table["reclassified"] = differ & table[["class_first", "class_second"]].notna().all(axis=1)
    return table.rename_axis("name").reset_index()


def _by_name(sources: pd.DataFrame) -> pd.DataFrame:
    """Index sources by name, or by best detection (without its release) if they have no name."""
    names = sources["name"]
    nameless = sources["best_detection_id"].str.partition(":")[2]
    return sources.set_index(names.where(names.notna() & (names != ""), nameless))


def _shifts(
    before: pd.DataFrame, now: pd.DataFrame
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    names = [name for name in now if str(name)[0] == "z" and str(name)[1:].isdigit()]
    if not len(now):
        return np.zeros(0), np.zeros(0)
    difference = now[names].to_numpy(np.float64) - before[names].to_numpy(np.float64)
    covariance = sum(
        unpack(np.stack(frame["z_cov"].to_list()).astype(np.float64)) for frame in (before, now)
    )
    square = np.einsum(
        "ni,ni->n", difference, np.linalg.solve(covariance, difference[..., None])[..., 0]
    )
    return np.sqrt(square), np.asarray(chi2.sf(square, len(names)))


def _separations(before: pd.DataFrame, now: pd.DataFrame) -> npt.NDArray[np.float64]:
    places = [
        SkyCoord(*(frame[name].to_numpy(np.float64) * u.deg for name in ("ra", "dec")))
        for frame in (before, now)
    ]
    return np.asarray(places[0].separation(places[1]).arcsec, dtype=np.float64)


def _classes(sources: pd.DataFrame) -> pd.Series[Any]:
    columns = [name for name in sources if str(name).startswith("p_")]
    if not columns:
        return pd.Series(None, sources.index, dtype=object)
    best = sources[columns].to_numpy().argmax(axis=1)
    return pd.Series([columns[i].removeprefix("p_") for i in best], sources.index, dtype=object)


def _count(table: pd.DataFrame) -> dict[str, int]:
    both = table["in_first"] & table["in_second"]
    return {
        "both": int(both.sum()),
        "only_first": int((table["in_first"] & ~both).sum()),
        "only_second": int((table["in_second"] & ~both).sum()),
        "moved": int(table["moved"].sum()),
        "reclassified": int(table["reclassified"].sum()),
    }
