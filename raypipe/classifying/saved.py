"""Save and load classifiers as safetensors, which hold numbers and text but no code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from raypipe.classifying.calibration import Calibration
from raypipe.classifying.classifier import Classifier, Judgement
from raypipe.classifying.conformal import Conformal
from raypipe.classifying.features import GROUPS
from raypipe.classifying.forest import ARRAYS, MOST_NODES, Forest
from raypipe.classifying.likeness import ClassDensities, Strangeness
from raypipe.errors import RaypipeError, UsageError
from raypipe.redaction import printable
from raypipe.store.addresses import local_file, shown

FORMAT = 1
MOST_BYTES = 1 << 29
"""Most bytes of a classifier's file."""
_MOST_CLASSES, _MOST_FEATURES, _MOST_FOLDS = 200, 2000, 50
_DESCRIPTION = "raypipe_classifier"
_KINDS = ("detections", "sources")

Tensors = dict[str, npt.NDArray[Any]]


def classifier_bytes(classifier: Classifier) -> bytes:
    """Write a classifier as the bytes of a safetensors file."""
    tensors: Tensors = {"known": classifier.known, "fold_of": classifier.fold_of}
    for fold, (forest, density) in enumerate(
        zip(classifier.forests, classifier.densities, strict=True)
    ):
        for name in ARRAYS:
            tensors[f"forest.{fold}.{name}"] = getattr(forest, name)
        tensors[f"density.{fold}.means"] = density.means
        tensors[f"density.{fold}.precision_factors"] = density.precision_factors
    for kind in _KINDS:
        judgement: Judgement = getattr(classifier, kind)
        tensors |= {
            f"{kind}.matrix": judgement.calibration.matrix,
            f"{kind}.bias": judgement.calibration.bias,
            f"{kind}.shares": judgement.calibration.shares,
            f"{kind}.conformal.scores": judgement.conformal.scores,
            f"{kind}.conformal.weights": judgement.conformal.weights,
            f"{kind}.conformal.starts": judgement.conformal.starts,
            f"{kind}.strange.scores": judgement.strange.scores,
            f"{kind}.strange.weights": judgement.strange.weights,
        }
    header = {
        "format": FORMAT,
        "model_id": classifier.model_id,
        "context": classifier.context,
        "classes": classifier.classes,
        "features": classifier.features,
        "groups": classifier.groups,
        "folds": len(classifier.forests),
    }
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    return bytes(save_tensors(contiguous, metadata={_DESCRIPTION: json.dumps(header)}))


def read_classifier(address: str | os.PathLike[str]) -> tuple[Classifier, bytes]:
    """Read a classifier from a path, s3:// or https://, with the bytes of its file.

    Raises UsageError for a file that is no classifier, and RaypipeError for one that is damaged,
    too large, or holds impossible numbers.
    """
    name = shown(address)
    with local_file(address) as file:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise RaypipeError(f"{name}: {size} bytes are more than a classifier has")
        data = file.read_bytes()
    return parse_classifier(data, name), data


def parse_classifier(data: bytes, name: str) -> Classifier:
    """Make a classifier from the bytes of its file; `name` names the file in messages."""
    header = _header(data, name)
    try:
        tensors = load_tensors(data)
        classifier = _assembled(header, tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = printable(repr(error), 300)
        raise RaypipeError(f"{name}: not a complete classifier ({reason}); {_MEND}") from error
    if problem := _problem(classifier):
        raise RaypipeError(f"{name}: not a sound classifier: {problem}; {_MEND}")
    return classifier


_MEND = "run raypipe classify with --labels again, or copy the file again"


def _header(data: bytes, name: str) -> Mapping[str, Any]:
    no_classifier = UsageError(
        f"{name}: not a classifier; give the classifier.safetensors that raypipe classify writes "
        "beside a model"
    )
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_DESCRIPTION])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise no_classifier from error
    if not isinstance(header, dict):
        raise no_classifier
    if header.get("format") != FORMAT:
        raise UsageError(
            f"{name}: a classifier of format {printable(str(header.get('format')), 20)}; this "
            f"version of raypipe reads {FORMAT}: train it again"
        )
    return header


def _assembled(header: Mapping[str, Any], tensors: Tensors) -> Classifier:
    folds = header["folds"]
    if type(folds) is not int or not 1 <= folds <= _MOST_FOLDS:
        raise ValueError("its number of folds is impossible")
    return Classifier(
        model_id=str(header["model_id"]),
        classes=tuple(map(str, header["classes"])),
        context="none" if header["context"] == "none" else "all",
        features=tuple(map(str, header["features"])),
        groups=tuple(map(str, header["groups"])),
        forests=tuple(
            Forest(**{name: tensors[f"forest.{fold}.{name}"] for name in ARRAYS})
            for fold in range(folds)
        ),
        densities=tuple(
            ClassDensities(
                tensors[f"density.{fold}.means"], tensors[f"density.{fold}.precision_factors"]
            )
            for fold in range(folds)
        ),
        known=tensors["known"],
        fold_of=tensors["fold_of"],
        detections=_judgement("detections", tensors),
        sources=_judgement("sources", tensors),
    )


def _judgement(kind: str, tensors: Tensors) -> Judgement:
    def of(name: str) -> npt.NDArray[Any]:
        return tensors[f"{kind}.{name}"]

    return Judgement(
        Calibration(of("matrix"), of("bias"), of("shares")),
        Conformal(of("conformal.scores"), of("conformal.weights"), of("conformal.starts")),
        Strangeness(of("strange.scores"), of("strange.weights")),
    )


def _problem(found: Classifier) -> str | None:
    """Say what is wrong with a classifier from a file; None if it can be used."""
    k = len(found.classes)
    if not 2 <= k <= _MOST_CLASSES or len(set(found.classes)) < k:
        return "its number of classes is impossible"
    if not 1 <= len(found.features) <= _MOST_FEATURES:
        return "its number of features is impossible"
    if len(found.groups) != len(found.features) or not set(found.groups) <= set(GROUPS):
        return "its groups of features are unknown"
    if sum(len(forest.feature) for forest in found.forests) > MOST_NODES:
        return f"its trees have more than {MOST_NODES} nodes"
    for forest in found.forests:
        if forest.value.shape[1:] != (k,):
            return "its trees are for other classes"
        if problem := forest.problem(len(found.features)):
            return problem
    latents = found.densities[0].means.shape[-1]
    for density in found.densities:
        if density.means.shape != (k, latents) or density.precision_factors.shape != (
            *(k, latents, latents),
        ):
            return "its densities have the wrong shape"
        if not (np.diagonal(density.precision_factors, axis1=1, axis2=2) > 0).all():
            return "its densities are impossible"
    if found.known.ndim != 1 or found.known.shape != found.fold_of.shape:
        return "its labeled sources and their folds differ in number"
    if (np.diff(found.known) <= 0).any() or not len(found.known):
        return "its labeled sources are not in order"
    for judgement in (found.detections, found.sources):
        if problem := _problem_of(judgement, k):
            return problem
    return None


def _problem_of(judgement: Judgement, k: int) -> str | None:
    calibration, conformal, strange = (
        judgement.calibration,
        judgement.conformal,
        judgement.strange,
    )
    shapes = calibration.matrix.shape, calibration.bias.shape, calibration.shares.shape
    if shapes != ((k, k), (k,), (k,)):
        return "its calibration is for other classes"
    numbers = np.concatenate([calibration.matrix.ravel(), calibration.bias])
    if not (np.isfinite(numbers).all() and (calibration.shares > 0).all()):
        return "its calibration is impossible"
    starts = conformal.starts
    if starts.shape != (k + 1,) or starts[0] != 0 or (np.diff(starts) < 0).any():
        return "its conformal scores are out of order"
    if not (starts[-1] == len(conformal.scores) == len(conformal.weights)):
        return "its conformal scores are incomplete"
    if len(strange.scores) != len(strange.weights) or (np.diff(strange.scores) < 0).any():
        return "its scores of strangeness are out of order"
    return None
