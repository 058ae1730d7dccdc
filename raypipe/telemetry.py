"""What stages tell while they run and at their end: lines of the log, and metrics of Ray."""

from __future__ import annotations

import logging
import time
from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from ray.util.metrics import Counter, Gauge

log = logging.getLogger(__name__)

COUNTERS = {
    "rows": "rows that a stage has done",
    "kept": "rows that a stage took over as an earlier run had published them",
    "not_measured": "rows that could not be measured and have no latents",
    "rejects": "detections that could not be used, by the step they failed at",
    "bytes_read": "bytes read from the source, as stored",
    "requests": "requests to servers",
    "retries": "of these, requests made again",
    "rmfs": "RMFs read",
    "rmf_bytes": "of the bytes read, those of RMFs",
}
"""Metrics that grow: Ray's Prometheus endpoint has them as ray_raypipe_<name>_total."""
GAUGES = {
    "rows_per_s": "rows a second, since the stage began",
    "loss": "loss of the last epoch, of the spectra for training or validation",
    "epoch": "epochs that are done",
    "spectra_per_s": "spectra a second in the last epoch",
}
"""Metrics that move: there as ray_raypipe_<name>."""
TAGS = ("stage", "subject", "kind")
"""Tags of every metric: the verb, the release or model, and the kind of loss or rejects."""

_REASONS_TOLD = 5


class Stage:
    """Tallies of one stage; `subject` is the release or model it works on."""

    def __init__(self, name: str, subject: str) -> None:
        self.name, self.subject = name, subject
        self.totals: Tally[str] = Tally()
        self.reasons: Tally[str] = Tally()
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the stage began, s."""
        return max(time.monotonic() - self._started, 1e-3)

    def per_s(self, name: str) -> float:
        """A total by the time since the stage began."""
        return self.totals[name] / self.seconds

    def add(self, name: str, number: int, kind: str = "") -> None:
        """Count a metric of `COUNTERS` up."""
        self.totals[name] += number
        if number:
            _counter(name).inc(number, self._tags(kind))
        if name == "rows":
            self.set("rows_per_s", self.per_s("rows"))

    def reject(self, rejected: Mapping[str, Mapping[str, int]]) -> None:
        """Count rejects, given by step and reason."""
        for step, reasons in rejected.items():
            self.add("rejects", sum(reasons.values()), step)
            self.reasons.update(reasons)

    def set(self, name: str, value: float, kind: str = "") -> None:
        """Set a metric of `GAUGES`."""
        _gauge(name).set(value, self._tags(kind))

    def figures(self) -> dict[str, Any]:
        """What the stage came to."""
        told = dict(self.reasons.most_common(_REASONS_TOLD))
        if (others := self.reasons.total() - sum(told.values())) > 0:
            told["other reasons"] = others
        return {
            "stage": self.name,
            "subject": self.subject,
            "seconds": round(self.seconds, 3),
            "rows_per_s": round(self.per_s("rows"), 3),
            "rows": self.totals["rows"],
            "kept": self.totals["kept"],
            **self.totals,
            "rejects_by_reason": told,
        }

    def _tags(self, kind: str) -> dict[str, str]:
        return {"stage": self.name, "subject": self.subject, "kind": kind}


@contextmanager
def stage(name: str, subject: str) -> Iterator[Stage]:
    """Tally a stage while the block runs, and tell in one line what it came to.

    The line's figures are those of `Stage.figures`, also where the block fails; with
    `--log-format json` they are fields of the line.
    """
    current = Stage(name, subject)
    outcome = "failed"
    try:
        yield current
        outcome = "done"
    finally:
        figures = current.figures()
        numbers = [
            f"{key} {value:g}"
            for key, value in figures.items()
            if isinstance(value, int | float) and value
        ]
        reasons = [f"{count} {reason}" for reason, count in figures["rejects_by_reason"].items()]
        rejected = f"; rejected: {'; '.join(reasons)}" if reasons else ""
        log.info(
            "%s %s %s: %s%s",
            name,
            subject,
            outcome,
            ", ".join(numbers),
            rejected,
            extra={"figures": {**figures, "outcome": outcome}},
        )


@cache
def _counter(name: str) -> Counter:
    return Counter(f"raypipe_{name}", COUNTERS[name], TAGS)


@cache
def _gauge(name: str) -> Gauge:
    return Gauge(f"raypipe_{name}", GAUGES[name], TAGS)
