"""A release as `ingest` leaves it, of power laws, and `embed` in this process, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from ray.data import ActorPoolStrategy

from raypipe.config import IngestConfig
from raypipe.discovery.columns import manifest_rows
from raypipe.discovery.manifest import write_manifest
from raypipe.embedding import embed as verb
from raypipe.spectra.channel_bins import ACIS_CHANNELS
from raypipe.spectra.redistribution import GriddedResponse
from raypipe.spectra.responses import ResponseLibrary
from raypipe.spectra.schema import RMF
from raypipe.store.fingerprints import FINGERPRINT
from raypipe.store.layout import manifest_folder, part_name, rejects_folder, spectra_folder
from raypipe.store.workspace import Workspace
from tests.unit.model_spectra import power_laws

RELEASE = "r"
MODEL = Path(__file__).resolve().parents[1] / "data" / "bundle-format-2"
MEASURED = r"z\d|z\d_err|z\d_std|z_cov|cash|cash_expected|fit_zscore|anomaly_score|p_.+"
"""Columns that rows without latents have nothing in."""


def lists(matrix: npt.NDArray[Any]) -> pa.Array:
    """A column of fixed-size lists from a matrix (rows, size)."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def spectra_table(workspace: Workspace, rows: int, names: Sequence[str]) -> pa.Table:
    """Spectra of power laws, two detections of each source; responses go to the workspace."""
    batch, _ = power_laws(rows, seed=5)
    library = ResponseLibrary(workspace)
    responses = map(GriddedResponse, batch.responses, batch.bins)
    rmf_ids = [library.add(response) for response in responses]
    used = batch.bins[0].first[:-1]
    counts = np.zeros((2, rows, ACIS_CHANNELS), np.int32)
    counts[0][:, used], counts[1][:, used] = batch.counts, batch.background_counts
    return pa.table(
        {
            "detection_id": list(names),
            "obsid": np.arange(rows),
            "obi": np.zeros(rows, np.int64),
            "region_id": np.ones(rows, np.int64),
            "name": [f"source {number // 2}" for number in range(rows)],
            "ra": np.full(rows, 10.0),
            "dec": np.full(rows, -5.0),
            "exposure_s": batch.exposure_s.astype(np.float64),
            "counts": lists(counts[0]),
            "background_counts": lists(counts[1]),
            "background_scale": batch.background_scale.astype(np.float64),
            "arf_cm2": lists(batch.arf_cm2),
            "rmf_id": [rmf_ids[index] for index in batch.response_index],
            "counts_b": batch.counts.sum(1).astype(np.int64),
            "flags": np.where(np.arange(rows) % 5 == 0, "arf_truncated", ""),
            "content_sha256": [f"content of {name}" for name in names],
        }
    )


def publish_manifest(workspace: Workspace, names: Sequence[str]) -> None:
    """The manifest of these detections, in one part."""
    table = manifest_rows(pa.table({"detection_id": list(names), "pha_uri": list(names)}))
    write_manifest(workspace, RELEASE, [table], 100_000, "here")


def publish_spectra(workspace: Workspace, spectra: pa.Table) -> None:
    """These rows as the release's spectra; all others of its manifest as rejects."""
    name = part_name(manifest_folder(RELEASE), 0)
    manifest, metadata = workspace.read_table(name), workspace.read_metadata(name)
    made_of = {FINGERPRINT: metadata[FINGERPRINT], RMF: IngestConfig().rmf}
    there = set(spectra["detection_id"].to_pylist())
    lost = [one for one in manifest["detection_id"].to_pylist() if one not in there]
    rejects = pa.table(
        {
            "detection_id": pa.array(lost, pa.string()),
            "stage": pa.array(["read"] * len(lost), pa.string()),
            "reason": pa.array(["damaged"] * len(lost), pa.string()),
            "retryable": pa.array([False] * len(lost), pa.bool_()),
            "uri": pa.array(lost, pa.string()),
        }
    )
    workspace.write_table(part_name(rejects_folder(RELEASE), 0), rejects, made_of)
    workspace.write_table(part_name(spectra_folder(RELEASE), 0), spectra, made_of)


def embed_here(
    monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None] = lambda: None
) -> Callable[..., str]:
    """The verb `embed` with one encoder in this process; `meanwhile` is done after each part."""

    def map_parts(
        name: str, parts: Sequence[int], work: Any, fn_constructor_args: Any, **options: Any
    ) -> Iterator[dict[str, Any]]:
        encode = work(*fn_constructor_args)
        for part in parts:
            outcome = encode(part)
            meanwhile()
            yield outcome

    monkeypatch.setattr(verb, "map_parts", map_parts)
    monkeypatch.setattr(verb, "ray_session", lambda config: nullcontext())
    monkeypatch.setattr(verb, "_pool", lambda *args: ActorPoolStrategy(size=1))

    def embed(workspace: Workspace, **options: Any) -> str:
        return verb.embed(workspace, model=str(MODEL), **options)

    return embed
