"""Run the verb `explore`: write one HTML page with linked panels of a catalog."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raypipe.config import Config
from raypipe.errors import UsageError
from raypipe.evaluation.evaluated_catalog import choose_catalog
from raypipe.exploring.explorer_data import gather_explorer_data
from raypipe.exploring.explorer_page import explorer_page
from raypipe.store.layout import explorer_name
from raypipe.store.workspace import Workspace
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)


@verb
def explore(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    model: str | None = None,
    with_: str | os.PathLike[str] | None = None,
    radius: float = 1.0,
    sample: int | None = None,
    serve: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> str:
    """Write the explorer of a catalog, `explorer/<release>/<model_id>.html`, and return its URI.

    `model` is the id of a model with a catalog of the release, or the path of its bundle. `with_`
    is a table whose columns are joined to the detections: by detection_id, by obsid, obi and
    region_id, by name, or else by position within `radius` arcsec. `sample` is the largest number
    of detections on the page, by default 50,000; the strangest are among them.

    With `serve`, no file is written: the page is served with all detections at `host` and `port`
    (by default a free one) until Ctrl-C, and its address is returned. This needs datashader.

    Raises UsageError if there is no such catalog, if it has no detections, if the table matches
    none, or if the page cannot be served at this host and port.
    """
    store = call.workspace
    if sample is not None and sample < 1:
        raise UsageError(f"sample: {sample} detections; give at least 1")
    if not radius > 0:
        raise UsageError(f"radius: {radius} arcsec; give more than 0")
    if serve and sample is not None:
        raise UsageError("sample: a served page has all detections; leave out --sample or --serve")
    if not serve and (host, port) != ("127.0.0.1", 0):
        raise UsageError("host, port: they belong to --serve")
    evaluated = choose_catalog(store, release, model)
    if serve:
        from raypipe.exploring.serving import serve_catalog

        return serve_catalog(store, evaluated, with_, radius, host, port)
    name = explorer_name(evaluated.release, evaluated.model_id)
    with call.recorded() as figures:
        data = gather_explorer_data(store, evaluated, with_, radius, sample)
        if data.frame.empty:
            raise UsageError(f"{store.absolute_uri()}: the catalog has no detections to explore")
        text = explorer_page(data).encode()
        store.write_bytes(name, text)
        figures["bytes"] = len(text)
        figures["detections"] = len(data.frame)
    uri = store.absolute_uri(name)
    log.info("explore: %s (%.1f MB)", uri, len(text) / 1e6)
    return uri
