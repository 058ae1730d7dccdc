"""Calibrate posteriors by simulation: ranks of the truth among the draws, and expected coverage."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.posteriors.simulated import Simulated, in_parts
from raypipe.model.posterior import Draws, draw
from raypipe.model.presets import Folded
from raypipe.model.refine import refine

LEVELS = (0.50, 0.68, 0.90, 0.95)
REFINE_STEPS = 6


@dataclass(frozen=True)
class Calibration:
    """Hold what the posteriors of simulated detections say about the truth.

    `ranks` (n, latents + 1) are quantiles of the true latents and the true log amplitude among the
    draws, uniform between 0 and 1 if the posteriors are right; `tarp` (n,) is the share of draws
    that are nearer than the truth to a random point, equally uniform (Lemos et al. 2023). `pulls`
    has (truth - estimate) / error of the latents, (n, latents), for three pairs of both.
    """

    counts: np.ndarray
    ranks: np.ndarray
    tarp: np.ndarray
    ess: np.ndarray
    pareto_k: np.ndarray
    pulls: dict[str, np.ndarray]
    squared_errors: dict[str, np.ndarray]
    refine_ms: float
    draw_ms: float


def calibrate(
    model: Folded, simulated: Simulated, draws: int, seed: int, *, thorough: bool = False
) -> Calibration:
    """Draw from the posterior of each detection and find the place of the truth."""
    rng = torch.Generator().manual_seed(seed)
    found: dict[str, list[np.ndarray]] = {}
    refining = drawing = 0.0
    for rows in in_parts(len(simulated.z)):
        batch = simulated.batch.take(rows)
        started = time.perf_counter()
        with torch.no_grad():
            refined = refine(model, model.encode(batch), batch, REFINE_STEPS)
        refined_at = time.perf_counter()
        drawn = draw(model, refined, batch, draws, thorough=thorough)
        drawing += time.perf_counter() - refined_at
        refining += refined_at - started
        z, log_amplitude = simulated.z[rows], simulated.log_amplitude[rows, None]
        truth = torch.cat([z, log_amplitude], 1)
        points = torch.cat([drawn.z, drawn.log_amplitude[..., None]], 2)
        reference = torch.randn(z.shape, generator=rng)
        near = (drawn.z - reference[:, None]).norm(dim=-1)
        parts = {
            "counts": batch.counts.sum(-1),
            "ranks": _placed(points, truth, drawn, rng),
            "tarp": _placed(near[..., None], (z - reference).norm(dim=-1)[:, None], drawn, rng),
            "ess": drawn.ess,
            "k": drawn.pareto_k,
            "maximum": (z - refined.z) / refined.z_std,
            "mean": (z - drawn.mean) / drawn.std,
            "error of maximum": (z - refined.z).square(),
            "error of mean": (z - drawn.mean).square(),
        }
        for name, values in parts.items():
            found.setdefault(name, []).append(values.numpy())
    whole = {name: np.concatenate(each) for name, each in found.items()}
    return Calibration(
        counts=whole["counts"],
        ranks=whole["ranks"],
        tarp=whole["tarp"][:, 0],
        ess=whole["ess"],
        pareto_k=whole["k"],
        pulls={name: whole[name] for name in ("maximum", "mean")},
        squared_errors={name: whole[f"error of {name}"] for name in ("maximum", "mean")},
        refine_ms=1e3 * refining / len(simulated.z),
        draw_ms=1e3 * drawing / len(simulated.z),
    )


def _placed(points: Tensor, truth: Tensor, drawn: Draws, rng: torch.Generator) -> Tensor:
    """Return the quantile of the truth (n, k) among weighted draws (n, draws, k), randomized.

    With m independent draws, r of which are below, (r + u) / (m + 1) is uniform for u uniform
    between 0 and 1; weighted draws count as their effective number.
    """
    below = (drawn.weights[..., None] * (points < truth[:, None])).sum(1)
    ess = drawn.ess[:, None]
    return (ess * below + torch.rand(below.shape, generator=rng)) / (ess + 1.0)


def central_coverage(ranks: np.ndarray) -> dict[float, float]:
    """Return how often the truth is in the central interval of each level."""
    return {level: float((np.abs(ranks - 0.5) < level / 2).mean()) for level in LEVELS}


def tarp_coverage(shares: np.ndarray) -> dict[float, float]:
    """Return the expected coverage of random regions with each credibility."""
    return {level: float((shares < level).mean()) for level in LEVELS}
