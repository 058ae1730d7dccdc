"""Align spectra with second views of their sources; compare with what is possible, and baselines.

Usage: python -m benchmarks.alignment CASE ... --out FILE [options]; cases are

truth      a simulated population (--population W): the view is a draw from the posterior of each
           detection in noise, for which the best possible ranking can be computed, and the true
           parameters of the sources in noise, with a ranking by Bayes' theorem and, given the
           survey's truth.parquet (--true-counts FILE), the coverage of predicted spectra
catalog    a survey drawn from real sources (--real W): the view is what the Chandra Source Catalog
           (--catalog FILE) says of their brightness, position and variability
captions   the same survey: the view are captions written by a template from class, fits and
           variability of the real sources, read by a text encoder (--text-encoder FOLDER). They are
           captions and no texts that people wrote
curves     detections of the population: the view are light curves simulated by class, see
           `benchmarks.light_curves`
telescopes sources observed by two telescopes (--telescopes W, from `raypipe simulate --visits 2`):
           the view are the latents of the other telescope

Each W is the workspace of an embedded survey, which is copied to --workdir. Every case runs the
verb, and prints a table with recall, median rank, baselines, permuted pairs and what the shared
space adds to latents and view. `--out` collects the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import logsumexp

import raypipe
from benchmarks.light_curves import kind_of, light_curve
from benchmarks.real_captions import caption, real_sources
from raypipe.aligning.data import divide, join_view, make_pairs
from raypipe.aligning.measure import gallery_rows
from raypipe.aligning.pairs import Pairs
from raypipe.aligning.retrieval import judge
from raypipe.alignment.card import metrics_table
from raypipe.alignment.spectrum_inputs import read_posteriors
from raypipe.alignment.view_table import read_view_table
from raypipe.config import Config
from raypipe.display.spectrum_figure import group_bins
from raypipe.model.covariance import pack
from raypipe.searching.batched_gaussians import Posteriors
from raypipe.searching.neighbors import Posterior, log_bayes_factors
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.decoding import COLUMNS
from raypipe.spectra.detection_rows import iterate_spectra
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.manifest import choose_release
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace

Floats = npt.NDArray[np.float64]

NOISE = 0.3
"""Noise of the first view of case truth, in units of latents."""
VIEWED = 4
"""Latents that are in it."""
TRUE_NOISE = {"log_nh": 0.2, "photon_index": 0.2, "log_kt": 0.1}
"""Noise of the true parameters: decades of N_H, of the index, and decades of temperature."""
ACIS = "CHANDRA"
MOST_SPECTRA = 400
"""Most spectra by which predicted bands are judged."""
MOST_CURVES = 2500
"""Detections that have a light curve."""
BRIGHT = 300
"""Fewest net counts of a detection with a light curve."""
CURVE_BINS = 48
"""Bins per light curve."""


CASES = ("truth", "catalog", "captions", "curves", "telescopes")


class Case:
    """Hold the copy of a workspace with the table of a view, and the settings of the alignment."""

    def __init__(self, workspace: Path, table: Path, settings: Mapping[str, Any], **options: Any):
        self.workspace, self.table, self.options = workspace, table, options
        self.config = Config.model_validate({"align": dict(settings)})

    def run(self) -> dict[str, Any]:
        return raypipe.align(self.workspace, with_=self.table, config=self.config, **self.options)

    def pairs(self) -> tuple[Pairs, Pairs]:
        """Return the training pairs and the judged pairs of the verb."""
        catalog = _catalog(self.workspace)
        names = self.options.get("columns")
        view = read_view_table(self.table, names.split(",") if names else None)
        data = join_view(catalog, view, None, self.options.get("key"), 1.0)
        division = divide(data.sources[data.paired], self.config.align)
        pairs, _ = make_pairs(data, division, self.config.align)
        test = pairs.take(division.test)
        rows = gallery_rows(test, self.config.align.seed)
        judged = test.take(rows)
        self.judged_ids = data.detection_ids.take(
            pa.array(data.paired[division.test][rows])
        ).to_pylist()
        return pairs.take(division.train), judged


def truth_of_draws(workspace: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    """Align with draws from posteriors in noise; the best ranking is that of p(view | spectrum)."""
    frame = _catalog(workspace)
    posteriors, _ = read_posteriors(frame)
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(posteriors.mean.shape)
    drawn = posteriors.mean + np.einsum("nij,nj->ni", posteriors.factors, noise)
    view = drawn[:, :VIEWED] + NOISE * rng.standard_normal((len(drawn), VIEWED))
    table = _write(folder / "draws.parquet", frame, {"view": list(view)})
    case = Case(workspace, table, settings, key="detection_id", columns="view")
    metrics = case.run()
    train, judged = case.pairs()
    values = view[judged.place]
    density = _normal_log_density(values, judged) - _marginal(values, train)[None, :]
    return metrics | {"optimum": judge(density)}


def truth_of_sources(
    workspace: Path, folder: Path, true_counts: Path | None = None, **settings: Any
) -> dict[str, Any]:
    """Align with true parameters in noise, beside a ranking by Bayes' theorem.

    That takes p(y | x) as the mean of p(y | theta_j) over training sources j, weighted with the
    Bayes factor that both spectra have the same latents. It knows the noise, and is limited by
    the number of training sources. With `true_counts`, the survey's truth.parquet, it also measures
    the bands of predicted spectra.
    """
    frame = raypipe.open_catalog(workspace)
    kt = frame["kt_kev"].astype(float)
    truth = pd.DataFrame(
        {
            "log_nh": frame["log_nh"].astype(float),
            "photon_index": frame["photon_index"].astype(float),
            "log_kt": np.log10(kt.where(kt > 0)),
        }
    )
    rng = np.random.default_rng(2)
    noisy = truth + rng.standard_normal(truth.shape) * np.array(list(TRUE_NOISE.values()))
    table = _write(folder / "parameters.parquet", frame, dict(noisy.items()))
    options = {"key": "detection_id", "columns": ",".join(noisy)}
    case = Case(workspace, table, {"targets": ["class"], **settings}, **options)
    metrics = case.run()
    train, judged = case.pairs()
    y, theta = noisy.to_numpy()[judged.place], truth.to_numpy()[train.place]
    if true_counts is not None:
        metrics["spectra"] = coverage_of_spectra(workspace, true_counts, case.judged_ids)
        print("true spectra within predicted bands:", metrics["spectra"], flush=True)
    return metrics | {"bayes": judge(_by_bayes(y, theta, judged, train))}


def coverage_of_spectra(workspace: Path, truth: Path, judged_ids: Sequence[str]) -> dict[str, Any]:
    """Measure how often true spectra are within the 68% band predicted from the view.

    The truth are the expected counts of the simulation, folded through the detection's response, in
    a dozen groups of channels of equal counts. The prediction is as bright as they are.
    """
    opened = raypipe.open_alignment(workspace)
    model = raypipe.load_model(Path(workspace) / "models" / opened.alignment.about.model_id)
    table = pd.read_parquet(truth, columns=["detection_id", "model_counts"])
    true = table.set_index("detection_id")["model_counts"]
    ids = list(judged_ids)[:MOST_SPECTRA]
    library, shares = ResponseLibrary(opened.workspace), []
    release = opened.alignment.about.release
    for rows in iterate_spectra(opened.workspace, release, ids, COLUMNS):
        batch = SpectraBatch.from_table(rows, library)
        for row, name in enumerate(rows["detection_id"].to_pylist()):
            one = batch.take([row])
            bins = one.bins[int(one.response_index[0])]
            counts = np.zeros_like(one.counts)
            counts[0, : len(bins)] = bins.bin_counts(np.asarray(true[name], np.float64))
            found = opened.predict_counts(name, replace(one, counts=counts), model, draws=64)
            groups = group_bins(found.counts, float(found.counts.sum()) / 12, len(bins))
            low, _, high = found.limits(groups)
            expected = np.add.reduceat(found.counts, groups)
            shares.append(float(((expected >= low) & (expected <= high)).mean()))
    return {
        "spectra": len(shares),
        "coverage": float(np.mean(shares)),
        "coverage_err": float(np.std(shares) / np.sqrt(len(shares))),
    }


def catalog_view(workspace: Path, folder: Path, real: Path, **settings: Any) -> dict[str, Any]:
    """Align with brightness, position and variability of the real sources."""
    rows = real_sources(real)
    table = folder / "catalog.parquet"
    rows.to_parquet(table)
    steady = ["log_flux", "significance", "abs_gal_lat", "gal_lon", "nh_gal", "extent"]
    varying = ["var_inter_prob", "var_intra_prob", "ks_intra_prob"]
    targets = ["log_nh", "photon_index", "class"]
    everything = Case(
        workspace,
        table,
        {"targets": targets, **settings},
        key="name",
        columns=",".join([*steady, *varying]),
    ).run()
    without = Case(
        workspace,
        table,
        {"targets": ["var_inter_prob", "var_intra_prob"], **settings},
        key="name",
        columns=",".join(steady),
    ).run()
    for null, other in zip(everything["permuted"], without["permuted"], strict=True):
        null["usefulness"] |= other["usefulness"]
    return everything | {
        "usefulness": everything["usefulness"] | without["usefulness"],
        "without_variability": without["retrieval"],
    }


def captions_view(
    workspace: Path, folder: Path, real: Path, encoder: Path, **settings: Any
) -> dict[str, Any]:
    """Align with captions, through a text encoder."""
    rows = real_sources(real)
    captions = pd.DataFrame(
        {"name": rows["name"], "caption": [caption(r) for _, r in rows.iterrows()]}
    )
    table = folder / "captions.parquet"
    captions.to_parquet(table)
    case = Case(
        workspace,
        table,
        {"targets": ["log_nh", "photon_index", "class"], **settings},
        key="name",
        columns="caption",
        text_encoder=encoder,
    )
    print("\n".join(captions["caption"].head(5)))
    return case.run() | {"different_captions": int(captions["caption"].nunique())}


def curves_view(workspace: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    """Align with light curves that vary as sources of the class do, for bright detections.

    Rates are relative to their mean, so that a curve does not say how bright the detection is.
    """
    frame = raypipe.open_catalog(workspace)
    rng = np.random.default_rng(3)
    net = frame["total_counts"] * (1.0 - frame["background_share"].fillna(0.0))
    bright = np.flatnonzero(net >= BRIGHT)
    rows = np.sort(bright[rng.permutation(len(bright))[:MOST_CURVES]])
    frame, net = frame.iloc[rows].reset_index(drop=True), net.iloc[rows]
    kinds = [kind_of(name, rng) for name in frame["class"]]
    curves = [
        light_curve(kind, float(counts), float(exposure), CURVE_BINS, rng)
        for kind, counts, exposure in zip(kinds, net, frame["exposure_s"], strict=True)
    ]
    columns = {
        "times": [times for times, _ in curves],
        "rates": [rates / rates.mean() for _, rates in curves],
        "variability": kinds,
    }
    table = _write(folder / "curves.parquet", frame, columns)
    targets = {"targets": ["class", "variability"], "epochs": 40, **settings}
    options = {"key": "detection_id", "columns": "times:rates"}
    return Case(workspace, table, targets, **options).run()


def telescopes_view(workspace: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    """Align ACIS latents with those of the same source by another telescope.

    Both sides are in one latent space already: the posteriors' overlap and their Bayes factor rank
    without any training.
    """
    frame = raypipe.open_catalog(workspace)
    acis = frame[frame["telescope"] == ACIS]
    other = frame[frame["telescope"] != ACIS].drop_duplicates("name").set_index("name")
    acis = acis[acis["name"].isin(other.index)].drop_duplicates("name").reset_index(drop=True)
    theirs = other.loc[acis["name"]]
    latents = [f"z{i}" for i in range(8)]
    widths = [f"z{i}_std" for i in range(8)]
    columns = {
        "latents": list(theirs[latents].to_numpy(float)),
        "log_widths": list(np.log(theirs[widths].to_numpy(float))),
    }
    table = _write(folder / "telescope.parquet", acis, columns)
    targets = {"targets": ["log_nh", "photon_index", "class"], **settings}
    options = {"key": "detection_id", "columns": "latents,log_widths"}
    case = Case(workspace, table, targets, **options)
    metrics = case.run()
    case.pairs()
    judged = frame.set_index("detection_id").loc[case.judged_ids]
    mine, yours = _posteriors(judged), _posteriors(other.loc[judged["name"]])
    return metrics | {
        "telescopes": theirs["telescope"].value_counts().to_dict(),
        "bayes_factor": judge(_all_pairs(mine, yours)),
    }


def _catalog(workspace: Path) -> pa.Table:
    store = Workspace(workspace)
    model = raypipe.open_catalog(store, columns=["model_id"])["model_id"].iloc[0]
    return read_detections(store, choose_release(store, None), model)


def _write(path: Path, frame: pd.DataFrame | pa.Table, columns: Mapping[str, Any]) -> Path:
    ids = frame["detection_id"]
    table = {"detection_id": ids if isinstance(frame, pa.Table) else pa.array(ids)}
    table |= {name: pa.array(values) for name, values in columns.items()}
    pq.write_table(pa.table(table), path)
    return path


def _normal_log_density(values: Floats, pairs: Pairs) -> Floats:
    """Return ln p(view j | spectrum i), (spectra, views), for normal posteriors and noise."""
    factors = pairs.posteriors.factors[:, :VIEWED]
    covariance = factors @ np.swapaxes(factors, 1, 2) + NOISE**2 * np.eye(VIEWED)
    inverse, determinant = np.linalg.inv(covariance), np.linalg.slogdet(covariance)[1]
    mean = pairs.posteriors.mean[:, :VIEWED]
    rows = []
    for center, precision, log_det in zip(mean, inverse, determinant, strict=True):
        off = values - center
        rows.append(-0.5 * (np.einsum("mi,ij,mj->m", off, precision, off) + log_det))
    return np.array(rows)


def _marginal(values: Floats, train: Pairs) -> Floats:
    """Return ln p(view j) up to a constant: the mean over the spectra of training."""
    return np.asarray(logsumexp(_normal_log_density(values, train), axis=0))


def _by_bayes(y: Floats, theta: Floats, judged: Pairs, train: Pairs) -> Floats:
    """Return ln p(y_j | x_i) - ln p(y_j), (spectra, views); see `truth_of_sources`."""
    sigma = np.array(list(TRUE_NOISE.values()))
    likelihood = np.zeros((len(theta), len(y)))
    for k, width in enumerate(sigma):
        there, given = np.isfinite(theta[:, k])[:, None], np.isfinite(y[:, k])[None, :]
        off = np.nan_to_num((theta[:, k][:, None] - y[:, k][None, :]) / width)
        likelihood += np.where(there & given, -0.5 * off**2, np.where(there == given, 0.0, -20.0))
    known = _as_posteriors(train)
    weights = np.array(
        [
            log_bayes_factors(Posterior(mean, factor @ factor.T), known)
            for mean, factor in zip(judged.posteriors.mean, judged.posteriors.factors, strict=True)
        ]
    )
    weights = np.nan_to_num(weights, nan=-np.inf)
    given_x = np.array([logsumexp(each[:, None] + likelihood, axis=0) for each in weights])
    given_x -= logsumexp(weights, axis=1)[:, None]
    return np.asarray(given_x - logsumexp(likelihood, axis=0)[None, :])


def _as_posteriors(pairs: Pairs) -> Posteriors:
    factors = pairs.posteriors.factors
    triangles = pack(factors @ np.swapaxes(factors, 1, 2))
    return Posteriors(pairs.posteriors.mean.T.astype(np.float32), triangles.T.copy())


def _posteriors(frame: pd.DataFrame) -> Posteriors:
    z = frame[[f"z{i}" for i in range(8)]].to_numpy(np.float32)
    return Posteriors(z.T.copy(), np.stack(frame["z_cov"].to_list()).T.astype(np.float32))


def _all_pairs(mine: Posteriors, yours: Posteriors) -> Floats:
    covariance = mine.covariance
    return np.array(
        [
            log_bayes_factors(Posterior(mine.z[:, i].astype(float), covariance[i]), yours)
            for i in range(len(mine))
        ]
    )


def _report(name: str, metrics: Mapping[str, Any]) -> str:
    lines = [f"## {name}", "", metrics_table(metrics)]
    for key in ("optimum", "bayes", "bayes_factor"):
        if key in metrics:
            for way in ("to_view", "to_spectrum"):
                figures = metrics[key][way]
                shown = ", ".join(f"{k} {v:.3f}" for k, v in figures.items() if k[-4:] != "_err")
                lines.append(f"{key}, {way}: {shown}")
    for target, scores in metrics.get("usefulness", {}).items():
        if scores is None:
            continue
        each = [
            f"{k} {v['value']:.3f} ± {v['err']:.3f}"
            for k, v in scores.items()
            if isinstance(v, dict) and "value" in v
        ]
        gains = [f"{k}: {v['value']:+.3f} ± {v['err']:.3f}" for k, v in scores["gain"].items()]
        lines += [f"{target} ({scores['score']}, {scores['rows']} rows): " + "; ".join(each)]
        lines += ["  gain " + "; ".join(gains)]
        for null in metrics["permuted"]:
            each = null["usefulness"][target]["gain"]
            gains = [f"{k}: {v['value']:+.3f} ± {v['err']:.3f}" for k, v in each.items()]
            lines += ["  of permuted pairs " + "; ".join(gains)]
    lines.append("translation: " + json.dumps(metrics.get("translation"), default=float))
    return "\n".join(lines)


def _copied(workspace: Path, folder: Path) -> Path:
    copy = folder / f"w-{workspace.name}"
    if not copy.exists():
        shutil.copytree(workspace, copy)
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="+", choices=CASES)
    for option in ("population", "real", "catalog", "text-encoder", "telescopes", "true-counts"):
        parser.add_argument(f"--{option}", type=Path)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.workdir.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}

    def add(name: str, metrics: dict[str, Any]) -> None:
        found[name] = {k: v for k, v in metrics.items() if k != "history"}
        print(_report(name, metrics), flush=True)
        given.out.write_text(json.dumps(found, indent=1, default=float))

    for case in given.cases:
        if case == "truth":
            workspace = _copied(given.population, given.workdir)
            add("draws in noise", truth_of_draws(workspace, given.workdir))
            add(
                "parameters in noise",
                truth_of_sources(workspace, given.workdir, given.true_counts),
            )
        elif case == "catalog":
            workspace = _copied(given.real, given.workdir)
            add("catalog", catalog_view(workspace, given.workdir, given.catalog))
        elif case == "captions":
            workspace = _copied(given.real, given.workdir)
            encoder = given.text_encoder
            add("captions", captions_view(workspace, given.workdir, given.catalog, encoder))
        elif case == "curves":
            workspace = _copied(given.population, given.workdir)
            add("curves", curves_view(workspace, given.workdir))
        else:
            workspace = _copied(given.telescopes, given.workdir)
            add("telescopes", telescopes_view(workspace, given.workdir))


if __name__ == "__main__":
    main()
