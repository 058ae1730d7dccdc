"""Train networks on whole spectra with the answers, to compare with latents found without them.

A catalog of some thousands of spectra is too small for such a network to reach the best that the
photons allow: it is a rival, and a lower bound of that best.
"""

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
    limit,
)

SUPERVISED = "supervised network on full spectra"
"""Name of the networks among the representations."""

MOST_TRAINED = 20_000
"""Most spectra to train a network on."""

_SETTINGS: dict[str, Any] = {
    "hidden_layer_sizes": (64,),
    "early_stopping": True,
    "max_iter": 25,
    "alpha": 1e-3,
}


def predict_values(
    spectra: FloatArray, values: FloatArray, sources: TextArray, settings: EvaluateConfig
) -> FloatArray:
    """Predict values (n,) from spectra (n, bins) by a network trained on other sources."""
    predicted = np.empty(len(values))
    for train, test in value_folds(values, sources, settings):
        train = limit(train, MOST_TRAINED, settings.seed)
        inputs = _scaled(spectra, train)
        middle, scale = values[train].mean(), max(float(values[train].std()), 1e-12)
        network = MLPRegressor(**_SETTINGS, random_state=settings.seed)
        with _few_epochs():
            network.fit(inputs[train], (values[train] - middle) / scale)
        predicted[test] = middle + scale * network.predict(inputs[test])
    return predicted


def predict_classes(
    spectra: FloatArray, labeled: LabeledRows, settings: EvaluateConfig
) -> IntArray:
    """Predict class codes (n,) from the spectra (n, bins) of labeled rows, as `predict_values`.

    Every class has the same weight, however rare it is.
    """
    predicted = np.full(len(labeled.codes), -1, dtype=np.int64)
    for train, test in grouped_folds(labeled.codes, labeled.sources, settings.folds, settings.seed):
        train = limit(train, MOST_TRAINED, settings.seed)
        inputs, codes = _scaled(spectra, train), labeled.codes[train]
        weights = (len(codes) / np.bincount(codes).clip(1) / len(np.unique(codes)))[codes]
        network = MLPClassifier(**_SETTINGS, random_state=settings.seed)
        with _few_epochs():
            network.fit(inputs[train], codes, sample_weight=weights)
        predicted[test] = network.predict(inputs[test])
    return predicted


def _scaled(spectra: FloatArray, train: IntArray) -> FloatArray:
    """Center each bin, and divide all bins by one number, so that the usual learning rate suits."""
    centered = spectra - spectra[train].mean(axis=0)
    return np.asarray(centered / max(float(centered[train].std()), 1e-12))


@contextmanager
def _few_epochs() -> Iterator[None]:
    with warnings.catch_warnings():
        # The number of epochs is limited to save time; early stopping mostly comes first.
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
