"""Find the parts of a release that have to be ingested, or ingested again."""

from __future__ import annotations

from raypipe.config import IngestConfig
from raypipe.ingestion.chip_rmfs import chip_rmfs_for
from raypipe.spectra.schema import CHIP_RMFS, DUPLICATE, RMF, has_format
from raypipe.store.layout import part_name, rejects_folder
from raypipe.store.parts import (
    count_parts,
    look_at_each,
    look_at_part,
)
from raypipe.store.workspace import Workspace


def is_done(workspace: Workspace, release: str, part: int, config: IngestConfig) -> bool:
    """Tell whether a part is current, has the requested RMFs and has no reject worth a retry."""
    return _is_done(workspace, release, part, config, _choice(workspace, release, config))


def parts_to_ingest(workspace: Workspace, release: str, config: IngestConfig) -> list[int]:
    """List the parts that are missing, out of date, or worth a retry."""
    parts = range(count_parts(workspace, release))
    choice = _choice(workspace, release, config)
    done = look_at_each(parts, lambda part: _is_done(workspace, release, part, config, choice))
    return [part for part, is_so in zip(parts, done, strict=True) if not is_so]


def _choice(workspace: Workspace, release: str, config: IngestConfig) -> str:
    """Return the RMFs that are now chosen for zones, as a part's metadata records them."""
    return chip_rmfs_for(workspace, release, config).to_json()


def _is_done(
    workspace: Workspace, release: str, part: int, config: IngestConfig, choice: str
) -> bool:
    state = look_at_part(workspace, release, part)
    if not state.is_current or state.metadata.get(RMF) != config.rmf:
        return False
    if not has_format(state.metadata):
        return False
    if state.metadata.get(CHIP_RMFS) != choice:
        return False
    if not state.rejects:
        return True
    rejects = workspace.read_table(part_name(rejects_folder(release), part), ["retryable", "stage"])
    return not any(
        row["retryable"] or (config.retry_rejects == "all" and row["stage"] != DUPLICATE)
        for row in rejects.to_pylist()
    )
