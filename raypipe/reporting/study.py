"""Write the section of a report on the questions of the study, beside published figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from raypipe.evaluation.clustering import PUBLISHED_REFERENCE
from raypipe.evaluation.published import beside_published, sample_of
from raypipe.evaluation.questions.supervised import SUPERVISED
from raypipe.html.page import (
    Html,
    details,
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
from raypipe.reporting import study_figures
from raypipe.reporting.correlations import QUANTITY_LABELS
from raypipe.reporting.report_data import ReportData

NOT_ASKED = (
    "The questions of the study have not been asked: run raypipe evaluate --study, with --catalog "
    "for a table of real detections."
)

Answer = Mapping[str, Any]


def study_section(report_data: ReportData) -> Html:
    """Show published figures beside ours, then the answer to each question that was asked."""
    metrics = report_data.metrics
    if metrics is None:
        return paragraph(NOT_ASKED)
    study = metrics.get("study") or {}
    parts = [_beside_published(metrics)]
    if not study:
        return join([*parts, paragraph(NOT_ASKED)])
    for name, (title, show) in ANSWERS.items():
        if name in study:
            answer = study[name]
            shown = paragraph(f"Not measured: {answer['reason']}.") if answer["reason"] else None
            parts += [heading(title), shown if shown is not None else show(answer)]
    return join(parts)


def _beside_published(metrics: Mapping[str, Any]) -> Html:
    rows = [
        [
            text_cell(each.question),
            text_cell(each.published),
            text_cell(minus(each.ours)),
            text_cell(each.differs, wide=True),
        ]
        for each in beside_published(metrics)
    ]
    note = (
        f"Published: {PUBLISHED_REFERENCE}, real sources of the Chandra Source Catalog of high "
        f"significance. Ours: {sample_of(metrics)}. The samples differ, so that no row decides "
        "which method is better; the comparison of the section Evaluation does."
    )
    headers = ("", "published", "ours", "what differs")
    return join([table(headers, rows), paragraph(note, "note")])


def _sky(answer: Answer) -> Html:
    names = list(answer["by_class"]["all"])
    rows = []
    for group, section in answer["by_class"].items():
        cells = [text_cell(group), number_cell(max(s["n"] for s in section.values()), ",d")]
        for name in names:
            one = section.get(name)
            cells += [
                number_cell(None if one is None else one["ks"], ".2f"),
                number_cell(
                    None if one is None else one["difference"],
                    "+.2f",
                    None if one is None else one["difference_width"],
                ),
            ]
        rows.append(cells)
    headers = ["", "detections"]
    for name in names:
        headers += [f"{name}: KS", "ours - real"]
    note = (
        "Each detection of the catalog beside the real one that it was drawn from. KS is the "
        "distance of the two distributions, 0 if they are equal; ours - real is the median "
        "difference and half the width of 68% of the differences, of log10 for fluxes and counts. "
        "A survey is drawn at the real counts and fluxes, as far as exposures allow; its fluxes "
        "scatter as photons do."
    )
    numbers = range(1, len(headers))
    return join([table(headers, rows, numbers=numbers), paragraph(note, "note")])


def _clusters(answer: Answer) -> Html:
    rows = []
    for name, tasks in answer["by_representation"].items():
        every, compact = tasks["all_classes"], tasks["agn_compact"]
        rows.append([text_cell(name), *_accuracy(every), *_accuracy(compact)])
    if answer.get("supervised"):
        blank = number_cell(None)
        row = [text_cell(SUPERVISED), number_cell(*_with_error(answer["supervised"]))]
        rows.append([*row, blank, blank, blank])
    headers = ("", "all classes", "mutual information", "AGN / compact", "mutual information")
    first = next(iter(answer["by_representation"].values()))["all_classes"]
    parts = [table(headers, rows, numbers=range(1, 5))]
    if first["reason"] is None:
        by_class = [
            [
                text_cell(name),
                number_cell(each["n_sources"], ",d"),
                number_cell(each["completeness"], ".3f", each["completeness_error"]),
                number_cell(each["purity"], ".3f"),
            ]
            for name, each in first["by_class"].items()
        ]
        titles = ("class", "sources", "completeness", "purity")
        shown = table(titles, by_class, numbers=range(1, 4))
        parts.append(details("Classes, by the clusters of the latents", shown))
    note = (
        f"Clusters are mapped to classes on one half of the sources and judged on the other, "
        f"{answer['splits']} times both ways; errors are over resampled sources. Mutual "
        "information of clusters and classes is adjusted for chance: 0 for a guess, 1 if they are "
        "the same. Purity is that of a sample with equally many detections of each class."
    )
    return join([*parts, paragraph(note, "note")])


def _with_error(scores: Mapping[str, Any]) -> tuple[float | None, str, float | None]:
    return scores.get("balanced_accuracy"), ".3f", scores.get("balanced_accuracy_error")


def _accuracy(scores: Mapping[str, Any]) -> list[Html]:
    return [
        number_cell(*_with_error(scores)),
        number_cell(scores.get("adjusted_mutual_information"), ".3f"),
    ]


def _quantities(answer: Answer) -> Html:
    measured = {name: each for name, each in answer["quantities"].items() if each["reason"] is None}
    titles = _ordered(each["by_representation"] for each in measured.values())
    rows, pulls = [], []
    for title in titles:
        cells = [text_cell(title)]
        for each in measured.values():
            one = each["by_representation"].get(title, {})
            cells.append(number_cell(one.get("r2"), ".3f", one.get("r2_error")))
            cells.append(number_cell(one.get("mae"), ".3f"))
        rows.append(cells)
        widths = [
            each["by_representation"].get(title, {}).get("pulls") for each in measured.values()
        ]
        if any(widths):
            pulls.append(
                [text_cell(title)]
                + [number_cell(None if w is None else w["width"], ".2f") for w in widths]
            )
    labels = [QUANTITY_LABELS.get(name, name) for name in measured]
    headers = ["", *(part for label in labels for part in (f"{label}: R²", "MAE"))]
    parts = [table(headers, rows, numbers=range(1, len(headers)))]
    if pulls:
        shown = table(["", *labels], pulls, numbers=range(1, len(labels) + 1))
        parts += [shown, paragraph("Widths of the pulls (1: errors of the right size).", "note")]
    return join(parts)


def _time_domain(answer: Answer) -> Html:
    rows = []
    for name, each in answer["quantities"].items():
        if each["reason"] is not None:
            continue
        free, given = each["free"], each["given_flux_and_counts"]
        cells = [text_cell(name, each["meaning"], wide=True), number_cell(each["n_sources"], ",d")]
        for found in (*free.values(), *given.values()):
            cells.append(_information(found))
        rows.append(cells)
    if not rows:
        return paragraph("No variability column has enough sources.")
    first = next(each for each in answer["quantities"].values() if each["reason"] is None)
    headers = [
        "variability",
        "sources",
        *(name.replace("_", " ") for name in first["free"]),
        *(f"{name}, given flux and counts" for name in first["given_flux_and_counts"]),
    ]
    note = (
        "Mutual information in nats, less that of permuted sources, with its error from halves of "
        "the sources; bold if permutation gives as much in at most 5% of the trials. Bias differs "
        "between representations with different numbers of columns, and is taken off with the "
        "permutations only in part."
    )
    return join([table(headers, rows, numbers=range(1, len(headers))), paragraph(note, "note")])


def _information(found: Mapping[str, float]) -> Html:
    return number_cell(found["excess"], "+.3f", found["error"], best=found["p_value"] <= 0.05)


HEADLINE_TITLES = {
    "knn": "nearest neighbors",
    "clusters": "clusters",
    "r2_log_nh": "R² of log N_H",
    "fit_zscore": "mean z-score of the fit",
}


def _robustness(answer: Answer) -> Html:
    found = [row for slices in answer["by_condition"].values() for row in slices]
    titles = [name for name in HEADLINE_TITLES if any(row.get(name) for row in found)]
    rows = []
    for condition, slices in answer["by_condition"].items():
        for row in slices:
            cells = [text_cell(f"{condition}: {row['slice']}"), number_cell(row["n_rows"], ",d")]
            for name in titles:
                one = row.get(name) or {}
                cells.append(number_cell(one.get("value"), ".3f", one.get("error")))
            rows.append(cells)
    headers = ["", "detections", *(HEADLINE_TITLES[name] for name in titles)]
    parts = [table(headers, rows, numbers=range(1, len(headers)))]
    same = answer["same_source"]
    if same["reason"] is None:
        parts.append(
            paragraph(
                f"Another detection of the same source is the first answer of a search for "
                f"{same['recall_1']:.1%} ± {same['recall_1_error']:.1%} of {same['n_queries']} "
                f"detections (by chance {same['chance_1']:.2%}), and among the first ten for "
                f"{same['recall_10']:.1%} ± {same['recall_10_error']:.1%} "
                f"(by chance {same['chance_10']:.1%})."
            )
        )
    else:
        parts.append(paragraph(f"Sources at other epochs: {same['reason']}."))
    return join(parts)


def _few_labels(answer: Answer) -> Html:
    rows = []
    for name, numbers in answer["by_representation"].items():
        cells = [text_cell(name)]
        for row in numbers:
            for kind in ("knn", "linear"):
                key = f"{kind}_balanced_accuracy"
                cells.append(number_cell(row[key], ".3f", row[f"{key}_error"]))
        rows.append(cells)
    counts = [row["labels"] or "all" for row in next(iter(answer["by_representation"].values()))]
    headers = ["", *(f"{n}, {kind}" for n in counts for kind in ("kNN", "linear"))]
    note = (
        "Balanced accuracy with this number of labeled sources per class (fewer of rare classes), "
        f"means of {answer['repeats']} draws of labeled and judged sources."
    )
    return join([table(headers, rows, numbers=range(1, len(headers))), paragraph(note, "note")])


def _formulas(answer: Answer) -> Html:
    rows = []
    for name, each in answer["by_direction"].items():
        if each["reason"] is not None:
            continue
        real, stability = each.get("real") or {}, each["stability"]
        rows.append(
            [
                text_cell(name),
                text_cell(each["formula"], wide=True),
                number_cell(each["length"], "d"),
                number_cell(each["r2"], ".3f", each["r2_error"]),
                number_cell(real.get("r2"), ".3f", real.get("r2_error")),
                number_cell(real.get("rank_correlation"), ".2f"),
                text_cell("yes" if stability["is_stable"] else "no"),
            ]
        )
    headers = ("", "formula", "length", "R²", "real rows: R²", "rank correlation", "stable")
    units = "; ".join(f"{name} is {what}" for name, what in answer["variables"].items())
    note = (
        f"{units}. The shortest formula with 95% of the best R² of its front, on sources that "
        "neither the search nor the choice saw, and of the real detections' own fluxes. Stable: "
        f"all {next(iter(answer['by_direction'].values()))['stability']['seeds'] if rows else 0} "
        "seeds find formulas of the same variables whose values correlate by at least 0.98."
    )
    fronts = study_figures.formula_fronts(answer["by_direction"])
    return join(
        [
            table(headers, rows, numbers=range(2, 6)),
            paragraph(note, "note"),
            grid([figure(fronts, "R² against length of all formulas of each front.")]),
        ]
    )


def _traversals(answer: Answer) -> Html:
    drawn = []
    for each in answer["directions"]:
        named = each["name"]
        title = each["direction"] + (f": {named.replace('-', '−')}" if named else "")
        correlated = minus(", ".join(f"{k} {v:+.2f}" for k, v in each["correlations"].items()))
        ratio = each["signal_to_noise"]
        subtitle = "" if ratio is None else f"spread over mean error {ratio:.1f}"
        picture = study_figures.traversal(answer["energy_kev"], each["curves"])
        drawn.append(figure(picture, f"Rank correlations: {correlated}.", title=title,
                            subtitle=subtitle))  # fmt: skip
    note = (
        "Photon flux density before the telescope, times energy, at 1 and 2 standard deviations of "
        "the catalog along each direction, with equal numbers of photons in 0.5-7 keV. A direction "
        "has the name of a quantity with which its rank correlation is at least 0.6, with a minus "
        "sign if the quantity falls."
    )
    return join([paragraph(note, "note"), grid(drawn)])


def _ordered(tables: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    return list(dict.fromkeys(name for each in tables for name in each))


ANSWERS: Mapping[str, tuple[str, Callable[[Answer], Html]]] = {
    "sky": ("Does the survey look like the sky?", _sky),
    "clusters": ("Clusters, judged on the other half of the sources", _clusters),
    "quantities": ("Physical quantities", _quantities),
    "time_domain": ("Time domain", _time_domain),
    "robustness": ("Robustness", _robustness),
    "few_labels": ("Few labels", _few_labels),
    "formulas": ("Formulas of band fluxes", _formulas),
    "traversals": ("Steps in the latents", _traversals),
}
"""Title and maker of the answer to each question, in the order of the page."""
