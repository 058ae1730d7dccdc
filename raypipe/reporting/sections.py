"""The sections of a report on detections: spectra, latents, anomalies, data, provenance."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.display.spectrum_figure import spectrum_figure
from raypipe.evaluation.regression import hardness_ratios, regression_targets
from raypipe.evaluation.selection import has_latents, latent_columns, latents_of
from raypipe.evaluation.validation import sources_of
from raypipe.html.page import (
    Html,
    block,
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
from raypipe.reporting.report_data import SHOW_ALL_ROWS, Example, ReportData

ANOMALIES_SHOWN = 10
"""Rows in each list of anomalies."""

REJECT_REASONS_SHOWN = 30
"""Most rows of the table of rejects."""

MIN_CORRELATION_ROWS = 30
"""Fewest detections for rank correlations worth showing."""

MAX_NAMED_POINTS = 20
"""Up to so many points of the latent map carry their names."""

QUANTITY_LABELS = {
    "log_nh": "log N_H",
    "photon_index": "photon index",
    "log_kt": "log kT",
    "hard_ms": "hardness m/s",
    "hard_hm": "hardness h/m",
    "hard_hs": "hardness h/s",
}
"""How quantities are called on the page."""


def spectra_section(report_data: ReportData) -> Html:
    """Example reconstructions, or why there are none."""
    if report_data.model is None:
        return paragraph(
            f"The bundle of {report_data.model_id} is not in this workspace: give its path as the "
            "model of raypipe report to see reconstructions."
        )
    if not report_data.examples:
        return paragraph("The spectra of this catalog's detections are not in this workspace.")
    everyone = len(report_data.catalog) <= SHOW_ALL_ROWS
    intro = (
        "Every detection of this catalog, brightest first. "
        if everyone
        else "A spread of brightness and class, drawn at random. "
    )
    intro += (
        "Crosses are counts with 68% Poisson intervals, grouped for the plot only; the red line is "
        "the reconstruction: the shape is that of the latents alone, the amplitude is fitted to "
        "the counts, and the background, also drawn dashed, is included. The lower panel has "
        "counts less model over the root of the model. A good fit scatters around zero there and "
        "has a Cash z-score within about 3 of 0."
    )
    parts = [paragraph(intro), grid(_example(example) for example in report_data.examples)]
    if report_data.worst:
        latents = len(latent_columns(report_data.catalog))
        parts += [
            heading("The worst explained"),
            paragraph(
                f"The largest Cash z-scores of the catalog: where {latents} latents are not "
                "enough, or the data are not what the model expects."
            ),
            grid(_example(example) for example in report_data.worst),
        ]
    return join(parts)


def latents_section(report_data: ReportData) -> Html:
    """The map of latents by class and hardness, and what each latent goes with."""
    chart = report_data.latent_map
    rows = report_data.catalog.iloc[chart.rows]
    classes = _classes(rows)
    labeled = any(isinstance(value, str) for value in classes)
    names = _short_names(rows) if len(rows) <= MAX_NAMED_POINTS else []
    by_class = "One point a detection, colored by class: " if labeled else "One point a detection: "
    parts = [
        figure(
            figures.latent_map(chart.positions, classes, names),
            by_class + "neighbors have similar spectra. Axes have no unit: only nearness counts.",
            title="By class" if labeled else "The detections",
        )
    ]
    if "counts_s" in rows:
        hardness = hardness_ratios(rows)["hard_hs"].to_numpy()
        known = np.isfinite(hardness)
    if "counts_s" in rows and known.any():
        parts.append(
            figure(
                figures.hardness_map(chart.positions[known], hardness[known]),
                "The same map colored by hardness ratio: a smooth gradient means that the latents "
                "hold the spectrum's overall slope.",
                title="By hardness",
            )
        )
    if labeled and len(rows) > SHOW_ALL_ROWS:
        many = len({value for value in classes if isinstance(value, str)}) > MOST_CLASSES
        together = ", the rarest together in the last" if many else ""
        parts.append(
            figure(
                figures.class_panels(chart.positions, classes),
                f"One panel per class with its number of detections{together}: a class that "
                "spreads over the whole map cannot be told by its spectrum alone.",
                title="Class by class",
                wide=True,
            )
        )
    if len(report_data.catalog) >= MIN_CORRELATION_ROWS:
        parts.append(_correlations(report_data.catalog))
    return join([paragraph(f"The map is {chart.method}."), grid(parts)])


def anomalies_section(report_data: ReportData) -> Html:
    """Detections that are explained badly, and those far out in latent space."""
    catalog = report_data.catalog[has_latents(report_data.catalog)]
    shown = min(ANOMALIES_SHOWN, len(catalog))
    lists = (
        (
            "fit_zscore",
            "Explained worst",
            "Largest Cash z-scores first: above about 3 the reconstruction misses more than the "
            "noise does.",
        ),
        (
            "anomaly_score",
            "Farthest out",
            "Largest anomaly scores first: minus the log density (nats) of the training "
            "population there, high where few spectra are alike.",
        ),
    )
    parts = []
    for column, title, caption in lists:
        ranked = catalog.sort_values(column, ascending=False, kind="stable").head(shown)
        parts.append(block(heading(title), paragraph(caption, "note"), _anomaly_table(ranked)))
    return grid(parts)


def data_section(report_data: ReportData) -> Html:
    """What became of the manifest, and how bright the detections are."""
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
                "no latents, and left out of the figures above."
            )
        )
    if len(report_data.catalog) > SHOW_ALL_ROWS:
        counts = report_data.catalog["total_counts"].to_numpy(np.float64)
        zscores = report_data.catalog["fit_zscore"].to_numpy(np.float64)
        parts.append(
            grid(
                [
                    figure(
                        figures.counts_histogram(counts),
                        f"Counts a detection; the median is {np.median(counts):,.0f}.",
                        title="Brightness",
                    ),
                    figure(
                        figures.zscore_histogram(zscores),
                        "All detections; the curve is what a perfect model gives. A tail to the "
                        "right holds spectra the model cannot explain.",
                        title="Goodness of fit",
                    ),
                ]
            )
        )
    return join([*parts, heading("Rejects"), _rejects(report_data.rejects)])


def provenance_section(report_data: ReportData) -> Html:
    """Versions, settings and fingerprints: what made the page."""
    record = report_data.training.get(report_data.model_id, {})
    metrics = report_data.metrics or {}
    items = [
        ("release", report_data.release),
        ("manifest from", report_data.manifest.get("source", "not recorded")),
        ("manifest fingerprint", report_data.manifest.get("fingerprint", "not recorded")),
        ("model", report_data.model_id),
        ("model trained on release", record.get("release", "not recorded in this workspace")),
        ("model trained with", _versions(record.get("made_by", {}))),
        ("classes on this page", report_data.labels or "none"),
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
    """Learning curves of the models of this release."""
    parts = []
    for model_id, record in report_data.training.items():
        history = record.get("history")
        if not history:
            continue
        spectra = record.get("spectra", {})
        caption = (
            f"Trained on {spectra.get('train', 0):,} spectra, judged on "
            f"{spectra.get('validation', 0):,} others each epoch; the dashed line marks the epoch "
            "kept. Losses of different presets are not comparable."
        )
        drawing = figures.learning_curve(history, record.get("best_epoch"))
        parts.append(figure(drawing, caption, title=model_id))
    if not parts:
        return paragraph("No learning curve: the model's records are not in this workspace.")
    return grid(parts)


def _example(example: Example) -> Html:
    row = example.row
    parts = [
        _remarks(row),
        f"{int(row['total_counts']):,} counts",
        f"Cash z-score {minus(format(row['fit_zscore'], '+.2f'))}",
    ]
    subtitle = " · ".join(part for part in parts if part)
    drawing = spectrum_figure(example.spectrum)
    return figure(drawing, "", title=str(row["detection_id"]), subtitle=subtitle)


def _correlations(catalog: pd.DataFrame) -> Html:
    latents = pd.DataFrame(latents_of(catalog), columns=latent_columns(catalog))
    quantities = {"log counts": np.log10(np.maximum(catalog["total_counts"].to_numpy(float), 1))}
    for name, target in regression_targets(catalog).items():
        if target is not None and np.isfinite(target.values).sum() >= MIN_CORRELATION_ROWS:
            quantities[QUANTITY_LABELS[name]] = target.values
    values = np.array(
        [[_rank_correlation(z, q) for _, z in latents.items()] for q in quantities.values()]
    )
    return figure(
        figures.correlation_map(values, list(quantities), latent_columns(catalog)),
        "Rank correlation of each latent with measured or true quantities, all detections. Strong "
        "color: the latent alone orders detections by that quantity. The first row should have "
        "little: latents describe the shape of a spectrum, not its brightness.",
        title="What the latents go with",
        wide=True,
    )


def _rank_correlation(latent: pd.Series[Any], quantity: npt.NDArray[np.float64]) -> float:
    return float(latent.corr(pd.Series(quantity), method="spearman"))


def _anomaly_table(rows: pd.DataFrame) -> Html:
    headers = ("detection", "counts", "Cash z-score", "anomaly score")
    cells = (
        [
            text_cell(row["detection_id"], _remarks(row)),
            number_cell(row["total_counts"], ",.0f"),
            number_cell(row["fit_zscore"], "+.2f"),
            number_cell(row["anomaly_score"], ".2f"),
        ]
        for _, row in rows.iterrows()
    )
    return table(headers, cells, numbers=(1, 2, 3))


def _remarks(row: pd.Series[Any]) -> str:
    """Name, class and flags of a detection, as far as it has them."""
    texts = [row.get(column) for column in ("name", "class", "flags")]
    return " · ".join(text.replace("|", ", ") for text in texts if isinstance(text, str) and text)


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
    headers = ("detections", "stage", "reason", "worth a retry", "for instance")
    more = len(found) - REJECT_REASONS_SHOWN
    remark = [paragraph(f"{count_of(more, 'further reason')} in rejects.", "note")]
    return join([table(headers, cells, numbers=(0,)), *(remark if more > 0 else [])])


def group_rejects(rejects: pd.DataFrame) -> pd.DataFrame:
    """Rejects by stage, reason and whether a retry is worth it, most frequent first.

    A reason that begins with the reject's own file is taken without it, so that the same problem
    of many files is one row; `detection_id` and `uri` are those of the first of them.
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
