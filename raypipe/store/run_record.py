"""Record every run of a verb in W/runs/<timestamp>-<verb>/."""

from __future__ import annotations

import logging
import math
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from raypipe._version import __version__
from raypipe.config import Config
from raypipe.errors import RaypipeError
from raypipe.redaction import redact_text
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

_PACKAGES = ("ray", "torch", "numpy", "pyarrow", "astropy", "scikit-learn")


def made_by() -> dict[str, str]:
    """Return the versions of raypipe and of the packages it builds on."""
    return {
        "raypipe": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


class Figures(dict[str, Any]):
    """Hold figures of a run by name; `folder` is the run's folder in the workspace."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(redact_text(self.format(record)))


@contextmanager
def record_run(
    workspace: Workspace, verb: str, config: Config, *, optional: bool = False
) -> Iterator[Figures]:
    """Record the resolved configuration, versions, log, duration and outcome of a run.

    Yields a mapping for the run's figures, which are written with the rest even if the run fails.
    Credentials in URIs are removed from the record. Raises RaypipeError if the workspace cannot be
    written; if the record is `optional`, logs that instead and runs without a record.
    """
    started = datetime.now(UTC)
    clock = time.monotonic()
    folder = f"runs/{started:%Y%m%dT%H%M%S.%f}-{verb}"
    figures = Figures(folder)
    if not _begin(workspace, folder, verb, config, optional=optional):
        yield figures
        return
    _hide_from_git(workspace)
    lines = _Lines()
    logger = logging.getLogger("raypipe")
    level = logger.level
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    logger.addHandler(lines)
    outcome = "failed"
    try:
        yield figures
        outcome = "done"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
        record = {
            "verb": verb,
            "outcome": outcome,
            "started": started.isoformat(),
            "seconds": round(time.monotonic() - clock, 3),
            "command": [redact_text(argument) for argument in sys.argv],
            "made_by": made_by(),
            "figures": figures,
        }
        workspace.write_bytes(f"{folder}/log.txt", ("\n".join(lines.lines) + "\n").encode())
        workspace.write_json(f"{folder}/run.json", record)


def _begin(workspace: Workspace, folder: str, verb: str, config: Config, *, optional: bool) -> bool:
    """Write the first file of the record of a run and return whether that was possible."""
    try:
        workspace.write_bytes(f"{folder}/config.toml", config.to_toml().encode())
    except RaypipeError as error:
        if not optional:
            raise
        log.warning("%s: the workspace keeps no record of this run (%s)", verb, error.__cause__)
        return False
    return True


def _hide_from_git(workspace: Workspace) -> None:
    """Make git ignore a workspace inside a repository, since its data belong in no commit."""
    if workspace.is_local and not workspace.exists(".gitignore"):
        folders = Path(workspace.root).resolve().parents
        if any((folder / ".git").exists() for folder in folders):
            workspace.write_bytes(".gitignore", b"*\n")


def plain(value: Any) -> Any:
    """Convert a value to what JSON has: plain numbers, and None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
