"""Choose the features of a classification from the columns of a catalog, in named groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.catalog.class_columns import CLASS_GROUPS
from raypipe.errors import UsageError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Context = Literal["all", "none"]
"""Choice to use the context of a source (Galactic latitude, column density and more) or not."""

GROUPS = CLASS_GROUPS
"""Groups of features, for what a classification rests on."""

_LATENTS = 8
_FITS = (
    *("powlaw_gamma", "powlaw_nh", "bb_kt", "bb_nh"),
    *("brems_kt", "brems_nh", "plasma_kt", "plasma_nh"),
)
_BY_LATENTS = (
    *(f"z{i}" for i in range(_LATENTS)),
    *(f"z{i}_std" for i in range(_LATENTS)),
    *("hard_hs", "hard_hm", "hard_ms"),
)
_SPECTRUM = (*_BY_LATENTS, *_FITS)
_BANDS = "smhb"
_VARIABILITY = (
    *("var_intra_index_b", "var_intra_prob_b", "ks_intra_prob_b", "kp_intra_prob_b"),
    *("var_inter_index_b", "var_inter_prob_b", "var_inter_sigma_b"),
    *("var_index_b", "var_prob_b", "ks_prob_b", "kp_prob_b"),
)
_LEAST_FLUX = 1e-20
"""Smallest flux that a logarithm is taken of, in erg/cm2/s; a band can have none."""


@dataclass(frozen=True)
class Features:
    """Hold the features of rows: `values` (n, d), NaN where missing, their names and groups."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    values: npt.NDArray[np.float32]

    def select(self, names: Sequence[str]) -> Features:
        """Return these features in this order; a feature that is not there is NaN in all rows."""
        place = {name: i for i, name in enumerate(self.names)}
        values = np.full((len(self.values), len(names)), np.nan, np.float32)
        groups = []
        for column, name in enumerate(names):
            if name in place:
                values[:, column] = self.values[:, place[name]]
            groups.append(self.groups[place[name]] if name in place else GROUPS[-1])
        return Features(tuple(names), tuple(groups), values)

    def views(self) -> tuple[IntArray, ...]:
        """Return the columns of the features that each part of a forest uses.

        Latents and the parameters of physical fits describe the same spectrum. If there are both,
        one half of the trees sees the spectrum by its latents and the other half by the fits, so
        that neither description crowds out the other (docs/classifying.md has the measurements).
        """
        by_fit = np.isin(self.names, _FITS)
        by_latents = np.isin(self.names, _BY_LATENTS)
        if not (by_fit.any() and by_latents.any()):
            return (np.arange(len(self.names)),)
        return np.flatnonzero(~by_fit), np.flatnonzero(~by_latents)

    def measured(self) -> Features:
        """Return the features that at least one row has, and that differ between rows."""
        low = np.fmin.reduce(self.values, axis=0, initial=np.inf)
        high = np.fmax.reduce(self.values, axis=0, initial=-np.inf)
        return self.select(
            [name for name, kept in zip(self.names, low < high, strict=True) if kept]
        )


@dataclass(frozen=True)
class _Feature:
    """Define a feature: its group, and the columns of which the first one present is read.

    If the feature is computed, `needs` lists the columns that it needs, all of them, and `compute`
    turns these, (n,) each, into the feature.
    """

    group: str
    columns: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    compute: Callable[..., FloatArray] = field(default=lambda values: values)


def _log_flux(flux: FloatArray) -> FloatArray:
    return np.asarray(np.log10(np.where(np.isfinite(flux), np.maximum(flux, _LEAST_FLUX), np.nan)))


def _log_column_density(nh: FloatArray) -> FloatArray:
    return np.asarray(np.log10(np.where(nh > 0, nh, np.nan)))


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    return np.asarray(above / np.where(below > 0, below, np.nan))


def galactic_latitude(ra: FloatArray, dec: FloatArray) -> FloatArray:
    """Return the absolute Galactic latitude of positions in degrees (ICRS), (n,)."""
    from astropy import units
    from astropy.coordinates import SkyCoord

    known = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
    latitude = np.full(len(ra), np.nan)
    if known.any():
        sky = SkyCoord(ra[known] * units.deg, dec[known] * units.deg)
        latitude[known] = np.abs(sky.galactic.b.deg)
    return latitude


_FEATURES: dict[str, _Feature] = {
    **{name: _Feature("spectrum", (name,)) for name in _SPECTRUM},
    **{
        f"log_flux_{band}": _Feature(
            "flux", (f"flux_{band}", f"flux_aper90_{band}"), compute=_log_flux
        )
        for band in _BANDS
    },
    **{name: _Feature("variability", (name,)) for name in _VARIABILITY},
    "var_sigma_over_mean_b": _Feature(
        "variability", needs=("var_sigma_b", "var_mean_b"), compute=_ratio
    ),
    "abs_b": _Feature("context", needs=("ra", "dec"), compute=galactic_latitude),
    "log_nh_gal": _Feature("context", ("nh_gal",), compute=_log_column_density),
}


def feature_columns(columns: Sequence[str] = ()) -> list[str]:
    """Return the columns of a catalog that features need; `columns` are further context."""
    known = [name for each in _FEATURES.values() for name in (*each.columns, *each.needs)]
    return list(dict.fromkeys([*known, *columns]))


def features_of(
    frame: pd.DataFrame, *, context: Context = "all", columns: Sequence[str] = ()
) -> Features:
    """Compute the features of rows of a catalog; what a row or the catalog lacks is missing.

    They are latents with the widths of their posterior, hardness ratios and parameters of fits;
    logarithms of band fluxes; variability; and, unless `context` is "none", Galactic latitude
    (from the position), the column `nh_gal` and the numeric `columns` of the user. Raises
    UsageError for one of these that the catalog lacks or that is not numeric.
    """
    names, groups, values = [], [], []
    for name, feature in _FEATURES.items():
        if feature.group == "context" and context == "none":
            continue
        names.append(name)
        groups.append(feature.group)
        values.append(_compute(frame, feature))
    for name in columns if context == "all" else ():
        if name not in frame or not pd.api.types.is_numeric_dtype(frame[name]):
            raise UsageError(
                f"classify.context_columns: the catalog has no numeric column {name}; "
                "join it with raypipe discover --catalog, or leave it out"
            )
        names.append(name)
        groups.append("context")
        values.append(_numbers(frame, name))
    table = np.stack(values, axis=1) if len(frame) else np.zeros((0, len(names)))
    table = np.where(np.abs(table) < np.finfo(np.float32).max, table, np.nan)
    return Features(tuple(names), tuple(groups), table.astype(np.float32))


def _compute(frame: pd.DataFrame, feature: _Feature) -> FloatArray:
    if feature.needs:
        if not set(feature.needs) <= set(frame.columns):
            return np.full(len(frame), np.nan)
        return feature.compute(*(_numbers(frame, name) for name in feature.needs))
    for name in feature.columns:
        if name in frame:
            return feature.compute(_numbers(frame, name))
    return np.full(len(frame), np.nan)


def _numbers(frame: pd.DataFrame, name: str) -> FloatArray:
    column = pd.to_numeric(frame[name], errors="coerce")
    return column.to_numpy(dtype=np.float64, na_value=np.nan)
