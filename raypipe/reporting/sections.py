"""Write the sections of a report on spectra, latents, training, data and provenance."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.catalog.hardness import hardness_ratios, has_band_counts
from raypipe.display.spectrum_figure import spectrum_figure
from raypipe.evaluation.selection import has_latents, latent_columns
from raypipe.evaluation.validation import sources_of
from raypipe.html.page import (
    Html,
    count_of,
    details,
    facts,
    figure,
    grid,
    heading,
    join,
    minus,
    number_cell,
    paragraph,
    preformatted,
    table,
    text_cell,
)
from raypipe.reporting import figures
from raypipe.reporting.classes import MOST_CLASSES
from raypipe.reporting.correlations import MIN_CORRELATION_ROWS, rank_correlations
from raypipe.reporting.detections import remarks
from raypipe.reporting.glance import detection_address
from raypipe.reporting.report_data import SHOW_ALL_ROWS, SIGMAS, Example, ReportData
from raypipe.searching.strangest import BADLY_FIT

REJECT_REASONS_SHOWN = 30
"""Most rows of the table of rejects."""

MAX_NAMED_POINTS = 20
"""Points of the latent map carry their names if there are at most this many."""


def spectra_section(report_data: ReportData) -> Html:
    """Show example reconstructions, or state why there are none."""
    if report_data.model is None:
        return paragraph(
            f"The bundle of {report_data.model_id} is not in this workspace: to see "
            "reconstructions, give its path to raypipe report --model."
        )
    if not report_data.examples:
        return paragraph("The spectra of this catalog's detections are not in this workspace.")
    everyone = len(report_data.catalog) <= SHOW_ALL_ROWS
    intro = (
        "Every detection of this catalog, brightest first. "
        if everyone
        else "Examples of all brightnesses and classes, drawn at random. "
    )
    intro += (
        "Crosses are counts with 68% Poisson intervals, grouped for the plot only. The red line is "
        "the reconstruction: the latents alone set its shape, its amplitude is fitted to the "
        "counts, and it includes the background, which is also drawn dashed. The lower panel shows "
        "(counts − model) / √model. A good fit scatters around zero there. The "
        "misfit is the significance with which the Cash statistic exceeds its expectation: above "
        "about 3 σ the model misses more than the noise does."
    )
    parts = [
        paragraph(intro),
        grid(_example(report_data, example) for example in report_data.examples),
    ]
    if report_data.worst:
        latents = len(latent_columns(report_data.catalog))
        parts += [
            heading("The worst explained"),
            paragraph(
                f"The largest misfits of the catalog: {latents} latents are not enough for these "
                "spectra, or the data are not as the model expects."
            ),
            grid(_example(report_data, example) for example in report_data.worst),
        ]
    return join(parts)


def latents_section(report_data: ReportData) -> Html:
    """Show the map of latents by class and hardness, and correlations of each latent."""
    chart = report_data.latent_map
    rows = report_data.catalog.iloc[chart.rows]
    classes = _classes(rows)
    labeled = any(isinstance(value, str) for value in classes)
    names = _short_names(rows) if len(rows) <= MAX_NAMED_POINTS else []
    by_class = "One point per detection" + (", colored by class: " if labeled else ": ")
    parts = [
        figure(
            figures.latent_map(chart.positions, classes, names),
            by_class
            + "neighbors have similar spectra. Only distances have a meaning, not the axes.",
            title="By class" if labeled else "The detections",
            link=report_data.explorer,
        )
    ]
    if has_band_counts(rows):
        hardness = hardness_ratios(rows)["hard_hs"].to_numpy()
        known = np.isfinite(hardness)
    if has_band_counts(rows) and known.any():
        parts.append(
            figure(
                figures.hardness_map(chart.positions[known], hardness[known]),
                "The same map colored by hardness ratio: a smooth gradient means that the latents "
                "contain the overall slope of the spectrum.",
                title="By hardness",
                link=report_data.explorer,
            )
        )
    if labeled and len(rows) > SHOW_ALL_ROWS:
        many = len({value for value in classes if isinstance(value, str)}) > MOST_CLASSES
        together = ", the rarest classes together in the last" if many else ""
        parts.append(
            figure(
                figures.class_panels(chart.positions, classes),
                f"One panel per class with its number of detections{together}. A class that "
                "spreads over the whole map cannot be recognized by its spectrum alone.",
                title="Class by class",
                wide=True,
            )
        )
    if len(report_data.catalog) >= MIN_CORRELATION_ROWS:
        parts.append(_correlations(report_data.catalog))
    return join([paragraph(f"The map is {chart.method}."), grid(parts)])


def data_section(report_data: ReportData) -> Html:
    """Count spectra and rejects of the manifest, and show how bright the detections are."""
    totals = report_data.totals
    whole = totals["manifest"] == totals["spectra"] + totals["rejects"]
    balance = (
        f"{count_of(totals['manifest'], 'detection')} in the manifest = {totals['spectra']:,} "
        f"spectra + {count_of(totals['rejects'], 'reject')}."
        if whole
        else f"{totals['manifest']:,} detections in the manifest, but {totals['spectra']:,} "
        f"spectra and {totals['rejects']:,} rejects so far: run raypipe ingest again."
    )
    sources = len(set(sources_of(report_data.catalog).tolist()))
    parts = [
        paragraph(balance),
        paragraph(
            f"The catalog has {count_of(len(report_data.catalog), 'detection')} of "
            f"{count_of(sources, 'source')}."
        ),
    ]
    if unmeasured := int((~has_latents(report_data.catalog)).sum()):
        parts.append(
            paragraph(
                f"{count_of(unmeasured, 'detection')} could not be measured (flag not_measured): "
                "without latents, they are not in the figures above."
            )
        )
    if len(report_data.catalog) > SHOW_ALL_ROWS:
        counts = report_data.catalog["total_counts"].to_numpy(np.float64)
        misfit = report_data.catalog[SIGMAS[BADLY_FIT]].to_numpy(np.float64)
        parts.append(
            grid(
                [
                    figure(
                        figures.counts_histogram(counts),
                        f"Counts per detection; the median is {np.median(counts):,.0f}.",
                        title="Brightness",
                    ),
                    figure(
                        figures.significance_histogram(misfit),
                        "All detections; the curve is what a perfect model gives. A tail to the "
                        "right contains spectra that the model cannot explain.",
                        title="Goodness of fit",
                    ),
                ]
            )
        )
    return join([*parts, heading("Rejects"), _rejects(report_data.rejects)])


def provenance_section(report_data: ReportData) -> Html:
    """List versions, settings and fingerprints behind the page."""
    record = report_data.training.get(report_data.model_id, {})
    metrics = report_data.metrics or {}
    items = [
        ("release", report_data.release),
        ("manifest from", report_data.manifest.get("source", "not recorded")),
        ("manifest fingerprint", report_data.manifest.get("fingerprint", "not recorded")),
        ("model", report_data.model_id),
        ("model trained on release", record.get("release", "not recorded in this workspace")),
        ("model trained with", _versions(record.get("made_by", {}))),
        ("labels on this page", report_data.labels or "none"),
        ("labels of the evaluation", metrics.get("data", {}).get("labels") or "none"),
        ("evaluated with", _versions(metrics.get("made_by", {}))),
        ("judged detections fingerprint", metrics.get("data", {}).get("fingerprint", "–")),
    ]
    parts = [facts(items)]
    if report_data.model is not None:
        parts.append(
            details("The model's settings", preformatted(report_data.model.config.to_toml()))
        )
    return join(parts)


def training_section(report_data: ReportData) -> Html:
    """Show the learning curves of the models of this release."""
    parts = []
    for model_id, record in report_data.training.items():
        history = record.get("history")
        if not history:
            continue
        spectra = record.get("spectra", {})
        caption = (
            f"Trained on {spectra.get('train', 0):,} spectra, validated on "
            f"{spectra.get('validation', 0):,} others after each epoch; the dashed line marks the "
            "epoch whose weights are kept. Losses of different presets are not comparable."
        )
        drawing = figures.learning_curve(history, record.get("best_epoch"))
        parts.append(figure(drawing, caption, title=model_id))
    if not parts:
        return paragraph("No learning curve: the model's records are not in this workspace.")
    return grid(parts)


def _example(report_data: ReportData, example: Example) -> Html:
    row = example.row
    parts = [
        remarks(row),
        f"{int(row['total_counts']):,} counts",
        f"misfit {minus(format(row[SIGMAS[BADLY_FIT]], '.1f'))} σ",
    ]
    subtitle = " · ".join(part for part in parts if part)
    drawing = spectrum_figure(example.spectrum)
    link = detection_address(report_data, row["detection_id"])
    return figure(drawing, "", title=str(row["detection_id"]), subtitle=subtitle, link=link)


def _correlations(catalog: pd.DataFrame) -> Html:
    found = rank_correlations(catalog)
    return figure(
        figures.correlation_map(found.to_numpy(), list(found.index), list(found.columns)),
        "Rank correlation of each latent with measured or true quantities, for all detections. In "
        "a cell of strong color, the latent alone orders detections by that quantity. The first "
        "row should be faint: latents describe the shape of a spectrum, not its brightness.",
        title="Correlations of the latents",
        wide=True,
    )


def _rejects(rejects: pd.DataFrame) -> Html:
    if rejects.empty:
        return paragraph("None: every detection of the manifest has a spectrum.")
    found = group_rejects(rejects)
    cells = (
        [
            number_cell(row["detections"], ",d"),
            text_cell(row["stage"]),
            text_cell(row["reason"], wide=True),
            text_cell("yes" if row["retryable"] else "no"),
            text_cell(row["detection_id"], row["uri"] if isinstance(row["uri"], str) else ""),
        ]
        for _, row in found.head(REJECT_REASONS_SHOWN).iterrows()
    )
    headers = ("detections", "stage", "reason", "retry may help", "example")
    more = len(found) - REJECT_REASONS_SHOWN
    remark = [paragraph(f"The table of rejects has {count_of(more, 'more reason')}.", "note")]
    return join([table(headers, cells, numbers=(0,)), *(remark if more > 0 else [])])


def group_rejects(rejects: pd.DataFrame) -> pd.DataFrame:
    """Group rejects by stage, reason and whether a retry may help, the most frequent first.

    If a reason begins with the reject's own file, that is removed, so that the same problem of many
    files is one row; `detection_id` and `uri` are those of the first of them.
    """
    reasons = [
        str(reason).removeprefix(str(uri)).removeprefix(": ")
        for reason, uri in zip(rejects["reason"], rejects["uri"], strict=True)
    ]
    grouped = rejects.assign(reason=reasons, detections=1).groupby(
        ["stage", "reason", "retryable"], dropna=False, as_index=False
    )
    found = grouped.agg({"detections": "sum", "detection_id": "first", "uri": "first"})
    return found.sort_values("detections", ascending=False, kind="stable")


def _classes(rows: pd.DataFrame) -> npt.NDArray[np.object_]:
    if "class" not in rows:
        return np.full(len(rows), None, dtype=object)
    return np.array([v if isinstance(v, str) else None for v in rows["class"]], dtype=object)


def _short_names(rows: pd.DataFrame) -> list[str]:
    return [str(identifier).split(":", 1)[-1] for identifier in rows["detection_id"]]


def _versions(made_by: dict[str, Any]) -> str:
    versions = [f"{name} {value}" for name, value in made_by.items() if isinstance(value, str)]
    return ", ".join(versions) or "not recorded in this workspace"
