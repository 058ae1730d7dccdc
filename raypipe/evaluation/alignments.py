"""Score an alignment of a catalog: how well its sides find each other, and what it adds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.alignment.bundle import Alignment, load_alignment
from raypipe.alignment.judged import JudgedPairs, read_judged
from raypipe.alignment.opened import VERB
from raypipe.catalog.added_columns import added_to
from raypipe.errors import RaypipeError, UsageError
from raypipe.evaluation.evaluated_catalog import EvaluatedCatalog
from raypipe.evaluation.real_rows import real_rows
from raypipe.evaluation.regression import regression_targets
from raypipe.store.addresses import Address
from raypipe.store.layout import alignment_folder
from raypipe.store.publication import find_publication
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

QUANTITIES = ("log_nh", "photon_index", "log_kt")
"""Physical quantities for which to measure what the shared space adds."""
VARIABILITY = ("var_inter_prob", "var_intra_prob", "ks_intra_prob")
"""Probabilities of variability, as the CSC names them, alone or with the suffix of a band."""
_MEASURED = ("data", "retrieval", "baselines", "chance", "translation")


def score_alignment(
    store: Workspace,
    evaluated: EvaluatedCatalog,
    catalog: pd.DataFrame,
    real_table: Address | None,
    wanted: str | None,
    seed: int,
) -> dict[str, Any] | None:
    """Score an alignment of a catalog on the sources that its training has not seen.

    `wanted` is the id of one in the workspace; by default it is the one whose columns the catalog
    has. `catalog` has the labels, `real_table` those of variability. Returns recall and median rank
    beside chance, baselines and permuted pairs, the quality of translation, and `usefulness`: what
    the shared space adds for class, column density, slope, temperature and variability to latents
    and to the view; None without an alignment. An alignment that cannot be read has the `reason`
    alone, and raises RaypipeError if it is named. Raises UsageError for one of another catalog.
    """
    name = wanted or _added(store, evaluated)
    if name is None:
        return None
    try:
        made = _open(store, evaluated, name)
        judged = read_judged(store, name)
    except UsageError:
        raise
    except RaypipeError as error:
        if wanted is not None:
            raise
        # An alignment that cannot be read is no reason to leave the catalog without metrics.
        log.warning("evaluate: the alignment is not scored: %s", error)
        return {"alignment_id": name, "reason": str(error)}
    return {
        "alignment_id": name,
        "reason": None,
        "table": made.about.table,
        **{key: made.metrics[key] for key in _MEASURED},
        **_usefulness(made, judged, catalog, real_table, seed),
    }


def _usefulness(
    made: Alignment,
    judged: JudgedPairs,
    catalog: pd.DataFrame,
    real_table: Address | None,
    seed: int,
) -> dict[str, Any]:
    """Measure what the shared space adds for labels, beside what those of permuted pairs add."""
    rows = catalog.set_index("detection_id").reindex(list(judged.detection_ids)).reset_index()
    targets = {
        target: values
        for target, values in _targets(rows, real_table).items()
        if not any(_is_same(target, column.name) for column in made.view.columns)
    }
    shown = ", ".join(targets) or "no label"
    log.info("evaluate: %s, %d pairs, for %s", made.about.alignment_id, len(rows), shown)
    useful, *of_permuted = judged.usefulness(targets, seed)
    permuted = [
        {**each, "usefulness": each["usefulness"] | scores}
        for each, scores in zip(made.metrics["permuted"], of_permuted, strict=True)
    ]
    return {"usefulness": made.metrics["usefulness"] | useful, "permuted": permuted}


def alignment_figures(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the figures of an alignment for the summary of metrics; none without one."""
    if metrics is None or metrics["reason"]:
        return {}
    best = best_baseline(metrics)
    return {
        "alignment_at_5_percent": {
            "value": metrics["retrieval"]["to_view"]["at_5_percent"],
            "error": metrics["retrieval"]["to_view"]["at_5_percent_err"],
            "best_baseline": metrics["baselines"][best]["to_view"]["at_5_percent"],
            "chance": metrics["chance"]["at_5_percent"],
            "reason": None,
        }
    }


def best_baseline(metrics: Mapping[str, Any]) -> str:
    """Return the baseline of the lowest median rank, averaged over both directions."""
    ranked = {
        name: sum(each[way]["median_rank"] for way in ("to_view", "to_spectrum"))
        for name, each in metrics["baselines"].items()
    }
    return min(ranked, key=lambda name: ranked[name])


def _is_same(target: str, column: str) -> bool:
    """Tell whether a column of the view is the target, perhaps without its band or unit.

    The view would predict itself.
    """
    return target.startswith(column) or column.startswith(target)


def _added(store: Workspace, evaluated: EvaluatedCatalog) -> str | None:
    catalog = find_publication(store, evaluated.release, evaluated.model_id)
    if catalog is None:
        return None
    found = added_to(store, catalog, "warn", VERB)
    return str(found[0].about.get("alignment_id", "")) if found else None


def _open(store: Workspace, evaluated: EvaluatedCatalog, name: str) -> Alignment:
    folders = store.folders("alignments")
    if name not in folders:
        known = ", ".join(sorted(folders)) or "none"
        raise UsageError(f"{store.uri}: no alignment {name!r}; it has {known}")
    made = load_alignment(store.absolute_uri(alignment_folder(name)))
    of = made.about.release, made.about.model_id
    if of != (evaluated.release, evaluated.model_id):
        raise UsageError(
            f"{name} is of release {of[0]} by {of[1]}, not of {evaluated.release} by "
            f"{evaluated.model_id}"
        )
    return made


def _targets(rows: pd.DataFrame, real_table: Address | None) -> dict[str, npt.NDArray[Any]]:
    """Return what can be predicted: numbers, NaN where unknown, and the class."""
    targets: dict[str, npt.NDArray[Any]] = {}
    if "class" in rows and rows["class"].notna().any():
        targets["class"] = np.array(
            [name if isinstance(name, str) else None for name in rows["class"]], dtype=object
        )
    known = regression_targets(rows)
    for name in QUANTITIES:
        if (target := known[name]) is not None:
            targets[name] = np.asarray(target.values, np.float64)
    tables = [rows] if real_table is None else [rows, real_rows(rows, real_table)]
    for table in tables:
        for column in table.columns:
            if str(column).startswith(VARIABILITY) and pd.api.types.is_numeric_dtype(table[column]):
                values = table[column].to_numpy(np.float64, na_value=np.nan)
                targets.setdefault(str(column), values)
    return targets
