"""Compare a trained model's fold of real spectra with the best of three physical fits.

Usage: python -m benchmarks.real_spectra MODEL FOLDER [FOLDER ...] [--plot FILE.png] [--json FILE]

MODEL is a bundle (workspace/models/<id>). A FOLDER holds spectra of any telescopes, whose headers
name their ARF and RMF, or an index.json that does: a list of objects with "pha", "arf", "rmf" and,
optionally, "name" and "background". Each spectrum is encoded and folded back, with the latents of
the encoder and with refined ones, and judged by its Cash statistic; bright ones are thinned. The
physical fits (absorbed power law, thermal plasma, black body) use the same counts and background,
through the files' own energy bins. A ratio below one is better than every fit. Spectra of one
source by two cameras of a telescope are thinned to the same counts and their latents compared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.physical_fits import Fit, FloatArray, Observation, fit_best
from raypipe import load_model, read_spectrum
from raypipe.discovery.listing import looks_like_pha
from raypipe.errors import OgipError
from raypipe.model.covariance import unpack
from raypipe.model.encode import encode_batch, reconstruct_batch
from raypipe.model.features import prepare
from raypipe.model.presets import Folded
from raypipe.model.statistics import cash
from raypipe.ogip import Spectrum
from raypipe.spectra.batch import SpectraBatch

REFINE_STEPS = 6
TARGETS = {"encoder": 1.10, "refined": 1.00}
BACKGROUND_OF_TARGETS = 0.5
"""Share of background from which the targets do not apply."""
MOST_COUNTS = 30_000
PAIR_COUNTS = 5_000
COUNTS_PER_POINT = 15


@dataclass(frozen=True)
class RealSpectrum:
    """A spectrum as its files have it, and its batch of one row, which may be thinned."""

    name: str
    telescope: str
    source: str
    spectrum: Spectrum
    batch: SpectraBatch

    @property
    def bins(self) -> int:
        """Number of its channel bins."""
        return len(self.batch.bins[0])

    @property
    def counts(self) -> FloatArray:
        """Counts in its channel bins, (bins,)."""
        return self.batch.counts[0, : self.bins].astype(float)

    @cached_property
    def background(self) -> FloatArray:
        """Expected background in its channel bins, (bins,), as the model smooths it."""
        smooth: FloatArray = prepare(self.batch).background[0, : self.bins].double().numpy()
        return smooth

    def thinned(self, most: int, seed: int) -> RealSpectrum:
        """Keep each count with the probability that leaves `most` in the channel bins."""
        share = min(1.0, most / max(float(self.batch.counts.sum()), 1.0))
        if share == 1.0:
            return self
        rng = np.random.default_rng(seed)
        kept, background = (
            rng.binomial(counts.astype(np.int64), share).astype(np.float32)
            for counts in (self.batch.counts, self.batch.background_counts)
        )
        exposure = (self.batch.exposure_s * share).astype(np.float32)
        batch = replace(self.batch, counts=kept, background_counts=background, exposure_s=exposure)
        return replace(self, batch=batch)


@dataclass(frozen=True)
class Judged:
    """A spectrum, its best physical fit, and the model's folds by encoder and refinement."""

    real: RealSpectrum
    fit: Fit
    folds: dict[str, FloatArray]
    zscore: float

    def ratio(self, kind: str) -> float:
        """Return the Cash statistic of a fold divided by that of the best fit."""
        return float(cash(self.real.counts, self.folds[kind]).sum()) / self.fit.cash

    @property
    def background_share(self) -> float:
        """Expected background per count."""
        return float(self.real.background.sum() / max(self.real.counts.sum(), 1.0))

    def as_json(self) -> dict[str, Any]:
        """Return the figures of a row of the table."""
        return {
            "name": self.real.name,
            "telescope": self.real.telescope,
            "counts": float(self.real.counts.sum()),
            "background": self.background_share,
            "best_fit": self.fit.name,
            "best_cash": self.fit.cash,
            "encoder": self.ratio("encoder"),
            "refined": self.ratio("refined"),
            "fit_zscore": self.zscore,
        }


@dataclass(frozen=True)
class Agreement:
    """Latents of one source by two cameras: their distance, and the largest of one latent's.

    Both are in units of the joint posterior; a distance is near sqrt(latents) where they agree.
    """

    names: tuple[str, str]
    counts: int
    distance: float
    largest: float


def read_folders(folders: Iterable[Path]) -> Iterator[RealSpectrum]:
    """Read the spectra of folders; those that cannot be used are left out with a message."""
    for folder in folders:
        for name, pha, companions in spectra_in(folder):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    spectrum = read_spectrum(pha, **companions)
                batch = SpectraBatch.from_spectra([spectrum])
            except OgipError as error:
                print(f"left out: {error}")
                continue
            words = [
                str(spectrum.header.get(key) or "").strip() for key in ("TELESCOP", "INSTRUME")
            ]
            source = str(spectrum.header.get("OBJECT") or "").strip()
            yield RealSpectrum(name, " ".join(words), source, spectrum, batch)


def spectra_in(folder: Path) -> Iterator[tuple[str, Path, dict[str, Path]]]:
    """Yield the name of each spectrum in a folder, its file, and the files to read with it."""
    index = folder / "index.json"
    if index.exists():
        for entry in json.loads(index.read_text()):
            named = {key: folder / entry[key] for key in ("arf", "rmf", "background") if entry[key]}
            yield entry["name"], folder / entry["pha"], named
        return
    for path in sorted(folder.iterdir()):
        if (looks_like_pha(path.name) or "_pha3." in path.name) and "_b" not in path.name:
            yield path.name.split(".")[0].removesuffix("_pha3"), path, {}


def fit_physical(real: RealSpectrum) -> Fit:
    """Fit a spectrum through its files, over the background that the model expects."""
    observation = Observation.of_spectrum(
        real.spectrum,
        real.batch.bins[0],
        real.counts,
        real.background,
        float(real.batch.exposure_s[0]),
    )
    return fit_best(observation)


def judge(real: RealSpectrum, network: Folded, fit: Fit) -> Judged:
    """Fold what the network makes of a spectrum, beside its best physical fit."""
    folds, zscore = {}, 0.0
    for kind, steps in (("encoder", 0), ("refined", REFINE_STEPS)):
        columns = encode_batch(network, real.batch, steps)
        fold = reconstruct_batch(network, real.batch, _latents(columns)).total[0]
        folds[kind] = fold[: real.bins].astype(float)
        zscore = float(columns["fit_zscore"][0])
    return Judged(real, fit, folds, zscore)


def agreements(spectra: Sequence[RealSpectrum], network: Folded) -> list[Agreement]:
    """Compare the latents of each source that two cameras of one telescope have observed."""
    found = []
    for one, other in itertools.combinations(spectra, 2):
        cameras = one.telescope.split()[:1], other.telescope.split()[:1]
        if not one.source or one.source != other.source or cameras[0] != cameras[1]:
            continue
        if one.telescope == other.telescope:
            continue
        fewest = [PAIR_COUNTS, *(int(each.batch.counts.sum()) for each in (one, other))]
        pair = [each.thinned(min(fewest), seed) for seed, each in enumerate((one, other))]
        columns = [encode_batch(network, each.batch, REFINE_STEPS) for each in pair]
        first, second = (_latents(each)[0].astype(float) for each in columns)
        joint = sum(unpack(each["z_cov"])[0] for each in columns)
        apart = first - second
        found.append(
            Agreement(
                (one.name, other.name),
                min(fewest),
                float(np.sqrt(apart @ np.linalg.solve(joint, apart))),
                float(np.max(np.abs(apart) / np.sqrt(np.diagonal(joint)))),
            )
        )
    return found


def _latents(columns: dict[str, Any]) -> np.ndarray:
    size = sum(name[1:].isdigit() for name in columns)
    return np.stack([columns[f"z{i}"] for i in range(size)], 1).astype(np.float32)


def plot(judged: list[Judged], file: Path) -> None:
    """Draw data, fold, best fit and residuals of all spectra onto one page."""
    columns = 3
    rows = -(-len(judged) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
    subfigures = figure.subfigures(rows, columns, squeeze=False).ravel()
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
        title = f"{one.real.name} ({one.real.telescope}), {one.real.counts.sum():.0f} counts"
        top.set(xscale="log", yscale="log")
        top.set_title(title, fontsize=9)
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
        bottom.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
        bottom.xaxis.set_minor_formatter(NullFormatter())
    figure.savefig(file, dpi=110)


def _grouped(one: Judged) -> tuple[FloatArray, ...]:
    """Group energy and width, keV, counts, both models and background to bins of enough counts."""
    counts, bins = one.real.counts, one.real.batch.bins[0]
    starts, held = [0], 0.0
    for i, value in enumerate(counts):
        held += value
        if held >= COUNTS_PER_POINT and i + 1 < len(counts):
            starts.append(i + 1)
            held = 0.0
    low = bins.lo_kev[starts]
    high = np.append(low[1:], bins.hi_kev[-1])
    curves = counts, one.folds["refined"], one.fit.mu, one.real.background
    grouped = (np.add.reduceat(curve, starts) for curve in curves)
    return 0.5 * (low + high), high - low, *grouped


HEADING = (
    f"{'spectrum':22s} {'telescope':14s} counts  bkg   best fit    Cash   "
    "encoder  refined  fit_zscore"
)


def row(one: Judged) -> str:
    """Return a line of the table."""
    return (
        f"{one.real.name:22s} {one.real.telescope:14s} {one.real.counts.sum():6.0f} "
        f"{one.background_share:5.0%} {one.fit.name:10s} {one.fit.cash:8.1f} "
        f"{one.ratio('encoder'):8.3f} {one.ratio('refined'):8.3f} {one.zscore:+8.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    network = load_model(options.model).network
    assert isinstance(network, Folded)
    spectra = list(read_folders(options.folders))
    judged = []
    print(HEADING)
    for seed, real in enumerate(spectra):
        thinned = real.thinned(MOST_COUNTS, seed)
        judged.append(judge(thinned, network, fit_physical(thinned)))
        print(row(judged[-1]), flush=True)
    bound = [one for one in judged if one.background_share < BACKGROUND_OF_TARGETS]
    for kind, most in TARGETS.items():
        worst = max(bound, key=lambda one: one.ratio(kind))
        print(
            f"{kind}: worst {worst.ratio(kind):.3f} ({worst.real.name}), background below half; "
            f"target: at most {most:.2f}"
        )
    pairs = agreements(spectra, network)
    for pair in pairs:
        print(
            f"{' and '.join(pair.names)} at {pair.counts} counts each: latents {pair.distance:.2f} "
            f"joint errors apart, at most {pair.largest:.2f} in one; target: at most 3"
        )
    if options.plot:
        plot(judged, options.plot)
    if options.json:
        figures = [one.as_json() for one in judged], [asdict(pair) for pair in pairs]
        text = json.dumps(dict(zip(("spectra", "pairs"), figures, strict=True)), indent=1)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
