"""How far ingestion of a release has come: which parts are there, and whether rows add up.

Parquet footers say that, a few kB of each file: many are read at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from raypipe.config import IngestConfig
from raypipe.discovery.fingerprints import FINGERPRINT, manifest_fingerprint
from raypipe.discovery.manifest import read_manifest_summary
from raypipe.errors import RaypipeError
from raypipe.ingestion.chip_rmfs import chip_rmfs_for
from raypipe.ingestion.schema import CHIP_RMFS, DUPLICATE, RMF
from raypipe.workspace import (
    Workspace,
    manifest_folder,
    part_name,
    rejects_folder,
    spectra_folder,
)

T = TypeVar("T")

_READERS = 16


def count_parts(workspace: Workspace, release: str) -> int:
    """Number of parts of a release, from manifest to catalog."""
    return int(read_manifest_summary(workspace, release)["parts"])


@dataclass(frozen=True)
class _Part:
    """Rows of a part's files, None where there is none, and what the spectra were made of and by.

    `fingerprint` is that of the manifest's rows, `made_of` that of the rows the spectra are of,
    `rmf` the `ingest.rmf` they were made with, and `chip_rmfs` the choice of RMFs for zones.
    """

    manifest: int
    spectra: int | None
    rejects: int | None
    fingerprint: str
    made_of: str | None
    rmf: str | None
    chip_rmfs: str | None

    @property
    def is_current(self) -> bool:
        """Whether it is published whole, of the manifest's rows as they are now.

        A run that ends between rejects and spectra leaves newer rejects: rows do not add up then.
        """
        if self.spectra is None or self.rejects is None:
            return False
        return self.made_of == self.fingerprint and self.spectra + self.rejects == self.manifest


def is_done(workspace: Workspace, release: str, part: int, config: IngestConfig) -> bool:
    """Whether a part is current, with the RMFs asked for, and no other try may mend a reject."""
    return _is_done(workspace, release, part, config, _choice(workspace, release, config))


def parts_to_ingest(workspace: Workspace, release: str, config: IngestConfig) -> list[int]:
    """Parts that are missing, out of date, or worth a retry."""
    parts = range(count_parts(workspace, release))
    choice = _choice(workspace, release, config)
    done = _of_each(parts, lambda part: _is_done(workspace, release, part, config, choice))
    return [part for part, is_so in zip(parts, done, strict=True) if not is_so]


def _choice(workspace: Workspace, release: str, config: IngestConfig) -> str:
    """The RMFs that stand for zones now, as the metadata of a part says it."""
    return chip_rmfs_for(workspace, release, config).to_json()


def _is_done(
    workspace: Workspace, release: str, part: int, config: IngestConfig, choice: str
) -> bool:
    state = _look(workspace, release, part)
    if not state.is_current or state.rmf != config.rmf or state.chip_rmfs != choice:
        return False
    if not state.rejects:
        return True
    rejects = workspace.read_table(part_name(rejects_folder(release), part), ["retryable", "stage"])
    return not any(
        row["retryable"] or (config.retry_rejects == "all" and row["stage"] != DUPLICATE)
        for row in rejects.to_pylist()
    )


def require_ingested(workspace: Workspace, release: str) -> int:
    """Number of parts of a release; RaypipeError unless all its spectra are there and current."""
    parts = count_parts(workspace, release)
    states = _of_each(range(parts), lambda part: _look(workspace, release, part))
    behind = sum(not state.is_current for state in states)
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
    parts = range(count_parts(workspace, release))
    states = _of_each(parts, lambda part: _look(workspace, release, part))
    there = [state for state in states if state.spectra is not None]
    return {
        "manifest": sum(state.manifest for state in states),
        "spectra": sum(state.spectra or 0 for state in there),
        "rejects": sum(state.rejects or 0 for state in there),
    }


def check_totals(workspace: Workspace, release: str, totals: dict[str, int]) -> None:
    """Raise RaypipeError unless manifest = spectra + rejects."""
    if totals["manifest"] != totals["spectra"] + totals["rejects"]:
        raise RaypipeError(
            f"{workspace.uri} {release}: {totals['manifest']} detections in the manifest, but "
            f"{totals['spectra']} spectra and {totals['rejects']} rejects; run ingest again"
        )


def _look(workspace: Workspace, release: str, part: int) -> _Part:
    name = part_name(manifest_folder(release), part)
    manifest = workspace.read_footer(name)
    if manifest is None:
        raise RaypipeError(f"{workspace.absolute_uri(name)}: no such file; run raypipe discover")
    spectra = workspace.read_footer(part_name(spectra_folder(release), part))
    rejects = workspace.read_footer(part_name(rejects_folder(release), part))
    return _Part(
        manifest=manifest.rows,
        spectra=spectra.rows if spectra else None,
        rejects=rejects.rows if rejects else None,
        fingerprint=manifest.metadata.get(FINGERPRINT)
        or manifest_fingerprint(workspace.read_table(name)),
        made_of=spectra.metadata.get(FINGERPRINT) if spectra else None,
        rmf=spectra.metadata.get(RMF) if spectra else None,
        chip_rmfs=spectra.metadata.get(CHIP_RMFS) if spectra else None,
    )


def _of_each(parts: Iterable[int], look: Callable[[int], T]) -> list[T]:
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(look, parts))
