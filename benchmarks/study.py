"""Write the tables of docs/comparison.md from the metrics of evaluations with --study.

    python -m benchmarks.study NAME=metrics.json ...

Each NAME is the title of a survey. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raypipe.evaluation.published import beside_published, sample_of
from raypipe.evaluation.questions.supervised import SUPERVISED

Metrics = Mapping[str, Any]

WANTED_ERROR = 0.02
"""Error of balanced accuracies that the study's questions ask for."""


def figure(value: float | None, error: float | None = None, form: str = ".3f") -> str:
    if value is None:
        return ""
    spread = "" if error is None else f" ± {error:{form.lstrip('+')}}"
    return f"{value:{form}}{spread}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(headers)} |", "|" + "---|" * len(headers)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def answer(metrics: Metrics, question: str) -> Mapping[str, Any] | None:
    found = metrics["study"].get(question)
    return found if found and found["reason"] is None else None


def published(surveys: Mapping[str, Metrics]) -> str:
    found = {name: {b.question: b for b in beside_published(m)} for name, m in surveys.items()}
    first = next(iter(found.values()))
    rows = [
        [question, each.published]
        + [rows[question].ours if question in rows else "" for rows in found.values()]
        + [each.differs]
        for question, each in first.items()
    ]
    samples = "\n".join(f"- *{name}*: {sample_of(m)}." for name, m in surveys.items())
    return f"{samples}\n\n" + table(["", "published", *found, "what differs"], rows)


REPRESENTED = {
    "knn_balanced_accuracy": "classes, kNN",
    "boosting_balanced_accuracy": "boosting",
    "cluster_balanced_accuracy": "clusters",
    "cluster_agn_compact_balanced_accuracy": "AGN / compact",
    "r2_log_nh": "R2 of log N_H",
    "r2_photon_index": "photon index",
    "r2_log_kt": "log kT",
    "r2_hard_ms": "hard_ms",
    "r2_hard_hm": "hard_hm",
    "r2_hard_hs": "hard_hs",
}


def representations(metrics: Metrics) -> str:
    rows = [
        [
            each["representation"],
            *(figure(each.get(key), each.get(f"{key}_error")) for key in REPRESENTED),
        ]
        for each in metrics["comparison"]
    ]
    return table(["", *REPRESENTED.values()], rows)


def clusters(metrics: Metrics) -> str:
    rows = []
    for name, tasks in (answer(metrics, "clusters") or {})["by_representation"].items():
        row = [name]
        for task in ("all_classes", "agn_compact"):
            one = tasks[task]
            row += [
                figure(one.get("balanced_accuracy"), one.get("balanced_accuracy_error")),
                figure(one.get("adjusted_mutual_information")),
            ]
        rows.append(row)
    if supervised := (answer(metrics, "clusters") or {}).get("supervised"):
        best = figure(supervised["balanced_accuracy"], supervised["balanced_accuracy_error"])
        rows.append([SUPERVISED, best, "", "", ""])
    return table(["", "all classes", "AMI", "AGN / compact", "AMI"], rows)


def cluster_errors(metrics: Metrics) -> str:
    """Say which errors are below `WANTED_ERROR`, and what repeated divisions leave of them."""
    found = (answer(metrics, "clusters") or {})["by_representation"]
    rows = []
    for task, title in (("all_classes", "all classes"), ("agn_compact", "AGN / compact")):
        known = {name: each[task] for name, each in found.items() if each[task]["reason"] is None}
        errors = {name: each["balanced_accuracy_error"] for name, each in known.items()}
        below = sum(error < WANTED_ERROR for error in errors.values())
        by_class = next(iter(known.values()))["by_class"]
        rarest = min(by_class, key=lambda name: by_class[name]["n_sources"])
        rows.append(
            [
                title,
                f"{below} of {len(errors)}",
                f"{min(errors.values()):.3f} to {max(errors.values()):.3f}",
                f"{max(each['balanced_accuracy_split_error'] for each in known.values()):.3f}",
                f"{rarest} {by_class[rarest]['n_sources']}",
            ]
        )
    headers = (
        "",
        f"errors below {WANTED_ERROR:g}",
        "errors",
        "of them, from the divisions",
        "fewest sources",
    )
    return table(headers, rows)


def cluster_classes(metrics: Metrics) -> str:
    found = (answer(metrics, "clusters") or {})["by_representation"]
    rows = [
        [
            name,
            str(each["n_sources"]),
            figure(each["completeness"], each["completeness_error"]),
            figure(each["purity"]),
        ]
        for name, each in next(iter(found.values()))["all_classes"]["by_class"].items()
    ]
    return table(["class", "sources", "completeness", "purity"], rows)


def quantities(metrics: Metrics) -> str:
    found = (answer(metrics, "quantities") or {})["quantities"]
    known = {name: each for name, each in found.items() if each["reason"] is None}
    titles = dict.fromkeys(t for each in known.values() for t in each["by_representation"])
    rows = []
    for title in titles:
        row = [title]
        for each in known.values():
            one = each["by_representation"].get(title, {})
            row.append(figure(one.get("r2"), one.get("r2_error")))
            mae, pulls = figure(one.get("mae")), one.get("pulls")
            row.append(mae + (f"; {pulls['width']:.2f}" if pulls else ""))
        rows.append(row)
    headers = [part for name in known for part in (f"{name}: R2", "MAE; width of pulls")]
    return table(["", *headers], rows)


def time_domain(metrics: Metrics) -> str:
    found = (answer(metrics, "time_domain") or {"quantities": {}})["quantities"]
    known = {name: each for name, each in found.items() if each["reason"] is None}
    rows = []
    kinds: dict[str, None] = {}
    for name, each in known.items():
        row = [name, str(each["n_sources"])]
        for part, suffix in (("free", ""), ("given_flux_and_counts", " given them")):
            for kind, one in each[part].items():
                kinds[kind.replace("_", " ") + suffix] = None
                star = "*" if one["p_value"] <= 0.05 else ""
                row.append(figure(one["excess"], one["error"]) + star)
        rows.append(row)
    return table(["", "sources", *kinds], rows)


def robustness(metrics: Metrics) -> str:
    found = answer(metrics, "robustness") or {}
    rows = []
    names = ("knn", "clusters", "r2_log_nh", "fit_zscore")
    for condition, slices in found["by_condition"].items():
        for each in slices:
            row = [f"{condition}: {each['slice']}", str(each["n_rows"])]
            for name in names:
                one = each.get(name) or {}
                row.append(figure(one.get("value"), one.get("error")))
            rows.append(row)
    text = table(["", "detections", *names], rows)
    same = found["same_source"]
    if same["reason"] is None:
        text += (
            f"\n\nSame source first: {figure(same['recall_1'], same['recall_1_error'])} (chance "
            f"{same['chance_1']:.4f}); among ten: "
            f"{figure(same['recall_10'], same['recall_10_error'])} (chance {same['chance_10']:.4f})"
        )
    return text


def few_labels(metrics: Metrics) -> str:
    found = (answer(metrics, "few_labels") or {})["by_representation"]
    rows: list[list[str]] = []
    headers: list[str] = []
    for name, numbers in found.items():
        row, headers = [name], []
        for each in numbers:
            for kind in ("knn", "linear"):
                key = f"{kind}_balanced_accuracy"
                headers.append(f"{each['labels'] or 'all'}, {kind}")
                row.append(figure(each[key], each[f"{key}_error"]))
        rows.append(row)
    return table(["", *headers], rows)


def formulas(metrics: Metrics) -> str:
    rows = []
    for name, each in (answer(metrics, "formulas") or {})["by_direction"].items():
        if each["reason"] is None:
            real = each.get("real") or {}
            rows.append(
                [
                    name,
                    f"`{each['formula']}`",
                    str(each["length"]),
                    figure(each["r2"], each["r2_error"]),
                    figure(real.get("r2"), real.get("r2_error")),
                    figure(real.get("rank_correlation"), form=".2f"),
                    "yes" if each["stability"]["is_stable"] else "no",
                ]
            )
    headers = ["", "formula", "length", "R2", "real rows: R2", "rank correlation", "stable"]
    return table(headers, rows)


def directions(metrics: Metrics) -> str:
    rows = [
        [
            each["direction"],
            figure(each["signal_to_noise"], form=".2f"),
            each["name"] or "",
            ", ".join(f"{name} {value:+.2f}" for name, value in each["correlations"].items()),
        ]
        for each in (answer(metrics, "traversals") or {})["directions"]
    ]
    return table(["", "spread over error", "name", "rank correlations"], rows)


def sky(metrics: Metrics) -> str:
    found = (answer(metrics, "sky") or {})["by_class"]
    names = list(found["all"])
    rows = []
    for group, each in found.items():
        row = [group, str(max(one["n"] for one in each.values()))]
        for name in names:
            one = each.get(name)
            row.append(
                f"{one['ks']:.2f}; {one['difference']:+.2f} ± {one['difference_width']:.2f}"
                if one
                else ""
            )
        rows.append(row)
    return table(["", "detections", *names], rows)


TABLES = {
    "sky": (
        "Survey beside the real detections: Kolmogorov-Smirnov distance; median difference ± half "
        "width of 68% (log10 for fluxes and counts)",
        (sky,),
    ),
    "clusters": (
        "Clusters, judged on the other half of the sources",
        (clusters, cluster_errors, cluster_classes),
    ),
    "quantities": (
        "Physical quantities: R2; mean absolute error, and the width of pulls (1: errors of the "
        "right size)",
        (quantities,),
    ),
    "time_domain": (
        "Mutual information with variability, nat, less that of permuted sources (*: at most 5% by "
        "chance)",
        (time_domain,),
    ),
    "robustness": ("Robustness", (robustness,)),
    "few_labels": (
        "Balanced accuracy by the number of labeled sources per class",
        (few_labels,),
    ),
    "formulas": ("Formulas of band fluxes (1e-14 erg/cm2/s)", (formulas,)),
    "traversals": ("Directions", (directions,)),
}
"""Title and tables of each question."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("metrics", nargs="+", metavar="NAME=FILE")
    surveys = {}
    for each in parser.parse_args().metrics:
        name, _, path = each.partition("=")
        surveys[name] = json.loads(Path(path).read_text("utf-8"))
    print(f"{published(surveys)}\n\n## Tables")
    for name, metrics in surveys.items():
        print(f"\n### All representations: {name}\n\n{representations(metrics)}")
    for question, (title, writers) in TABLES.items():
        for name, metrics in surveys.items():
            if answer(metrics, question):
                print(f"\n### {title}: {name}")
                for write in writers:
                    print(f"\n{write(metrics)}")


if __name__ == "__main__":
    main()
