"""Run the explorer as a server: open the catalog, and answer its page until Ctrl-C."""

from __future__ import annotations

import logging
import os

from raypipe.errors import UsageError
from raypipe.evaluation.evaluated_catalog import EvaluatedCatalog
from raypipe.exploring.samp import Samp
from raypipe.exploring.serve import ExplorerServer
from raypipe.exploring.served_catalog import ServedCatalog
from raypipe.exploring.served_page import answers_from, served_page
from raypipe.exploring.shading import require_datashader, warm_up
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)


def serve_catalog(
    store: Workspace,
    evaluated: EvaluatedCatalog,
    table: str | os.PathLike[str] | None,
    radius_arcsec: float,
    host: str,
    port: int,
) -> str:
    """Serve a catalog until Ctrl-C; return the address of its page without the token."""
    require_datashader()
    log.info("explore: reading latents and positions of %s", evaluated.model_id)
    catalog = ServedCatalog(store, evaluated, table, radius_arcsec)
    if not len(catalog):
        raise UsageError(f"{store.absolute_uri()}: the catalog has no detections to explore")
    log.info("explore: placing %d detections on the maps", len(catalog))
    warm_up()
    samp = Samp(catalog)
    try:
        answers = answers_from(catalog) | samp.answers()
        server = ExplorerServer(host, port, served_page(catalog), answers)
        server.run()
    finally:
        samp.close()
    return server.address.partition("?")[0]
