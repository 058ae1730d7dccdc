"""What ingesting a sample takes: the tasks of Ray that do it, and their measures put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import psutil
import pyarrow as pa
import ray

from raypipe.cluster import map_parts, ray_session
from raypipe.config import Config, IngestConfig
from raypipe.discovery.archive import is_product_uri
from raypipe.errors import RaypipeError
from raypipe.ingestion.fetch import is_remote
from raypipe.planning.meeting import Meeting
from raypipe.planning.processes import Use, tree_use
from raypipe.planning.sample import SampleTask, TaskMeasure, count_packaged

_LEAST_PIECE = 50
"""Detections a task should have for its measures to mean something."""


@dataclass(frozen=True)
class ChipChoice:
    """What choosing RMFs for zones of chips took.

    The PHAs of `looked_at` detections took `look_bytes` and `look_requests`. These fell on `zones`,
    only one on each of `zones_seen_once`. The `rmfs` fetched for them took `rmf_bytes` and
    `rmf_requests`; `distinct_share` of the zones' RMFs differ. All of it took `cpu_s` of CPU and
    `connected_s` of connections.
    """

    looked_at: int = 0
    look_bytes: float = 0
    look_requests: float = 0
    zones: int = 0
    zones_seen_once: int = 0
    distinct_share: float = 1
    rmfs: float = 0
    rmf_bytes: float = 0
    rmf_requests: float = 0
    cpu_s: float = 0
    connected_s: float = 0


@dataclass(frozen=True)
class Measurement:
    """What ingesting a sample took.

    Of `detections`, `spectra` became spectra; the others' reasons are `reject_reasons`, the most
    frequent first. Of `bytes_read` and `requests`, `rmf_bytes` and `rmf_requests` were for `rmfs`
    RMFs that detections brought themselves, of which `distinct_rmfs` differ and `rmfs_seen_once`
    came in one spectrum only; `packages` requests were for the products of `packaged` detections.
    What choosing RMFs for zones of chips took is in `choice` alone. CPU and connected time, s, and
    `spectrum_bytes` are a detection's or spectrum's; a part has `part_bytes` besides, a stored RMF
    `stored_rmf_bytes`. `start_cpu_s` is what Ray and its processes take before and beside that.
    Memory: of a task, and of all else on its node.
    """

    detections: int
    spectra: int
    reject_reasons: dict[str, int]
    bytes_read: float
    requests: float
    retries: float
    packaged: int
    packages: int
    rmfs: float
    rmf_bytes: float
    rmf_requests: float
    distinct_rmfs: int
    rmfs_seen_once: int
    choice: ChipChoice
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
        measures, here = _run_tasks(sample, release, config, model_uri, slots)
        node = ray.get_runtime_context().get_node_id()
    counts = _sum(each.counts for each in measures)
    reasons = Counter(reason for each in measures for reason in each.reasons)
    if not counts["spectra"]:
        raise RaypipeError(_all_rejected(sample, reasons))
    spectra = int(counts["spectra"])
    own_rmfs = _sum(each.spectra_by_rmf for each in measures)
    share = _share_of_rmfs_alone(sample)
    choice = _chip_choice(measures, share)
    timed = sum(each.timed for each in measures)
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
        rmf_requests=counts["rmfs"] * share,
        distinct_rmfs=len(own_rmfs),
        rmfs_seen_once=_seen_once(own_rmfs),
        choice=choice,
        cpu_s=sum(each.cpu_s for each in measures) / timed,
        connected_s=sum(each.connected_s for each in measures) / timed,
        connections=_connections(sample, config.ingest),
        embed_cpu_s=_embed_cpu_s(measures) / timed if model_uri else None,
        start_cpu_s=_start_cpu_s(measures, here, earlier) - choice.cpu_s,
        spectrum_bytes=sum(each.rows_bytes for each in measures) / spectra,
        part_bytes=fmean(each.part_bytes for each in measures),
        stored_rmf_bytes=fmean(each.rmf_stored_bytes for each in measures),
        task_bytes=max(each.peak_bytes for each in measures),
        ray_bytes=_ray_bytes(measures, here, node),
        tasks=len(measures),
        slots=slots,
    )


def _run_tasks(
    sample: pa.Table, release: str, config: Config, model_uri: str | None, slots: int
) -> tuple[list[TaskMeasure], dict[int, Use]]:
    """Ingest the sample by tasks at once, as many as there are slots and enough of it.

    Returns their measures and the use of this process and those below it, without the meeting's.
    """
    tasks = min(slots, max(1, sample.num_rows // _LEAST_PIECE))
    ends = [sample.num_rows * i // tasks for i in range(tasks + 1)]
    pieces = [sample.slice(start, end - start) for start, end in pairwise(ends)]
    meeting = Meeting(tasks)
    task = SampleTask(release, pieces, config, model_uri, meeting)
    answers = map_parts("plan", range(tasks), task, num_cpus=config.ingest.cpus_per_task)
    measures = [TaskMeasure.of(answer) for answer in answers]
    here, meeting_pid = tree_use(psutil.Process()), meeting.pid
    for use in here, *(each.node_use for each in measures):
        use.pop(meeting_pid, None)
    return measures, here


def measurement_of(values: Mapping[str, Any]) -> Measurement:
    """The measurement that `dataclasses.asdict` made a mapping of."""
    return Measurement(**{**values, "choice": ChipChoice(**values["choice"])})


def _chip_choice(measures: list[TaskMeasure], share: float) -> ChipChoice:
    """All tasks' choices together; `share` of their RMFs took a request each."""
    choices = [each.choice for each in measures if each.choice]
    if not choices:
        return ChipChoice()
    counts = _sum(choice.counts for choice in choices)
    zones = {zone for choice in choices for zone in choice.zones}
    distinct = sum(len(set(choice.zones.values())) for choice in choices)
    rmf_requests = counts["rmfs"] * share
    return ChipChoice(
        looked_at=sum(choice.looked_at for choice in choices),
        look_bytes=counts["bytes_read"] - counts["rmf_bytes"],
        look_requests=counts["requests"] - rmf_requests,
        zones=len(zones),
        zones_seen_once=_seen_once(_sum(each.spectra_by_zone for each in measures)),
        distinct_share=distinct / max(sum(len(choice.zones) for choice in choices), 1),
        rmfs=counts["rmfs"],
        rmf_bytes=counts["rmf_bytes"],
        rmf_requests=rmf_requests,
        cpu_s=sum(choice.cpu_s for choice in choices),
        connected_s=counts["connected_s"],
    )


def _sum(mappings: Iterable[Mapping[str, float]]) -> Counter[str]:
    total = Counter[str]()
    for mapping in mappings:
        total.update(mapping)
    return total


def _seen_once(times: Counter[str]) -> int:
    return sum(n == 1 for n in times.values())


def _embed_cpu_s(measures: list[TaskMeasure]) -> float:
    return sum(each.embed_cpu_s or 0.0 for each in measures)


def _start_cpu_s(
    measures: list[TaskMeasure], here: dict[int, Use], earlier: dict[int, Use]
) -> float:
    """CPU time of the driver, of what it started and of the tasks, but for their timed work."""
    total = {pid: use.cpu_s for pid, use in here.items()}
    for each in measures:
        total.setdefault(each.pid, each.node_use[each.pid].cpu_s)
    before = sum(use.cpu_s for use in earlier.values())
    timed = sum(each.cpu_s for each in measures) + _embed_cpu_s(measures)
    return sum(total.values()) - before - timed


def _ray_bytes(measures: list[TaskMeasure], here: dict[int, Use], node: str) -> int:
    """Memory of all that is no task on a node, the most of any node."""
    used = {
        (where, pid): use.memory_bytes
        for where, uses in (*((each.node, each.node_use) for each in measures), (node, here))
        for pid, use in uses.items()
    }
    for each in measures:
        used.pop((each.node, each.pid), None)
    totals = Counter[str]()
    for (name, _), memory in used.items():
        totals[name] += memory
    return max(totals.values())


def _share_of_rmfs_alone(sample: pa.Table) -> float:
    """Share of RMFs that take a request of their own: none from disk, nor in packages."""
    uris = [uri for uri in sample["rmf_uri"].to_pylist() if uri]
    alone = sum(is_remote(uri) and not is_product_uri(uri) for uri in uris)
    return alone / max(len(uris), 1)


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
