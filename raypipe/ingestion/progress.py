"""How far ingestion of a release has come: which parts are there, and whether rows add up."""

from __future__ import annotations

from raypipe.config import IngestConfig
from raypipe.discovery.manifest import read_manifest_summary
from raypipe.errors import RaypipeError
from raypipe.ingestion.part import FINGERPRINT, manifest_fingerprint
from raypipe.ingestion.schema import DUPLICATE, RMF
from raypipe.workspace import (
    Workspace,
    manifest_folder,
    part_name,
    rejects_folder,
    spectra_folder,
)


def count_parts(workspace: Workspace, release: str) -> int:
    """Number of parts of a release, from manifest to catalog."""
    return int(read_manifest_summary(workspace, release)["parts"])


def is_current(workspace: Workspace, release: str, part: int) -> bool:
    """Whether a part is published whole, of the manifest's rows as they are now.

    A run that ends between rejects and spectra leaves newer rejects: rows do not add up then.
    """
    spectra = part_name(spectra_folder(release), part)
    rejects = part_name(rejects_folder(release), part)
    if not workspace.exists(spectra) or not workspace.exists(rejects):
        return False
    manifest = workspace.read_table(part_name(manifest_folder(release), part))
    if workspace.read_metadata(spectra).get(FINGERPRINT) != manifest_fingerprint(manifest):
        return False
    return workspace.count_rows(spectra) + workspace.count_rows(rejects) == manifest.num_rows


def is_done(workspace: Workspace, release: str, part: int, config: IngestConfig) -> bool:
    """Whether a part is current, with the RMFs asked for, and no other try may mend a reject."""
    if not is_current(workspace, release, part):
        return False
    if workspace.read_metadata(part_name(spectra_folder(release), part)).get(RMF) != config.rmf:
        return False
    rejects = workspace.read_table(part_name(rejects_folder(release), part), ["retryable", "stage"])
    return not any(
        row["retryable"] or (config.retry_rejects == "all" and row["stage"] != DUPLICATE)
        for row in rejects.to_pylist()
    )


def parts_to_ingest(workspace: Workspace, release: str, config: IngestConfig) -> list[int]:
    """Parts that are missing, out of date, or worth a retry."""
    return [
        part
        for part in range(count_parts(workspace, release))
        if not is_done(workspace, release, part, config)
    ]


def require_ingested(workspace: Workspace, release: str) -> int:
    """Number of parts of a release; RaypipeError unless all its spectra are there and current."""
    parts = count_parts(workspace, release)
    behind = sum(not is_current(workspace, release, part) for part in range(parts))
    if behind:
        raise RaypipeError(
            f"{workspace.uri} {release}: {behind} of {parts} parts are not ingested; "
            "run raypipe ingest first"
        )
    drop_parts_beyond(workspace, spectra_folder(release), parts)
    return parts


def drop_parts_beyond(workspace: Workspace, folder: str, parts: int) -> None:
    """Remove what an earlier manifest of more parts left in a folder."""
    for name in workspace.files(folder, ".parquet"):
        if name >= part_name(folder, parts):
            workspace.delete(name)


def count_rows(workspace: Workspace, release: str) -> dict[str, int]:
    """Rows of manifest, spectra and rejects; rejects count where their part's spectra are there."""
    totals = {"manifest": 0, "spectra": 0, "rejects": 0}
    for part in range(count_parts(workspace, release)):
        totals["manifest"] += workspace.count_rows(part_name(manifest_folder(release), part))
        spectra = part_name(spectra_folder(release), part)
        if workspace.exists(spectra):
            totals["spectra"] += workspace.count_rows(spectra)
            totals["rejects"] += workspace.count_rows(part_name(rejects_folder(release), part))
    return totals


def check_totals(workspace: Workspace, release: str, totals: dict[str, int]) -> None:
    """Raise RaypipeError unless manifest = spectra + rejects."""
    if totals["manifest"] != totals["spectra"] + totals["rejects"]:
        raise RaypipeError(
            f"{workspace.uri} {release}: {totals['manifest']} detections in the manifest, but "
            f"{totals['spectra']} spectra and {totals['rejects']} rejects; run ingest again"
        )
