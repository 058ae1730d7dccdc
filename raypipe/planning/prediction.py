"""From what a sample took to what a release takes, on the nodes of a cluster."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raypipe.config import Config, IngestConfig
from raypipe.planning.cluster_file import Cluster
from raypipe.planning.measurement import ChipChoice, Measurement

_HOUR = 3600.0


@dataclass(frozen=True)
class Prediction:
    """What ingesting a release takes, whatever the nodes.

    `bytes_read` and `requests` include those of the `rmfs_fetched`; `bytes_written` are those of
    spectra, rejects and the `rmfs_stored`. Core hours are of CPU time; those of embedding are None
    where it was not measured. `files_written` are those of `parts` spectra and rejects, and of the
    RMFs; a part of spectra has `part_bytes`. Memory, bytes, is that of `slots` tasks at once on one
    node like the one the sample ran on, and of Ray beside them.
    """

    detections: int
    spectra: int
    rejects: int
    bytes_read: int
    rmf_bytes_read: int
    requests: int
    rmfs_fetched: int
    rmfs_stored: int
    bytes_written: int
    parts: int
    part_bytes: int
    files_written: int
    ingest_core_hours: float
    embed_core_hours: float | None
    memory_bytes: int


@dataclass(frozen=True)
class Cost:
    """What the nodes of a cluster take for a release: time and money.

    `hours` from the first node's start of work to the last one's end; `node_hours` are paid for,
    with the time a node idles before it is given back. `limit` says what sets the pace: "cpu",
    "network" or "source" (`plan.source_mb_per_s`). Connections, MB/s and requests/s are what all
    nodes together ask of the source.
    """

    nodes: int
    tasks_per_node: int
    hours: float
    node_hours: float
    usd: float
    limit: str
    connections: int
    mb_per_s: float
    requests_per_s: float
    node_memory_bytes: int
    fits_in_memory: bool


def predict(measured: Measurement, detections: int, parts: int, config: IngestConfig) -> Prediction:
    """What a release of `detections` in `parts` takes to ingest.

    Everything grows with the detections but for what is done once (Ray's start, the choice of RMFs
    for zones of chips) and what each part has: its files' frames, its packages of the archive.
    """
    scale = detections / measured.detections
    spectra = round(measured.spectra * scale)
    own_rmfs, own_rmf_bytes = measured.rmfs * scale, measured.rmf_bytes * scale
    chosen = _choose(measured.choice, detections, config)
    embed = measured.embed_cpu_s
    stored = _distinct(measured, detections) + round(chosen.zones * chosen.distinct_share)
    rest = measured.requests - measured.packages
    packages = parts * math.ceil(measured.packaged * scale / parts / config.package_batch)
    return Prediction(
        detections=detections,
        spectra=spectra,
        rejects=detections - spectra,
        bytes_read=round(measured.bytes_read * scale + chosen.look_bytes + chosen.rmf_bytes),
        rmf_bytes_read=round(own_rmf_bytes + chosen.rmf_bytes),
        requests=round(rest * scale + packages + chosen.look_requests + chosen.rmf_requests),
        rmfs_fetched=round(own_rmfs + chosen.rmfs),
        rmfs_stored=stored,
        bytes_written=round(
            spectra * measured.spectrum_bytes
            + parts * measured.part_bytes
            + stored * measured.stored_rmf_bytes
        ),
        parts=parts,
        part_bytes=round(spectra / parts * measured.spectrum_bytes),
        files_written=2 * parts + stored,
        ingest_core_hours=(detections * measured.cpu_s + chosen.cpu_s + measured.start_cpu_s)
        / _HOUR,
        embed_core_hours=None if embed is None else detections * embed / _HOUR,
        memory_bytes=measured.ray_bytes + measured.slots * measured.task_bytes,
    )


def _choose(sampled: ChipChoice, detections: int, config: IngestConfig) -> ChipChoice:
    """What the choice of RMFs takes that looks at `ingest.chip_sample` detections of a release.

    Zones the sample has not met come on at the rate at which it met the last ones, as in
    `_distinct`.
    """
    if not sampled.looked_at:
        return sampled
    looked_at = min(config.chip_sample, detections)
    more = looked_at / sampled.looked_at
    new = max(0, looked_at - sampled.looked_at) * sampled.zones_seen_once / sampled.looked_at
    zones = sampled.zones + round(new)
    rmfs = min(config.chip_candidates * zones, looked_at)
    more_rmfs = rmfs / max(sampled.rmfs, 1)
    return ChipChoice(
        looked_at=looked_at,
        look_bytes=sampled.look_bytes * more,
        look_requests=sampled.look_requests * more,
        zones=zones,
        distinct_share=sampled.distinct_share,
        rmfs=rmfs,
        rmf_bytes=sampled.rmf_bytes * more_rmfs,
        rmf_requests=sampled.rmf_requests * more_rmfs,
        cpu_s=sampled.cpu_s * more,
        connected_s=sampled.connected_s * more,
    )


def _distinct(measured: Measurement, detections: int) -> int:
    """Distinct RMFs that detections of a release bring themselves, at most.

    New ones come on at the rate the sample ended with: the chance that one more detection brings a
    new one is the share of those seen once (Good 1953).
    """
    further = detections / measured.detections - 1
    return measured.distinct_rmfs + round(further * measured.rmfs_seen_once)


def price(
    measured: Measurement, predicted: Prediction, parts: int, cluster: Cluster, config: Config
) -> Cost:
    """What the release takes on the nodes of a cluster.

    One task chooses RMFs for zones of chips before all tasks ingest; embedding comes after.
    """
    tasks = max(1, int(cluster.cpus / config.ingest.cpus_per_task))
    nodes = max(1, min(cluster.nodes, math.ceil(parts / tasks)))
    ingest_s, limit = _pace(measured, predicted, nodes * tasks, config.plan.source_mb_per_s)
    chosen = _choose(measured.choice, predicted.detections, config.ingest)
    choice_s = max(chosen.cpu_s, chosen.connected_s / measured.connections)
    encoders = max(1, int(cluster.cpus / config.embed.cpus_per_actor))
    embed_s = (predicted.embed_core_hours or 0.0) * _HOUR / (nodes * encoders)
    hours = (choice_s + ingest_s + embed_s) / _HOUR
    paid = hours + cluster.idle_minutes / 60
    memory = measured.ray_bytes + tasks * measured.task_bytes
    return Cost(
        nodes=nodes,
        tasks_per_node=tasks,
        hours=hours,
        node_hours=nodes * paid,
        usd=paid * (nodes * cluster.usd_per_hour + cluster.head_usd_per_hour),
        limit=limit,
        connections=nodes * tasks * measured.connections if measured.connected_s else 0,
        mb_per_s=predicted.bytes_read / 1e6 / ingest_s,
        requests_per_s=predicted.requests / ingest_s,
        node_memory_bytes=memory,
        fits_in_memory=memory <= cluster.memory_gib * 2**30,
    )


def _pace(
    measured: Measurement, predicted: Prediction, tasks: int, source_mb_per_s: float | None
) -> tuple[float, str]:
    """How long so many tasks take, s, and what limits them: their CPUs, connections, the source.

    A task fetches while it reads: it advances as the slower of the two allows.
    """
    network_s = measured.connected_s / measured.connections
    limits = {
        "cpu": predicted.detections * measured.cpu_s / tasks,
        "network": predicted.detections * network_s / tasks,
        "source": predicted.bytes_read / 1e6 / source_mb_per_s if source_mb_per_s else 0.0,
    }
    slowest = max(limits, key=lambda name: limits[name])
    return limits[slowest], slowest
