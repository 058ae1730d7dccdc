"""Measure latents of the same sources through several telescopes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.latents.samples import Sample
from benchmarks.telescopes.fit import telescopes_in
from raypipe.config import EvaluateConfig
from raypipe.evaluation.classification import predict_boosting, predict_knn
from raypipe.evaluation.validation import fitting_threads, grouped_folds
from raypipe.model.covariance import unpack
from raypipe.model.encode import encode_batch
from raypipe.model.presets import Folded
from raypipe.model.statistics import cash

FloatArray = npt.NDArray[np.float64]

ROWS_AT_ONCE = 512
REFINE_STEPS = 6
DRAWS = 200
"""Resamplings of the sources for the errors."""
SETTINGS = EvaluateConfig(neighbors=30)


@dataclass(frozen=True)
class Measured:
    """What a network makes of a sample.

    `z`, `z_err` (n, latents), `covariance` (n, latents, latents) of the posterior, `cash` (n,), and
    `truth` (n,), the Cash of the true expected counts.
    """

    z: FloatArray
    z_err: FloatArray
    covariance: FloatArray
    cash: FloatArray
    truth: FloatArray
    telescope: npt.NDArray[np.object_]

    @property
    def excess(self) -> FloatArray:
        """Cash above the truth's own, (n,)."""
        return self.cash - self.truth


def measure(network: Folded, sample: Sample, steps: int) -> Measured:
    """Encode a sample, with `steps` steps of refinement."""
    parts = []
    for rows in np.array_split(np.arange(len(sample)), max(1, -(-len(sample) // ROWS_AT_ONCE))):
        parts.append(encode_batch(network, sample.spectra.take(rows), steps))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    size = sum(name[1:].isdigit() for name in columns)
    return Measured(
        z=np.stack([columns[f"z{i}"] for i in range(size)], 1).astype(float),
        z_err=np.stack([columns[f"z{i}_err"] for i in range(size)], 1).astype(float),
        covariance=unpack(columns["z_cov"]),
        cash=columns["cash"].astype(float),
        truth=cash(sample.spectra.counts, sample.truth).sum(1).astype(float),
        telescope=telescopes_in(sample.table),
    )


@dataclass(frozen=True)
class PairScores:
    """Distances of two observations of one source, by two telescopes and by one.

    `ratio_median`, `ratio_rms`: of the two kinds of distance, in units of the joint posterior, with
    the errors of both; `by_second`: the ratio of medians for the telescope that the others are
    compared with; `pulls_one`, `pulls_two` (latents,): widths of the differences over their joint
    scatter.
    """

    ratio_median: tuple[float, float]
    ratio_rms: tuple[float, float]
    by_second: dict[str, float]
    pulls_one: FloatArray
    pulls_two: FloatArray


def score_pairs(found: Measured) -> PairScores:
    """Compare two observations by one telescope with those by two; rows come in threes."""
    one, same, other = (np.arange(k, len(found.z), 3) for k in range(3))
    apart_one, apart_two = _distances(found, one, same), _distances(found, one, other)
    rng = np.random.default_rng(SETTINGS.seed)
    drawn = [rng.integers(len(one), size=len(one)) for _ in range(DRAWS)]

    def with_error(size: Callable[[FloatArray], float]) -> tuple[float, float]:
        values = [size(apart_two[rows]) / size(apart_one[rows]) for rows in drawn]
        return size(apart_two) / size(apart_one), float(np.std(values))

    second = found.telescope[other]
    return PairScores(
        with_error(lambda values: float(np.median(values))),
        with_error(lambda values: float(np.sqrt(np.mean(np.square(values))))),
        {
            str(name): float(np.median(apart_two[second == name]) / np.median(apart_one))
            for name in np.unique(second)
        },
        _pulls(found, one, same),
        _pulls(found, one, other),
    )


def _distances(
    found: Measured, one: npt.NDArray[np.intp], other: npt.NDArray[np.intp]
) -> FloatArray:
    apart = found.z[one] - found.z[other]
    joint = found.covariance[one] + found.covariance[other]
    solved = np.linalg.solve(joint, apart[..., None])[..., 0]
    return np.sqrt((apart * solved).sum(axis=1))


def _pulls(found: Measured, one: npt.NDArray[np.intp], other: npt.NDArray[np.intp]) -> FloatArray:
    """Return widths, by the median of absolute values, so that few outliers do not decide."""
    joint = np.sqrt(np.square(found.z_err[one]) + np.square(found.z_err[other]))
    pulls = (found.z[one] - found.z[other]) / joint
    widths: FloatArray = 1.4826 * np.median(np.abs(pulls), axis=0)
    return widths


def guess_telescope(
    found: Measured, names: npt.NDArray[np.object_], without: str | None = None
) -> dict[str, tuple[float, float]]:
    """Return the balanced accuracy of guessing the telescope, over chance, with its error.

    By neighbors and by boosting; each telescope has observed the same sources, `names`, at the same
    counts, and folds share no source.
    """
    kept = np.flatnonzero(found.telescope != (without or ""))
    telescopes, codes = np.unique(found.telescope[kept].astype(str), return_inverse=True)
    features, sources = found.z[kept], names[kept]
    scores = {}
    with fitting_threads(0):
        for kind, predict in (("kNN", predict_knn), ("boosting", predict_boosting)):
            predicted = np.full(len(codes), -1)
            for learn, judge in grouped_folds(codes, sources, SETTINGS.folds, SETTINGS.seed):
                predicted[judge] = predict(features[learn], codes[learn], features[judge], SETTINGS)
            by_source = (predicted == codes).reshape(-1, len(telescopes)).mean(axis=1)
            error = by_source.std(ddof=1) / np.sqrt(len(by_source))
            scores[kind] = (
                float(by_source.mean() * len(telescopes)),
                float(error * len(telescopes)),
            )
    return scores
