"""The detection_id of spectra outside the CSC: given once, kept while the release has them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping

import pyarrow.compute as pc

from raypipe.errors import RaypipeError
from raypipe.identity import stem
from raypipe.store.layout import manifest_folder
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

PREFIX = "file:"


def own_ids(names: Iterable[str], published: Mapping[str, str]) -> dict[str, str]:
    """Give each file its detection_id, by name.

    A file that the manifest has already, as `published` says, keeps its detection_id: no file that
    is added or removed changes it. The others take theirs in order, those in fewer folders first,
    then by name: `file:<stem>` where no other file has or had it, otherwise `file:<name>` with all
    folders and suffixes.
    """
    names = set(names)
    ids = {name: published[name] for name in names if name in published}
    taken = set(published.values())
    for name in sorted(names - ids.keys(), key=in_order):
        ids[name] = next(each for each in _choices(name) if each not in taken)
        taken.add(ids[name])
    return ids


def in_order(name: str) -> tuple[int, str]:
    """Key that sorts files by the number of folders they are in, then by name."""
    return name.count("/"), name


def published_ids(workspace: Workspace, release: str, source: str) -> dict[str, str]:
    """The detection_ids of files outside the CSC in a release's manifest, by the files' names.

    Names are relative to the folder that the manifest was made of, so that they stay when it is
    moved; `source` stands for that folder where the manifest's summary is missing. What a part that
    cannot be read gave is lost, with a warning.
    """
    folder = manifest_folder(release)
    root = f"{_source_of(workspace, folder) or source}/"
    found: dict[str, str] = {}
    for part in workspace.files(folder, ".parquet"):
        try:
            rows = workspace.read_table(part, ["detection_id", "pha_uri"])
            rows = rows.filter(pc.starts_with(rows["detection_id"], PREFIX))
            pairs = zip(rows["pha_uri"].to_pylist(), rows["detection_id"].to_pylist(), strict=True)
        except (RaypipeError, KeyError, ValueError, OSError) as error:
            log.warning("files of this part may get another detection_id (%s)", error)
        else:
            found |= {uri.removeprefix(root): name for uri, name in pairs if uri}
    return found


def _source_of(workspace: Workspace, folder: str) -> str | None:
    """The folder that a manifest was made of, None where there is no whole manifest."""
    try:
        return str(workspace.read_json(f"{folder}/manifest.json")["source"])
    except (RaypipeError, ValueError, KeyError, TypeError):
        return None


def _choices(name: str) -> Iterable[str]:
    numbered = (f"{PREFIX}{name}#{number}" for number in itertools.count(2))
    return itertools.chain([PREFIX + stem(name), PREFIX + name], numbered)
