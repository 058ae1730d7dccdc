"""Part `cash`: measure how well spectra are explained, and how much noise was fitted."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.latents.limits import least_excess
from benchmarks.latents.rivals import Latents
from benchmarks.latents.surveys import Survey
from benchmarks.latents.table import mean_of, scored
from raypipe.model.features import prepare
from raypipe.model.fit_scores import score_truth
from raypipe.model.statistics import cash
from raypipe.spectra.channel_bins import MOST_BINS

BINS = MOST_BINS


def measure_fit(rival: Latents) -> dict[str, Any]:
    """Excess of Cash per bin over the truth's, on the encoded counts and on new ones.

    For new counts it is the expectation over all Poisson draws of the same source: twice the
    Kullback-Leibler divergence of the expected counts from the true ones. The prediction, including
    the amplitude, is that from the first counts, and its excess is compared with the least that
    photon noise allows (`limits.least_excess`).
    """
    judged, explained = rival.survey.judged, rival.explained
    truth = score_truth(judged.spectra.counts, judged.truth, explained.mu)
    assert truth.divergence is not None
    own = cash(judged.spectra.counts, explained.mu).sum(1)
    least = least_excess(judged, rival.survey.train.table)
    return {
        "cash": _by_counts(rival.survey, own / BINS),
        "excess": _by_counts(rival.survey, (own - truth.truth_cash) / BINS),
        "excess_on_new": _by_counts(rival.survey, truth.divergence / BINS),
        "above_least": _by_counts(rival.survey, (truth.divergence - least) / BINS),
    }


def measure_truth(survey: Survey) -> dict[str, Any]:
    """The truth's own Cash per bin, and the least excess of any model on new counts.

    `measured_background` and `measured_background_on_new`: the excess if the source is known but
    the background is taken as in the model, smoothed from the counts of the background region.
    """
    judged = survey.judged
    counts = judged.spectra.counts
    background = prepare(judged.spectra).background.numpy()
    source = judged.truth - judged.truth_background
    truth = score_truth(counts, judged.truth, source + background)
    assert truth.divergence is not None
    with_measured = cash(counts, source + background).sum(1) - truth.truth_cash
    return {
        "cash": _by_counts(survey, truth.truth_cash / BINS),
        "excess_on_new": _by_counts(survey, least_excess(judged, survey.train.table) / BINS),
        "measured_background": _by_counts(survey, with_measured / BINS),
        "measured_background_on_new": _by_counts(survey, truth.divergence / BINS),
    }


def _by_counts(survey: Survey, values: np.ndarray) -> dict[str, Any]:
    return scored(mean_of(values), survey.judged.source_counts, survey.in_range)
