"""Draw the spectra of clusters: the median flux before the telescope, with 68% of the members."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from raypipe.display.style import ACCENT, INK, MUTED, light_grid, new_figure, styled

FloatArray = npt.NDArray[np.float64]

_COLUMNS = 4
_NAMED = 2
"""Classes in the title of a panel: as many as its width holds."""

_WIDTH, _HEIGHT = 9.6, 1.9
_LEAST = 1e-3
"""Lowest energy flux density shown, relative to the highest of all medians."""


def clusters_figure(table: pd.DataFrame) -> Figure:
    """Draw each cluster of the table (`raypipe.open_clusters`) in a panel of its own.

    All panels have the same axes and show E^2 times the photon flux density. The gray line is the
    mean of all medians, weighted by the sizes of the clusters. Clusters of a model without a flux
    have empty panels.
    """
    rows = -(-len(table) // _COLUMNS)
    with styled():
        figure, axes = new_figure(
            _WIDTH, _HEIGHT * rows + 0.4, rows, _COLUMNS, sharex=True, sharey=True, squeeze=False
        )
        mean = _mean(table)
        for place, axis in enumerate(axes.flat):
            if place >= len(table):
                axis.set_axis_off()
                continue
            _panel(axis, table.iloc[place], mean)
        figure.supxlabel("energy (keV)", fontsize=9)
        figure.supylabel("E² × photon flux density (keV per photon in 0.5-7 keV)", fontsize=9)
    return figure


def cluster_figures(table: pd.DataFrame) -> list[Figure]:
    """Draw each cluster of the table as `clusters_figure` does, in a figure without a title."""
    mean = _mean(table)
    figures = []
    with styled():
        for _, row in table.iterrows():
            figure, axis = new_figure(3.4, 2.3)
            _panel(axis, row, mean)
            axis.set(title="", xlabel="energy (keV)", ylabel="E² × flux (keV per photon)")
            figures.append(figure)
    return figures


def labeled_classes(row: pd.Series[Any], most: int) -> str:
    """List the most frequent classes of a cluster's labeled sources, with their numbers."""
    pairs = list(zip(row["classes"], row["class_sources"], strict=True))[:most]
    return ", ".join(f"{name} {number}" for name, number in pairs) or "no labels"


def _panel(axis: Axes, row: pd.Series[Any], mean: tuple[FloatArray, FloatArray] | None) -> None:
    named = labeled_classes(row, _NAMED)
    axis.set_title(f"{row['cluster']}: {row['n_detections']:,} detections\n{named}")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"])
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.minorticks_off()
    light_grid(axis)
    if mean is None or row["flux"] is None:
        return
    energy, all_clusters = mean
    axis.plot(energy, all_clusters, color=MUTED, linewidth=0.9)
    low, middle, high = (
        energy**2 * np.asarray(row[name], dtype=np.float64)
        for name in ("flux_lolim", "flux", "flux_hilim")
    )
    axis.fill_between(energy, low, high, color=ACCENT, alpha=0.25, linewidth=0)
    axis.plot(energy, middle, color=INK, linewidth=1.2)
    axis.set_ylim(all_clusters.max() * _LEAST * 10, all_clusters.max() * 20)


def _mean(table: pd.DataFrame) -> tuple[FloatArray, FloatArray] | None:
    """Return energies and the mean E^2 F of all clusters by size; None without a flux."""
    with_flux = table[table["flux"].notna()]
    if not len(with_flux):
        return None
    low, high = (
        np.asarray(with_flux.iloc[0][name], dtype=np.float64)
        for name in ("energy_lo_kev", "energy_hi_kev")
    )
    energy = np.sqrt(low * high)
    flux = np.stack([np.asarray(each, dtype=np.float64) for each in with_flux["flux"]])
    return energy, energy**2 * np.average(flux, axis=0, weights=with_flux["n_detections"])
