"""Write a plan as text: a table, and the assumptions behind it."""

from __future__ import annotations

from typing import Any

from raypipe.config import Config
from raypipe.planning.cluster_file import Cluster
from raypipe.planning.measurement import Measurement, measurement_of
from raypipe.planning.prediction import Cost, Prediction

_REASONS_SHOWN = 3


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """Format the mapping that `plan` returns as lines of text."""
    measured = measurement_of(plan["measured"])
    rows = [
        *_sample_rows(measured),
        *_release_rows(plan["release"], Prediction(**plan["prediction"])),
        *_cost_rows(Cluster(**plan["cluster"]), Cost(**plan["cost"])),
    ]
    width = max(len(name) for name, value in rows if value)
    return [
        *(f"{name:<{width}}  {value}" if value else name for name, value in rows),
        "assumptions",
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
        ("  read per detection", f"{_bytes(others / measured.detections)} without its RMF"),
        *_rmf_rows(measured),
        ("  requests, retries", f"{measured.requests}, {measured.retries}"),
        ("  CPU time per detection", f"{measured.cpu_s * 1e3:.2f} ms"),
        ("  stored per spectrum", _bytes(measured.spectrum_bytes)),
        ("  memory per task", _bytes(measured.task_bytes)),
        ("  memory of Ray itself", _bytes(measured.ray_bytes)),
    ]


def _rmf_rows(measured: Measurement) -> list[tuple[str, str]]:
    choice = measured.choice
    fetched = measured.rmfs + choice.rmfs
    mean = (measured.rmf_bytes + choice.rmf_bytes) / max(fetched, 1)
    zones = f"{choice.zones} shared by zones of chips, " if choice.looked_at else ""
    own = f"{measured.rmfs:,.0f} fetched for single detections, {measured.distinct_rmfs} distinct"
    return [("  read per RMF", _bytes(mean)), ("  RMFs", zones + own)]


def _release_rows(release: str, predicted: Prediction) -> list[tuple[str, str]]:
    embed = predicted.embed_core_hours
    return [
        (f"all of {release}", ""),
        ("  detections", f"{predicted.detections:,}"),
        ("  spectra, rejects", f"{predicted.spectra:,}, {predicted.rejects:,}"),
        (
            "  read",
            f"{_bytes(predicted.bytes_read)}, of which {_bytes(predicted.rmf_bytes_read)} are "
            f"{predicted.rmfs_fetched:,} RMFs",
        ),
        ("  requests", f"{predicted.requests:,}"),
        (
            "  written",
            f"{_bytes(predicted.bytes_written)}, including {predicted.rmfs_stored:,} RMFs",
        ),
        (
            "  files",
            f"{predicted.files_written:,}; spectra are in {predicted.parts:,} parts of "
            f"{_bytes(predicted.part_bytes)} each",
        ),
        ("  core hours, ingest", _number(predicted.ingest_core_hours)),
        *([] if embed is None else [("  core hours, embed", _number(embed))]),
        ("  memory, on this node", _bytes(predicted.memory_bytes)),
    ]


def _cost_rows(cluster: Cluster, cost: Cost) -> list[tuple[str, str]]:
    asked = f"{_number(cost.mb_per_s)} MB/s, {_number(cost.requests_per_s)} requests/s"
    too_much = "" if cost.fits_in_memory else ": MORE THAN A NODE HAS, raise ingest.cpus_per_task"
    return [
        (
            f"on {cost.nodes} {cluster.node_type} nodes of {cluster.path} "
            f"({cluster.cpus} CPUs, {cluster.memory_gib:g} GiB each)",
            "",
        ),
        ("  memory per node", f"{_bytes(cost.node_memory_bytes)}{too_much}"),
        ("  pace set by", cost.limit),
        *([("  load on the source", asked)] if cost.connections else []),
        ("  time", _duration(cost.hours)),
        ("  node hours paid", _number(cost.node_hours)),
        ("  cost", f"${cost.usd:,.2f}"),
    ]


def assumptions(
    measured: Measurement, predicted: Prediction, cluster: Cluster, cost: Cost, config: Config
) -> list[str]:
    """Return the assumptions of a plan, each with the settings that change it."""
    embedding = "" if predicted.embed_core_hours is not None else "; embedding (give --model)"
    return [
        f"the {measured.detections} detections represent all {predicted.detections:,}; all of "
        "these are still to be ingested, and no file comes from ingest.cache_dir",
        _rmfs(measured, config),
        f"a CPU of {cluster.node_type} is as fast as one of this machine with {measured.tasks} "
        "tasks running at once, and writes to the workspace as fast as to a disk here",
        _network(measured, cost, config),
        f"tasks per node: {cost.tasks_per_node} (ingest.cpus_per_task); nodes: {cost.nodes} "
        "(max_workers, but no more than the parts need), all busy from start to end, then idle "
        f"for {cluster.idle_minutes:g} minutes (idle_timeout_minutes)",
        f"${cluster.usd_per_hour:g} per hour for {cluster.node_type}, "
        f"${cluster.head_usd_per_hour:g} per hour for the head node: {cluster.path} as of "
        f"{cluster.prices_as_of}; update the prices, above all those of spot nodes",
        "not included: training, which a sample cannot predict" + embedding,
        "not included: booting and installing nodes; the cost of disks, buckets and traffic",
    ]


def _rmfs(measured: Measurement, config: Config) -> str:
    if not measured.choice.looked_at:
        return "the RMF of every detection is fetched"
    return (
        f"{config.ingest.chip_sample} detections (ingest.chip_sample) cover every zone of the "
        "chips: an RMF is fetched only for detections whose zone cannot be determined"
    )


def _network(measured: Measurement, cost: Cost, config: Config) -> str:
    if not cost.connections:
        return "files are read from disk as fast as here; network time is not included"
    rate = measured.bytes_read / measured.detections / measured.connected_s / 1e6
    most = config.plan.source_mb_per_s
    limit = "" if most is None else f"; together at most {most:g} MB/s (plan.source_mb_per_s)"
    return (
        f"each connection delivers {_number(rate)} MB/s, as in the sample, and "
        f"{cost.connections:,} are open at once "
        f"({measured.connections} per task: ingest.host_concurrency, "
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
