"""A plan for people: the table, and what it takes for granted."""

from __future__ import annotations

from typing import Any

from raypipe.config import Config
from raypipe.planning.cluster_file import Cluster
from raypipe.planning.measurement import Measurement, measurement_of
from raypipe.planning.prediction import Cost, Prediction

_REASONS_SHOWN = 3


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """What `plan` returns, as lines of text."""
    measured = measurement_of(plan["measured"])
    rows = [
        *_sample_rows(measured),
        *_release_rows(plan["release"], Prediction(**plan["prediction"])),
        *_cost_rows(Cluster(**plan["cluster"]), Cost(**plan["cost"])),
    ]
    width = max(len(name) for name, value in rows if value)
    return [
        *(f"{name:<{width}}  {value}" if value else name for name, value in rows),
        "taken for granted",
        *(f"  - {line}" for line in plan["assumptions"]),
    ]


def _sample_rows(measured: Measurement) -> list[tuple[str, str]]:
    others = measured.bytes_read - measured.rmf_bytes
    rejected = measured.detections - measured.spectra
    reasons = list(measured.reject_reasons.items())[:_REASONS_SHOWN]
    return [
        (f"measured on {measured.detections} detections", ""),
        ("  spectra, rejects", f"{measured.spectra}, {rejected}"),
        *((f"    rejected {times}", reason) for reason, times in reasons),
        ("  read a detection", f"{_bytes(others / measured.detections)} without its RMF"),
        *_rmf_rows(measured),
        ("  requests, repeated", f"{measured.requests}, {measured.retries}"),
        ("  CPU time a detection", f"{measured.cpu_s * 1e3:.2f} ms"),
        ("  stored a spectrum", _bytes(measured.spectrum_bytes)),
        ("  memory of a task", _bytes(measured.task_bytes)),
        ("  memory of Ray beside", _bytes(measured.ray_bytes)),
    ]


def _rmf_rows(measured: Measurement) -> list[tuple[str, str]]:
    choice = measured.choice
    fetched = measured.rmfs + choice.rmfs
    mean = (measured.rmf_bytes + choice.rmf_bytes) / max(fetched, 1)
    zones = f"{choice.zones} for zones of chips, " if choice.looked_at else ""
    own = f"{measured.rmfs:,.0f} that detections bring, {measured.distinct_rmfs} different"
    return [("  read an RMF", _bytes(mean)), ("  RMFs", zones + own)]


def _release_rows(release: str, predicted: Prediction) -> list[tuple[str, str]]:
    embed = predicted.embed_core_hours
    return [
        (f"all of {release}", ""),
        ("  detections", f"{predicted.detections:,}"),
        ("  spectra, rejects", f"{predicted.spectra:,}, {predicted.rejects:,}"),
        (
            "  read",
            f"{_bytes(predicted.bytes_read)}, {_bytes(predicted.rmf_bytes_read)} of it "
            f"{predicted.rmfs_fetched:,} RMFs",
        ),
        ("  requests", f"{predicted.requests:,}"),
        ("  written", f"{_bytes(predicted.bytes_written)}, {predicted.rmfs_stored:,} RMFs in it"),
        (
            "  files",
            f"{predicted.files_written:,}, spectra in {predicted.parts:,} parts of "
            f"{_bytes(predicted.part_bytes)}",
        ),
        ("  core hours, ingest", _number(predicted.ingest_core_hours)),
        *([] if embed is None else [("  core hours, embed", _number(embed))]),
        ("  memory, on this node", _bytes(predicted.memory_bytes)),
    ]


def _cost_rows(cluster: Cluster, cost: Cost) -> list[tuple[str, str]]:
    asked = f"{_number(cost.mb_per_s)} MB/s, {_number(cost.requests_per_s)} requests/s"
    too_much = "" if cost.fits_in_memory else ": MORE THAN IT HAS, raise ingest.cpus_per_task"
    return [
        (
            f"on {cost.nodes} of the nodes {cluster.node_type} in {cluster.path} "
            f"({cluster.cpus} CPUs, {cluster.memory_gib:g} GiB each)",
            "",
        ),
        ("  memory a node", f"{_bytes(cost.node_memory_bytes)}{too_much}"),
        ("  pace set by", cost.limit),
        *([("  asked of the source", asked)] if cost.connections else []),
        ("  time", _duration(cost.hours)),
        ("  node hours paid", _number(cost.node_hours)),
        ("  cost", f"${cost.usd:,.2f}"),
    ]


def assumptions(
    measured: Measurement, predicted: Prediction, cluster: Cluster, cost: Cost, config: Config
) -> list[str]:
    """What a plan takes for granted, with the settings that change it."""
    embedding = "" if predicted.embed_core_hours is not None else ", embedding (give --model)"
    return [
        f"the {measured.detections} detections stand for all {predicted.detections:,}, of which "
        "none is ingested yet; nothing comes from ingest.cache_dir",
        _rmfs(measured, config),
        f"a CPU of {cluster.node_type} does what one did here (tasks at work together: "
        f"{measured.tasks}), and writes to the workspace as fast as to a disk here",
        _network(measured, cost, config),
        f"tasks a node: {cost.tasks_per_node} (ingest.cpus_per_task); nodes: {cost.nodes} "
        "(max_workers, as far as there are parts), all at work from first to last, then "
        f"{cluster.idle_minutes:g} minutes idle (idle_timeout_minutes)",
        f"${cluster.usd_per_hour:g} an hour for {cluster.node_type}, "
        f"${cluster.head_usd_per_hour:g} for the head: {cluster.path} as of "
        f"{cluster.prices_as_of}; update them, those of spot nodes above all",
        "not in it: training, which no sample tells" + embedding,
        "not in it: boot and installation of nodes; disks, buckets, traffic and their bills",
    ]


def _rmfs(measured: Measurement, config: Config) -> str:
    if not measured.choice.looked_at:
        return "every detection brings its RMF"
    return (
        f"{config.ingest.chip_sample} detections (ingest.chip_sample) fall on every zone of the "
        "chips: only those whose zone cannot be told bring their own RMF"
    )


def _network(measured: Measurement, cost: Cost, config: Config) -> str:
    if not cost.connections:
        return "files come from disk as fast as here: there is no network in it"
    rate = measured.bytes_read / measured.detections / measured.connected_s / 1e6
    most = config.plan.source_mb_per_s
    limit = "" if most is None else f", all together {most:g} MB/s (plan.source_mb_per_s)"
    return (
        f"a connection brings {_number(rate)} MB/s as in the sample, with {cost.connections:,} of "
        f"them at once ({measured.connections} a task: ingest.host_concurrency, "
        f"ingest.fetch_threads){limit}"
    )


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{_number(size)} TB"


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{_number(hours * 3600)} s"
    return f"{_number(hours * 60)} min" if hours < 1 else f"{_number(hours)} h"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
