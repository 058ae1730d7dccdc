"""Measure how well a trained model explains validation spectra."""

from __future__ import annotations

from typing import Any

import pandas as pd

from raypipe.model.encode import as_frame, measure
from raypipe.model.fit_scores import score_reconstruction
from raypipe.model.presets import Folded, Paper
from raypipe.store.run_record import plain
from raypipe.training.batch_streams import BatchStream

_MOST_SPECTRA = 2000


def measure_quality(
    network: Folded | Paper, validation: BatchStream, refine_steps: int
) -> dict[str, Any] | None:
    """Measure the goodness of fit of up to about 2,000 of the first worker's validation spectra.

    Returns the scores of `score_reconstruction` by counts, after refinement as in `embed`, or None
    without spectra.
    """
    frames: list[pd.DataFrame] = []
    for _, batch in validation.sweep():
        if not len(batch):
            continue
        frames.append(as_frame(measure(network, batch, refine_steps)))
        if sum(map(len, frames)) >= _MOST_SPECTRA:
            break
    if not frames:
        return None
    scores = score_reconstruction(pd.concat(frames), None)
    known: dict[str, Any] = plain(scores)
    return known
