"""Write the section of a report on metrics: headlines, comparison, classes, quantities, fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raypipe.evaluation.summary import headlines
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
from raypipe.reporting.classes import MOST_CLASSES
from raypipe.reporting.correlations import QUANTITY_LABELS
from raypipe.reporting.report_data import ReportData

LOWER, HIGHER = "lower", "higher"

FIT_AND_CLASS_COLUMNS: Sequence[tuple[str, str, str, str]] = (
    ("cash_per_bin", "Cash per bin", ".3f", LOWER),
    ("excess_cash_per_bin", "excess over truth", "+.4f", ""),
    ("divergence_per_bin", "divergence from truth", ".4f", LOWER),
    ("cluster_balanced_accuracy", "clusters, all classes", ".3f", HIGHER),
    ("cluster_agn_compact_balanced_accuracy", "clusters, AGN / compact", ".3f", HIGHER),
    ("knn_balanced_accuracy", "nearest neighbors", ".3f", HIGHER),
    ("boosting_balanced_accuracy", "gradient boosting", ".3f", HIGHER),
)
"""Key, title, format and better direction of the columns on fits and classes."""

QUANTITY_COLUMNS: Sequence[tuple[str, str, str, str]] = tuple(
    (f"r2_{name}", f"R² of {label}", ".3f", HIGHER) for name, label in QUANTITY_LABELS.items()
)
"""Key, title, format and better direction of the columns on physical quantities."""

ALL_COLUMNS = (*FIT_AND_CLASS_COLUMNS, *QUANTITY_COLUMNS)

FIT_COLUMNS: Sequence[tuple[str, str, str]] = (
    ("cash_per_bin", "Cash per bin", ".3f"),
    ("cash_expected_per_bin", "expected", ".3f"),
    ("truth_cash_per_bin", "Cash of the truth", ".3f"),
    ("excess_cash_per_bin", "excess over truth", "+.4f"),
    ("divergence_per_bin", "divergence from truth", ".4f"),
    ("fit_zscore.mean", "mean z-score", "+.2f"),
    ("fit_zscore.width", "width of z-scores", ".2f"),
    ("fit_zscore.beyond_3", "share beyond 3", ".1%"),
)
"""Key, title and format of each column on goodness of fit by counts."""

NOT_EVALUATED = (
    "This catalog has not been evaluated: run raypipe evaluate for scores against labels, "
    "baselines and published figures."
)


def evaluation_section(report_data: ReportData) -> Html:
    """Show headline figures, comparison, classes, quantities and goodness of fit by counts."""
    metrics = report_data.metrics
    if metrics is None:
        return paragraph(NOT_EVALUATED)
    return join(
        [
            *_headlines(metrics),
            _comparison(metrics),
            heading("Classes"),
            *_classes(metrics),
            heading("Goodness of fit by counts"),
            _by_counts(metrics),
        ]
    )


def _headlines(metrics: Mapping[str, Any]) -> list[Html]:
    """Show the figures that were measured, and on which detections."""
    items = [(h.label, minus(h.value), h.note) for h in headlines(metrics) if h.is_measured]
    data = metrics["data"]
    note = (
        f"Measured on {count_of(data['n_rows'], 'detection')} of "
        f"{count_of(data['n_sources'], 'source')} ({data['rows']}): {data['rows_reason']}. Labels: "
        f"{data['labels'] or 'none'}. Errors are standard deviations over resampled sources, those "
        "of Cash over detections."
    )
    return [cards(items), paragraph(note, "note")] if items else [paragraph(note, "note")]


def _classes(metrics: Mapping[str, Any]) -> list[Html]:
    drawn = [*_confusions(metrics), *_reliability(metrics)]
    if not drawn:
        reason = metrics["classification"]["reason"]
        return [
            paragraph(
                f"The classes cannot be judged: {reason}. Give a table with classes by "
                "raypipe evaluate --labels."
            )
        ]
    left_out = metrics["classification"]["left_out"]
    listed = ", ".join(f"{name} ({count_of(count, 'source')})" for name, count in left_out.items())
    remark = [paragraph(f"Left out for too few sources: {listed}.", "note")] if listed else []
    return [grid(drawn), *remark]


def _comparison(metrics: Mapping[str, Any]) -> Html:
    caption = (
        "Every row is judged on the same detections with the same folds, which never split a "
        "source. Accuracies are balanced (mean recall of the classes). Clusters are those of a "
        "Gaussian mixture fitted without labels; the class of each cluster is learned on some "
        "sources and judged on others. Compact objects are HMXB, LMXB and NS. The best value of "
        "each column is bold; published figures, of other data, do not take part."
    )
    quantities_caption = (
        "R² is that of gradient boosting. log kT is that of the thermal component of a source: a "
        "plasma, a disk, a surface or a soft excess. Hardness ratios are those of detected counts, "
        "which still contain the response: latents with the response removed (preset folded) may "
        "predict them less well than a PCA of the same counts."
    )
    rows = metrics["comparison"]
    own = [row for row in rows if row["kind"] != "published"]
    reason = metrics.get("comparison_reason")
    remark = [paragraph(f"{reason[:1].upper()}{reason[1:]}.", "note")] if reason else []
    judged = [key for key, _, _, better in ALL_COLUMNS if better == HIGHER]
    if not any(row.get(key) is not None for row in own for key in judged):
        return join(
            [
                paragraph(
                    "No comparison: there are no labels, or too few, to judge representations by."
                ),
                *remark,
            ]
        )
    return join(
        [
            paragraph(caption, "note"),
            _comparison_table(rows, FIT_AND_CLASS_COLUMNS),
            _with_caption(_comparison_table(own, QUANTITY_COLUMNS), quantities_caption),
            *remark,
        ]
    )


def _with_caption(drawn: Html, caption: str) -> Html:
    return join([drawn, paragraph(caption, "note")]) if drawn else drawn


def _comparison_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str, str, str]]
) -> Html:
    """Tabulate the comparison; leave out columns without a measured value, and empty rows."""
    measured = [row for row in rows if row["kind"] != "published"]
    columns = [c for c in columns if any(row.get(c[0]) is not None for row in measured)]
    rows = [row for row in rows if any(row.get(c[0]) is not None for c in columns)]
    if not rows:
        return Html("")
    bests = {key: _best(measured, key, better) for key, _, _, better in columns}
    cells = []
    for row in rows:
        small = "; ".join(part for part in (row["model_id"], row["note"]) if part)
        cells.append([text_cell(row["representation"], small, wide=True)])
        for key, _, form, _ in columns:
            value = row.get(key)
            best = value is not None and value == bests[key]
            cells[-1].append(number_cell(value, form, row.get(f"{key}_error"), best))
    headers = ("", *(title for _, title, _, _ in columns))
    return table(headers, cells, numbers=range(1, len(headers)))


def _best(rows: Sequence[Mapping[str, Any]], key: str, better: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    if not better or len(values) < 2:
        return None
    return float(min(values) if better == LOWER else max(values))


def _confusions(metrics: Mapping[str, Any]) -> list[Html]:
    classification, clusters = metrics["classification"], metrics["clustering"]["all_classes"]
    candidates = (
        ("Nearest neighbors", classification["knn"], ""),
        ("Gradient boosting", classification["boosting"], ""),
        ("The catalog's own probabilities", classification["catalog_probabilities"], ""),
        ("Clusters", clusters, f"{clusters['components']} components of a Gaussian mixture. "),
    )
    drawn = []
    for title, scores, remark in candidates:
        if scores["confusion"] is None:
            continue
        confusion = scores["confusion"]
        drawing = figures.confusion_matrix(np.array(confusion["matrix"]), confusion["classes"])
        caption = remark + _confusion_caption(len(confusion["classes"]))
        subtitle = (
            f"balanced accuracy {scores['balanced_accuracy']:.3f} "
            f"± {scores['balanced_accuracy_error']:.3f}"
        )
        drawn.append(figure(drawing, caption, title=title, subtitle=subtitle))
    return drawn


def _confusion_caption(classes: int) -> str:
    if classes <= MOST_CLASSES:
        return (
            "Percent of each true class (its detections in brackets) by predicted class; "
            "blue is right, red is wrong."
        )
    return (
        f"All {classes} classes, the most frequent first; only some are named (detections in "
        "brackets). The darker a pixel, the larger the share of the true class; blue is right, red "
        "is wrong. metrics.json has the numbers."
    )


def _reliability(metrics: Mapping[str, Any]) -> list[Html]:
    reliability = metrics["classification"]["catalog_probabilities"].get("reliability")
    if not reliability:
        return []
    caption = (
        "How often a class is the true one, by its probability in tenths; every class has the same "
        "weight. Calibrated probabilities lie on the dashed line. Bars show the share of each "
        "tenth."
    )
    subtitle = f"mean difference {reliability['calibration_error']:.3f}"
    drawing = figures.reliability_diagram(reliability["bins"])
    return [figure(drawing, caption, title="Reliability of probabilities", subtitle=subtitle)]


def _by_counts(metrics: Mapping[str, Any]) -> Html:
    reconstruction = metrics["reconstruction"]
    columns = [
        column
        for column in FIT_COLUMNS
        if any(_entry(row, column[0]) is not None for row in reconstruction["by_counts"])
    ]
    cells = []
    for row in (*reconstruction["by_counts"], reconstruction):
        label = f"{row['counts_min']:,}–{row['counts_max']:,}" if "counts_min" in row else "all"
        cells.append([text_cell(label), number_cell(row["n_rows"], ",d")])
        for key, _, form in columns:
            cells[-1].append(number_cell(_entry(row, key), form, row.get(f"{key}_error")))
    headers = ("counts", "detections", *(title for _, title, _ in columns))
    note = (
        "Expectations take the fitted parameters into account: z-scores of a perfect model have "
        "mean 0 and width 1 if there are enough counts for the statistic to be normal. "
    )
    if reconstruction["reason"]:
        note += f"There is no comparison with the truth: {reconstruction['reason']}."
    else:
        note += (
            "Latents are fitted to the counts of each detection, including their noise, so that "
            "the Cash statistic of a perfect model lies a little below that of the truth. The "
            "divergence, the Cash statistic that the model would have without noise, does not."
        )
    return join([table(headers, cells, numbers=range(1, len(headers))), paragraph(note, "note")])


def _entry(row: Mapping[str, Any], key: str) -> float | None:
    """Return a figure of a row; a key with a dot, `fit_zscore.width`, names a nested one."""
    value: Any = row
    for part in key.split("."):
        value = value[part]
    return None if value is None else float(value)
