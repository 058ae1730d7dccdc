"""Train networks on whole spectra with the answers: what no unsupervised latent need exceed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from raypipe.config import EvaluateConfig
from raypipe.evaluation.regression import value_folds
from raypipe.evaluation.validation import (
    FloatArray,
    IntArray,
    LabeledRows,
    TextArray,
    grouped_folds,
)

CEILING = "supervised network on full spectra"
"""Name of the networks among the representations."""

_SETTINGS: dict[str, Any] = {
    "hidden_layer_sizes": (64,),
    "early_stopping": True,
    "max_iter": 40,
    "alpha": 1e-3,
}


def predict_values(
    spectra: FloatArray, values: FloatArray, sources: TextArray, settings: EvaluateConfig
) -> FloatArray:
    """Predict values (n,) from spectra (n, bins) by a network trained on other sources."""
    predicted = np.empty(len(values))
    for train, test in value_folds(values, sources, settings):
        middle, scale = values[train].mean(), max(float(values[train].std()), 1e-12)
        network = MLPRegressor(**_SETTINGS, random_state=settings.seed)
        with _few_epochs():
            network.fit(spectra[train], (values[train] - middle) / scale)
        predicted[test] = middle + scale * network.predict(spectra[test])
    return predicted


def predict_classes(
    spectra: FloatArray, labeled: LabeledRows, settings: EvaluateConfig
) -> IntArray:
    """Predict class codes (n,) from the spectra (n, bins) of labeled rows, as `predict_values`.

    Every class has the same weight, however rare it is.
    """
    predicted = np.full(len(labeled.codes), -1, dtype=np.int64)
    for train, test in grouped_folds(labeled.codes, labeled.sources, settings.folds, settings.seed):
        codes = labeled.codes[train]
        weights = (len(codes) / np.bincount(codes).clip(1) / len(np.unique(codes)))[codes]
        network = MLPClassifier(**_SETTINGS, random_state=settings.seed)
        with _few_epochs():
            network.fit(spectra[train], codes, sample_weight=weights)
        predicted[test] = network.predict(spectra[test])
    return predicted


@contextmanager
def _few_epochs() -> Iterator[None]:
    with warnings.catch_warnings():
        # The number of epochs is limited to save time; early stopping mostly comes first.
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
