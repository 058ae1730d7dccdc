"""Give spectra outside the CSC a detection_id that stays as long as the release has them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping

import pyarrow.compute as pc

from raypipe.errors import RaypipeError
from raypipe.identity import OWN_FILE, stem
from raypipe.store.layout import manifest_folder
from raypipe.store.manifest import summary_name
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)


def own_ids(names: Iterable[str], published: Mapping[str, str]) -> dict[str, str]:
    """Give each file its detection_id; return them by the names of the files.

    A file that is in the manifest already keeps the detection_id that `published` has for it,
    whichever files are added or removed. The other files get theirs in order of the number of
    folders, then of the name: `file:<stem>` unless another file has or had it, otherwise
    `file:<name>` with all folders and suffixes.
    """
    names = set(names)
    ids = {name: published[name] for name in names if name in published}
    taken = set(published.values())
    for name in sorted(names - ids.keys(), key=in_order):
        ids[name] = next(each for each in _choices(name) if each not in taken)
        taken.add(ids[name])
    return ids


def in_order(name: str) -> tuple[int, str]:
    """Return a key that sorts files by the depth of their folder, then by name."""
    return name.count("/"), name


def published_ids(workspace: Workspace, release: str, folder: str) -> dict[str, str]:
    """Read the detection_ids of files outside the CSC from a manifest, by the files' names.

    Names are relative to `folder`, from which the manifest was made, so that they remain valid
    when it is moved. The ids of a part that cannot be read are lost, with a warning.
    """
    root = f"{folder}/"
    found: dict[str, str] = {}
    for part in workspace.files(manifest_folder(release), ".parquet"):
        try:
            rows = workspace.read_table(part, ["detection_id", "pha_uri"])
            rows = rows.filter(pc.starts_with(rows["detection_id"], OWN_FILE))
            pairs = zip(rows["pha_uri"].to_pylist(), rows["detection_id"].to_pylist(), strict=True)
        except (RaypipeError, KeyError, ValueError, OSError) as error:
            log.warning("files of this part may get another detection_id (%s)", error)
        else:
            found |= {uri.removeprefix(root): name for uri, name in pairs if uri}
    return found


def manifest_source(workspace: Workspace, release: str) -> str | None:
    """Return the folder from which a manifest was made, None if there is no complete manifest."""
    try:
        return str(workspace.read_json(summary_name(release))["source"])
    except (RaypipeError, ValueError, KeyError, TypeError):
        return None


def _choices(name: str) -> Iterable[str]:
    numbered = (f"{OWN_FILE}{name}#{number}" for number in itertools.count(2))
    return itertools.chain([OWN_FILE + stem(name), OWN_FILE + name], numbered)
