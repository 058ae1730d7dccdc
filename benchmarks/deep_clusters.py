"""Try deep clustering: fine-tune the autoencoder together with learnable centers of k-means.

    python -m benchmarks.deep_clusters --workspace W [--weights 0 0.1 1] [--epochs N] [--seeds N]

W is an embedded workspace whose detections have classes, which the clusters do not see. The model
of its catalog is trained further on all of its spectra. To the loss of the training (which the
counts that the encoder does not see decide) is added the distance of the latents to the centers,
each center weighted by its softmax share (deep k-means; Fard, Thonet & Gaussier 2020,
arXiv:1806.10069):

    loss / mean loss before + weight * sum_k softmax_k(-a d_k) d_k / mean distance before

with d_k the squared distance to center k, and `a` rising from soft to hard shares. The centers
begin at those of a k-means of the encoder's latents, and are weights of the optimizer. Weight 0 is
the control: the same training without the centers. Clusters are judged as in `benchmarks.clusters`,
whose default method is the first row; `loss` is that of all spectra, with the same thinned counts
for all rows, over what it was before.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from benchmarks.clusters import COMPONENTS, Labeled, Score, deconvolved, line, mixture
from raypipe import load_model
from raypipe.clustering.members import Members, Space, read_members
from raypipe.config import TrainConfig
from raypipe.latents.deconvolution import Likelihoods
from raypipe.latents.flux_shapes import FluxShapes
from raypipe.model.choice import choose_model
from raypipe.model.count_splitting import thin
from raypipe.model.features import Batch, prepare
from raypipe.model.presets import Folded
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.decoding import COLUMNS
from raypipe.spectra.detection_rows import iterate_spectra
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.layout import model_folder
from raypipe.store.manifest import choose_release
from raypipe.store.publication import require_publication
from raypipe.store.workspace import Workspace

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BATCH_ROWS = 256
JUDGED_ROWS = 1000
SOFT, HARD = 1.0, 100.0
"""First and last sharpness of the shares, in units of 1 / the mean distance before."""


@dataclass(frozen=True)
class Tuned:
    """Hold latents (n, k) and cluster (n,) of each row, the loss, and the network behind them."""

    network: Folded
    z: FloatArray
    clusters: IntArray
    loss: float


def read_batch(workspace: Workspace, release: str, members: Members) -> Batch:
    """Read the spectra of the members, in their order."""
    ids = members.ids.tolist()
    parts = iterate_spectra(workspace, release, ids, COLUMNS)
    table = pa.concat_tables(part.combine_chunks() for part in parts)
    place = {name: row for row, name in enumerate(table["detection_id"].to_pylist())}
    table = table.take([place[name] for name in ids])
    return prepare(SpectraBatch.from_table(table, ResponseLibrary(workspace)))


@torch.no_grad()
def encode(network: Folded, batch: Batch) -> FloatArray:
    parts = torch.arange(len(batch)).split(JUDGED_ROWS)
    return np.concatenate([network.encode(batch.take(rows)).double().numpy() for rows in parts])


@torch.no_grad()
def mean_loss(network: Folded, batch: Batch, config: TrainConfig) -> float:
    """Return the mean loss of all rows, for the same thinned counts in every call."""
    torch.manual_seed(1)
    total = 0.0
    for rows in torch.arange(len(batch)).split(JUDGED_ROWS):
        some = batch.take(rows)
        shown = thin(some, config.thinning_min, network.most_shown)
        total += float(network(some, shown)[0].sum())
    return total / len(batch)


def squared_distances(z: Tensor, centers: Tensor) -> Tensor:
    """Return the squared distance of latents (n, k) to each center (m, k), (n, m)."""
    return (z[:, None] - centers).square().sum(-1)


def tune(
    network: Folded,
    batch: Batch,
    config: TrainConfig,
    *,
    weight: float,
    epochs: int,
    rate: float,
    seed: int,
) -> Tuned:
    """Train a copy of the network with centers, and assign each row to the nearest center."""
    network = copy.deepcopy(network)
    torch.manual_seed(seed)
    start = KMeans(COMPONENTS, n_init=3, random_state=seed).fit(encode(network, batch))
    centers = nn.Parameter(torch.tensor(start.cluster_centers_, dtype=torch.float32))
    near, usual = start.inertia_ / len(batch), mean_loss(network, batch, config)
    optimizer = torch.optim.AdamW([*network.parameters(), centers], lr=rate, weight_decay=0.0)
    steps = epochs * -(-len(batch) // BATCH_ROWS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    done = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(batch)).split(BATCH_ROWS):
            some = batch.take(rows)
            shown = thin(some, config.thinning_min, network.most_shown)
            z = network.encode(shown)
            loss = network.loss(z, some, shown) + config.latent_penalty * z.square().mean(-1)
            apart = squared_distances(z, centers) / near
            sharpness = SOFT * (HARD / SOFT) ** (done / steps)
            shares = torch.softmax(-sharpness * apart, dim=-1)
            objective = (loss / usual + weight * (shares * apart).sum(-1)).mean()
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
            optimizer.step()
            schedule.step()
            done += 1
    latents = encode(network, batch)
    if weight > 0:
        apart = squared_distances(torch.from_numpy(latents), centers.detach().double())
        own = apart.argmin(1).numpy()
    else:
        own = KMeans(COMPONENTS, n_init=3, random_state=seed).fit_predict(latents).astype(np.int64)
    return Tuned(network, latents, own, mean_loss(network, batch, config) / usual)


def judged(labeled: Labeled, tuned: list[Tuned]) -> dict[str, tuple[Score, list[IntArray]]]:
    """Judge the clusters by centers, and mixtures of the latents and of the fluxes of the model."""
    clusters = {
        "nearest center": [each.clusters for each in tuned],
        "mixture, latents": [mixture(each.z, seed) for seed, each in enumerate(tuned)],
        "mixture, flux": [
            mixture(FluxShapes.fit(each.network, each.z, 8).values(each.z), seed)
            for seed, each in enumerate(tuned)
        ],
    }
    return {name: (labeled.score(each), each) for name, each in clusters.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.1, 1.0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="sklearn")
    workspace = Workspace(options.workspace)
    release = choose_release(workspace, None)
    model_id = choose_model(workspace, release, None)
    model = load_model(workspace.absolute_uri(model_folder(model_id)))
    assert isinstance(model.network, Folded)
    catalog = require_publication(workspace, release, model_id)
    members = read_members(workspace, catalog, "detections", ())
    batch = read_batch(workspace, release, members)
    labeled, seeds = Labeled(members.classes, members.sources), range(options.seeds)

    space = Space.fit(model, members, 8)
    rows = Likelihoods.of_measurements(space.values(members), space.covariance(members))
    clusters = [deconvolved(rows, seed) for seed in seeds]
    first = labeled.score(clusters)
    header = ("training, clusters by", "clusters", "8 classes", "AGN/compact", "AMI")
    print(f"| {' | '.join([*header, '8 - first', '2 - first', 'loss', 's'])} |")
    print("|---" * (len(header) + 4) + "|")
    print(f"{line('none: mixture with errors, flux', first, first, clusters)} | |", flush=True)
    z = encode(model.network, batch)
    before = [
        Tuned(model.network, z, KMeans(COMPONENTS, n_init=3, random_state=s).fit_predict(z), 1.0)
        for s in seeds
    ]
    for name, (score, each) in judged(labeled, before).items():
        print(f"{line(f'none: {name}', score, first, each)} 1 | |", flush=True)
    for weight in options.weights:
        begun = time.perf_counter()
        tuned = [
            tune(
                model.network,
                batch,
                model.config.train,
                weight=weight,
                epochs=options.epochs,
                rate=options.rate,
                seed=seed,
            )
            for seed in seeds
        ]
        seconds = (time.perf_counter() - begun) / options.seeds
        loss = np.mean([each.loss for each in tuned])
        for name, (score, each) in judged(labeled, tuned).items():
            start = line(f"weight {weight:g}: {name}", score, first, each)
            print(f"{start} {loss:.4f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
