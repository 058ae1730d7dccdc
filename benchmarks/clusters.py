"""Compare methods and inputs of clusters under one protocol, beside catalog columns and PCA.

    python -m benchmarks.clusters --workspace W [--rows FILE] [--seeds N] [--most ROWS]

W is an embedded workspace whose detections have classes. Clusters are found among all detections
without their classes. The sources of each class are cut into halves at random: on one half each
cluster is given the class of which it holds the largest share, on the other it is judged, in both
directions. The figures are means over seeds and cuts:

- `8 classes`: balanced accuracy over the classes, of detections
- `AGN/compact`: the same for AGN against HMXB, LMXB and NS
- `AMI`: adjusted mutual information of clusters and classes

The errors are standard deviations over bootstrap samples of sources. The last two columns are the
differences from the first row, with the errors of the differences on the same samples. With
`--rows`, the table of real detections (csc20_detections.parquet) is clustered by its own columns,
those above the cut flux_significance_b > 5 with a power-law fit.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from raypipe import load_model
from raypipe.catalog.added_columns import read_whole
from raypipe.clustering.members import Members, Space, read_members
from raypipe.evaluation.baselines import pca_representations
from raypipe.evaluation.selection import read_spectra
from raypipe.identity import source_keys
from raypipe.latents.deconvolution import Likelihoods, fit_mixture
from raypipe.latents.look_alikes import NEIGHBORS, graph_clusters
from raypipe.model.choice import choose_model
from raypipe.model.covariance import unpack
from raypipe.store.layout import model_folder
from raypipe.store.manifest import choose_release
from raypipe.store.publication import Publication, require_publication
from raypipe.store.workspace import Workspace

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

COMPONENTS = 16
COMPACT = ("HMXB", "LMXB", "NS")
CUTS = 4
BOOTSTRAPS = 200


class Task(NamedTuple):
    """Hold the rows that a task judges, their classes as numbers, and their sources."""

    rows: IntArray
    codes: IntArray
    sources: IntArray


class Score(NamedTuple):
    """Hold the balanced accuracies of 8 classes and of two, per bootstrap sample; and AMI."""

    eight: FloatArray
    two: FloatArray
    ami: float


@dataclass(frozen=True)
class Labeled:
    """Hold classes (n,) or None and source keys (n,) of the rows that are clustered."""

    classes: npt.NDArray[np.object_]
    sources: IntArray

    def task(self, merged: bool) -> Task:
        classes = np.array([c if isinstance(c, str) else "" for c in self.classes])
        if merged:
            compact = np.where(np.isin(classes, COMPACT), "compact", "")
            classes = np.where(classes == "AGN", "AGN", compact)
        rows = np.flatnonzero(classes != "")
        codes = np.unique(classes[rows], return_inverse=True)[1]
        sources = np.unique(self.sources[rows], return_inverse=True)[1]
        return Task(rows, codes, sources)

    def score(self, clusters: list[IntArray]) -> Score:
        """Judge the clusters (n,) of several seeds; the first bootstrap sample is the sample."""
        eight, two = (
            np.mean([_accuracy(self.task(merged), each) for each in clusters], axis=0)
            for merged in (False, True)
        )
        task = self.task(False)
        ami = np.mean([adjusted_mutual_info_score(task.codes, c[task.rows]) for c in clusters])
        return Score(eight, two, float(ami))


def _accuracy(task: Task, clusters: IntArray) -> FloatArray:
    """Return the balanced accuracy for the sample and its bootstrap samples, (1 + BOOTSTRAPS,)."""
    own, classes = clusters[task.rows], int(task.codes.max()) + 1
    n_sources = int(task.sources.max()) + 1
    of_source = np.zeros(n_sources, np.int64)
    of_source[task.sources] = task.codes
    # The same draws for every method, so that differences have small errors.
    rng = np.random.default_rng(0)
    draws = np.stack(
        [
            np.bincount(rng.integers(n_sources, size=n_sources), minlength=n_sources)
            for _ in range(BOOTSTRAPS)
        ]
    )
    weights = np.concatenate([np.ones((1, n_sources)), draws])
    found = []
    for _ in range(CUTS):
        first = np.zeros(n_sources, bool)
        for code in range(classes):
            members = rng.permutation(np.flatnonzero(of_source == code))
            first[members[: len(members) // 2]] = True
        for learned in (first[task.sources], ~first[task.sources]):
            right = _meaning(own, task.codes, learned, classes)[own] == task.codes
            found.append(_balanced(right, ~learned, task, weights, classes))
    mean: FloatArray = np.mean(found, axis=0)
    return mean


def _meaning(
    clusters: IntArray, codes: IntArray, learned: npt.NDArray[np.bool_], classes: int
) -> IntArray:
    """Return the class of which each cluster holds the largest share; -1 without a member."""
    shares = np.zeros((int(clusters.max()) + 1, classes))
    totals = np.bincount(codes[learned], minlength=classes)
    np.add.at(shares, (clusters[learned], codes[learned]), 1 / totals[codes[learned]])
    return np.where(shares.sum(axis=1) > 0, shares.argmax(axis=1), -1)


def _balanced(
    right: npt.NDArray[np.bool_],
    judged: npt.NDArray[np.bool_],
    task: Task,
    weights: FloatArray,
    classes: int,
) -> FloatArray:
    n_sources = weights.shape[1]
    recalls = []
    for code in range(classes):
        here = judged & (task.codes == code)
        rows = np.bincount(task.sources[here], minlength=n_sources)
        hits = np.bincount(task.sources[here], right[here], minlength=n_sources)
        total = weights @ rows
        recalls.append(np.where(total > 0, weights @ hits / np.maximum(total, 1e-9), np.nan))
    return np.asarray(np.nanmean(recalls, axis=0))


def mixture(values: FloatArray, seed: int) -> IntArray:
    scaled = (values - values.mean(axis=0)) / values.std(axis=0).clip(1e-9)
    found = GaussianMixture(COMPONENTS, n_init=2, reg_covar=1e-3, random_state=seed)
    return np.asarray(found.fit(scaled).predict(scaled))


def deconvolved(rows: Likelihoods, seed: int) -> IntArray:
    found = fit_mixture(rows, COMPONENTS, seed, starts=1)
    return np.asarray(found.responsibilities(rows).argmax(axis=1))


def attended(values: FloatArray) -> FloatArray:
    """Average each row over its nearest rows, with weights exp(-d^2 / 2): attention unlearned."""
    distances, rows = NearestNeighbors(n_neighbors=NEIGHBORS).fit(values).kneighbors(values)
    weights = np.exp(-0.5 * distances**2)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(np.einsum("nk,nkd->nd", weights, values[rows]))


Method = Callable[[int], IntArray]


def methods(
    workspace: Workspace, catalog: Publication, members: Members, frame: pd.DataFrame
) -> Iterator[tuple[str, Method]]:
    """Yield each combination of method and input with a function from a seed to clusters."""
    model = load_model(workspace.absolute_uri(model_folder(catalog.model_id)))
    space = Space.fit(model, members, 8)
    shapes, errors = space.values(members), space.covariance(members)
    log_flux = np.log10(frame["flux_b"].to_numpy(np.float64).clip(1e-18))[:, None]
    z_cov = unpack(members.triangles.astype(np.float64))
    yield (
        "mixture with errors, flux",
        lambda seed: deconvolved(Likelihoods.of_measurements(shapes, errors), seed),
    )
    yield "mixture, flux", lambda seed: mixture(shapes, seed)
    yield "mixture, flux and log flux_b", lambda seed: mixture(np.c_[shapes, log_flux], seed)
    yield "mixture, latents", lambda seed: mixture(members.z, seed)
    yield "mixture, latents and log flux_b", lambda seed: mixture(np.c_[members.z, log_flux], seed)
    yield (
        "k-means, flux",
        lambda seed: np.asarray(
            KMeans(COMPONENTS, n_init=3, random_state=seed).fit_predict(shapes)
        ),
    )
    yield "mixture, flux attended", lambda seed: mixture(attended(shapes), seed)
    whole = read_members(workspace, catalog, "sources", ())
    if len(whole) < len(members):
        own = Space.fit(model, whole, 8)
        combined = Likelihoods.of_measurements(own.values(whole), own.covariance(whole))
        place = pd.Series(np.arange(len(whole)), whole.sources)[members.sources].to_numpy()
        yield "mixture with errors, flux of sources", lambda s: deconvolved(combined, s)[place]
    for name, values in {"flux": shapes, "latents": members.z}.items():
        yield f"graph and sources, {name}", partial(_graph, values, members.sources)
    yield (
        "HDBSCAN, 4 directions of flux",
        lambda seed: (
            1
            + HDBSCAN(
                min_cluster_size=50, min_samples=5, cluster_selection_method="leaf", copy=True
            ).fit_predict(shapes[:, :4])
        ),
    )
    ratios = frame[["hard_hs", "hard_hm", "hard_ms"]].fillna(0.0).to_numpy(np.float64)
    yield "mixture, hardness ratios", lambda seed: mixture(ratios, seed)
    fits = frame[["powlaw_gamma", "powlaw_nh", "bb_kt"]].to_numpy(np.float64)
    seven = np.c_[ratios, np.log10(fits.clip(1e-3)), log_flux]
    seven = np.where(np.isfinite(seven), seven, np.nanmedian(seven, axis=0))
    yield "mixture, 7 catalog columns", lambda seed: mixture(seven, seed)
    if len(whole) < len(members):
        means = pd.DataFrame(seven).groupby(members.sources).transform("mean").to_numpy()
        yield "mixture, 7 columns, means of sources", lambda seed: mixture(means, seed)
    spectra = read_spectra(workspace, catalog.release, frame)
    if spectra is not None:
        eight = pca_representations(spectra, None, 0)[1].features
        yield "mixture, PCA-8 of root counts", lambda seed: mixture(eight, seed)
    yield (
        "mixture with errors, latents",
        lambda seed: deconvolved(Likelihoods.of_posteriors(members.z, z_cov), seed),
    )


def _graph(values: FloatArray, sources: Any, seed: int) -> IntArray:
    return graph_clusters(values, sources, 1.0, seed).argmax(axis=1).astype(np.int64)


def real_rows(file: str) -> tuple[Labeled, FloatArray]:
    """Read real detections at the cut, and seven of their columns on one scale."""
    rows = pd.read_parquet(file)
    rows = rows[(rows["flux_significance_b"] > 5) & rows["powlaw_gamma"].notna()]
    soft, medium, hard = (rows[f"obs_flux_aper90_{b}"].fillna(0.0).clip(0) for b in "smh")
    columns = {
        "hs": (hard - soft) / (hard + soft),
        "hm": (hard - medium) / (hard + medium),
        "ms": (medium - soft) / (medium + soft),
        "gamma": rows["powlaw_gamma"],
        "nh": np.log10(rows["powlaw_nh"].clip(0.1)),
        "kt": np.log10(rows["bb_kt"].clip(0.01)),
        "flux": np.log10(rows["obs_flux_aper90_b"].clip(1e-18)),
    }
    frame = pd.DataFrame(columns)
    values = frame.fillna(frame.median()).to_numpy(np.float64)
    keys = source_keys(rows["name"].tolist(), rows["name"].tolist())
    return Labeled(rows["muwclass_true_class"].to_numpy(dtype=object), keys), values


def line(name: str, score: Score, first: Score, clusters: list[IntArray]) -> str:
    """Format one row of the table."""

    def figure(values: FloatArray) -> str:
        return f"{values[0]:.3f} ± {values[1:].std():.3f}"

    def difference(values: FloatArray, base: FloatArray) -> str:
        return f"{values[0] - base[0]:+.3f} ± {(values - base)[1:].std():.3f}"

    same = score is first or len(score.eight) != len(first.eight)
    number = np.mean([len(np.unique(each)) for each in clusters])
    apart = (
        ["", ""]
        if same
        else [difference(score.eight, first.eight), difference(score.two, first.two)]
    )
    cells = [name, f"{number:.0f}", figure(score.eight), figure(score.two), f"{score.ami:.3f}"]
    return f"| {' | '.join([*cells, *apart])} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--rows", help="table of real detections")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, default=8000, help="most detections, drawn at random")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="sklearn")
    workspace = Workspace(options.workspace)
    release = choose_release(workspace, None)
    model_id = choose_model(workspace, release, None)
    catalog = require_publication(workspace, release, model_id)
    members = read_members(workspace, catalog, "detections", ())
    drawn = np.sort(np.random.default_rng(0).permutation(len(members))[: options.most])
    members = members.take(drawn)
    frame = read_whole(workspace, release, model_id).to_pandas().set_index("detection_id")
    frame = frame.loc[members.ids].reset_index()
    labeled, first = Labeled(members.classes, members.sources), None
    header = (
        "method, input",
        "clusters",
        "8 classes",
        "AGN/compact",
        "AMI",
        "8 - first",
        "2 - first",
    )
    print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|")
    for name, method in methods(workspace, catalog, members, frame):
        clusters = [method(seed) for seed in range(options.seeds)]
        score = labeled.score(clusters)
        first = first or score
        print(line(name, score, first, clusters), flush=True)
    if options.rows:
        own, values = real_rows(options.rows)
        clusters = [mixture(values, seed) for seed in range(options.seeds)]
        score = own.score(clusters)
        print(line("real rows: mixture, 7 columns", score, score, clusters))


if __name__ == "__main__":
    main()
