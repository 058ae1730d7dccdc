"""Write the first sections of a report: the detections, the origin of classes, the unusual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from raypipe.catalog.classes import most_probable
from raypipe.catalog.hardness import hardness_ratios, has_band_counts
from raypipe.evaluation.selection import has_latents
from raypipe.html.page import (
    Html,
    block,
    grid,
    heading,
    join,
    number_cell,
    paragraph,
    table,
    text_cell,
    word_cell,
)
from raypipe.model.card import describe_classes
from raypipe.reporting.glance import detection_address, least_chance
from raypipe.reporting.report_data import SIGMAS, ReportData
from raypipe.searching.batched_gaussians import Rows
from raypipe.searching.causes import known_causes
from raypipe.searching.strangest import RANKINGS, UNUSUAL_CHANCE, format_chance
from raypipe.store.layout import catalog_folder

DETECTIONS_SHOWN = 50
"""Most rows of the table of detections."""

UNUSUAL_SHOWN = 10
"""Rows of each ranking of unusual detections."""

_NOT_MEASURED = "not measured"


def detections_section(report_data: ReportData) -> Html:
    """Tabulate the detections, with the origin of classes below."""
    catalog = report_data.catalog
    if catalog.empty:
        return paragraph("The catalog has no detections: all of the manifest are rejects.")
    shown = order_of_interest(report_data)[:DETECTIONS_SHOWN]
    parts = [_detection_table(report_data, shown)]
    order = "unusual ones first, then the others by their counts"
    if len(shown) < len(catalog):
        folder = catalog_folder(report_data.release, report_data.model_id)
        parts.append(
            paragraph(
                f"{len(shown)} of {len(catalog):,} detections, {order}. All are in {folder}/ of "
                "the workspace: open them in Python with raypipe.open_catalog, or write one file "
                "with raypipe export.",
                "note",
            )
        )
    else:
        parts.append(paragraph(f"All detections, {order}.", "note"))
    parts.append(paragraph(_column_note(), "note"))
    return join([*parts, *_class_notes(report_data)])


def unusual_section(report_data: ReportData) -> Html:
    """List the most unusual detections of each ranking, as `raypipe search --strangest` does."""
    parts = []
    for ranking, found in report_data.significances.items():
        title = ranking.capitalize()
        if not found.searched:
            reason = "no detection has latents"
            if report_data.model is None:
                reason = f"the bundle of {report_data.model_id} is not in this workspace"
            parts.append(block(heading(title), paragraph(f"Not available: {reason}.", "note")))
            continue
        rows = found.most(min(UNUSUAL_SHOWN, found.searched), found.sigmas)
        remark = f"{RANKINGS[ranking]}; {found.remark()}."
        parts.append(
            block(
                heading(title),
                paragraph(f"{remark[:1].upper()}{remark[1:]}", "note"),
                _unusual_table(report_data, rows, ranking),
            )
        )
    note = (
        "Significances are standard deviations and take the noise of few counts into account. "
        "Chance is the probability that noise alone makes at least one of all detections this "
        f"unusual; below {UNUSUAL_CHANCE:g} a detection is called unusual. Causes are effects of "
        "the instrument that may explain it."
    )
    return join([paragraph(note), grid(parts)])


def order_of_interest(report_data: ReportData) -> list[int]:
    """Order the rows of the catalog: unusual ones by their chance, then the others by counts."""
    chance = least_chance(report_data)
    counts = report_data.catalog["total_counts"].to_numpy(dtype=np.float64, na_value=0.0)
    is_unusual = chance < UNUSUAL_CHANCE
    return [int(row) for row in np.lexsort((-counts, np.where(is_unusual, chance, 1.0)))]


def _detection_table(report_data: ReportData, chosen: list[int]) -> Html:
    """Tabulate rows of the catalog, column by column; columns without any value are left out."""
    rows = report_data.catalog.iloc[chosen]
    columns = {
        "detection": [
            text_cell(
                row["detection_id"],
                remarks(row, ("name", "telescope", "instrument", "flags")),
                link=detection_address(report_data, row["detection_id"]),
            )
            for _, row in rows.iterrows()
        ],
        "counts": [number_cell(counts, ",.0f") for counts in rows["total_counts"]],
    }
    if has_band_counts(rows):
        ratios = hardness_ratios(rows)["hard_hs"]
        columns["hardness"] = [number_cell(ratio, "+.2f") for ratio in ratios]
    if "class" in rows and rows["class"].notna().any():
        labels = [label if isinstance(label, str) else "–" for label in rows["class"]]
        columns["label"] = [word_cell(label) for label in labels]
    if report_data.classes:
        likely = most_probable(rows, report_data.classes)
        columns["likely class"] = [word_cell(name or "–") for name in likely["class"]]
        columns["p"] = [number_cell(share, ".2f") for share in likely["share"]]
    columns["unusual"] = _unusual_cells(report_data, chosen)
    numbers = [i for i, name in enumerate(columns) if name in ("counts", "hardness", "p")]
    return table(list(columns), zip(*columns.values(), strict=True), numbers=numbers)


def _unusual_cells(report_data: ReportData, chosen: list[int]) -> list[Html]:
    """State for each row why it is unusual, with causes in the instrument, or "no"."""
    rows = report_data.catalog.iloc[chosen]
    cells = []
    for row, measured, causes in zip(chosen, has_latents(rows), known_causes(rows), strict=True):
        reasons = [
            f"{ranking} ({found.sigmas[row]:.1f} σ)"
            for ranking, found in report_data.significances.items()
            if found.chance[row] < UNUSUAL_CHANCE
        ]
        causes = f"perhaps {_in_words(causes)}" if reasons and causes else ""
        cells.append(text_cell(", ".join(reasons) or ("no" if measured else _NOT_MEASURED), causes))
    return cells


def _column_note() -> str:
    meanings = "; ".join(f"{ranking}: {meaning}" for ranking, meaning in RANKINGS.items())
    return (
        "Hardness is (h − s) / (h + s) of background-subtracted counts, h in 2–7 keV and s in "
        f"0.5–1.2 keV: −1 is soft, 1 is hard. Unusual means {meanings}. Noise and the number of "
        "detections are taken into account; below it stand effects of the instrument that may be "
        "the cause."
    )


def _class_notes(report_data: ReportData) -> list[Html]:
    """State where class probabilities come from, and their accuracy as far as it is known."""
    if not report_data.classes:
        return [paragraph("The model was trained without labels: there are no classes.", "note")]
    if report_data.model is None:
        return []
    parts = [heading("Where the classes come from"), paragraph(describe_classes(report_data.model))]
    measured = (report_data.metrics or {}).get("classification", {}).get("catalog_probabilities")
    if measured and measured["balanced_accuracy"] is not None:
        parts.append(
            paragraph(
                "On the labeled detections of this catalog, their balanced accuracy is "
                f"{measured['balanced_accuracy']:.2f} ± {measured['balanced_accuracy_error']:.2f}."
            )
        )
    return parts


def _unusual_table(report_data: ReportData, chosen: Rows, ranking: str) -> Html:
    rows = report_data.catalog.iloc[chosen]
    chance = report_data.significances[ranking].chance[chosen]
    causes = known_causes(rows)
    cells = (
        [
            text_cell(
                row["detection_id"],
                remarks(row),
                link=detection_address(report_data, row["detection_id"]),
            ),
            number_cell(row["total_counts"], ",.0f"),
            number_cell(row[SIGMAS[ranking]], ".1f"),
            word_cell(format_chance(chance[i]), right=True),
            word_cell(_in_words(causes[i]) or "–"),
        ]
        for i, (_, row) in enumerate(rows.iterrows())
    )
    headers = ("detection", "counts", "significance (σ)", "chance", "causes")
    return table(headers, cells, numbers=(1, 2, 3))


def _in_words(causes: str) -> str:
    return causes.replace("|", ", ").replace("_", " ")


_REMARKS = ("name", "telescope", "instrument", "class", "flags")


def remarks(row: pd.Series[Any], columns: Sequence[str] = _REMARKS) -> str:
    """Join name, telescope, class and flags of a detection, as far as it has them."""
    texts = [row.get(column) for column in columns]
    return " · ".join(text.replace("|", ", ") for text in texts if isinstance(text, str) and text)
