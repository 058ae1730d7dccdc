"""Write the section of a report on the clusters that `raypipe cluster` has found."""

from __future__ import annotations

import pandas as pd

from raypipe.display.clusters_figure import clusters_figure
from raypipe.html.page import (
    Html,
    count_of,
    figure,
    join,
    number_cell,
    paragraph,
    table,
    text_cell,
)
from raypipe.reporting.report_data import ReportData

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
        parts.append(
            figure(
                clusters_figure(clusters),
                "Median flux of the members before the telescope (black), and the range of 68% of "
                "them (shaded); gray is the mean of all clusters. Titles have the most frequent "
                "classes of labelled sources with their numbers.",
                title="Spectra of the clusters",
                wide=True,
            )
        )
    return join([*parts, _table(clusters)])


def _table(clusters: pd.DataFrame) -> Html:
    rows = []
    for _, each in clusters.iterrows():
        classes = ", ".join(
            f"{name} {number}"
            for name, number in zip(each["classes"], each["class_sources"], strict=True)
        )
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
        "Likely class: the class of whose labelled sources the cluster holds the largest share, "
        "with the numbers of its sources. Nearest type: the class of the model's training sources "
        "with the highest mean probability."
    )
    headers = ("cluster", "detections", "sources", "likely class", "nearest type", "p", "typical")
    numbers = (0, 1, 2, 5)
    return join([table(headers, rows, numbers=numbers), paragraph(note, "note")])


def _known(value: object) -> str:
    return value if isinstance(value, str) else "–"
