"""Run the verb `classify`: add calibrated class probabilities to a catalog."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.catalog.added_columns import added_fingerprint, find_added, write_added
from raypipe.classifying.apply import classify_rows
from raypipe.classifying.calibration import prior_shares
from raypipe.classifying.classifier import Classifier
from raypipe.classifying.features import GROUPS, Context, Features, features_of
from raypipe.classifying.judging import (
    count_unlike,
    headlines,
    measure_applied,
    measure_trained,
)
from raypipe.classifying.material import Material, read_material, rows_of
from raypipe.classifying.saved import classifier_bytes, parse_classifier, read_classifier
from raypipe.classifying.tables import class_table
from raypipe.classifying.training import (
    LabeledRows,
    TooFewLabelsError,
    Trained,
    labeled_rows,
    train_classifier,
)
from raypipe.config import ClassifyConfig, Config
from raypipe.errors import UsageError
from raypipe.model.choice import choose_model
from raypipe.store.layout import columns_folder, model_folder
from raypipe.store.lease import exclusive
from raypipe.store.manifest import choose_release
from raypipe.store.publication import Publication, require_publication
from raypipe.store.run_record import plain
from raypipe.store.workspace import Workspace
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

VERB = "classify"

FloatArray = npt.NDArray[np.float64]
Labels = npt.NDArray[np.object_]


def metrics_name(release: str, model_id: str) -> str:
    """Return the name of the measurements of a classification in the workspace."""
    return f"{columns_folder(release, model_id, VERB)}/metrics.json"


def classifier_name(model_id: str, context: Context) -> str:
    """Return the name of the classifier that belongs to a model, with or without context."""
    ending = "" if context == "all" else "-no-context"
    return f"{model_folder(model_id)}/classifier{ending}.safetensors"


@verb
def classify(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    labels: str | os.PathLike[str] | None = None,
    context: str | None = None,
    classifier: str | os.PathLike[str] | None = None,
    release: str | None = None,
    model: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """Add class probabilities to the detections and sources of a catalog; return measurements.

    A classifier is trained on the labeled sources: those of the table `labels`, or without a table
    those with a value in the catalog's column `class`. It is kept beside the model, in
    `models/<model_id>/classifier.safetensors`, and used again where there are no labels. If
    `classifier` names the file of a classifier for the same model, that one is used, and labels
    only measure how good it is. `context` is "all" or "none"; "none" leaves out the position in the
    sky, `nh_gal` and `classify.context_columns`.

    `open_catalog` and `open_sources` show the added columns (docs/classifying.md). Repeating the
    call does nothing unless catalog, labels, classifier or settings have changed. Raises UsageError
    if there is no catalog, if there are too few labels, and for a classifier of another model.
    """
    store, settings = call.workspace, call.config.classify
    if context not in (None, "all", "none"):
        raise UsageError(f"context {context!r}: expected all or none")
    release = choose_release(store, release)
    model_id = choose_model(store, release, model)
    material = read_material(
        store, require_publication(store, release, model_id), settings.context_columns
    )
    found = material.labels(labels)
    if labels is not None and not any(isinstance(name, str) for name in found[material.usable]):
        raise TooFewLabelsError("classify: --labels has no class of a detection with latents")
    plan = _plan(store, material, found, classifier, context, model_id, settings)
    with (
        call.recorded() as figures,
        exclusive(
            store, f"classify-{release}-{model_id}", [columns_folder(release, model_id, VERB)]
        ),
    ):
        metrics = _finished(store, material.catalog, plan.about)
        if metrics is None:
            metrics = _classify(store, material, found, plan, settings)
        else:
            log.info("classify: %s %s: nothing to do", release, model_id)
        figures.update(headlines(metrics))
    return metrics


@dataclass(frozen=True)
class _Plan:
    """Hold a classifier or the rows to train one on, with a description of it and of its labels.

    `classifier` is None if one has to be trained on `labeled`; `origin` says where it comes from.
    """

    classifier: Classifier | None
    labeled: LabeledRows | None
    context: Context
    origin: str
    about: dict[str, Any]


def _plan(
    store: Workspace,
    material: Material,
    labels: Labels,
    classifier: str | os.PathLike[str] | None,
    context: str | None,
    model_id: str,
    settings: ClassifyConfig,
) -> _Plan:
    about = {"settings": settings.model_dump(), "labels": material.fingerprint(labels)}
    has_labels = any(isinstance(name, str) for name in labels[material.usable])
    chosen: Context = "none" if context == "none" else "all"
    data = None
    if classifier is not None:
        given, data = read_classifier(classifier)
        origin = os.fspath(classifier)
    elif not has_labels and store.is_file(classifier_name(model_id, chosen)):
        name = classifier_name(model_id, chosen)
        data, origin = store.read_bytes(name), store.absolute_uri(name)
        given = parse_classifier(data, origin)
        log.info("classify: no labels: using %s", origin)
    if data is None:
        labeled = labeled_rows(labels, material.keys, material.usable, settings.folds)
        about["context"] = chosen
        return _Plan(None, labeled, chosen, "trained on these labels", about)
    _require_fit(given, origin, material, model_id, context)
    about["classifier"] = hashlib.sha256(data).hexdigest()
    return _Plan(given, _known_classes(labels, material, given), given.context, origin, about)


def _require_fit(
    given: Classifier, origin: str, material: Material, model_id: str, context: str | None
) -> None:
    """Raise UsageError for a classifier of another model, or of another context than asked for."""
    if given.model_id != model_id or given.latents != material.z.shape[1]:
        raise UsageError(
            f"{origin}: a classifier for the latents of {given.model_id}; this catalog is by "
            f"{model_id}, whose latents mean something else: choose the catalog with --model, or "
            "train a classifier with --labels"
        )
    if context is not None and context != given.context:
        raise UsageError(
            f"{origin}: trained with --context {given.context}; leave --context {context} out, or "
            "give another classifier"
        )


def _known_classes(labels: Labels, material: Material, given: Classifier) -> LabeledRows | None:
    """Return the rows whose class a classifier knows, None if there are none."""
    place = {name: code for code, name in enumerate(given.classes)}
    codes = np.array([place.get(name, -1) for name in labels], dtype=np.int64)
    rows = np.flatnonzero((codes >= 0) & material.usable)
    return LabeledRows(rows, codes[rows], given.classes, {}) if len(rows) else None


def _finished(
    store: Workspace, catalog: Publication, about: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the measurements if the same columns are published already, else None."""
    name = metrics_name(catalog.release, catalog.model_id)
    if find_added(store, catalog, VERB, about) is None or not store.is_file(name):
        return None
    metrics: dict[str, Any] = store.read_object(name, {"fingerprint": str})
    is_same = metrics["fingerprint"] == added_fingerprint(catalog, VERB, about)
    return metrics if is_same else None


def _classify(
    store: Workspace, material: Material, labels: Labels, plan: _Plan, settings: ClassifyConfig
) -> dict[str, Any]:
    catalog = material.catalog
    features = features_of(material.frame, context=plan.context, columns=settings.context_columns)
    if plan.classifier is None:
        assert plan.labeled is not None
        trained = _train(material, features, plan, settings)
        used = trained.classifier
        measured = measure_trained(material, trained, plan.labeled, settings)
        data = classifier_bytes(used)
        store.write_bytes(classifier_name(catalog.model_id, plan.context), data)
    else:
        used = plan.classifier
        measured = measure_applied(material, features, used, plan.labeled, settings)
    priors = _priors(used, settings)
    answers = classify_rows(used, features, material.z, material.keys, priors, settings.coverage)
    place = np.searchsorted(answers.keys, material.source_keys)
    sources = answers.sources.take(place)
    usable_sources = np.isin(material.source_keys, material.keys[material.usable])
    detections = class_table(
        "detection_id",
        material.catalog_ids,
        answers.detections,
        used.classes,
        material.votes,
        unlike_p=settings.unlike_p,
        usable=material.usable,
    )
    of_sources = class_table(
        "best_detection_id",
        material.source_ids,
        sources,
        used.classes,
        material.source_votes,
        unlike_p=settings.unlike_p,
        usable=usable_sources,
    )
    metrics = plain(
        {
            "fingerprint": added_fingerprint(catalog, VERB, plan.about),
            "release": catalog.release,
            "model_id": catalog.model_id,
            "classifier": plan.origin,
            "context": plan.context,
            "features": _by_group(used),
            "prior": {
                "setting": settings.prior,
                "detections": dict(zip(used.classes, priors[0], strict=True)),
                "sources": dict(zip(used.classes, priors[1], strict=True)),
            },
            "unlike_p": settings.unlike_p,
            "classified": {
                "detections": int(material.usable.sum()),
                "sources": int(usable_sources.sum()),
                "detections_unlike": count_unlike(detections),
                "sources_unlike": count_unlike(of_sources),
            },
            **measured,
        }
    )
    write_added(store, catalog, VERB, detections, plan.about, sources=of_sources)
    store.write_json(metrics_name(catalog.release, catalog.model_id), metrics)
    return dict(metrics)


def _train(
    material: Material, features: Features, plan: _Plan, settings: ClassifyConfig
) -> Trained:
    labeled = plan.labeled
    assert labeled is not None
    log.info(
        "classify: training on %d detections of %d sources, %d classes",
        len(labeled.rows),
        len(np.unique(material.keys[labeled.rows])),
        len(labeled.classes),
    )
    if labeled.left_out:
        few = ", ".join(f"{name} ({count})" for name, count in labeled.left_out.items())
        log.warning(
            "classify: classes with fewer than %d sources are left out: %s", settings.folds, few
        )
    return train_classifier(
        rows_of(features, labeled.rows),
        material.z[labeled.rows],
        labeled.codes,
        material.keys[labeled.rows],
        labeled.classes,
        settings,
        model_id=material.catalog.model_id,
        context=plan.context,
    )


def _priors(used: Classifier, settings: ClassifyConfig) -> tuple[FloatArray, FloatArray]:
    try:
        detections, sources = (
            prior_shares(settings.prior, used.classes, each.calibration.shares)
            for each in (used.detections, used.sources)
        )
    except ValueError as error:
        raise UsageError(f"classify.prior: {error}") from error
    return detections, sources


def _by_group(used: Classifier) -> dict[str, list[str]]:
    return {
        group: [name for name, of in zip(used.features, used.groups, strict=True) if of == group]
        for group in GROUPS
    }
