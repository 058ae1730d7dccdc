"""Compare a trained model's fold of real spectra with the best of three physical fits.

Usage: python benchmarks/real_spectra.py MODEL FOLDER [FOLDER ...] [--plot FILE.png]

MODEL is a bundle (workspace/models/<id>); each FOLDER holds ACIS spectra with ARF and RMF beside
them. Each spectrum is encoded and folded back, with the latents of the encoder and with refined
ones, and judged by its Cash statistic. The physical fits (absorbed power law, thermal plasma, black
body) use the same counts, background and response. A ratio below one is better than every fit.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from physical_fits import Fit, FloatArray, Observation, fit_best

from raypipe import load_model, read_spectrum
from raypipe.config import EmbedConfig
from raypipe.discovery.listing import looks_like_pha
from raypipe.errors import OgipError
from raypipe.model.bundle import Model
from raypipe.model.encode import reconstruct_batch
from raypipe.model.features import prepare
from raypipe.model.statistics import cash
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.grid import Grid

REFINE_STEPS = 6
TARGETS = {"encoder": 1.10, "refined": 1.00}
COUNTS_A_POINT = 15
BIN_KEV = float(np.diff(Grid().channel_edges_kev).mean())


@dataclass(frozen=True)
class Judged:
    """A spectrum, its best physical fit, and the model's folds by encoder and refinement."""

    name: str
    batch: SpectraBatch
    background: FloatArray
    fit: Fit
    folds: dict[str, FloatArray]
    zscore: float

    def ratio(self, kind: str) -> float:
        """Cash statistic of a fold divided by that of the best fit."""
        return float(cash(self.batch.counts[0], self.folds[kind]).sum()) / self.fit.cash


def judge(path: Path, model: Model) -> Judged:
    batch = SpectraBatch.from_spectra([read_spectrum(path)])
    background = prepare(batch).background[0].double().numpy()
    observation = Observation.through(
        batch.counts[0],
        background,
        float(batch.exposure_s[0]),
        batch.arf_cm2[0].astype(float),
        batch.responses[0].astype(float),
    )
    folds, columns = {}, {}
    for kind, steps in (("encoder", 0), ("refined", REFINE_STEPS)):
        columns[kind] = model.encode_batch(batch, config=EmbedConfig(refine_steps=steps))
        latents = columns[kind].filter(regex=r"^z\d$").to_numpy(np.float32)
        folds[kind] = reconstruct_batch(model.network, batch, latents).total[0].astype(float)
    zscore = float(columns["refined"]["fit_zscore"].iloc[0])
    name = path.name.split(".")[0].removesuffix("_pha3")
    return Judged(name, batch, background, fit_best(observation), folds, zscore)


def spectra_in(folders: list[Path]) -> list[Path]:
    files = sorted(path for folder in folders for path in folder.iterdir())
    return [
        path
        for path in files
        if (looks_like_pha(path.name) or "_pha3." in path.name) and "_b" not in path.name
    ]


def plot(judged: list[Judged], file: Path) -> None:
    columns = 3
    rows = -(-len(judged) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
    subfigures = np.atleast_1d(figure.subfigures(rows, columns)).ravel()
    for one, place in zip(judged, subfigures, strict=False):
        top, bottom = place.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        energy, width, counts, model, fit, background = _grouped(one)
        top.errorbar(
            energy,
            counts / width,
            np.sqrt(counts.clip(1)) / width,
            fmt=".",
            color="0.3",
            ms=3,
            lw=0.7,
            label="data",
        )
        top.step(
            energy,
            model / width,
            where="mid",
            color="C0",
            label=f"latents ({one.ratio('refined'):.2f})",
        )
        top.step(energy, fit / width, where="mid", color="C1", lw=0.9, label=one.fit.name)
        top.step(energy, background / width, where="mid", color="0.7", lw=0.9, label="background")
        top.set(
            xscale="log", yscale="log", title=f"{one.name}, {one.batch.counts.sum():.0f} counts"
        )
        density = counts / width
        top.set_ylim(0.3 * density[counts > 0].min(), 2 * density.max())
        top.set_ylabel("counts / keV")
        top.legend(fontsize=7, frameon=False)
        for curve, color in ((model, "C0"), (fit, "C1")):
            bottom.plot(
                energy, (counts - curve) / np.sqrt(curve.clip(1e-9)), ".", ms=3, color=color
            )
        bottom.axhline(0, color="0.6", lw=0.7)
        bottom.set(xlabel="energy (keV)", ylabel="sigma")
        bottom.set_xticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"])
        bottom.xaxis.set_minor_formatter(NullFormatter())
    figure.savefig(file, dpi=110)


def _grouped(one: Judged) -> tuple[FloatArray, ...]:
    """Group energy and width, keV, counts, both models and background to bins of enough counts."""
    counts = one.batch.counts[0].astype(float)
    starts, held = [0], 0.0
    for i, value in enumerate(counts):
        held += value
        if held >= COUNTS_A_POINT and i + 1 < len(counts):
            starts.append(i + 1)
            held = 0.0
    widths = np.diff([*starts, len(counts)])
    energy = np.add.reduceat(Grid().channel_mid_kev, starts) / widths
    curves = counts, one.folds["refined"], one.fit.mu, one.background
    return energy, widths * BIN_KEV, *(np.add.reduceat(curve, starts) for curve in curves)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    judged = []
    print(f"{'spectrum':28s} counts  bkg   best fit    Cash   encoder  refined  fit_zscore")
    for path in spectra_in(args.folders):
        try:
            one = judge(path, model)
        except OgipError as error:
            print(f"left out: {error}")
            continue
        judged.append(one)
        total = float(one.batch.counts.sum())
        print(
            f"{one.name:28s} {total:6.0f} {one.background.sum() / total:5.0%} {one.fit.name:10s} "
            f"{one.fit.cash:8.1f} {one.ratio('encoder'):8.3f} {one.ratio('refined'):8.3f} "
            f"{one.zscore:+8.2f}",
            flush=True,
        )
    for kind, most in TARGETS.items():
        worst = max(judged, key=lambda one: one.ratio(kind))
        print(f"{kind}: worst {worst.ratio(kind):.3f} ({worst.name}); target: at most {most:.2f}")
    if args.plot:
        plot(judged, args.plot)


if __name__ == "__main__":
    main()
