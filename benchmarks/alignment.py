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

import raypipe
from benchmarks.alignment_optima import (
    NOISE,
    TRUE_NOISE,
    VIEWED,
    all_pairs,
    by_bayes,
    marginal,
    noisy_parameters,
    normal_log_density,
    posteriors_of,
)
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
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.decoding import COLUMNS
from raypipe.spectra.detection_rows import iterate_spectra
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.manifest import choose_release
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace

Floats = npt.NDArray[np.float64]

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
    density = normal_log_density(values, judged) - marginal(values, train)[None, :]
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
    truth, noisy = noisy_parameters(frame)
    table = _write(folder / "parameters.parquet", frame, {c: noisy[c] for c in TRUE_NOISE})
    options = {"key": "detection_id", "columns": ",".join(TRUE_NOISE)}
    case = Case(workspace, table, {"targets": ["class"], **settings}, **options)
    metrics = case.run()
    train, judged = case.pairs()
    y, theta = noisy.to_numpy()[judged.place], truth.to_numpy()[train.place]
    if true_counts is not None:
        metrics["spectra"] = coverage_of_spectra(workspace, true_counts, case.judged_ids)
        print("true spectra within predicted bands:", metrics["spectra"], flush=True)
    return metrics | {"bayes": judge(by_bayes(y, theta, judged, train))}


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
    mine, yours = posteriors_of(judged), posteriors_of(other.loc[judged["name"]])
    return metrics | {
        "telescopes": theirs["telescope"].value_counts().to_dict(),
        "bayes_factor": judge(all_pairs(mine, yours)),
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
