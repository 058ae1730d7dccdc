"""Compare the metrics of two runs: which figures are better or worse beyond their errors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raypipe.errors import UsageError
from raypipe.evaluation.evaluated_catalog import metrics_name
from raypipe.model.choice import choose_model
from raypipe.store.addresses import local_file, shown
from raypipe.store.manifest import choose_release
from raypipe.store.workspace import Workspace

BEYOND = 2.0
"""Least difference, in units of its error, that counts as better or worse."""

LOWER_IS_BETTER = ("cash", "divergence", "mae", "log_loss", "calibration_error")
NO_DIRECTION = ("fit_zscore", "free", "given_flux_and_counts", "by_latent")
"""Parts of a figure's name for which neither more nor less is better."""

NAMES = ("representation", "slice", "labels", "direction", "counts_min", "formula")
"""Keys whose value names a row of a table, in the order in which they are tried."""


def compare_runs(store: Workspace, release: str | None, runs: Sequence[str]) -> dict[str, Any]:
    """Compare the metrics of two runs, each the path of a metrics.json or a model's id.

    Raises UsageError for a run that has no metrics.
    """
    first, second = (_read_metrics(store, release, run) for run in runs)
    return {"first": runs[0], "second": runs[1]} | compare_metrics(first, second)


def compare_metrics(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Compare all figures with errors that two metrics have in common.

    Each of `figures` has its name, both values, `difference` (second less first), `error`, `sigmas`
    and a `verdict`: better, worse, different (for a figure of which neither more nor less is
    better) or same. The error is that of independent measurements: too large where both runs judge
    the same detections. `by_chance` is the number of differences to expect between equal runs.
    """
    ours, theirs = dict(figures_of(first)), dict(figures_of(second))
    found = []
    for name in ours:
        if name not in theirs:
            continue
        (value, error), (other, other_error) = ours[name], theirs[name]
        spread = math.hypot(error, other_error)
        difference = other - value
        sigmas = difference / spread if spread > 0 else math.copysign(math.inf, difference)
        sigmas = 0.0 if difference == 0 else sigmas
        found.append(
            {
                "figure": name,
                "first": value,
                "second": other,
                "difference": difference,
                "error": spread,
                "sigmas": sigmas,
                "verdict": _verdict(name, sigmas),
            }
        )
    # Fingerprints by earlier versions are those of ids, which all simulated surveys share.
    judged = [
        [each.get("data", {}).get(key) for key in ("fingerprint", "n_sources", "classes")]
        for each in (first, second)
    ]
    return {
        "same_detections": judged[0][0] is not None and judged[0] == judged[1],
        "figures": found,
        "by_chance": math.erfc(BEYOND / math.sqrt(2)) * len(found),
        "only_in_first": sorted(set(ours) - set(theirs)),
        "only_in_second": sorted(set(theirs) - set(ours)),
    }


def figures_of(metrics: Any, name: str = "") -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield each figure that has an error: its name, as a path, with value and error.

    A figure `x` has its error beside it, as `x_error`; `value` and `excess` have `error`.
    """
    if isinstance(metrics, Mapping):
        for key, value in metrics.items():
            path = f"{name}/{key}" if name else str(key)
            error: Any = metrics.get(f"{key}_error")
            if key == "excess" or (key == "value" and "excess" not in metrics):
                error, path = metrics.get("error"), name
            if _is_number(value) and _is_number(error):
                yield path, (float(value), float(error))
            elif isinstance(value, Mapping | list) and key not in ("made_by", "summary"):
                yield from figures_of(value, path)
    elif isinstance(metrics, list):
        for place, row in enumerate(metrics):
            if isinstance(row, Mapping):
                label = next((row[key] for key in NAMES if row.get(key) is not None), place)
                yield from figures_of(row, f"{name}/{label}")


def comparison_text(result: Mapping[str, Any]) -> str:
    """Write a comparison as lines of text: figures that differ first, then the number of others."""
    figures = result["figures"]
    differing = sorted(
        (each for each in figures if each["verdict"] != "same"),
        key=lambda each: -abs(each["sigmas"]),
    )
    lines = [f"{result['first']} -> {result['second']}"]
    for each in differing:
        lines.append(
            f"{each['verdict']:9s} {each['figure']}: {each['first']:.4g} -> {each['second']:.4g} "
            f"({each['difference']:+.4g} ± {each['error']:.2g}, {abs(each['sigmas']):.1f} sigma)"
        )
    lines.append(
        f"{len(figures) - len(differing)} of {len(figures)} figures differ by less than "
        f"{BEYOND:g} sigma; {result['by_chance']:.0f} would differ by more by chance"
    )
    if result["same_detections"]:
        lines.append("both judge the same detections: errors of the differences are upper limits")
    else:
        lines.append("they judge different detections: differences are also those of the catalogs")
    for which in ("first", "second"):
        if missing := result[f"only_in_{which}"]:
            lines.append(f"{len(missing)} figures are only in the {which} run")
    return "\n".join(lines)


def _verdict(name: str, sigmas: float) -> str:
    if abs(sigmas) < BEYOND:
        return "same"
    parts = name.split("/")
    if any(part in parts for part in NO_DIRECTION):
        return "different"
    lower = any(parts[-1].startswith(word) or f"_{word}" in parts[-1] for word in LOWER_IS_BETTER)
    return "better" if (sigmas < 0) == lower else "worse"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_metrics(store: Workspace, release: str | None, run: str) -> dict[str, Any]:
    if str(run).endswith(".json"):
        try:
            with local_file(run) as file:
                found = json.loads(Path(file).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{shown(run)}: no readable metrics ({error})") from error
    else:
        release = choose_release(store, release)
        name = metrics_name(release, choose_model(store, release, run))
        if not store.is_file(name):
            raise UsageError(
                f"{run}: not evaluated; run raypipe evaluate --model {run}, or name a metrics.json"
            )
        found = store.read_json(name)
    if not isinstance(found, dict) or not isinstance(found.get("data"), dict):
        raise UsageError(f"{shown(run)}: no metrics of raypipe evaluate")
    return found
