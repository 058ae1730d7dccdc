"""Ingest a sample in Ray tasks and combine what the tasks measured."""

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

from raypipe.archive.products import is_product_uri
from raypipe.config import Config, IngestConfig
from raypipe.errors import RaypipeError
from raypipe.ingestion.fetch import is_remote
from raypipe.planning.barrier import Barrier
from raypipe.planning.processes import Use, tree_use
from raypipe.planning.sample import SampleTask, TaskMeasure, count_packaged
from raypipe.ray_session import map_parts, ray_session

_LEAST_PIECE = 50
"""Smallest number of detections per task for which its measures are meaningful."""


@dataclass(frozen=True)
class ChipChoice:
    """Hold the cost of choosing RMFs for zones of chips.

    Reading the PHA files of `looked_at` detections took `look_bytes` and `look_requests`. They lie
    on `zones` zones, of which `zones_seen_once` hold a single one of them. Fetching `rmfs` RMFs for
    these zones took `rmf_bytes` and `rmf_requests`; a share `distinct_share` of them are distinct.
    The whole choice took `cpu_s` of CPU time and `connected_s` of connection time.
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
    """Hold the cost of ingesting a sample.

    Of `detections`, `spectra` became spectra; `reject_reasons` counts the reasons for the others,
    most frequent first. `rmf_bytes` of `bytes_read` and `rmf_requests` of `requests` were spent on
    `rmfs` RMFs fetched for single detections; `distinct_rmfs` of these differ, and `rmfs_seen_once`
    occurred in a single spectrum. `packages` requests fetched the products of `packaged` detections
    from the archive's package service. The cost of choosing RMFs for zones of chips is counted in
    `choice` only.

    `cpu_s` and `connected_s`, s, are per detection and `spectrum_bytes` per spectrum; each part
    adds `part_bytes` and each stored RMF `stored_rmf_bytes`. `start_cpu_s` is the CPU time of
    starting Ray and of its own processes. `task_bytes` is the memory of one task, `ray_bytes` that
    of everything else on its node.
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
    """Ingest a sample on Ray, in parallel if there are several CPUs, and measure its cost.

    Raises RaypipeError if no detection of the sample becomes a spectrum.
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
    """Ingest the sample in parallel, in one task per slot if the sample is large enough.

    Returns the tasks' measures, and the resource use of this process and its descendants, without
    the actor that synchronizes the tasks.
    """
    tasks = min(slots, max(1, sample.num_rows // _LEAST_PIECE))
    ends = [sample.num_rows * i // tasks for i in range(tasks + 1)]
    pieces = [sample.slice(start, end - start) for start, end in pairwise(ends)]
    barrier = Barrier(tasks)
    task = SampleTask(release, pieces, config, model_uri, barrier)
    answers = map_parts("plan", range(tasks), task, num_cpus=config.ingest.cpus_per_task)
    measures = [TaskMeasure.of(answer) for answer in answers]
    here, barrier_pid = tree_use(psutil.Process()), barrier.pid
    for use in here, *(each.node_use for each in measures):
        use.pop(barrier_pid, None)
    return measures, here


def measurement_of(values: Mapping[str, Any]) -> Measurement:
    """Rebuild a Measurement from the mapping that `dataclasses.asdict` made of it."""
    return Measurement(**{**values, "choice": ChipChoice(**values["choice"])})


def _chip_choice(measures: list[TaskMeasure], share: float) -> ChipChoice:
    """Combine the choices of all tasks; a share `share` of the RMFs took a request each."""
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
    """Compute the CPU time, s, of driver, its processes and tasks, without the timed work."""
    total = {pid: use.cpu_s for pid, use in here.items()}
    for each in measures:
        total.setdefault(each.pid, each.node_use[each.pid].cpu_s)
    before = sum(use.cpu_s for use in earlier.values())
    timed = sum(each.cpu_s for each in measures) + _embed_cpu_s(measures)
    return sum(total.values()) - before - timed


def _ray_bytes(measures: list[TaskMeasure], here: dict[int, Use], node: str) -> int:
    """Return the largest memory that anything but the tasks uses on a node, bytes."""
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
    """Return the share of RMFs that need one request each: not on disk and not in a package."""
    uris = [uri for uri in sample["rmf_uri"].to_pylist() if uri]
    alone = sum(is_remote(uri) and not is_product_uri(uri) for uri in uris)
    return alone / max(len(uris), 1)


def _connections(sample: pa.Table, config: IngestConfig) -> int:
    """Return the number of connections that a task opens to a server at once."""
    from_bucket = any((uri or "").startswith("s3://") for uri in sample["pha_uri"].to_pylist())
    most = config.fetch_threads
    return most if from_bucket else min(most, config.host_concurrency)


def _all_rejected(sample: pa.Table, reasons: Counter[str]) -> str:
    (reason, times), *_ = reasons.most_common(1)
    return (
        f"all {sample.num_rows} detections of the sample were rejected, {times} of them because: "
        f"{reason} (one of the files is {sample['pha_uri'][0]}); fix this, then plan again"
    )
