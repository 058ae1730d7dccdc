"""Draw sources from a real table: best-fitting model, counts, class and position."""

from __future__ import annotations

import numpy as np
import pandas as pd

from raypipe.catalog.brought_table import read_catalog
from raypipe.errors import UsageError
from raypipe.physics.energy import FloatArray
from raypipe.simulation.populations import Sources
from raypipe.simulation.targets import Targets
from raypipe.store.addresses import Address, shown

MODEL_PARAMETER = {
    "powlaw": ("powlaw_gamma", "photon_index"),
    "bb": ("bb_kt", "kt_kev"),
    "brems": ("brems_kt", "kt_kev"),
}
"""The parameter of each fitted model beside absorption: its column and its name in raypipe."""

CREDIBLE = {"powlaw": (-0.5, 6.0), "bb": (0.03, 5.0), "brems": (0.1, 60.0)}
"""Ranges of credible fits (photon index; kT in keV). Others ended at a limit or diverged."""
HIGHEST_NH_1E20 = 5000.0
LOWEST_NH_1E20 = 0.1
"""Smaller fitted column densities have no visible effect and are raised to this."""

COUNTS_COLUMN = "src_cnts_aper90_b"
FLUX_COLUMN = "obs_flux_aper90_b"
"""Energy flux of the detection, erg/cm2/s, 0.5-7 keV. A table may lack it."""
IDENTITY_COLUMNS = ("name", "ra", "dec", "obsid", "obi", "region_id", "class")
FIT_COLUMNS = tuple(
    f"{model}_{suffix}"
    for model, (column, _) in MODEL_PARAMETER.items()
    for suffix in (column.removeprefix(f"{model}_"), "nh", "stat")
)


def catalog_targets(
    rng: np.random.Generator,
    path: Address,
    detections: int,
    *,
    counts_min: float,
    counts_max: float,
) -> Targets:
    """Draw sources of a table with equal probability, and a detection of each.

    `path` names a Parquet, CSV, FITS or VOTable file that `read_catalog` reads. It has one row per
    detection, the columns of the archive's TAP service, and a class label
    (`raypipe.catalog.column_names.CLASS_COLUMNS`), which is blank if unknown. The spectrum is the
    fit with the smallest statistic among power law, black body and bremsstrahlung with credible
    parameters (`CREDIBLE`); sources without such a fit are left out. Expected counts are the
    detection's net counts, limited to `counts_min` and `counts_max`, and its flux is that of
    `FLUX_COLUMN`. No source is drawn again before all have been drawn. Raises UsageError if the
    table cannot be read, lacks columns, or has no fits.
    """
    table = read_catalog(path).to_pandas()
    needed = (*IDENTITY_COLUMNS, COUNTS_COLUMN, *FIT_COLUMNS)
    if missing := [column for column in needed if column not in table]:
        raise UsageError(f"{shown(path)}: columns missing: {', '.join(missing)}")
    best = best_models(table)
    table = table.assign(model=best)[best.notna() & (table[COUNTS_COLUMN] > 0)]
    if table.empty:
        raise UsageError(f"{shown(path)}: no source in it has counts and a credible spectral fit")
    groups = [rows for _, rows in sorted(table.groupby("name").indices.items())]
    rounds = -(-detections // len(groups))
    order = np.concatenate([rng.permutation(len(groups)) for _ in range(rounds)])[:detections]
    picked = np.array([rng.choice(groups[group]) for group in order], dtype=np.intp)
    drawn = table.iloc[picked]
    first, of_source = np.unique(order, return_index=True, return_inverse=True)[1:]
    sources = drawn.iloc[first]
    return Targets(
        sources=_fitted_sources(sources),
        label=np.array([_label(value) for value in sources["class"]], dtype=object),
        name=sources["name"].to_numpy(dtype=str),
        ra=sources["ra"].to_numpy(dtype=float),
        dec=sources["dec"].to_numpy(dtype=float),
        source=of_source,
        counts=np.clip(drawn[COUNTS_COLUMN].to_numpy(float), counts_min, counts_max),
        origin=(
            drawn["obsid"].astype(str)
            + "."
            + drawn["obi"].astype(str)
            + "."
            + drawn["region_id"].astype(str)
        ).to_numpy(dtype=object),
        flux=_fluxes(drawn),
    )


def best_models(table: pd.DataFrame) -> pd.Series:
    """Return the credible model with the smallest statistic of each row; null if there is none."""
    statistics = pd.DataFrame(index=table.index)
    for model, (column, _) in MODEL_PARAMETER.items():
        nh, (lowest, highest) = table[f"{model}_nh"], CREDIBLE[model]
        credible = table[column].between(lowest, highest) & nh.between(0, HIGHEST_NH_1E20)
        statistics[model] = table[f"{model}_stat"].where(credible)
    fitted = statistics.notna().any(axis=1)
    return statistics[fitted].idxmin(axis=1).reindex(table.index)


def _fluxes(rows: pd.DataFrame) -> FloatArray:
    """Return the fluxes of rows, (n,), NaN where there is none or only an upper limit."""
    if FLUX_COLUMN not in rows:
        return np.full(len(rows), np.nan)
    flux = rows[FLUX_COLUMN].to_numpy(dtype=float, na_value=np.nan)
    return np.where(flux > 0, flux, np.nan)


def _label(value: object) -> str | None:
    """Return a class label, None if it is missing or blank."""
    return (value.strip() or None) if isinstance(value, str) else None


def _fitted_sources(rows: pd.DataFrame) -> Sources:
    model = rows["model"].to_numpy(dtype=str)
    pieces = []
    for name, (column, parameter) in MODEL_PARAMETER.items():
        here = np.flatnonzero(model == name)
        nh_1e20 = np.maximum(rows[f"{name}_nh"].to_numpy(float)[here], LOWEST_NH_1E20)
        values = {"nh_1e22": nh_1e20 / 100.0, parameter: rows[column].to_numpy(float)[here]}
        pieces.append((here, values))
    return Sources.assemble(model, pieces)
