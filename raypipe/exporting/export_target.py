"""Where an export goes: files and folders that appear there whole."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raypipe.errors import RaypipeError
from raypipe.store.workspace import Workspace

_LAST = ("hats.properties", "properties")
"""Files without which a folder is no catalog."""


@contextmanager
def draft_folder(destination: Workspace) -> Iterator[Path]:
    """A local folder to write in that does not outlive the block.

    It is a hidden one in the destination where that is on a disk, so that what is in it can be
    moved into place by one rename, else where the machine keeps its temporary files (TMPDIR).
    Raises RaypipeError where the disk is full or cannot be written.
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
    """Make a local file the destination's file of that name in one step."""
    destination.take_file(draft, name)


def publish_folder(destination: Workspace, draft: Path, name: str) -> None:
    """Make a local folder the destination's folder of that name.

    On a disk the old one is renamed away and the new one into its place: between these two a
    reader finds none, at no time half of one. On S3 the old one is removed first, and the new
    one's properties, without which it is no catalog, come last.
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
