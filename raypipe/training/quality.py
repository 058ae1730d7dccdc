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
    """Goodness of fit of the first worker's validation spectra, about 2,000 at most, by counts.

    The scores are those of `score_reconstruction`, after refinement as in `embed`; None without
    spectra.
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
