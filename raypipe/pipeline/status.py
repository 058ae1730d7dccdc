"""Show the contents of a workspace, and what remains to be done."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from raypipe.catalog.added_columns import added_verbs
from raypipe.errors import UsageError
from raypipe.model.choice import default_model, models_of
from raypipe.store.layout import (
    evaluation_folder,
    part_name,
    rejects_folder,
    report_name,
    spectra_folder,
    tuning_folder,
)
from raypipe.store.manifest import read_manifest_summary
from raypipe.store.parts import count_rows
from raypipe.store.publication import published_models, require_publication
from raypipe.store.workspace import Workspace
from raypipe.tuning.records import best_of, records_of
from raypipe.verb import Call, verb

_FOLDERS = ("manifest", "models", "runs", "tuning")
"""Every workspace that a verb has worked in has at least one of these."""


@verb
def status(call: Call, workspace: str | Path | Workspace) -> dict[str, Any]:
    """Describe each release of a workspace, its models and its tunings.

    `default_model` is the one that verbs use if none is named, and says why it is.
    For a release: the rows of manifest, spectra and rejects and whether they add up, the rejects by
    reason, and for each catalog its rows, whether evaluation and report exist, and for each verb
    that has added columns, whether these belong to the catalog as it is now. For a tuning: the
    number of trials by status, and the best model so far. Raises UsageError where nothing is, for
    the address may be misspelled.
    """
    workspace = call.workspace
    require_workspace(workspace)
    default = default_model(workspace)
    return {
        "workspace": workspace.absolute_uri(),
        "releases": [_release(workspace, name) for name in workspace.folders("manifest")],
        "models": models_of(workspace),
        "default_model": {"model_id": default.model_id, "reason": default.reason},
        "tunings": [_tuning(workspace, name) for name in workspace.folders("tuning")],
    }


def require_workspace(workspace: Workspace) -> None:
    """Raise UsageError if no verb has worked at this address."""
    if not any(workspace.exists(folder) for folder in _FOLDERS):
        raise UsageError(f"{workspace.absolute_uri()}: no raypipe workspace there")


def status_lines(state: dict[str, Any]) -> list[str]:
    """Format the answer of `status` for people."""
    lines = [f"workspace {state['workspace']}"]
    for release in state["releases"]:
        if "problem" in release:
            lines.append(f"  {release['release']}: {release['problem']}")
            continue
        rows = release["rows"]
        sign = "=" if release["complete"] else "!="
        lines.append(
            f"  {release['release']}: {rows['manifest']} detections {sign} "
            f"{rows['spectra']} spectra + {rows['rejects']} rejects"
            + ("" if release["complete"] else f" ({release['missing_parts']} parts to ingest)")
        )
        lines += [f"    rejected {n}: {why}" for why, n in release["rejects_by_reason"].items()]
        for catalog in release["catalogs"]:
            extras = [name for name in ("evaluation", "report") if catalog[name]]
            extras += [
                name if current else f"{name} of an earlier state (run raypipe {name} again)"
                for name, current in catalog["columns"].items()
            ]
            lines.append(
                f"    catalog {catalog['model_id']}: {catalog['rows']} rows"
                + "".join(f", {name}" for name in extras)
            )
    lines.append(f"  models: {', '.join(state['models']) or 'none'}")
    default = state["default_model"]
    lines.append(f"  model by default: {default['model_id']} ({default['reason']})")
    for tuning in state["tunings"]:
        trials = ", ".join(f"{n} {what}" for what, n in tuning["trials"].items())
        best = f", best {tuning['best']}" if tuning["best"] else ""
        left = "" if tuning["done"] else "; not finished: run the same raypipe tune to continue"
        lines.append(f"  tuning {tuning['tune_id']}: {trials or 'no trials'}{best}{left}")
    return lines


def _release(workspace: Workspace, release: str) -> dict[str, Any]:
    try:
        summary = read_manifest_summary(workspace, release)
    except Exception as error:
        return {"release": release, "problem": str(error)}
    parts = range(int(summary["parts"]))
    rows = count_rows(workspace, release)
    return {
        "release": release,
        "source": summary["source"],
        "rows": rows,
        "complete": rows["manifest"] == rows["spectra"] + rows["rejects"],
        "missing_parts": sum(
            not workspace.exists(part_name(spectra_folder(release), part)) for part in parts
        ),
        "rejects_by_reason": _reasons(workspace, release),
        "catalogs": [
            _catalog(workspace, release, model_id)
            for model_id in published_models(workspace, release)
        ],
    }


def _catalog(workspace: Workspace, release: str, model_id: str) -> dict[str, Any]:
    published = require_publication(workspace, release, model_id)
    return {
        "model_id": model_id,
        "rows": published.rows,
        "evaluation": workspace.exists(f"{evaluation_folder(release, model_id)}/metrics.json"),
        "report": workspace.exists(report_name(release, model_id)),
        "columns": added_verbs(workspace, published),
    }


def _tuning(workspace: Workspace, tune_id: str) -> dict[str, Any]:
    records = records_of(workspace, tune_id).all()
    best = best_of(records)
    return {
        "tune_id": tune_id,
        "trials": dict(Counter(record.status for record in records)),
        "best": best and best.model_id,
        "done": workspace.exists(f"{tuning_folder(tune_id)}/tuning.json"),
    }


def _reasons(workspace: Workspace, release: str) -> dict[str, int]:
    """Count rejects by reason, the most frequent first."""
    counter: Counter[str] = Counter()
    for name in workspace.files(rejects_folder(release), ".parquet"):
        counter.update(workspace.read_table(name, ["reason"])["reason"].to_pylist())
    return dict(counter.most_common())
