"""Run the verb `report`: write one self-contained HTML page about a catalog."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raypipe._version import __version__
from raypipe.config import Config
from raypipe.evaluation.evaluated_catalog import choose_catalog
from raypipe.html.page import Html, count_of, page, section
from raypipe.reporting import detections, glance, scores, sections, study
from raypipe.reporting.aligned import aligned_section
from raypipe.reporting.classified import classified_section
from raypipe.reporting.clusters import clusters_section
from raypipe.reporting.report_data import ReportData, gather_report_data
from raypipe.store.layout import report_name
from raypipe.store.workspace import Workspace
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

SECTIONS = (
    ("glance", "At a glance", glance.glance_section),
    ("detections", "Detections", detections.detections_section),
    ("unusual", "Unusual detections", detections.unusual_section),
    ("spectra", "Spectra and their reconstructions", sections.spectra_section),
    ("latents", "Latents", sections.latents_section),
    ("evaluation", "Evaluation", scores.evaluation_section),
    ("clusters", "Clusters", clusters_section),
    ("classified", "Classification", classified_section),
    ("aligned", "Alignment with a second view", aligned_section),
    ("study", "The study's questions", study.study_section),
    ("training", "Training", sections.training_section),
    ("data", "Data", sections.data_section),
    ("provenance", "Provenance", sections.provenance_section),
)
"""Anchor, title and maker of each section, in the order of the page."""


@verb
def report(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    model: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> str:
    """Write the page about a catalog, `reports/<release>/<model_id>.html`, and return its URI.

    `model` is the id of a model with a catalog of the release, or the path of its bundle. The page
    has metrics if `evaluate` has run, reconstructions if the workspace has the model's bundle and
    the spectra, and labels from `labels` or from the catalog; its detections lead to the explorer
    if that has been written before. Raises UsageError for labels that
    match no detection, and if there is no such catalog.
    """
    store, settings = call.workspace, call.config
    evaluated = choose_catalog(store, release, model)
    name = report_name(evaluated.release, evaluated.model_id)
    log.info("report: drawing the figures of %s (about 10 s)", evaluated.model_id)
    with call.recorded() as figures:
        text = build_page(gather_report_data(store, evaluated, labels, settings.report))
        store.write_bytes(name, text.encode())
        figures["bytes"] = len(text.encode())
    uri = store.absolute_uri(name)
    log.info("report: %s", uri)
    return uri


def build_page(report_data: ReportData) -> Html:
    """Build the HTML of the page from its data."""
    made = [
        (anchor, title, section(anchor, title, build(report_data)))
        for anchor, title, build in SECTIONS
    ]
    return page(
        title=f"Latent catalog of {report_data.release}",
        lead=f"{count_of(len(report_data.catalog), 'detection')}, "
        f"latents by {report_data.model_id}",
        sections=made,
        footer=f"raypipe {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
