"""Write the lines of the log to standard error, for people or for machines."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from raypipe.redaction import printable, redact_text

LogFormat = Literal["text", "json"]

_STDERR = 2
_hiding = threading.Lock()


class JsonLines(logging.Formatter):
    """Format log records as lines of JSON: time, level, logger, message, and a stage's figures."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line of JSON."""
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
    """Format log records for people: time of day and message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as a line, without secrets."""
        return redact_text(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return time and message in one line, whatever names the message holds."""
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


@contextmanager
def hide_lines(pattern: re.Pattern[bytes]) -> Iterator[None]:
    """Drop matching lines from the standard error of this process while the block runs.

    This reaches lines that C++ code writes, too: they bypass `sys.stderr` and `logging`. All other
    lines pass through unchanged. Inside another such block, or without a standard error, nothing is
    dropped.
    """
    try:
        original = os.dup(_STDERR)
    except OSError:
        yield
        return
    if not _hiding.acquire(blocking=False):
        os.close(original)
        yield
        return
    reader, writer = os.pipe()
    _point_stderr_at(writer)
    os.close(writer)
    follower = threading.Thread(target=_pass_on, args=(reader, original, pattern), daemon=True)
    follower.start()
    try:
        yield
    finally:
        # Nothing else holds the pipe's writing end, so that the thread reads up to its end.
        _point_stderr_at(original)
        follower.join(timeout=5.0)
        if not follower.is_alive():
            os.close(original)
        _hiding.release()


def _point_stderr_at(target: int) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os.dup2(target, _STDERR)


def _pass_on(reader: int, original: int, pattern: re.Pattern[bytes]) -> None:
    """Copy lines from one file descriptor to another, except those that match."""
    with (
        suppress(BrokenPipeError),
        os.fdopen(original, "wb", buffering=0, closefd=False) as stderr,
        os.fdopen(reader, "rb") as lines,
    ):
        for line in lines:
            if not pattern.search(line):
                stderr.write(line)
