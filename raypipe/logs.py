"""Lines of the log on standard error, for people or for machines."""

from __future__ import annotations

import json
import logging
from typing import Literal

from raypipe.redaction import printable, redact_text

LogFormat = Literal["text", "json"]


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time, level, logger, message, and a stage's figures."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "figures", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return redact_text(json.dumps(line, default=str))


class TextLines(logging.Formatter):
    """A log record for people: time of day and message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without secrets."""
        return redact_text(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Time and message, in one line whatever names the message holds."""
        return printable(super().formatMessage(record))


def log_to_stderr(log_format: LogFormat, *, verbose: bool, quiet: bool) -> None:
    """Write raypipe's log to standard error: all of it, or, when quiet, warnings alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    handler.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    log = logging.getLogger("raypipe")
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
