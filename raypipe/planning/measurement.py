"""What ingesting a sample takes: the tasks of Ray that do it, and their measures put together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import psutil
import pyarrow as pa
import ray

from raypipe.cluster import map_parts, ray_session
from raypipe.config import Config, IngestConfig
from raypipe.discovery.archive import is_product_uri
from raypipe.errors import RaypipeError
from raypipe.ingestion.fetch import is_remote
from raypipe.planning.processes import Use, tree_use
from raypipe.planning.sample import SampleTask, TaskMeasure, count_packaged

_LEAST_PIECE = 50
"""Detections a task should have for its measures to mean something."""


@dataclass(frozen=True)
class Measurement:
    """What ingesting a sample took.

    Of `detections`, `spectra` became spectra; the others' reasons are `reject_reasons`, the most
    frequent first. Of all `bytes_read` and `requests`, `rmf_bytes` and `rmf_requests` were for
    `rmfs` RMFs, of which `distinct_rmfs` differ and `rmfs_seen_once` came in one spectrum only;
    `packages` requests were for the products of `packaged` detections. CPU and connected time, s,
    and `spectrum_bytes` are a detection's or spectrum's; a part has `part_bytes` besides, a stored
    RMF `stored_rmf_bytes`. `start_cpu_s` is what Ray and its processes take before and beside that.
    Memory: of a task, and of all else on its node.
    """

    detections: int
    spectra: int
    reject_reasons: dict[str, int]
    bytes_read: int
    requests: int
    retries: int
    packaged: int
    packages: int
    rmfs: int
    rmf_bytes: int
    rmf_requests: int
    distinct_rmfs: int
    rmfs_seen_once: int
    cpu_s: float
    connected_s: float
    connections: int
    embed_cpu_s: float | None
    start_cpu_s: float
    spectrum_bytes: float
    part_bytes: float
    stored_rmf_bytes: float
    task_bytes: int
    ray_bytes: int
    tasks: int
    slots: int


def measure(sample: pa.Table, release: str, config: Config, model_uri: str | None) -> Measurement:
    """Ingest a sample on Ray, on several CPUs at once where there are, and say what that took.

    Raises RaypipeError where none of it becomes a spectrum.
    """
    without_cache = config.ingest.model_copy(update={"cache_dir": None})
    config = config.model_copy(update={"ingest": without_cache})
    earlier = tree_use(psutil.Process()) if ray.is_initialized() else {}
    with ray_session(config.ray):
        slots = max(1, int(ray.cluster_resources().get("CPU", 0) / config.ingest.cpus_per_task))
        tasks = min(slots, max(1, sample.num_rows // _LEAST_PIECE))
        ends = [sample.num_rows * i // tasks for i in range(tasks + 1)]
        pieces = [sample.slice(start, end - start) for start, end in pairwise(ends)]
        task = SampleTask(release, pieces, config, model_uri)
        answers = map_parts(range(tasks), task, num_cpus=config.ingest.cpus_per_task)
        measures = [TaskMeasure(**answer) for answer in answers]
        here = tree_use(psutil.Process())
        node = ray.get_runtime_context().get_node_id()
    reasons = Counter(reason for each in measures for reason in each.reasons)
    spectra_by_rmf = sum((Counter(each.spectra_by_rmf) for each in measures), Counter[str]())
    spectra = spectra_by_rmf.total()
    if not spectra:
        raise RaypipeError(_all_rejected(sample, reasons))
    counts = sum((Counter(each.counts) for each in measures), Counter[str]())
    timed = sum(each.timed for each in measures)
    cpu_s = sum(each.cpu_s for each in measures)
    return Measurement(
        detections=sample.num_rows,
        spectra=spectra,
        reject_reasons=dict(reasons.most_common()),
        bytes_read=counts["bytes_read"],
        requests=counts["requests"],
        retries=counts["retries"],
        packaged=count_packaged(sample),
        packages=sum(each.packages for each in measures),
        rmfs=counts["rmfs"],
        rmf_bytes=counts["rmf_bytes"],
        rmf_requests=_requests_of_rmfs(sample, counts["rmfs"]),
        distinct_rmfs=len(spectra_by_rmf),
        rmfs_seen_once=sum(times == 1 for times in spectra_by_rmf.values()),
        cpu_s=cpu_s / timed,
        connected_s=sum(each.connected_s for each in measures) / timed,
        connections=_connections(sample, config.ingest),
        embed_cpu_s=sum(each.embed_cpu_s or 0.0 for each in measures) / timed
        if model_uri
        else None,
        start_cpu_s=_start_cpu_s(measures, here, earlier),
        spectrum_bytes=sum(each.rows_bytes for each in measures) / spectra,
        part_bytes=sum(each.part_bytes for each in measures) / tasks,
        stored_rmf_bytes=sum(each.rmf_stored_bytes for each in measures)
        / sum(len(each.spectra_by_rmf) for each in measures),
        task_bytes=max(each.peak_bytes for each in measures),
        ray_bytes=_ray_bytes(measures, here, node),
        tasks=tasks,
        slots=slots,
    )


def _start_cpu_s(
    measures: list[TaskMeasure], here: dict[int, Use], earlier: dict[int, Use]
) -> float:
    """CPU time of the driver, of what it started and of the tasks, but for their timed work."""
    total = {pid: use.cpu_s for pid, use in here.items()}
    for each in measures:
        total.setdefault(each.pid, each.node_use[str(each.pid)][0])
    before = sum(use.cpu_s for use in earlier.values())
    return sum(total.values()) - before - sum(e.cpu_s + (e.embed_cpu_s or 0) for e in measures)


def _ray_bytes(measures: list[TaskMeasure], here: dict[int, Use], node: str) -> int:
    """Memory of all that is no task on a node, the most of any node."""
    used = {
        (each.node, int(pid)): memory
        for each in measures
        for pid, (_, memory) in each.node_use.items()
    }
    used |= {(node, pid): use.memory_bytes for pid, use in here.items()}
    for each in measures:
        used.pop((each.node, each.pid), None)
    totals = Counter[str]()
    for (name, _), memory in used.items():
        totals[name] += memory
    return max(totals.values())


def _requests_of_rmfs(sample: pa.Table, rmfs: int) -> int:
    """Requests that were for RMFs alone: none from disk, nor in packages of all products."""
    uris = [uri for uri in sample["rmf_uri"].to_pylist() if uri]
    alone = sum(is_remote(uri) and not is_product_uri(uri) for uri in uris)
    return round(rmfs * alone / max(len(uris), 1))


def _connections(sample: pa.Table, config: IngestConfig) -> int:
    """Connections a task has at once to a server."""
    from_bucket = any((uri or "").startswith("s3://") for uri in sample["pha_uri"].to_pylist())
    most = config.fetch_threads
    return most if from_bucket else min(most, config.host_concurrency)


def _all_rejected(sample: pa.Table, reasons: Counter[str]) -> str:
    (reason, times), *_ = reasons.most_common(1)
    return (
        f"all {sample.num_rows} detections of the sample were rejected, {times} of them because: "
        f"{reason} (as {sample['pha_uri'][0]}); mend that, then plan again"
    )
