"""Ingesting one part from a server, and what must always hold then."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from raypipe.config import IngestConfig
from raypipe.ingestion.part import Outcome, ingest_part
from raypipe.ingestion.progress import is_done
from raypipe.store.layout import part_name, rejects_folder, spectra_folder
from raypipe.store.parts import check_totals, count_rows
from raypipe.store.workspace import Workspace
from tests.pipeline.file_server import FileServer

RELEASE = "csc2.1"
DETECTIONS = 12
QUICK = IngestConfig(
    rmf="exact",
    attempts=2,
    backoff_s=0.01,
    silence_s=0.6,
    answer_s=1.0,
    package_batch=5,
)


def config_of(server: FileServer, **changes: object) -> IngestConfig:
    return QUICK.model_copy(update={"package_url": server.package_url, **changes})


def rejects_of(workspace: Workspace) -> pd.DataFrame:
    name = part_name(rejects_folder(RELEASE), 0)
    return workspace.read_table(name).to_pandas().set_index("detection_id")


def spectra_of(workspace: Workspace) -> pa.Table:
    return workspace.read_table(part_name(spectra_folder(RELEASE), 0))


def ingest_all(workspace: Workspace, config: IngestConfig) -> Outcome:
    """Ingest the only part; every row of the manifest must be in one place, once."""
    outcome = ingest_part(workspace, RELEASE, 0, config)
    check_totals(workspace, RELEASE, count_rows(workspace, RELEASE))
    spectra, rejects = spectra_of(workspace), rejects_of(workspace)
    identities = [*spectra["detection_id"].to_pylist(), *rejects.index]
    assert len(set(identities)) == len(identities) == DETECTIONS
    assert outcome.retryable == rejects.retryable.sum()
    assert (outcome.retryable == 0) == is_done(workspace, RELEASE, 0, config)
    return outcome


def expect_unbroken(workspace: Workspace, config: IngestConfig, unbroken: pa.Table) -> None:
    ingest_all(workspace, config)
    assert spectra_of(workspace).drop_columns("source_uri").equals(unbroken)
