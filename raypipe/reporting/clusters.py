"""Write the section of a report on the clusters that `raypipe cluster` has found."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from raypipe.display.clusters_figure import cluster_figures, labeled_classes
from raypipe.html.page import (
    Html,
    count_of,
    figure,
    grid,
    join,
    number_cell,
    paragraph,
    table,
    text_cell,
)
from raypipe.reporting.report_data import ReportData

_NAMED = 4

NOT_CLUSTERED = "This catalog has no clusters: run raypipe cluster."


def clusters_section(report_data: ReportData) -> Html:
    """Show the spectra of the clusters, their sizes, classes and most typical detections."""
    clusters = report_data.clusters
    if clusters is None:
        return paragraph(NOT_CLUSTERED)
    parts = [
        paragraph(
            f"{count_of(len(clusters), 'cluster')} of detections with spectra of similar shape, "
            "found without labels."
        )
    ]
    if clusters["flux"].notna().any():
        note = (
            "Spectra: median flux of the members before the telescope (black), and the range of "
            "68% of them (shaded); gray is the mean of all clusters."
        )
        drawings = cluster_figures(clusters)
        rows = [each for _, each in clusters.iterrows()]
        shown = [_drawn(drawing, row) for drawing, row in zip(drawings, rows, strict=True)]
        parts += [paragraph(note, "note"), grid(shown, small=True)]
    return join([*parts, _table(clusters)])


def _drawn(drawing: Figure, row: pd.Series[Any]) -> Html:
    return figure(
        drawing,
        f"Labeled sources: {labeled_classes(row, _NAMED)}.",
        title=f"Cluster {row['cluster']}",
        subtitle=f"{row['n_detections']:,} detections of {count_of(row['n_sources'], 'source')}",
    )


def _table(clusters: pd.DataFrame) -> Html:
    rows = []
    for _, each in clusters.iterrows():
        classes = labeled_classes(each, len(each["classes"]))
        rows.append(
            [
                number_cell(each["cluster"], "d"),
                number_cell(each["n_detections"], ",d"),
                number_cell(each["n_sources"], ",d"),
                text_cell(_known(each["likely_class"]), classes, wide=True),
                text_cell(_known(each["nearest_type"])),
                number_cell(each["nearest_type_p"], ".2f"),
                text_cell(next(iter(each["typical"]), "–")),
            ]
        )
    note = (
        "Likely class: the class of whose labeled sources the cluster holds the largest share, "
        "with the numbers of its sources. Nearest type: the class of the model's training sources "
        "with the highest mean probability."
    )
    headers = ("cluster", "detections", "sources", "likely class", "nearest type", "p", "typical")
    numbers = (0, 1, 2, 5)
    return join([table(headers, rows, numbers=numbers), paragraph(note, "note")])


def _known(value: object) -> str:
    return value if isinstance(value, str) else "–"
