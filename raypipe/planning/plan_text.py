"""Write a plan as text: a table, and the assumptions behind it."""

from __future__ import annotations

from typing import Any

from raypipe.config import Config
from raypipe.planning.cluster_file import Cluster
from raypipe.planning.measurement import Measurement, measurement_of
from raypipe.planning.prediction import Cost, Prediction

_REASONS_SHOWN = 3
_EXAMPLE_MB_PER_S = 100
"""Throughput of a source for which a plan that measured no network states the time."""
_PACE = {
    "cpu": "the CPUs of the nodes",
    "network": "the connections to the source",
    "source": "the source (plan.source_mb_per_s)",
}


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """Format the mapping that `plan` returns as lines of text."""
    measured = measurement_of(plan["measured"])
    rows = [
        *_sample_rows(measured),
        *_release_rows(plan["release"], Prediction(**plan["prediction"])),
        *_cost_rows(Cluster(**plan["cluster"]), Cost(**plan["cost"]), plan["not_included"]),
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


def _cost_rows(cluster: Cluster, cost: Cost, not_included: dict[str, str]) -> list[tuple[str, str]]:
    """Show time and money as lower limits, and beside them what they do not include."""
    asked = f"{_number(cost.mb_per_s)} MB/s, {_number(cost.requests_per_s)} requests/s"
    too_much = "" if cost.fits_in_memory else ": MORE THAN A NODE HAS, raise ingest.cpus_per_task"
    return [
        (
            f"on {cost.nodes} {cluster.node_type} nodes of {cluster.path} "
            f"({cluster.cpus} CPUs, {cluster.memory_gib:g} GiB each)",
            "",
        ),
        ("  memory per node", f"{_bytes(cost.node_memory_bytes)}{too_much}"),
        ("  pace set by", _PACE[cost.limit]),
        *([("  load on the source", asked)] if cost.connections else []),
        ("  time, at least", f"{_duration(cost.hours)} with all nodes busy"),
        *((f"    without {name}", reason) for name, reason in not_included.items()),
        (
            "  node hours paid",
            f"{_number(cost.node_hours)}: each of {cost.nodes} nodes works {_duration(cost.hours)} "
            f"and then idles {cluster.idle_minutes:g} min before it is released",
        ),
        ("  cost, at least", f"${cost.usd:,.2f}, including the head node"),
    ]


def assumptions(
    measured: Measurement, predicted: Prediction, cluster: Cluster, cost: Cost, config: Config
) -> list[str]:
    """Return the assumptions of a plan, each with the settings that change it."""
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
        "the cost of disks, buckets and traffic is not included",
    ]


def not_included(predicted: Prediction, cost: Cost, config: Config) -> dict[str, str]:
    """Return the parts of the work that time and cost leave out, each with the reason."""
    left_out = {}
    if not cost.connections and config.plan.source_mb_per_s is None:
        hours = predicted.bytes_read / 1e6 / _EXAMPLE_MB_PER_S / 3600
        left_out["network"] = (
            "the sample is on a local disk; set plan.source_mb_per_s for another source: "
            f"{_bytes(predicted.bytes_read)} at {_EXAMPLE_MB_PER_S} MB/s take {_duration(hours)}"
        )
    left_out["start-up"] = "a new node boots and installs raypipe before it works"
    if predicted.embed_core_hours is None:
        left_out["embedding"] = "measured if you give --model"
    left_out["training"] = "a sample cannot predict it; the log of raypipe train states time left"
    return left_out


def _rmfs(measured: Measurement, config: Config) -> str:
    if not measured.choice.looked_at:
        return "the RMF of every detection is fetched"
    return (
        f"{config.ingest.chip_sample} detections (ingest.chip_sample) cover every zone of the "
        "chips: an RMF is fetched only for detections whose zone cannot be determined"
    )


def _network(measured: Measurement, cost: Cost, config: Config) -> str:
    most = config.plan.source_mb_per_s
    if not cost.connections:
        source = "network time is not included"
        if most is not None:
            source = f"the source delivers at most {most:g} MB/s (plan.source_mb_per_s)"
        return f"files are read from disk as fast as here; {source}"
    rate = measured.bytes_read / measured.detections / measured.connected_s / 1e6
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
