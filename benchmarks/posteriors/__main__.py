"""Check posteriors: calibration by simulation, long chains on real spectra, and z-scores.

Usage: python -m benchmarks.posteriors --model BUNDLE --data DIR [--figures DIR]
       python -m benchmarks.posteriors --model BUNDLE --data DIR --calibration
           [--seed N] [--least COUNTS] [--thorough]

DIR holds real spectra in the folders csc, ciao and missions. Sources are drawn from the prior,
folded through the responses of the real spectra, and observed with Poisson noise. With
`--calibration` that is all, for detections of at least COUNTS counts.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.posteriors import figures
from benchmarks.posteriors.calibration import (
    LEVELS,
    REFINE_STEPS,
    Calibration,
    calibrate,
    central_coverage,
    tarp_coverage,
)
from benchmarks.posteriors.mcmc import long_chain
from benchmarks.posteriors.simulated import decades, real_spectra, simulate, templates
from benchmarks.posteriors.zscores import zscores
from raypipe import load_model
from raypipe.model.features import prepare
from raypipe.model.posterior import sample
from raypipe.model.presets import Folded
from raypipe.model.refine import refine

FOLDERS = ("csc", "ciao", "missions")
_COMPARED = 5


def main() -> None:
    """Print all tables and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--figures", type=Path, default=Path("docs/images"))
    parser.add_argument("--detections", type=int, default=8000)
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=300, help="of each long chain")
    parser.add_argument("--calibration", action="store_true", help="nothing else, no figures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--least", type=float, default=0.0, help="counts of the calibration")
    parser.add_argument("--thorough", action="store_true", help="look for modes as describe does")
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = load_model(given.model).network
    if not isinstance(network, Folded):
        parser.error(f"{given.model}: the model has no likelihood; use preset folded")
    spectra = real_spectra(given.data / name for name in FOLDERS)
    seen_by = templates(spectra)
    simulated = simulate(
        network, seen_by, given.detections, seed=given.seed, known_background=True
    ).at_least(given.least)
    found = calibrate(network, simulated, given.draws, seed=2, thorough=given.thorough)
    _print_calibration(found, given.draws)
    if given.calibration:
        return
    given.figures.mkdir(parents=True, exist_ok=True)
    figures.draw_calibration(found, given.figures / "posterior_calibration.png")
    for known in (True, False):
        again = simulate(network, seen_by, given.detections // 2, seed=3, known_background=known)
        _print_zscores(zscores(network, again), again.counts, known)
    chosen = sorted(spectra, key=lambda each: each.counts.sum())
    chosen = chosen[:: max(1, len(chosen) // _COMPARED)][-_COMPARED:]
    compared = []
    for real in chosen:
        batch = prepare(real.batch)
        with torch.no_grad():
            refined = refine(network, network.encode(batch), batch, REFINE_STEPS)
        drawn = sample(network, refined, batch, 1000, None)
        chain, accepted, shrink = long_chain(network, batch, refined, given.iterations, seed=4)
        draws = torch.cat([drawn.z[0], drawn.log_amplitude[0, :, None]], 1)
        offset = ((draws.mean(0) - chain.mean(0)) / chain.std(0)).abs().max()
        ratio = draws.std(0) / chain.std(0)
        print(
            f"{real.name}: {real.counts.sum():.0f} counts; chain: {accepted:.2f} accepted, "
            f"R {float(shrink.max()):.3f}; means differ by at most {float(offset):.2f} widths, "
            f"ratio of widths {float(ratio.min()):.2f}-{float(ratio.max()):.2f}",
            flush=True,
        )
        compared.append((f"{real.name}, {real.counts.sum():.0f} counts", draws, chain))
    figures.draw_comparison(compared, given.figures / "posterior_chains.png")


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


def _print_calibration(found: Calibration, draws: int) -> None:
    print(f"refinement {found.refine_ms:.2f} ms, {draws} draws {found.draw_ms:.2f} ms per spectrum")
    for name, rows in decades(found.counts, 10.0):
        if not rows.any():
            continue
        z, amplitude, tarp = (
            central_coverage(found.ranks[rows, :-1]),
            central_coverage(found.ranks[rows, -1]),
            tarp_coverage(found.tarp[rows]),
        )
        table = "; ".join(
            f"{label} " + " ".join(f"{100 * each[level]:.1f}" for level in LEVELS)
            for label, each in (("latents", z), ("amplitude", amplitude), ("TARP", tarp))
        )
        ess = np.quantile(found.ess[rows] / draws, [0.05, 0.5])
        errors = {key: np.sqrt(each[rows].mean()) for key, each in found.squared_errors.items()}
        pulls = {key: _widths(each[rows].ravel()) for key, each in found.pulls.items()}
        print(
            f"{name} counts, {rows.sum()} detections: {table}; ESS {ess[1]:.2f} (5%: {ess[0]:.2f}),"
            f" below 10: {100 * (found.ess[rows] < 10).mean():.1f}%; rms error "
            + ", ".join(f"{key} {value:.3f}" for key, value in errors.items())
            + "; pulls "
            + ", ".join(f"{key} {mean:+.2f}, {width:.2f}" for key, (mean, width) in pulls.items()),
            flush=True,
        )


def _print_zscores(found: dict[str, np.ndarray], counts: np.ndarray, known: bool) -> None:
    print("z-scores, background", "known" if known else "measured")
    for name, rows in decades(counts, 5.0):
        cells = {key: _widths(each[rows]) for key, each in found.items()}
        print(
            f"{name}: "
            + ", ".join(f"{key} {mean:+.2f}, {width:.2f}" for key, (mean, width) in cells.items()),
            flush=True,
        )


def _widths(values: np.ndarray) -> tuple[float, float]:
    """Return the median and half the distance of the 16% and 84% quantiles."""
    low, middle, high = np.quantile(values[np.isfinite(values)], [0.1587, 0.5, 0.8413])
    return float(middle), float(high - low) / 2


if __name__ == "__main__":
    main()
