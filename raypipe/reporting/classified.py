"""Write the section of a report on the class probabilities that `raypipe classify` has added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from raypipe.html.page import (
    Html,
    cards,
    count_of,
    figure,
    grid,
    heading,
    join,
    minus,
    number_cell,
    paragraph,
    table,
    text_cell,
)
from raypipe.reporting import figures
from raypipe.reporting.report_data import ReportData

NOT_CLASSIFIED = (
    "This catalog has no class probabilities with context: run raypipe classify, with a table of "
    "classes in --labels or with a classifier in --classifier."
)


def classified_section(report_data: ReportData) -> Html:
    """Show how good the classification of sources is, class by class."""
    found = report_data.classified
    if found is None:
        return paragraph(NOT_CLASSIFIED)
    parts = [paragraph(_introduction(found))]
    if (measured := found.get("sources")) is None:
        return join([*parts, paragraph(f"Measured on {found['judged']}.", "note")])
    parts += [
        cards(_headlines(found, measured)),
        paragraph(f"Measured on {found['judged']}. {_population(found)}", "note"),
        grid(_figures(measured)),
        heading("Class by class"),
        _class_table(found, measured),
    ]
    return join(parts)


def _introduction(found: Mapping[str, Any]) -> str:
    counted = found["classified"]
    used = ", ".join(
        f"{group} ({count_of(len(names), 'feature')})"
        for group, names in found["features"].items()
        if names
    )
    unlike = count_of(counted["sources_unlike"], "source")
    return (
        f"A random forest gives {count_of(counted['sources'], 'source')} calibrated probabilities "
        f"from {used}. Unlike all labeled ones: {unlike}, which get no class."
    )


def _population(found: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found["prior"]["sources"].items())
    return (
        f"The probabilities in the catalog hold for a population with {shares}, those measured "
        "here for the labeled one. best_class is the most probable class if all were equally "
        "frequent."
    )


def _headlines(found: Mapping[str, Any], measured: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    wanted = f"{measured['coverage_wanted']:.0%} wanted; {measured['mean_set_size']:.1f} classes"
    items = [
        (
            "balanced accuracy",
            f"{measured['balanced_accuracy']:.3f} ± {measured['balanced_accuracy_error']:.3f}",
            "of best_class, sources",
        ),
        (
            "calibration error",
            f"{measured['ece']:.3f} ± {measured['ece_error']:.3f}",
            f"per class; {measured['ece_of_perfect']:.3f} if perfect",
        ),
        (
            "calibration error of the top class",
            f"{measured['ece_top']:.3f} ± {measured['ece_top_error']:.3f}",
            f"{measured['ece_top_of_perfect']:.3f} if perfect",
        ),
        ("coverage of sets", f"{measured['coverage']:.1%}", f"{wanted} on average"),
    ]
    votes = found["neighbor_votes"]
    if "balanced_accuracy" in votes:
        items.append(
            (
                "votes of neighbors",
                f"{votes['balanced_accuracy']:.3f} ± {votes['balanced_accuracy_error']:.3f}",
                "balanced accuracy, detections",
            )
        )
    return [(label, minus(value), note) for label, value, note in items]


def _figures(measured: Mapping[str, Any]) -> list[Html]:
    confusion = measured["confusion"]
    sources = measured["sources"] * len(confusion["classes"])
    bins = [{**each, "weight": each["sources"] / sources} for each in measured["reliability"]]
    return [
        figure(
            figures.recall_bars(measured["classes"], measured["coverage_wanted"]),
            "Share of the sources of a class that best_class finds (bars), and whose set holds the "
            "class (points), with errors from resampled sources. The dashed line is the coverage "
            "that the sets promise.",
            title="Recall and coverage",
        ),
        figure(
            figures.reliability_diagram(bins),
            "How often a class is the true one, by its probability in tenths. Calibrated "
            "probabilities lie on the dashed line. Bars show the share of each tenth.",
            title="Reliability of probabilities",
        ),
        figure(
            figures.confusion_matrix(
                np.round(np.array(confusion["sources"])).astype(np.int64), confusion["classes"]
            ),
            "Percent of each true class (its sources in brackets) by best_class; blue is right, "
            "red is wrong.",
            title="Confusion",
        ),
    ]


def _class_table(found: Mapping[str, Any], measured: Mapping[str, Any]) -> Html:
    unseen = found.get("unseen_class", {})
    rows = []
    for name, each in measured["classes"].items():
        left_out = unseen.get(name, {})
        rows.append(
            [
                text_cell(name),
                number_cell(each["sources"], "d"),
                number_cell(each["recall"], ".2f", each["recall_error"]),
                number_cell(each["recall_labeled"], ".2f"),
                number_cell(each["coverage"], ".2f", each["coverage_error"]),
                number_cell(left_out.get("auc"), ".2f"),
                number_cell(left_out.get("found"), ".2f"),
            ]
        )
    caption = (
        "Recall of best_class with its error; recall of the most probable class in the labeled "
        "population, in which rare classes are rarely chosen; coverage of the sets. The last two "
        "columns leave the class out of the training: the probability that one of its sources is "
        "stranger than one of another class (0.5: not at all), and the share of its sources that "
        f"are then called unlike all others at the threshold of {found['unlike_p']:g}."
    )
    headers = [
        *("class", "sources", "recall", "recall, labeled shares", "coverage"),
        *("stands out if unseen", "called unlike if unseen"),
    ]
    return join([table(headers, rows, numbers=range(1, 7)), paragraph(caption, "note")])
