"""Spectra outside the CSC: which files are detections, and which are their companions."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache, partial

import pyarrow as pa

from raypipe.archive.names import parse_csc_name
from raypipe.config import IngestConfig
from raypipe.discovery.account import Account, SetAside
from raypipe.discovery.companions import Companions, find_companions, named_by
from raypipe.discovery.files import UNSEEN
from raypipe.discovery.listing import stem
from raypipe.discovery.own_ids import in_order, own_ids
from raypipe.discovery.photons import Photons, photons_of, same_photons
from raypipe.errors import RaypipeError
from raypipe.ogip import read_pha
from raypipe.ogip.loading import load
from raypipe.store.manifest import OWN_TYPES
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 10_000
_MOST_BYTES = IngestConfig().max_file_mb << 20
"""Size of a file above which it is not opened: ingestion refuses it anyway, by default."""


@dataclass
class Detection:
    """A spectrum outside the CSC, and its files' sizes and times."""

    detection_id: str
    pha_uri: str
    arf_uri: str | None
    rmf_uri: str | None
    background_uri: str | None
    files_stamp: str


_COLUMNS = pa.schema({field.name: OWN_TYPES[field.name] for field in fields(Detection)})


@dataclass(frozen=True)
class _Content:
    """What a spectrum file says: nothing where it cannot be read."""

    named: Companions
    photons: Photons | None = None
    is_background: bool = False
    has_backscal: bool = True


_UNREADABLE = _Content(Companions())


def own_detections(
    folder: Workspace,
    candidates: Mapping[str, str],
    account: Account | None = None,
    published: Mapping[str, str] | None = None,
) -> Iterator[pa.Table]:
    """Find the detections among spectra outside the CSC and yield them in tables.

    `candidates` are names relative to `folder`, each with the file's stamp. ARF, RMF and background
    are those the header names, inside `folder`. No detections are backgrounds, which are named by
    another spectrum or say so themselves (HDUCLAS2 BKG), and files that repeat the photons of
    another; both go to `account`. A file that cannot be read is a detection, which ingestion
    rejects with the reason. `published` are detection_ids given before, by name.
    """
    account = Account() if account is None else account
    files = {name: _read(folder, name, candidates[name]) for name in sorted(candidates)}
    companions, stamps = find_companions(folder, {name: each.named for name, each in files.items()})
    stamps |= candidates
    backgrounds = _backgrounds(files, companions)
    order = _order(files, companions, backgrounds, published or {})
    photons = {name: each.photons for name, each in files.items() if each.photons}
    identity = cache(partial(_identity, folder))
    repeats = same_photons(order, photons, partial(_arfs_differ, identity, companions, stamps))
    kept = [name for name in repeats if not _is_background(name, files, backgrounds)]
    ids = _ids(kept, repeats, published or {})
    _count(account, folder, files, companions, backgrounds, repeats, ids)
    rows = [vars(_detection(folder, ids[name], name, companions[name], stamps)) for name in ids]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield pa.Table.from_pylist(rows[start : start + _ROWS_AT_ONCE], _COLUMNS)


def _read(folder: Workspace, name: str, stamp: str) -> _Content:
    """Read a spectrum file; one that is too large, or not there, or broken says nothing."""
    if stamp == UNSEEN:
        return _UNREADABLE
    if (size := _size(stamp)) > _MOST_BYTES:
        log.warning("%s: kept for ingestion to reject (%d bytes)", name, size)
        return _UNREADABLE
    try:
        _, content = load(folder.read_bytes(name), name=name)
        pha = read_pha(bytes(content), name=name)
        photons = photons_of(pha, content, stem(name))
    except Exception as error:
        expected = isinstance(error, RaypipeError)
        reason = str(error) if expected else repr(error)
        log.warning("%s: kept for ingestion to reject (%s)", name, reason)
        return _UNREADABLE
    is_background = str(pha.header.get("HDUCLAS2", "")).strip().upper() == "BKG"
    return _Content(named_by(pha), photons, is_background, "BACKSCAL" not in pha.assumed)


def _backgrounds(
    files: Mapping[str, _Content], companions: Mapping[str, Companions]
) -> dict[str, str]:
    """The files that a spectrum names as its background, each with one that names it.

    A file that names a background itself is a spectrum, whoever names it: of spectra that name each
    other, in a circle or in a chain, none is lost.
    """
    names = {
        name: companions[name].background
        for name, content in files.items()
        if not content.is_background and companions[name].background != name
    }
    found: dict[str, str] = {}
    for name, background in names.items():
        if background is None:
            continue
        if names.get(background) is not None:
            log.warning("%s: names a background that names one in turn; both stay", name)
        else:
            found.setdefault(background, name)
    return found


def _is_background(
    name: str, files: Mapping[str, _Content], backgrounds: Mapping[str, str]
) -> bool:
    return name in backgrounds or files[name].is_background


def _order(
    files: Mapping[str, _Content],
    companions: Mapping[str, Companions],
    backgrounds: Mapping[str, str],
    published: Mapping[str, str],
) -> list[str]:
    """The files in order: of those with the same photons, the one to keep comes first.

    That is a background, if one is, so that no copy of it becomes a source; else a file that can be
    compared with its background, of these the file with most companions, of these the one whose
    header names most, of these one that is not grouped, of these one that was published before, of
    these the first by name.
    """

    def rank(name: str) -> tuple[bool, bool, int, int, bool, bool, tuple[int, str]]:
        photons = files[name].photons
        background = files.get(companions[name].background or name, files[name])
        return (
            not _is_background(name, files, backgrounds),
            files[name].has_backscal != background.has_backscal,
            companions[name].count(None),
            files[name].named.count(None),
            photons is not None and photons.is_grouped,
            name not in published,
            in_order(name),
        )

    return sorted(files, key=rank)


def _arfs_differ(
    identity: Callable[[str, str], str],
    companions: Mapping[str, Companions],
    stamps: Mapping[str, str],
    name: str,
    other: str,
) -> bool:
    """Whether two spectra have ARFs of different contents."""
    first, second = companions[name].arf, companions[other].arf
    if first is None or second is None or first == second:
        return False
    return identity(first, stamps[first]) != identity(second, stamps[second])


def _identity(folder: Workspace, name: str, stamp: str) -> str:
    """A hash of a file's content, decompressed; of one that cannot be read, its name."""
    if stamp == UNSEEN or _size(stamp) > _MOST_BYTES:
        return name
    try:
        return hashlib.sha256(load(folder.read_bytes(name), name=name)[1]).hexdigest()
    except RaypipeError:
        return name


def _size(stamp: str) -> int:
    return int(stamp.partition("@")[0])


def _ids(
    kept: list[str], repeats: Mapping[str, list[str]], published: Mapping[str, str]
) -> dict[str, str]:
    """The detection_id of each detection; one that only a file set aside had goes to the kept."""
    known = dict(published)
    for name in kept:
        given = [published[each] for each in repeats[name] if each in published]
        if name not in known and given:
            known[name] = given[0]
    return own_ids(kept, known)


def _count(
    account: Account,
    folder: Workspace,
    files: Mapping[str, _Content],
    companions: Mapping[str, Companions],
    backgrounds: Mapping[str, str],
    repeats: Mapping[str, list[str]],
    ids: Mapping[str, str],
) -> None:
    """Take into account what became of each candidate, and of the files they name."""
    aside = partial(_set_aside, account, folder)
    for name, copies in repeats.items():
        for copy in copies:
            if copy in backgrounds:
                account.companions += 1
            elif name in ids:
                photons = files[copy].photons
                is_grouped = photons is not None and photons.is_grouped
                kind = "the same photons, grouped, as" if is_grouped else "the same photons as"
                aside(copy, f"{kind} {folder.absolute_uri(name)}", ids[name])
            else:
                aside(copy, f"the same photons as the background {folder.absolute_uri(name)}")
        if name in ids:
            account.spectra += 1
        elif name in backgrounds:
            account.companions += 1
        else:
            aside(name, "a background (HDUCLAS2 BKG) that no spectrum names")
    counted = {entry.uri for entry in account.set_aside}
    named = {each for found in companions.values() for each in found if each}
    for name in named - files.keys():
        if parse_csc_name(name) is None and folder.absolute_uri(name) not in counted:
            account.companions += 1
            account.overlook(name, -1)


def _set_aside(
    account: Account, folder: Workspace, name: str, reason: str, detection_id: str | None = None
) -> None:
    account.set_aside.append(SetAside(folder.absolute_uri(name), reason, detection_id))


def _detection(
    folder: Workspace,
    detection_id: str,
    name: str,
    companions: Companions,
    stamps: Mapping[str, str],
) -> Detection:
    background = companions.background if companions.background != name else None
    files = [name, companions.arf, companions.rmf, background]
    uris = [folder.absolute_uri(file) if file else None for file in files]
    return Detection(
        detection_id=detection_id,
        pha_uri=folder.absolute_uri(name),
        arf_uri=uris[1],
        rmf_uri=uris[2],
        background_uri=uris[3],
        files_stamp=" ".join(stamps[file] if file else "" for file in files),
    )
