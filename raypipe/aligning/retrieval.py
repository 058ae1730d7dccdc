"""Measure how well a spectrum finds its view among others, and the reverse, beside baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_RIDGES = 10.0 ** np.arange(-2.0, 5.0)
_FOLDS = 5
_BOOTSTRAPS = 200


def ranks(similarity: Floats) -> Floats:
    """Return the rank of each row's own column, (n,), from 1; ties count half.

    In `similarity` (n, n), the right answer to row i is column i, and larger is more similar.
    """
    own = np.diagonal(similarity)[:, None]
    above = (similarity > own).sum(axis=1)
    equal = (similarity == own).sum(axis=1) - 1
    return np.asarray(1.0 + above + 0.5 * equal)


def recall(found: Floats, gallery: int) -> dict[str, float]:
    """Return recall at 1, at 1% and at 5% of the gallery, and the median rank."""
    return {
        "at_1": float((found <= 1).mean()),
        "at_1_percent": float((found <= max(1.0, 0.01 * gallery)).mean()),
        "at_5_percent": float((found <= max(1.0, 0.05 * gallery)).mean()),
        "median_rank": float(np.median(found)),
    }


def chance(gallery: int) -> dict[str, float]:
    """Return the expectation of `recall` for random answers."""
    return {
        "at_1": 1.0 / gallery,
        "at_1_percent": max(1.0, np.floor(0.01 * gallery)) / gallery,
        "at_5_percent": max(1.0, np.floor(0.05 * gallery)) / gallery,
        "median_rank": 0.5 * (gallery + 1),
    }


def judge(similarity: Floats, seed: int = 0) -> dict[str, Any]:
    """Return recall of views by spectra (`to_view`) and of spectra by views (`to_spectrum`).

    Each figure comes with the standard deviation of bootstraps over sources, `<name>_err`.
    """
    gallery = len(similarity)
    answer: dict[str, Any] = {"gallery": gallery}
    for name, matrix in (("to_view", similarity), ("to_spectrum", similarity.T)):
        found = ranks(matrix)
        rng = np.random.default_rng(seed)
        again = [
            recall(found[rng.integers(0, gallery, gallery)], gallery) for _ in range(_BOOTSTRAPS)
        ]
        figures = recall(found, gallery)
        errors = {f"{key}_err": float(np.std([each[key] for each in again])) for key in figures}
        answer[name] = figures | errors
    return answer


def baselines(
    train_spectra: Floats, train_views: Floats, spectra: Floats, views: Floats
) -> Mapping[str, Floats]:
    """Return the similarities (n, n) of test spectra and views by linear methods.

    `ridge` predicts the view from the spectrum, and compares the prediction with the views by their
    distance in units of the residuals; `ridge_back` is the reverse. `cca` compares canonical
    variates by the log density ratio of their normal distribution, for the number of variates that
    is best in cross-validation. Inputs are (n, features) of pairs.
    """
    return {
        "ridge": _ridge(train_spectra, train_views, spectra, views),
        "ridge_back": _ridge(train_views, train_spectra, views, spectra).T,
        "cca": _cca(train_spectra, train_views, spectra, views),
    }


def _ridge(x: Floats, y: Floats, test_x: Floats, test_y: Floats) -> Floats:
    """Return the squared distances of predicted and actual rows, times -1/2."""
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(alphas=_RIDGES).fit(*_standard(x, y))
    center, width = x.mean(0), _width(x)
    y_center, y_width = y.mean(0), _width(y)
    residual = (y - y_center) / y_width - model.predict((x - center) / width).reshape(y.shape)
    spread = np.maximum(residual.std(axis=0), 1e-3)
    predicted = model.predict((test_x - center) / width).reshape(len(test_x), -1) / spread
    actual = (test_y - y_center) / y_width / spread
    # |p - a|^2 = |p|^2 - 2 p a + |a|^2, for all pairs by one product of matrices.
    squares = (predicted**2).sum(1)[:, None] + (actual**2).sum(1) - 2 * predicted @ actual.T
    return np.asarray(-0.5 * squares)


def _cca(x: Floats, y: Floats, test_x: Floats, test_y: Floats) -> Floats:
    folds = np.arange(len(x)) % _FOLDS
    most = int(min(x.shape[1], y.shape[1], len(x) // 4))
    best, best_rank = (1, 1e-1), np.inf
    for ridge in (1e-3, 1e-1):
        held = []
        for fold in range(_FOLDS):
            kept = folds != fold
            variates = _Canonical.fit(x[kept], y[kept], ridge)
            held.append((variates, x[~kept][:1000], y[~kept][:1000]))
        for size in sorted({1, 2, 3, 4, 6, 8, 12, 16, most} & set(range(1, most + 1))):
            found = [np.median(ranks(each.similarity(a, b, size))) / len(a) for each, a, b in held]
            if np.mean(found) < best_rank:
                best, best_rank = (size, ridge), float(np.mean(found))
    size, ridge = best
    return _Canonical.fit(x, y, ridge).similarity(test_x, test_y, size)


class _Canonical:
    """Hold canonical variates of two sets of columns, in order of their correlations."""

    def __init__(self, x: tuple[Floats, ...], y: tuple[Floats, ...], correlations: Floats) -> None:
        self.x, self.y, self.correlations = x, y, correlations

    @classmethod
    def fit(cls, x: Floats, y: Floats, ridge: float) -> _Canonical:
        # Whiten either side, then take the singular vectors of their cross-covariance.
        a, root_a = _whitening(x, ridge)
        b, root_b = _whitening(y, ridge)
        left, values, right = np.linalg.svd(a.T @ b / len(x), full_matrices=False)
        return cls(
            (x.mean(0), _width(x), root_a @ left),
            (y.mean(0), _width(y), root_b @ right.T),
            values.clip(0.0, 0.999),
        )

    def similarity(self, x: Floats, y: Floats, size: int) -> Floats:
        """Return ln p(u, v) / p(u) p(v) of all pairs, for normal variates u and v."""
        u, v = (
            ((values - center) / width @ weights)[:, :size]
            for values, (center, width, weights) in ((x, self.x), (y, self.y))
        )
        r = self.correlations[:size]
        # For unit normals of correlation r: (r u v - r^2 (u^2 + v^2) / 2) / (1 - r^2).
        gain = 1.0 / (1.0 - r**2)
        own_u, own_v = (0.5 * (each**2) @ (r**2 * gain) for each in (u, v))
        return np.asarray((u * (r * gain)) @ v.T - own_u[:, None] - own_v[None, :])


def _whitening(values: Floats, ridge: float) -> tuple[Floats, Floats]:
    standard = (values - values.mean(0)) / _width(values)
    covariance = standard.T @ standard / len(standard) + ridge * np.eye(standard.shape[1])
    weights, vectors = np.linalg.eigh(covariance)
    root = vectors / np.sqrt(weights.clip(1e-9))
    return standard @ root, root


def _standard(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    return (x - x.mean(0)) / _width(x), (y - y.mean(0)) / _width(y)


def _width(values: Floats) -> Floats:
    width = values.std(axis=0)
    return np.where(width > 1e-9, width, 1.0)
