"""Write the first screen of a report: what went in, what came out, three findings and pictures."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from raypipe.display.spectrum_figure import spectrum_figure
from raypipe.evaluation.selection import latent_columns
from raypipe.evaluation.validation import sources_of
from raypipe.html.page import (
    Html,
    bullets,
    cards,
    count_of,
    figure,
    grid,
    heading,
    join,
    minus,
    page_link,
    paragraph,
)
from raypipe.reporting import figures
from raypipe.reporting.correlations import strongest_correlation
from raypipe.reporting.report_data import SHOW_ALL_ROWS, SIGMAS, Example, ReportData
from raypipe.searching.strangest import BADLY_FIT, UNUSUAL_CHANCE

EXPLAINED_SIGMAS = 3.0
"""Significance of a bad fit up to which a spectrum counts as explained."""

FINDINGS = 3
"""Number of findings on the first screen."""

_FIT_NAMES = {
    "powlaw_gamma": "power law",
    "bb_kt": "black body",
    "brems_kt": "bremsstrahlung",
    "plasma_kt": "plasma",
}


def glance_section(report_data: ReportData) -> Html:
    """Say in a minute's reading what went in, what came out, and what was found."""
    if report_data.catalog.empty:
        return paragraph("The catalog has no detections: all of the manifest are rejects.")
    parts = [cards([_input(report_data), _output(report_data), _unusual(report_data)])]
    if report_data.explorer:
        parts.append(
            page_link("Explore this catalog: map, sky and every spectrum", report_data.explorer)
        )
    parts += [heading("Findings"), bullets(findings(report_data)[:FINDINGS])]
    if len(report_data.catalog) > SHOW_ALL_ROWS:
        parts.append(grid(_pictures(report_data), small=True))
    return join(parts)


def findings(report_data: ReportData) -> list[str]:
    """Return sentences about the catalog, the most important first."""
    found = [_fit_finding(report_data), _unusual_finding(report_data)]
    measured = (report_data.metrics or {}).get("classification", {}).get("catalog_probabilities")
    if measured and measured["balanced_accuracy"] is not None:
        classes = len(report_data.classes)
        found.append(
            f"The probabilities of {classes} classes have a balanced accuracy of "
            f"{measured['balanced_accuracy']:.2f} ± {measured['balanced_accuracy_error']:.2f}; "
            f"guessing has {1 / classes:.2f}."
        )
    if strongest := strongest_correlation(report_data.catalog):
        latent, quantity, value = strongest
        found.append(
            f"Latent {latent} follows the {quantity}: their rank correlation is "
            f"{minus(format(value, '+.2f'))}."
        )
    return [each for each in found if each]


def detection_address(report_data: ReportData, detection_id: object) -> str:
    """Return the address of a detection in the explorer, empty if there is no explorer."""
    if not report_data.explorer:
        return ""
    return f"{report_data.explorer}#detection={quote(str(detection_id), safe='')}"


def _input(report_data: ReportData) -> tuple[str, str, str]:
    catalog = report_data.catalog
    sources = count_of(len(set(sources_of(catalog).tolist())), "source")
    note = f"of {sources}, release {report_data.release}"
    if "telescope" in catalog:
        names = catalog[[name for name in ("telescope", "instrument") if name in catalog]]
        kinds = names.dropna().drop_duplicates().agg(" ".join, axis=1).tolist()
        note += f", by {', '.join(kinds[:4])}" + (" and others" if len(kinds) > 4 else "")
    if lost := report_data.totals["rejects"]:
        note += f"; {lost:,} more could not be used"
    return "What went in", f"{len(catalog):,} spectra", note


def _output(report_data: ReportData) -> tuple[str, str, str]:
    catalog = report_data.catalog
    latents = latent_columns(catalog)
    errors = ", with their errors" if "z_cov" in catalog else ""
    more = [f"numbers that describe its shape{errors}"]
    if bands := [name for name in catalog if str(name) in {f"flux_{band}" for band in "usmhb"}]:
        more.append(f"fluxes in {count_of(len(bands), 'band')}")
    if fits := [name for column, name in _FIT_NAMES.items() if column in catalog]:
        more.append("fits of " + ", ".join(fits))
    if report_data.classes:
        more.append(f"probabilities of {len(report_data.classes)} classes")
    return "What came out, per spectrum", f"{len(latents)} latents", "; ".join(more)


def _unusual(report_data: ReportData) -> tuple[str, str, str]:
    number = int((least_chance(report_data) < UNUSUAL_CHANCE).sum())
    note = f"detections that noise explains with a chance below {UNUSUAL_CHANCE:g}"
    return "Unusual", f"{number:,}", note


def least_chance(report_data: ReportData) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the smaller chance of the rankings, (n,); 1 without a significance."""
    chances = [np.nan_to_num(s.chance, nan=1.0) for s in report_data.significances.values()]
    return np.asarray(np.min(chances, axis=0))


def _fit_finding(report_data: ReportData) -> str:
    misfit = report_data.catalog[SIGMAS[BADLY_FIT]].to_numpy(dtype=np.float64)
    misfit = misfit[np.isfinite(misfit)]
    if not len(misfit):
        return ""
    latents = len(latent_columns(report_data.catalog))
    return (
        f"{latents} latents explain {(misfit < EXPLAINED_SIGMAS).mean():.1%} of the spectra: their "
        f"misfit is below {EXPLAINED_SIGMAS:g} σ."
    )


def _unusual_finding(report_data: ReportData) -> str:
    chance = least_chance(report_data)
    if not (chance < UNUSUAL_CHANCE).any():
        return "No detection is more unusual than noise explains in a catalog of this size."
    row = int(np.argmin(chance))
    ranking, found = min(
        report_data.significances.items(),
        key=lambda each: np.nan_to_num(each[1].chance[row], nan=1),
    )
    here = report_data.catalog.iloc[row]
    name = here.get("name")
    what = name if isinstance(name, str) else here["detection_id"]
    return f"The most unusual detection is {what}: {ranking}, {found.sigmas[row]:.1f} σ."


def _pictures(report_data: ReportData) -> list[Html]:
    chart = report_data.latent_map
    rows = report_data.catalog.iloc[chart.rows]
    classes = np.full(len(rows), None, dtype=object)
    if "class" in rows:
        classes = np.array([c if isinstance(c, str) else None for c in rows["class"]], object)
    pictures = [
        figure(
            figures.latent_map(chart.positions, classes, width=3.8),
            "Each point is a spectrum; neighbors have similar spectra, whatever their brightness.",
            title="Spectra in order of similarity",
            link=report_data.explorer,
        )
    ]
    if report_data.examples:
        pictures.append(
            _spectrum(report_data, report_data.examples[0], "A bright spectrum and its fit")
        )
    if report_data.worst:
        pictures.append(
            _spectrum(report_data, report_data.worst[0], "The worst explained spectrum")
        )
    return pictures


def _spectrum(report_data: ReportData, example: Example, title: str) -> Html:
    row: pd.Series[Any] = example.row
    return figure(
        spectrum_figure(example.spectrum),
        f"{row['detection_id']}: counts (crosses), what the latents reproduce (red line), and "
        "their difference in units of the noise (below).",
        title=title,
        link=detection_address(report_data, row["detection_id"]),
    )
