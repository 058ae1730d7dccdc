"""Classify all detections of a catalog and their sources, a block of whole sources at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raypipe.classifying.classifier import Answers, Classifier, Raw, judge
from raypipe.classifying.features import Features
from raypipe.classifying.training import by_source

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_BLOCK_ROWS = 50_000


@dataclass(frozen=True)
class Classified:
    """Hold the answers for detections (n,) and for sources (s,), whose keys are sorted."""

    detections: Answers
    sources: Answers
    keys: IntArray


def classify_rows(
    classifier: Classifier,
    features: Features,
    z: FloatArray,
    sources: IntArray,
    priors: tuple[FloatArray, FloatArray],
    coverage: float,
) -> Classified:
    """Classify rows with latents z (n, k) and the sources that they belong to, by keys (n,).

    A source gets the mean of the votes on its rows, calibrated for sources. `priors` are the shares
    of the classes for detections and for sources.
    """
    order, starts = by_source(sources)
    parts = [
        _classify_block(classifier, features, z, sources, priors, coverage, order[rows], inside)
        for rows, inside in _blocks(starts, len(order))
    ]
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    detections = Answers.joined([part[0] for part in parts]).take(back)
    of_sources = Answers.joined([part[1] for part in parts])
    return Classified(detections, of_sources, sources[order][starts])


def _classify_block(
    classifier: Classifier,
    features: Features,
    z: FloatArray,
    sources: IntArray,
    priors: tuple[FloatArray, FloatArray],
    coverage: float,
    rows: IntArray,
    starts: IntArray,
) -> tuple[Answers, Answers]:
    part = Features(features.names, features.groups, features.values[rows])
    raw: Raw = classifier.raw(part, z[rows], sources[rows])
    return (
        judge(classifier.detections, raw, priors[0], coverage),
        judge(classifier.sources, raw.averaged(starts), priors[1], coverage),
    )


def _blocks(starts: IntArray, rows: int) -> Iterator[tuple[slice, IntArray]]:
    """Yield slices of ordered rows that hold whole sources, with the first row of each source."""
    if not rows:
        yield slice(0, 0), starts
    ends = np.append(starts[1:], rows)
    first = 0
    while first < len(starts):
        last = int(np.searchsorted(ends, starts[first] + _BLOCK_ROWS, side="right"))
        last = max(last, first + 1)
        yield slice(starts[first], ends[last - 1]), starts[first:last] - starts[first]
        first = last
