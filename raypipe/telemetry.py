"""Report the progress and the result of stages, as log lines and as metrics of Ray."""

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
    "rows": "rows that a stage has processed",
    "kept": "rows that an earlier run published and a stage kept",
    "not_measured": "rows that could not be measured and have no latents",
    "rejects": "detections that could not be used, by the step at which they failed",
    "bytes_read": "bytes read from the source, as stored",
    "requests": "requests to servers",
    "retries": "requests that repeat a failed one",
    "rmfs": "RMFs read",
    "rmf_bytes": "bytes read from RMFs, a part of bytes_read",
}
"""Metrics that only increase; Ray's Prometheus endpoint exports ray_raypipe_<name>_total."""
GAUGES = {
    "rows_per_s": "rows per second since the stage began",
    "loss": "loss of the last epoch, for training or validation spectra",
    "epoch": "completed epochs",
    "spectra_per_s": "spectra per second in the last epoch",
}
"""Metrics that rise and fall; Ray's Prometheus endpoint exports ray_raypipe_<name>."""
TAGS = ("stage", "subject", "kind")
"""Tags of every metric: the verb, its release or model, and the kind of loss or step of rejects."""

_REASONS_NAMED = 5


class Stage:
    """Hold the totals of one stage; `subject` is the release or model it works on."""

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
        """Return a total divided by the time since the stage began."""
        return self.totals[name] / self.seconds

    def add(self, name: str, number: int, kind: str = "") -> None:
        """Increase a metric of `COUNTERS`."""
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
        """Return the result of the stage."""
        named = dict(self.reasons.most_common(_REASONS_NAMED))
        if (others := self.reasons.total() - sum(named.values())) > 0:
            named["other reasons"] = others
        return {
            "stage": self.name,
            "subject": self.subject,
            "seconds": round(self.seconds, 3),
            "rows_per_s": round(self.per_s("rows"), 3),
            "rows": self.totals["rows"],
            "kept": self.totals["kept"],
            **self.totals,
            "rejects_by_reason": named,
        }

    def _tags(self, kind: str) -> dict[str, str]:
        return {"stage": self.name, "subject": self.subject, "kind": kind}


@contextmanager
def stage(name: str, subject: str) -> Iterator[Stage]:
    """Count a stage's work while the block runs, and log one line with the result.

    The line's figures are those of `Stage.figures`, even if the block fails; with `--log-format
    json` they are fields of the line.
    """
    current = Stage(name, subject)
    outcome = "failed"
    try:
        yield current
        outcome = "done"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
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
