"""From what a sample took to what a release takes, on the nodes of a cluster."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raypipe.config import Config, IngestConfig
from raypipe.planning.cluster_file import Cluster
from raypipe.planning.measurement import Measurement

_HOUR = 3600.0


@dataclass(frozen=True)
class Prediction:
    """What ingesting a release takes, whatever the nodes.

    `bytes_read` and `requests` include those of the `rmfs_fetched`; `bytes_written` are those of
    spectra, rejects and the `rmfs_stored`. Core hours are of CPU time; those of embedding are None
    where it was not measured. Memory, bytes, is that of `slots` tasks at once on one node like the
    one the sample ran on, and of Ray beside them.
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

    Everything grows with the detections but for Ray's start, what each part has once, and packages
    of the archive, of which each part needs so many.
    """
    scale = detections / measured.detections
    distinct = _distinct(measured, detections)
    fetched = round(measured.rmfs * scale)
    rmf_share = fetched / max(measured.rmfs, 1)
    rmf_bytes = round(measured.rmf_bytes * rmf_share)
    spectra = round(measured.spectra * scale)
    embed = measured.embed_cpu_s
    return Prediction(
        detections=detections,
        spectra=spectra,
        rejects=detections - spectra,
        bytes_read=round((measured.bytes_read - measured.rmf_bytes) * scale) + rmf_bytes,
        rmf_bytes_read=rmf_bytes,
        requests=round(
            (measured.requests - measured.rmf_requests - measured.packages) * scale
            + measured.rmf_requests * rmf_share
            + parts * math.ceil(measured.packaged * scale / parts / config.package_batch)
        ),
        rmfs_fetched=fetched,
        rmfs_stored=distinct,
        bytes_written=round(
            spectra * measured.spectrum_bytes
            + parts * measured.part_bytes
            + distinct * measured.stored_rmf_bytes
        ),
        ingest_core_hours=(detections * measured.cpu_s + measured.start_cpu_s) / _HOUR,
        embed_core_hours=None if embed is None else detections * embed / _HOUR,
        memory_bytes=measured.ray_bytes + measured.slots * measured.task_bytes,
    )


def _distinct(measured: Measurement, detections: int) -> int:
    """Distinct RMFs of a release, at most: new ones come on at the rate the sample ended with.

    The chance that one more detection brings a new one is the share of those seen once (Good 1953).
    """
    new = measured.rmfs_seen_once / measured.spectra
    further = (detections - measured.detections) * measured.spectra / measured.detections
    return measured.distinct_rmfs + round(further * new)


def price(
    measured: Measurement, predicted: Prediction, parts: int, cluster: Cluster, config: Config
) -> Cost:
    """What the release takes on the nodes of a cluster, fetching while reading.

    A task advances as its CPU time or its connections allow, whichever takes longer.
    """
    tasks = max(1, int(cluster.cpus / config.ingest.cpus_per_task))
    nodes = max(1, min(cluster.nodes, math.ceil(parts / tasks)))
    cpu_s, network_s = measured.cpu_s, measured.connected_s / measured.connections
    ingest_s = predicted.detections * max(cpu_s, network_s) / (nodes * tasks)
    limit = "cpu" if cpu_s >= network_s else "network"
    most = config.plan.source_mb_per_s
    if most is not None and predicted.bytes_read / 1e6 / most > ingest_s:
        ingest_s, limit = predicted.bytes_read / 1e6 / most, "source"
    encoders = max(1, int(cluster.cpus / config.embed.cpus_per_actor))
    embed_s = (predicted.embed_core_hours or 0.0) * _HOUR / (nodes * encoders)
    hours = (ingest_s + embed_s) / _HOUR
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
