"""Extrapolate the cost of a sample to a release, and price it on the nodes of a cluster."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raypipe.config import Config, IngestConfig
from raypipe.planning.cluster_file import Cluster
from raypipe.planning.measurement import ChipChoice, Measurement

_HOUR = 3600.0


@dataclass(frozen=True)
class Prediction:
    """Hold the cost of ingesting a release, independent of the nodes.

    `bytes_read` and `requests` include those of the `rmfs_fetched`; `bytes_written` are those of
    spectra, rejects and the `rmfs_stored`. Core hours are CPU time; `embed_core_hours` is None if
    embedding was not measured. `files_written` counts the files of spectra and of rejects, one of
    each per part, and those of RMFs; the spectra file of a part has `part_bytes`. `memory_bytes` is
    the memory of `slots` simultaneous tasks on a node like the one that ran the sample, plus that
    of Ray.
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
    """Hold the time and money that a release costs on the nodes of a cluster.

    `hours` runs from the moment the first node starts to work until the last one ends; `node_hours`
    are billed and include the time that a node is idle before it is released. `limit` names what
    sets the pace: "cpu", "network" or "source" (`plan.source_mb_per_s`). `connections`, `mb_per_s`
    and `requests_per_s` are the load of all nodes together on the source.
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
    """Predict the cost of ingesting a release of `detections` in `parts`.

    Every cost is proportional to the detections, except what is done once (starting Ray, choosing
    RMFs for zones of chips) and what each part adds (the overhead of its files, its last archive
    package).
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
    """Predict the cost of choosing RMFs from `ingest.chip_sample` detections of a release.

    Zones that the sample has not met are assumed to appear at the rate at which the sample met its
    last new ones; see `_distinct`.
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
    """Predict the number of distinct RMFs that are fetched for single detections, an upper limit.

    New ones are assumed to appear at the rate at the end of the sample: the probability that one
    more detection brings a new RMF is the share of RMFs seen exactly once (Good 1953).
    """
    further = detections / measured.detections - 1
    return measured.distinct_rmfs + round(further * measured.rmfs_seen_once)


def price(
    measured: Measurement, predicted: Prediction, parts: int, cluster: Cluster, config: Config
) -> Cost:
    """Price a release on the nodes of a cluster.

    One task chooses RMFs for zones of chips before all tasks ingest; embedding comes last.
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
    """Return the time, s, that `tasks` tasks take, and its limit: CPUs, connections or the source.

    A task fetches while it reads, so that the slower of the two sets its pace.
    """
    network_s = measured.connected_s / measured.connections
    limits = {
        "cpu": predicted.detections * measured.cpu_s / tasks,
        "network": predicted.detections * network_s / tasks,
        "source": predicted.bytes_read / 1e6 / source_mb_per_s if source_mb_per_s else 0.0,
    }
    slowest = max(limits, key=lambda name: limits[name])
    return limits[slowest], slowest
