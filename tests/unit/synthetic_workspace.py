"""A small workspace as the verbs leave it, made without Ray: for tests of what comes after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from raypipe.catalog.schema import catalog_table
from raypipe.catalog.source_table import source_tables
from raypipe.catalog.split import TEST, TRAIN, VALIDATION, assign_splits
from raypipe.config import Config
from raypipe.config_toml import load_config
from raypipe.discovery.manifest import write_manifest
from raypipe.identity import source_keys
from raypipe.model.bundle import Model, save_model
from raypipe.model.latent_population import Population
from raypipe.model.presets import build
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.channel_bins import ACIS_CHANNELS, Resolution, acis_bins
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.redistribution import GriddedResponse
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.layout import (
    catalog_folder,
    model_folder,
    part_name,
    rejects_folder,
    sources_folder,
    spectra_folder,
)
from raypipe.store.publication import Publication, find_publication, publish
from raypipe.store.workspace import Workspace

RELEASE = "sim"
CLASSES = ["AGN", "CV", "HM-STAR", "HMXB", "LM-STAR", "LMXB", "NS", "YSO"]
NASTY_NAME = '2CXO <script>alert("x")</script> & $n$'


@dataclass(frozen=True)
class Synthetic:
    """A workspace with one release and the truth table behind it."""

    workspace: Workspace
    truth: Path
    models: list[str]


def make_workspace(
    folder: Path,
    detections: int = 120,
    presets: tuple[str, ...] = ("folded",),
    labels: bool = True,
    seen: bool = True,
    classes: Sequence[str] = CLASSES,
) -> Synthetic:
    """Power laws of eight slopes, of eight `classes` one each, through a box-shaped response.

    `seen` says whether the models were trained on part of the sources. Models have random weights.
    """
    rng = np.random.default_rng(7)
    workspace = Workspace(folder)
    identity = _identity(detections, classes if labels else [None])
    counts, background, expected = _draw_counts(rng, detections)
    spectra = _spectra_table(workspace, identity, counts, background)
    workspace.write_table(part_name(spectra_folder(RELEASE), 0), spectra)
    manifest = identity.assign(
        pha_uri="a_pha3.fits", arf_uri="a_arf3.fits", rmf_uri="a_rmf3.fits", background_uri=None
    )
    lost = manifest.iloc[[0]].assign(detection_id="sim:9.0.9", name=NASTY_NAME)
    rows = pa.Table.from_pandas(pd.concat([manifest, lost]), preserve_index=False)
    write_manifest(workspace, RELEASE, [rows], 100_000, "survey")
    _write_rejects(workspace, lost)
    truth = pa.table(
        {
            **{name: identity[name] for name in ("detection_id", "class")},
            "log_nh": rng.uniform(20, 23, detections),
            "model_counts": _fixed(expected.astype(np.float32), pa.float32()),
        }
    )
    workspace.write_table("truth.parquet", truth)
    models = [embed_spectra(workspace, spectra, preset, seen, classes) for preset in presets]
    return Synthetic(workspace, Path(workspace.path("truth.parquet")), models)


def _identity(n: int, classes: Sequence[str | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "detection_id": [f"sim:{i}.0.1" for i in range(n)],
            "obsid": np.arange(n),
            "obi": 0,
            "region_id": 1,
            "name": [NASTY_NAME if i == 0 else f"2CXO J{i // 2:06d}" for i in range(n)],
            "ra": 10.0,
            "dec": -5.0,
            "class": [classes[(i // 2) % len(classes)] for i in range(n)],
        }
    )


def _draw_counts(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    energy = (np.arange(ACIS_CHANNELS) + 0.5) * 0.0146
    slope = 0.5 + 0.4 * ((np.arange(n) // 2) % len(CLASSES))
    inside = (energy > 0.5) & (energy < 7.9)
    shape = np.where(inside, energy ** -slope[:, None], 0.0)
    total = rng.uniform(60, 3000, n)[:, None]
    expected = total * shape / shape.sum(axis=1, keepdims=True) + np.where(inside, 0.01, 1e-4)
    background = rng.poisson(np.where(inside, 0.1, 1e-3), (n, ACIS_CHANNELS))
    return rng.poisson(expected), background, expected


BINS = acis_bins(Resolution((0.006, 0.003, 0.0)))


def _fixed(matrix: np.ndarray, kind: pa.DataType) -> pa.Array:
    flat = pa.array(matrix.ravel(), kind)
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])


def _spectra_table(
    workspace: Workspace, identity: pd.DataFrame, counts: np.ndarray, background: np.ndarray
) -> pa.Table:
    grid = EnergyGrid()
    redistribution = np.zeros((grid.n_energy, len(BINS)), np.float32)
    column = np.searchsorted(BINS.lo_kev, grid.mid_kev) - 1
    inside = (column >= 0) & (grid.mid_kev < BINS.hi_kev[-1])
    redistribution[np.flatnonzero(inside), column[inside]] = 1.0
    rmf_id = ResponseLibrary(workspace).add(GriddedResponse(redistribution, BINS))
    n = len(identity)
    energy = (np.arange(ACIS_CHANNELS) + 0.5) * 0.0146
    bands = {"s": (0.5, 1.2), "m": (1.2, 2.0), "h": (2.0, 7.0), "b": (0.5, 7.0)}
    own = {
        "telescope": ["CHANDRA"] * n,
        "instrument": ["ACIS"] * n,
        "exposure_s": np.full(n, 2e4),
        "counts": _fixed(counts.astype(np.int32), pa.int32()),
        "background_counts": _fixed(background.astype(np.int32), pa.int32()),
        "background_scale": np.full(n, 0.1),
        "arf_cm2": _fixed(np.full((n, grid.n_energy), 300.0, np.float32), pa.float32()),
        "rmf_id": [rmf_id] * n,
        "flags": [""] * n,
    }
    for band, (low, high) in bands.items():
        rows = (energy >= low) & (energy < high)
        own[f"counts_{band}"] = counts[:, rows].sum(axis=1)
        own[f"background_counts_{band}"] = background[:, rows].sum(axis=1)
    table = pa.Table.from_pandas(identity, preserve_index=False)
    return pa.table({**{name: table[name] for name in table.column_names}, **own})


def _write_rejects(workspace: Workspace, lost: pd.DataFrame) -> None:
    rejects = lost.assign(
        stage="read", reason="no <SPECTRUM> & nothing else", retryable=False, uri="a_pha3.fits"
    )
    table = pa.Table.from_pandas(rejects, preserve_index=False).replace_schema_metadata(None)
    workspace.write_table(part_name(rejects_folder(RELEASE), 0), table)


def embed_spectra(
    workspace: Workspace,
    spectra: pa.Table,
    preset: str = "folded",
    seen: bool = True,
    classes: Sequence[str] = CLASSES,
) -> str:
    """Publish the catalog of spectra by a model of random weights; returns the model's id."""
    config = load_config(
        settings={
            "model": {"preset": preset, "width": 16, "depth": 1, "heads": 2, "decoder_width": 32},
            "embed": {"refine_steps": 2},
        }
    )
    return publish_catalog(workspace, spectra, _random_model(config, spectra, seen, classes))


def publish_catalog(workspace: Workspace, spectra: pa.Table, model: Model) -> str:
    """Publish the bundle of a model and its catalog of spectra; returns the model's id."""
    save_model(model, workspace, model_folder(model.model_id))
    batch = SpectraBatch.from_table(spectra, ResponseLibrary(workspace))
    keys = source_keys(spectra["name"].to_pylist(), spectra["detection_id"].to_pylist())
    measured = model.encode_batch(batch, keys, model.config.embed)
    table = catalog_table(spectra, measured, model.split_of(keys), model.model_id)
    publish_table(workspace, model, table)
    return model.model_id


def publish_table(
    workspace: Workspace, model: Model, table: pa.Table, release: str = RELEASE
) -> None:
    """Make a table the catalog of a release by a model, in place of what is published."""
    base = find_publication(workspace, release, model.model_id)
    number = base.number + 1 if base else 1
    part = f"{catalog_folder(release, model.model_id)}/part-00000-{number}.parquet"
    sources = f"{sources_folder(release, model.model_id)}/sources-{number}.parquet"
    workspace.write_table(part, table)
    workspace.write_tables(sources, source_tables(table, model))
    new = Publication(
        release,
        model.model_id,
        number=0,
        rows=table.num_rows,
        source_rows=workspace.count_rows(sources),
        parts=(part,),
        sources=sources,
        fingerprint=str(number),
    )
    publish(workspace, new, base)


def _random_model(config: Config, spectra: pa.Table, seen: bool, classes: Sequence[str]) -> Model:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    keys = source_keys(spectra["name"].to_pylist(), spectra["detection_id"].to_pylist())
    splits = assign_splits(keys, seed=0, test_fraction=0.5, validation_fraction=0.1)
    parts = {name: np.unique(keys[splits == name]) for name in (TRAIN, VALIDATION, TEST)}
    none = np.array([], dtype=np.int64)
    references = np.array([*classes] * 8, dtype=object)
    n = len(references)
    if spectra["class"].null_count:
        references = np.full(len(references), None, dtype=object)
    history = [
        {"epoch": i, "train_loss": 1 / (i + 1), "validation_loss": 1.1 / (i + 1), "seconds": 1.0}
        for i in range(5)
    ]
    return Model(
        model_id=f"{config.model.preset}-test",
        config=config,
        grid=EnergyGrid(),
        network=build(config.model, EnergyGrid()),
        population=Population.fit(rng.normal(size=(n, 8)), references, np.arange(n), n, 0),
        train_sources=parts[TRAIN] if seen else none,
        validation_sources=parts[VALIDATION] if seen else none,
        metrics={
            "model_id": f"{config.model.preset}-test",
            "preset": config.model.preset,
            "release": RELEASE,
            "made_by": {"raypipe": "0", "torch": "0", "ray": "0"},
            "epochs": 5,
            "best_epoch": 4,
            "validation_loss": 0.2,
            "parameters": 1000,
            "history": history,
            "spectra": {name: int((splits == name).sum()) for name in parts},
        },
    )
