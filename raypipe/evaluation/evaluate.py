"""Run the verb `evaluate`: measure the quality of a catalog."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.catalog.classes import catalog_classes
from raypipe.catalog.labels import TRUE_COUNTS, true_counts
from raypipe.config import Config, EvaluateConfig
from raypipe.errors import UsageError
from raypipe.evaluation.alignments import alignment_figures, score_alignment
from raypipe.evaluation.baselines import (
    Representation,
    comparison_row,
    model_representation,
    published_row,
    score_representation,
)
from raypipe.evaluation.classification import score_probabilities
from raypipe.evaluation.compare_runs import compare_runs
from raypipe.evaluation.evaluated_catalog import (
    EvaluatedCatalog,
    choose_catalog,
    earlier_metrics,
    labeled_catalog,
    metrics_name,
    open_bundle,
)
from raypipe.evaluation.questions.material import Material
from raypipe.evaluation.real_rows import real_rows
from raypipe.evaluation.regression import regression_targets
from raypipe.evaluation.rivals import baselines_of, catalog_representations, other_catalogs
from raypipe.evaluation.selection import (
    bin_true_counts,
    choose_rows,
    has_latents,
    limit_rows,
    read_spectra,
)
from raypipe.evaluation.study import QUESTIONS, ask, still_valid
from raypipe.evaluation.summary import (
    describe_data,
    describe_making,
    headlines,
    published,
    summarize,
)
from raypipe.evaluation.validation import FloatArray, sources_of
from raypipe.model.bundle import Model
from raypipe.model.fit_scores import score_reconstruction, score_truth
from raypipe.store.publication import find_publication
from raypipe.store.run_record import plain
from raypipe.store.workspace import Workspace
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)


@verb
def evaluate(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    model: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    catalog: str | os.PathLike[str] | None = None,
    study: bool = False,
    alignment: str | None = None,
    compare: tuple[str, str] | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """Measure the quality of the latents of a catalog, write `metrics.json` and return its content.

    `model` is the id of a model with a catalog of the release, or the path of its bundle; the
    default is the newest. `labels` is a table with classes and, from the simulator, true parameters
    and counts; without it, the catalog's column `class` has the labels. A figure that cannot be
    measured is None, with the reason beside it. Of more than `selection.MAX_JUDGED` detections, a
    sample is judged. Raises UsageError for labels that match no detection, and if there is no such
    catalog.

    `study` asks all questions of the study, the setting `evaluate.questions` some of them: their
    answers are `metrics["study"]`, written after each, and stay there until the catalog or the
    labels change. A question is asked again only if what decides its answer changed, or if it
    failed (`study.ask`). `catalog`
    is a table of real detections, with fluxes and variability, for those of the survey that were
    drawn from it, or for the catalog's own.

    `metrics["alignment"]` scores the alignment whose columns `raypipe align` has added to the
    catalog, or the one in the workspace with the id `alignment`.

    `compare` names two runs, each the path of a metrics.json or the id of a model with metrics of
    the release. Nothing is measured then; the answer lists their figures, and which are better or
    worse beyond their errors (`compare_runs.compare_metrics`).
    """
    store, settings = call.workspace, call.config
    if compare is not None:
        return plain(compare_runs(store, release, compare))
    evaluated = choose_catalog(store, release, model)
    asked: list[str] = [*settings.evaluate.questions]
    if study and not asked:
        asked = list(QUESTIONS)
    with call.recorded() as figures:
        metrics, material = _metrics(
            store, evaluated, labels, catalog, alignment, settings.evaluate
        )

        name = metrics_name(evaluated.release, evaluated.model_id)

        def keep(answers: dict[str, Any]) -> None:
            metrics["study"] = plain(answers)
            store.write_json(name, metrics)

        keep(still_valid(earlier_metrics(store, evaluated), metrics))
        ask(material, asked, metrics["study"], keep)
        figures.update(metrics["summary"])
    for headline in headlines(metrics):
        log.info("evaluate: %s: %s (%s)", headline.label, headline.value, headline.note)
    log.info("evaluate: all figures are in %s; raypipe report shows them", store.absolute_uri(name))
    return metrics


def _preset(bundle: Model | None) -> str | None:
    return None if bundle is None else bundle.preset


def _metrics(
    store: Workspace,
    evaluated: EvaluatedCatalog,
    labels: str | os.PathLike[str] | None,
    real_table: str | os.PathLike[str] | None,
    alignment: str | None,
    settings: EvaluateConfig,
) -> tuple[dict[str, Any], Material]:
    """Measure what every evaluation has; also return what the questions work on."""
    catalog, label_source = labeled_catalog(store, evaluated.release, evaluated.model_id, labels)
    n_rows, catalog = len(catalog), catalog.loc[has_latents(catalog)]
    aligned = score_alignment(store, evaluated, catalog, real_table, alignment, settings.seed)
    judged, rows, why = choose_rows(catalog)
    judged, remark = limit_rows(catalog, judged, settings.seed)
    why += remark
    frame = catalog[judged].reset_index(drop=True)
    log.info("evaluate: %s, %d detections (%s: %s)", evaluated.model_id, len(frame), rows, why)
    real = None if real_table is None else real_rows(frame, real_table)
    published_list = find_publication(store, evaluated.release, evaluated.model_id)
    metrics: dict[str, Any] = {
        "made_by": describe_making(settings),
        "release": evaluated.release,
        "model_id": evaluated.model_id,
        "preset": _preset(evaluated.model),
        "data": describe_data(frame, rows, why, label_source)
        | {
            "n_catalog_rows": n_rows,
            "n_rows_without_latents": n_rows - len(catalog),
            "catalog_fingerprint": published_list.fingerprint if published_list else None,
        },
        "published": published(),
        "alignment": aligned,
    }
    measured, material = _measure(store, evaluated, catalog, frame, real, settings)
    metrics |= measured
    summary = summarize(metrics) | alignment_figures(aligned)
    return plain(metrics | {"summary": summary}), material


def _measure(
    store: Workspace,
    evaluated: EvaluatedCatalog,
    catalog: pd.DataFrame,
    frame: pd.DataFrame,
    real: pd.DataFrame | None,
    settings: EvaluateConfig,
) -> tuple[dict[str, Any], Material]:
    """Measure the figures of every evaluation; also return what the questions work on."""

    def score(representation: Representation, rows: pd.DataFrame) -> dict[str, Any]:
        log.info("evaluate: %s", representation.name)
        return score_representation(
            representation, _classes(rows), regression_targets(rows), sources_of(rows), settings
        )

    main = model_representation(frame, evaluated.model_id, _preset(evaluated.model))
    reconstruction = _reconstruction(store, evaluated, frame, true_counts(frame))
    scores = score(main, frame)
    table = [comparison_row(main, scores, reconstruction)]
    rivals: list[Representation] = []
    for other_id, other_frame in other_catalogs(store, evaluated, frame):
        measured = has_latents(other_frame)
        rows, other_frame = frame[measured], other_frame[measured]
        other = EvaluatedCatalog(evaluated.release, other_id, open_bundle(store, other_id))
        representation = model_representation(other_frame, other_id, _preset(other.model))
        if not measured.all():
            note = f"{(~measured).sum()} of the detections have no latents there: left out"
            representation = replace(
                representation, note="; ".join(filter(None, (representation.note, note)))
            )
        else:
            rivals.append(representation)
        fit = _reconstruction(store, other, other_frame, true_counts(rows))
        table.append(comparison_row(representation, score(representation, rows), fit))
    spectra = read_spectra(store, evaluated.release, frame)
    baselines, reason = baselines_of(store, evaluated.release, catalog, frame, spectra, settings)
    table += [comparison_row(baseline, score(baseline, frame), None) for baseline in baselines]
    scores["classification"]["catalog_probabilities"] = score_probabilities(
        frame,
        catalog_classes(store, evaluated.release, evaluated.model_id),
        _classes(frame),
        sources_of(frame),
        settings,
    )
    every = [main, *rivals, *baselines, *catalog_representations(frame, real)]
    material = Material(frame, every, real, spectra, evaluated.model, settings)
    figures = {
        "reconstruction": reconstruction,
        **scores,
        "comparison": [*table, published_row()],
        "comparison_reason": reason,
    }
    return figures, material


def _classes(frame: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Return the classes of rows, (n,), None for rows without a class."""
    if "class" not in frame:
        return np.full(len(frame), None, dtype=object)
    return frame["class"].to_numpy(dtype=object)


def _reconstruction(
    store: Workspace,
    evaluated: EvaluatedCatalog,
    frame: pd.DataFrame,
    expected: Sequence[FloatArray | None] | None,
) -> dict[str, Any]:
    """Score the fits of a model, compared with the true `expected` counts if they are known."""
    truth, reason = None, None
    if expected is None:
        reason = f"no labels with true expected counts ({TRUE_COUNTS}): only simulations have them"
    elif (spectra := read_spectra(store, evaluated.release, frame, evaluated.model)) is None:
        reason = "the workspace does not hold the spectra of all judged detections"
    else:
        try:
            binned = bin_true_counts(expected, spectra.bins)
        except ValueError as error:
            raise UsageError(f"labels: {TRUE_COUNTS} has {error}, as its response has") from error
        truth = score_truth(spectra.counts, binned, spectra.model_counts)
    return score_reconstruction(frame, truth) | {"reason": reason}
