"""Write the picture of a catalog's clusters into a file."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from raypipe.display.clusters_figure import clusters_figure
from raypipe.errors import RaypipeError, UsageError

log = logging.getLogger(__name__)

FORMATS = (".png", ".svg")

_DPI = 160


def require_format(plot: str | Path | None) -> None:
    """Raise UsageError if the name of a plot does not end in one of `FORMATS`."""
    if plot is not None and Path(plot).suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {plot}: expected a name that ends in {', '.join(FORMATS)}")


def write_figure(table: pd.DataFrame, file: Path) -> None:
    """Draw the clusters of the table into a file; raises RaypipeError if it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        clusters_figure(table).savefig(file, dpi=_DPI)
    except OSError as error:
        raise RaypipeError(f"{file}: cannot be written ({error.strerror})") from error
    log.info("cluster: spectra drawn into %s", file)
