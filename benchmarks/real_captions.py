"""Describe the real sources of the Chandra Source Catalog: by columns, and by captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def real_sources(real: Path) -> pd.DataFrame:
    """Read one row per source of the catalog: brightness, position, variability, class and fits."""
    from astropy.coordinates import SkyCoord

    rows = pd.read_parquet(real)
    rows["name"] = rows["name"].str.strip()
    rows = rows.groupby("name").first().reset_index()
    galactic = SkyCoord(
        rows["ra"].tolist(), rows["dec"].tolist(), unit=("hourangle", "deg")
    ).galactic
    flux = rows["flux_aper90_b"]
    return rows.drop(columns=["ra", "dec"]).assign(
        log_flux=np.log10(flux.where(flux > 0)),
        var_inter_prob=rows["var_inter_prob_b"],
        var_intra_prob=rows["var_intra_prob_b"],
        ks_intra_prob=rows["ks_intra_prob_b"],
        abs_gal_lat=np.abs(galactic.b.deg),
        gal_lon=galactic.l.deg,
        extent=rows["extent_flag"].astype(str),
    )


_CLASSES = {
    "AGN": "active galactic nucleus (AGN)",
    "CV": "cataclysmic variable",
    "HM-STAR": "high-mass star",
    "HMXB": "high-mass X-ray binary",
    "LM-STAR": "low-mass star",
    "LMXB": "low-mass X-ray binary",
    "NS": "neutron star",
    "YSO": "young stellar object",
}


def caption(row: pd.Series[Any]) -> str:
    """Describe a source in a sentence or two, from its class, best fit and variability."""
    known = row["muwclass_true_class"]
    what = _CLASSES.get(str(known), "source of unknown class")
    fits = {
        "powlaw": "a power law of photon index {powlaw_gamma:.1f}",
        "bb": "a black body of {bb_kt:.2f} keV",
        "brems": "bremsstrahlung of {brems_kt:.1f} keV",
        "apec": "a thermal plasma of {apec_kt:.1f} keV with emission lines",
    }
    statistics = {name: row[f"{name}_stat"] for name in fits if np.isfinite(row[f"{name}_stat"])}
    text = f"{'An' if what[0] in 'aeiou' else 'A'} {what}"
    if statistics:
        best = min(statistics, key=lambda name: statistics[name])
        nh = row[f"{best}_nh"]
        text = f"{_absorption(nh)} {what}" if np.isfinite(nh) else text
        text += f" whose spectrum is {fits[best].format_map(row.to_dict())}"
    if row["var_inter_prob"] > 0.99:
        text += ", variable between observations"
    if row["var_intra_prob"] > 0.99:
        text += ", variable within an observation"
    return f"{text[0].upper()}{text[1:]}."


def _absorption(nh_1e20: float) -> str:
    for most, word in ((5, "unabsorbed"), (50, "weakly absorbed"), (200, "absorbed")):
        if nh_1e20 < most:
            return word
    return "heavily absorbed"
