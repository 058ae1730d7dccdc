"""Carry news of a training from its first worker to the log and the events of the driver."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.errors import RaypipeError
from raypipe.telemetry import Stage
from raypipe.training.events import EventLog

log = logging.getLogger(__name__)


@dataclass
class News:
    """Hold the queue for news of the first worker, and the outcome that it reported."""

    reports: Queue
    outcome: dict[str, Any] = field(default_factory=dict)


@contextmanager
def news_of(tally: Stage, epochs: int, events: EventLog) -> Iterator[News]:
    """Log news while the block runs, and keep epochs as events and metrics; yields the queue.

    The queue lives on the driver's machine, so that losing another machine loses no news.

    News are mappings: `news` is "epoch" or, within one, "standing" (both with the learner's
    metrics), "line" or "error" (with `text`), or "outcome". An error among them is raised at the
    end as a RaypipeError.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    news = News(Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here}))
    reports = news.reports
    errors: list[str] = []

    def follow() -> None:
        while (report := reports.get()) is not None:
            if report["news"] == "error":
                errors.append(report["text"])
                continue
            if report["news"] == "outcome":
                news.outcome.update(report)
                continue
            log.info("train: %s %s", tally.subject, _line(report, epochs))
            if report["news"] == "epoch":
                events.add(report)
                _measure(tally, report)

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield news
    finally:
        reports.put(None)
        follower.join(timeout=30.0)
        reports.shutdown()
    if errors:
        raise RaypipeError(errors[0])


def _measure(tally: Stage, report: dict[str, Any]) -> None:
    """Set Ray's metrics from an epoch."""
    tally.add("rows", round(report["spectra_per_s"] * report["seconds"]))
    tally.set("loss", report["train_loss"], "train")
    tally.set("loss", report["validation_loss"], "validation")
    tally.set("spectra_per_s", report["spectra_per_s"])
    tally.set("epoch", report["epoch"] + 1)


def _line(report: dict[str, Any], epochs: int) -> str:
    if report["news"] == "line":
        return str(report["text"])
    epoch = int(report["epoch"]) + 1
    if report["news"] == "standing":
        return (
            f"epoch {epoch}/{epochs}, {report['share_of_epoch']:.0%}: "
            f"loss {report['train_loss']:.4f} so far, {report['spectra_per_s']:.0f} spectra/s, "
            f"{report['epoch_left_s']:.0f} s left in this epoch, "
            f"at most {report['left_s']:.0f} s in all"
        )
    left = (epochs - epoch) * report["seconds"]
    return (
        f"epoch {epoch}/{epochs}, loss {report['train_loss']:.4f}, "
        f"validation {report['validation_loss']:.4f}, {report['spectra_per_s']:.0f} spectra/s, "
        f"at most {left:.0f} s left"
    )
