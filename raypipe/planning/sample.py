"""Ingest a random sample in a scratch workspace and measure its cost."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from raypipe.archive.products import is_product_uri
from raypipe.config import Config
from raypipe.ingestion.chip_rmfs import choose_chip_rmfs, load_chip_rmfs
from raypipe.ingestion.fetch import Fetcher
from raypipe.ingestion.part import ingest_part
from raypipe.planning.barrier import Barrier
from raypipe.planning.processes import Use, own_peak_bytes, tree_use
from raypipe.spectra.responses import FOLDER as RESPONSES
from raypipe.spectra.responses import chip_rmfs_name
from raypipe.store.layout import manifest_folder, part_name, rejects_folder, spectra_folder
from raypipe.store.manifest import read_manifest_summary
from raypipe.store.workspace import Workspace

WARM_UP_SHARE = 0.25
"""Share of a task's detections that it ingests before CPU time is measured."""

_WARM_UP, _TIMED = 0, 1
_WHOLE = "whole.parquet"


@dataclass(frozen=True)
class Choice:
    """Hold the cost of choosing RMFs for zones of chips in one task.

    `zones` maps the name of each zone on which one of `looked_at` detections lies to its `rmf_id`;
    `counts` are those of `Traffic`; `cpu_s` is CPU time, s.
    """

    zones: dict[str, str]
    looked_at: int
    counts: dict[str, float]
    cpu_s: float


@dataclass(frozen=True)
class TaskMeasure:
    """Hold what was measured of one task that ingested a piece of the sample.

    `counts` are sums of `Outcome` over all detections of the task, `packages` the requests that
    these make to the archive's package service. `cpu_s` and `connected_s`, s, are those of the
    `timed` detections after the warm-up. Spectra are counted by zone if they use a zone's RMF,
    otherwise by the `rmf_id` of their own. Sizes are those of files, bytes: `rows_bytes` grows with
    the rows, every part adds `part_bytes`, and an RMF takes `rmf_stored_bytes` on average.
    `peak_bytes` is the memory of the task; `node_use` gives the CPU time, s, and memory, bytes, of
    each process of its node, by pid.
    """

    pid: int
    node: str
    counts: dict[str, float]
    packages: int
    choice: Choice | None
    reasons: list[str]
    timed: int
    cpu_s: float
    connected_s: float
    embed_cpu_s: float | None
    spectra_by_zone: dict[str, int]
    spectra_by_rmf: dict[str, int]
    rmf_stored_bytes: float
    rows_bytes: int
    part_bytes: int
    peak_bytes: int
    node_use: dict[int, Use]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> TaskMeasure:
        """Rebuild the measure from the JSON answer of a task."""
        choice = answer["choice"] and Choice(**answer["choice"])
        node_use = {int(pid): Use(**use) for pid, use in answer["node_use"].items()}
        return cls(**{**answer, "choice": choice, "node_use": node_use})


def draw_sample(workspace: Workspace, release: str, size: int, seed: int) -> pa.Table:
    """Draw `size` rows of a release's manifest at random, or all if there are fewer.

    The rows come in random order, from at most `size` parts: a hash assigns rows to parts, so that
    each part is a random sample already.
    """
    rng = np.random.default_rng(seed)
    parts = int(read_manifest_summary(workspace, release)["parts"])
    names = [
        part_name(manifest_folder(release), part) for part in rng.permutation(parts)[:size].tolist()
    ]
    ends = np.cumsum([workspace.count_rows(name) for name in names])
    places = np.sort(rng.permutation(int(ends[-1]))[:size])
    pieces = [
        workspace.read_table(name).take(pa.array(chosen))
        for name, chosen in zip(names, _by_part(places, ends), strict=True)
        if len(chosen)
    ]
    if not pieces:
        return workspace.read_table(names[0])
    return pa.concat_tables(pieces).take(pa.array(rng.permutation(len(places))))


def _by_part(places: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    """Convert sorted row numbers of the whole manifest to row numbers within each part."""
    pieces = np.split(places, np.searchsorted(places, ends[:-1]))
    return [piece - start for piece, start in zip(pieces, [0, *ends[:-1]], strict=True)]


@dataclass(frozen=True)
class SampleTask:
    """Ingest pieces of a sample into temporary folders, and remove these again.

    With a model, it embeds the spectra as well. After the warm-up a task waits for all others,
    because a CPU is slower while neighbors use the same core and memory.
    """

    release: str
    pieces: list[pa.Table]
    config: Config
    model_uri: str | None
    barrier: Barrier

    def __call__(self, number: int) -> dict[str, Any]:
        """Ingest one piece and return its measure."""
        with TemporaryDirectory(prefix="raypipe-plan-") as place:
            return asdict(self._measure(Workspace(place), self.pieces[number]))

    def _measure(self, scratch: Workspace, rows: pa.Table) -> TaskMeasure:
        cut = int(WARM_UP_SHARE * rows.num_rows)
        pieces = rows.slice(0, cut), rows.slice(cut)
        folder = manifest_folder(self.release)
        for part, piece in zip((_WARM_UP, _TIMED), pieces, strict=True):
            scratch.write_table(part_name(folder, part), piece)
        summary = {"rows": rows.num_rows, "parts": len(pieces), "source": "sample"}
        scratch.write_json(f"{folder}/manifest.json", summary)

        choice = self._choose(scratch) if self.config.ingest.rmf == "chip" else None
        warm_up = ingest_part(scratch, self.release, _WARM_UP, self.config.ingest)
        self.barrier.join()
        started = time.process_time()
        timed = ingest_part(scratch, self.release, _TIMED, self.config.ingest)
        cpu_s = time.process_time() - started
        peak_bytes = own_peak_bytes()

        process = psutil.Process()
        spectra = scratch.read_folder(spectra_folder(self.release))
        rejects = scratch.read_folder(rejects_folder(self.release))
        by_zone, by_rmf = self._count_rmfs(scratch, spectra)
        rmf_sizes = [_size(scratch, name) for name in scratch.files(RESPONSES, ".parquet")]
        rows_bytes, part_bytes = self._file_sizes(scratch, spectra)
        both = [asdict(warm_up), asdict(timed)]
        return TaskMeasure(
            pid=process.pid,
            node=ray.get_runtime_context().get_node_id(),
            counts={key: sum(each[key] for each in both) for key in both[0] if key != "rejected"},
            packages=sum(packages_of(piece, self.config.ingest.package_batch) for piece in pieces),
            choice=choice,
            reasons=rejects["reason"].to_pylist(),
            timed=rows.num_rows - cut,
            cpu_s=cpu_s,
            connected_s=timed.connected_s,
            embed_cpu_s=self._embed(scratch, self.model_uri) if self.model_uri else None,
            spectra_by_zone=by_zone,
            spectra_by_rmf=by_rmf,
            rmf_stored_bytes=sum(rmf_sizes) / max(len(rmf_sizes), 1),
            rows_bytes=rows_bytes,
            part_bytes=part_bytes,
            peak_bytes=peak_bytes,
            node_use=tree_use(process.parent() or process),
        )

    def _choose(self, scratch: Workspace) -> Choice:
        fetcher = Fetcher(self.config.ingest)
        started = time.process_time()
        choose_chip_rmfs(scratch, self.release, self.config.ingest, fetcher)
        cpu_s = time.process_time() - started
        name = chip_rmfs_name(self.release)
        chosen = scratch.read_json(name) if scratch.exists(name) else {}
        zones = dict(load_chip_rmfs(scratch, self.release).rmf_ids)
        return Choice(zones, int(chosen.get("looked_at", 0)), fetcher.traffic.counts(), cpu_s)

    def _count_rmfs(
        self, scratch: Workspace, spectra: pa.Table
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Count spectra by zone, and those with an RMF of their own by `rmf_id`."""
        zones = load_chip_rmfs(scratch, self.release).rmf_ids
        zone_of = {rmf_id: zone for zone, rmf_id in zones.items()}
        times = Counter(spectra["rmf_id"].to_pylist())
        by_zone = {zone_of[rmf_id]: n for rmf_id, n in times.items() if rmf_id in zone_of}
        return by_zone, {rmf_id: n for rmf_id, n in times.items() if rmf_id not in zone_of}

    def _file_sizes(self, scratch: Workspace, spectra: pa.Table) -> tuple[int, int]:
        """Return the bytes of a part that grow with its spectra, and those that every part has."""
        scratch.write_table(_WHOLE, spectra)
        footer = pq.ParquetFile(scratch.path(_WHOLE)).metadata
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        in_rows = sum(
            g.column(i).total_compressed_size for g in groups for i in range(g.num_columns)
        )
        rejects = _size(scratch, part_name(rejects_folder(self.release), _TIMED))
        return in_rows, _size(scratch, _WHOLE) - in_rows + rejects

    def _embed(self, scratch: Workspace, model_uri: str) -> float:
        """Measure the CPU time, s, of embedding the detections after the warm-up."""
        from raypipe.embedding.part import PartEncoder  # imports torch, which ingestion does not
        from raypipe.model.bundle import load_model

        encoder = PartEncoder(scratch, self.release, 2, load_model(model_uri), self.config.embed)
        for part in _WARM_UP, _TIMED:
            started = time.process_time()
            encoder.embed(part)
        return time.process_time() - started


def packages_of(rows: pa.Table, batch: int) -> int:
    """Count the requests to the package service that the rows of a part need."""
    return math.ceil(count_packaged(rows) / batch)


def count_packaged(rows: pa.Table) -> int:
    """Count the rows whose products come from the archive's package service."""
    return sum(is_product_uri(uri or "") for uri in rows["pha_uri"].to_pylist())


def _size(scratch: Workspace, name: str) -> int:
    return Path(scratch.path(name)).stat().st_size
