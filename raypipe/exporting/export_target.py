"""Check where an export may go, and publish its files and folders there in one step."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath

from raypipe.errors import RaypipeError, UsageError
from raypipe.store.layout import OWN_FOLDERS
from raypipe.store.workspace import Workspace

EXPORTS = "exports"
"""Top folder of a workspace's exports."""

_LAST = ("hats.properties", "properties")
"""Files without which a folder is not a catalog: they are written last."""


def refuse_own_folders(workspace: Workspace, destination: Workspace) -> None:
    """Raise UsageError if the destination is a folder that raypipe fills itself, but for exports.

    A file of an export among the parts of a catalog would be taken for one of them, or removed.
    """
    if workspace.is_local != destination.is_local:
        return
    home, target = (_real_path(each) for each in (workspace, destination))
    if not target.is_relative_to(home):
        return
    within = target.relative_to(home)
    if not within.parts or within.parts[0] in set(OWN_FOLDERS) - {EXPORTS}:
        raise UsageError(
            f"--out {destination.absolute_uri()}: the workspace {workspace.absolute_uri()} keeps "
            f"its own files there; omit --out to export to its folder {EXPORTS}, or choose a "
            "folder outside of it"
        )


def _real_path(workspace: Workspace) -> PurePath:
    """Return the path of a workspace without links, or bucket and prefix."""
    if workspace.is_local:
        return Path(workspace.root).resolve()
    return PurePosixPath(workspace.root)


@contextmanager
def draft_folder(destination: Workspace) -> Iterator[Path]:
    """Make a local folder to write in, and remove it at the end of the block.

    If the destination is on a disk, it is a hidden folder there, so that one rename moves its
    contents into place; else it is among the machine's temporary files (TMPDIR). Raises
    RaypipeError if the disk is full or cannot be written.
    """
    home = Path(destination.root if destination.is_local else tempfile.gettempdir())
    folder = home / f".draft-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise RaypipeError(
            f"{home}: cannot be written ({error}); make room or choose another folder by --out, "
            "then run the same command again"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish_file(destination: Workspace, draft: Path, name: str) -> None:
    """Move a local file to that name in the destination in one step."""
    destination.take_file(draft, name)


def publish_folder(destination: Workspace, draft: Path, name: str) -> None:
    """Move a local folder to that name in the destination.

    On a disk, the old folder is renamed away and the new one into its place: between these two
    renames a reader finds no folder, but never half of one. On S3, the old folder is removed first,
    and the properties of the new one, without which it is not a catalog, are written last.
    """
    if destination.is_local:
        target, old = Path(destination.path(name)), draft.with_name(f"{draft.name}.old")
        if target.exists():
            target.rename(old)
        draft.rename(target)
        return
    destination.delete_folder(name)
    files = [path for path in draft.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.name in _LAST, path)):
        destination.take_file(path, f"{name}/{path.relative_to(draft).as_posix()}")
