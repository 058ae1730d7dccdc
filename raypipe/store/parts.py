"""Check which parts of a release exist, and whether they are complete and current.

This is read from the Parquet footers, a few kB per file, of many files at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from raypipe.errors import RaypipeError
from raypipe.store.fingerprints import FINGERPRINT, manifest_fingerprint
from raypipe.store.layout import manifest_folder, part_name, rejects_folder, spectra_folder
from raypipe.store.manifest import read_manifest_summary
from raypipe.store.workspace import Workspace

T = TypeVar("T")

_READERS = 16


def count_parts(workspace: Workspace, release: str) -> int:
    """Return the number of parts of a release, the same from manifest to catalog."""
    return int(read_manifest_summary(workspace, release)["parts"])


@dataclass(frozen=True)
class PartState:
    """Describe the state of a part: its files' numbers of rows, None if missing; fingerprints.

    `fingerprint` identifies the present rows of the manifest, `made_of` those from which the
    spectra were made. `metadata` is that of the file of spectra, empty if there is none.
    """

    manifest: int
    spectra: int | None
    rejects: int | None
    fingerprint: str
    made_of: str | None
    metadata: Mapping[str, str]

    @property
    def is_current(self) -> bool:
        """Return whether the part is complete and was made from the present rows of the manifest.

        If a run ended after it had written the rejects and before it wrote the spectra, the numbers
        of rows do not add up.
        """
        if self.spectra is None or self.rejects is None:
            return False
        return self.made_of == self.fingerprint and self.spectra + self.rejects == self.manifest


def require_ingested(workspace: Workspace, release: str) -> int:
    """Return the number of parts of a release; raises RaypipeError unless all are current."""
    parts = count_parts(workspace, release)
    states = look_at_each(range(parts), lambda part: look_at_part(workspace, release, part))
    behind = sum(not state.is_current for state in states)
    if behind:
        raise RaypipeError(
            f"{workspace.uri} {release}: {behind} of {parts} parts are not ingested; "
            "run raypipe ingest first"
        )
    drop_parts_beyond(workspace, spectra_folder(release), parts)
    return parts


def drop_parts_beyond(workspace: Workspace, folder: str, parts: int) -> None:
    """Remove the files in a folder that are left from an earlier manifest with more parts."""
    for name in workspace.files(folder, ".parquet"):
        if name >= part_name(folder, parts):
            workspace.delete(name)


def count_rows(workspace: Workspace, release: str) -> dict[str, int]:
    """Count the rows of manifest, spectra and rejects.

    Rejects of parts without spectra are not counted: such parts are ingested again.
    """
    parts = range(count_parts(workspace, release))
    states = look_at_each(parts, lambda part: look_at_part(workspace, release, part))
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


def look_at_part(workspace: Workspace, release: str, part: int) -> PartState:
    """Read the footers of a part's files; raises RaypipeError if the manifest lacks the part."""
    name = part_name(manifest_folder(release), part)
    manifest = workspace.read_footer(name)
    if manifest is None:
        raise RaypipeError(f"{workspace.absolute_uri(name)}: no such file; run raypipe discover")
    spectra = workspace.read_footer(part_name(spectra_folder(release), part))
    rejects = workspace.read_footer(part_name(rejects_folder(release), part))
    return PartState(
        manifest=manifest.rows,
        spectra=spectra.rows if spectra else None,
        rejects=rejects.rows if rejects else None,
        fingerprint=manifest.metadata.get(FINGERPRINT)
        or manifest_fingerprint(workspace.read_table(name)),
        made_of=spectra.metadata.get(FINGERPRINT) if spectra else None,
        metadata=spectra.metadata if spectra else {},
    )


def look_at_each(parts: Iterable[int], look: Callable[[int], T]) -> list[T]:
    """Return `look(part)` for each part, in order; several calls run at the same time."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(look, parts))
