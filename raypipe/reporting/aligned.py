"""Write the section of a report on the alignment of a catalog with a second view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raypipe.evaluation.alignments import best_baseline
from raypipe.html.page import Html, heading, join, minus, number_cell, paragraph, table, text_cell
from raypipe.reporting.report_data import ReportData

NOT_ALIGNED = (
    "No alignment has been scored: run raypipe align with a table that says something else of the "
    "same sources, then raypipe evaluate."
)
DIRECTIONS = {"to_view": "spectrum to view", "to_spectrum": "view to spectrum"}
_RECALLS = ("at_1", "at_1_percent", "at_5_percent", "median_rank")


def aligned_section(report_data: ReportData) -> Html:
    """Show how well spectra and views find each other, and what the shared space adds."""
    found = (report_data.metrics or {}).get("alignment")
    if not found:
        return paragraph(NOT_ALIGNED)
    if found["reason"]:
        return paragraph(f"Not scored: {found['reason']}.")
    columns = ", ".join(column["name"] for column in found["data"]["columns"][:12])
    gallery = found["retrieval"]["gallery"]
    intro = (
        f"{found['alignment_id']} maps spectra and the rows of {found['table']} ({columns}) into "
        f"one space. It is judged by {gallery:,} sources that its training has not seen, with one "
        "detection and one row each."
    )
    parts = [paragraph(intro), _retrieval(found), heading("What the shared space adds")]
    if any(found["usefulness"].values()):
        parts.append(_usefulness(found))
    else:
        parts.append(paragraph("Not measured: no judged source has a label."))
    if numbers := found["translation"]["view"]:
        parts += [heading("Predictions from spectra"), _translation(numbers)]
    return join(parts)


def _retrieval(found: Mapping[str, Any]) -> Html:
    best = best_baseline(found)
    judged = {
        "alignment": found["retrieval"],
        f"{best}, the best baseline": found["baselines"][best],
    }
    judged |= {f"permuted pairs {i + 1}": each for i, each in enumerate(found["permuted"])}
    rows = [
        [text_cell(name), text_cell(direction), *_recalls(each[way])]
        for name, each in judged.items()
        for way, direction in DIRECTIONS.items()
    ]
    rows.append([text_cell("chance"), text_cell(""), *_recalls(found["chance"])])
    headers = ("", "", "recall at 1", "at 1%", "at 5%", "median rank")
    note = (
        "Recall is the share of the sources whose own answer is the first, or among the first 1% "
        "or 5%, of all. Permuted pairs must be at chance. Errors are from resampled sources."
    )
    return join([table(headers, rows, numbers=range(2, 6)), paragraph(note, "note")])


def _recalls(figures: Mapping[str, float]) -> Iterator[Html]:
    for name in _RECALLS:
        form = ".0f" if name == "median_rank" else ".3f"
        yield number_cell(figures[name], form, figures.get(f"{name}_err"))


def _usefulness(found: Mapping[str, Any]) -> Html:
    rows = []
    for name, scores in found["usefulness"].items():
        if scores is None:
            continue
        cells = [text_cell(name), text_cell(minus(scores["score"]))]
        cells += [_scored(scores[side]) for side in ("latents", "view")]
        cells += [_scored(scores["gain"][f"{side} + shared - {side}"], "+.3f") for side in _SIDES]
        nulls = [each["usefulness"].get(name) for each in found["permuted"][:1]]
        for side in _SIDES:
            null = nulls[0] if nulls else None
            cells.append(
                number_cell(None)
                if null is None
                else _scored(null["gain"][f"{side} + shared - {side}"], "+.3f")
            )
        rows.append(cells)
    headers = (
        *("", "score", "latents", "view"),
        *("shared adds to latents", "to the view", "permuted: to latents", "to the view"),
    )
    note = (
        "Trees are fitted and judged by cross-validation among the judged sources. A space learned "
        "from permuted pairs knows nothing of the view; gains beyond its gains come from the pairs."
    )
    return join([table(headers, rows, numbers=range(2, 8)), paragraph(note, "note")])


_SIDES = ("latents", "view")


def _scored(figure: Mapping[str, float], form: str = ".3f") -> Html:
    return number_cell(figure["value"], form, figure["err"])


def _translation(numbers: Mapping[str, Any]) -> Html:
    rows = [
        [
            text_cell(name),
            number_cell(each["r2"], ".2f"),
            number_cell(each["coverage"], ".2f", each.get("coverage_err")),
        ]
        for name, each in numbers.items()
    ]
    note = (
        "Explained: the share of the variance of ranks, as normal scores, that the prediction "
        "explains. Coverage: how often the truth is within the 68% limits."
    )
    headers = ("column of the view", "explained", "coverage")
    return join([table(headers, rows, numbers=range(1, 3)), paragraph(note, "note")])
