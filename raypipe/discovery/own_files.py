"""Find the detections among spectra outside the CSC, and their companions."""

from __future__ import annotations

import hashlib
import logging
from collections import ChainMap, Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pyarrow as pa

from raypipe.config import IngestConfig
from raypipe.discovery.account import Account, SetAside
from raypipe.discovery.companions import (
    Companions,
    backgrounds_by_name,
    find_companions,
    named_by,
)
from raypipe.discovery.files import UNSEEN
from raypipe.discovery.header_identity import HeaderIdentity, header_identity, source_names
from raypipe.discovery.own_ids import in_order, own_ids
from raypipe.discovery.photons import Photons, photons_of, same_photons
from raypipe.errors import RaypipeError
from raypipe.identity import parse_csc_name, stem
from raypipe.ogip import read_pha
from raypipe.ogip.fits import read_hdus
from raypipe.ogip.loading import load
from raypipe.store.manifest import HEADER_TYPES, OWN_TYPES
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 10_000
_NAMED_IN_LOG = 5
_MOST_BYTES = IngestConfig().max_file_mb << 20
"""Size of a file above which it is not opened: ingestion refuses it anyway, by default."""


_FROM_HEADER = ("obsid", "ra", "dec", *HEADER_TYPES)
_COLUMNS = pa.schema([*OWN_TYPES.items(), *HEADER_TYPES.items()])


_UNIDENTIFIED = HeaderIdentity()


@dataclass(frozen=True)
class _Content:
    """Hold the contents of a spectrum file; the defaults stand for one that cannot be read."""

    named: Companions
    photons: Photons | None = None
    is_background: bool = False
    has_backscal: bool = True
    identity: HeaderIdentity = _UNIDENTIFIED


_UNREADABLE = _Content(Companions())


def own_detections(
    folder: Workspace,
    candidates: Mapping[str, str],
    account: Account | None = None,
    published: Mapping[str, str] | None = None,
) -> Iterator[pa.Table]:
    """Find the detections among spectra outside the CSC and yield them in tables.

    `candidates` are names relative to `folder`, each with the file's stamp. ARF, RMF and background
    are the files in `folder` that the header names. Backgrounds are not detections, neither if a
    spectrum names them nor if they say so themselves (HDUCLAS2 BKG), nor are files that repeat the
    photons of another; `account` records them. A file that cannot be read is a detection, which
    ingestion rejects with the reason. `published` holds earlier detection_ids, by name.
    """
    account = Account() if account is None else account
    files = {name: _read(folder, name, candidates[name]) for name in sorted(candidates)}
    companions, stamps = find_companions(folder, {name: each.named for name, each in files.items()})
    stamps |= candidates
    backgrounds = _backgrounds(files, companions)
    orphans = _orphans(files, backgrounds)
    order = _order(files, companions, backgrounds, published or {})
    photons = {name: each.photons for name, each in files.items() if each.photons}
    identity = cache(partial(_identity, folder))
    repeats = same_photons(order, photons, partial(_arfs_differ, identity, companions, stamps))
    kept = [
        name
        for name in repeats
        if name not in orphans and not _is_background(name, files, backgrounds)
    ]
    ids = _ids(kept, repeats, published or {})
    _count(account, folder, files, companions, backgrounds, orphans, repeats, ids)
    identities = [files[name].identity for name in ids]
    sources = source_names(identities)
    _report_unnamed(identities, sources)
    rows = [
        {"detection_id": ids[name], "name": source}
        | {column: getattr(identity, column) for column in _FROM_HEADER}
        | _files(folder, name, companions[name], stamps)
        for name, identity, source in zip(ids, identities, sources, strict=True)
    ]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield pa.Table.from_pylist(rows[start : start + _ROWS_AT_ONCE], _COLUMNS)


def _read(folder: Workspace, name: str, stamp: str) -> _Content:
    """Read a spectrum file; return `_UNREADABLE` for one that is too large, absent or broken."""
    if stamp == UNSEEN:
        return _UNREADABLE
    if (size := _size(stamp)) > _MOST_BYTES:
        log.warning("%s: kept for ingestion to reject (%d bytes)", name, size)
        return _UNREADABLE
    try:
        _, content = load(folder.read_bytes(name), name=name)
        content = bytes(content)
        pha = read_pha(content, name=name)
        photons = photons_of(pha, content, stem(name))
        headers: list[Any] = [pha.header, read_hdus(content, name=name)[0].header]
        identity = header_identity(ChainMap(*headers))
    except Exception as error:
        expected = isinstance(error, RaypipeError)
        reason = str(error) if expected else repr(error)
        log.warning("%s: kept for ingestion to reject (%s)", name, reason)
        return _UNREADABLE
    is_background = str(pha.header.get("HDUCLAS2", "")).strip().upper() == "BKG"
    has_backscal = "BACKSCAL" not in pha.assumed
    return _Content(named_by(pha), photons, is_background, has_backscal, identity)


def _backgrounds(
    files: Mapping[str, _Content], companions: Mapping[str, Companions]
) -> dict[str, str]:
    """Return the files that are named as background, each with a spectrum that names it.

    A file that names a background itself is a spectrum, even if another names it, so that of
    spectra that name each other, in a circle or in a chain, none is lost.
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
            log.warning("%s: names a background that names one in turn; both are detections", name)
        else:
            found.setdefault(background, name)
    return found


def _orphans(files: Mapping[str, _Content], backgrounds: Mapping[str, str]) -> dict[str, str]:
    """Find the backgrounds of spectra that cannot be read; return the spectra by their names."""
    unreadable = [name for name, content in files.items() if content is _UNREADABLE]
    others = [
        name
        for name, content in files.items()
        if name not in backgrounds
        and not content.is_background
        and content.named.background is None
    ]
    return backgrounds_by_name(unreadable, others)


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
    """Sort files so that the one to keep comes first among those with the same photons.

    That is a background if there is one, so that no copy of it becomes a detection. Otherwise it is
    a file that can be compared with its background; of these the one with most companions; then
    one whose header names most of them; then one that is not grouped; then one that was published
    before; then the first by name.
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
    """Tell whether two spectra have ARFs of different contents."""
    first, second = companions[name].arf, companions[other].arf
    if first is None or second is None or first == second:
        return False
    return identity(first, stamps[first]) != identity(second, stamps[second])


def _identity(folder: Workspace, name: str, stamp: str) -> str:
    """Return a hash of a file's decompressed content, or the name of one that cannot be read."""
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
    """Give each kept file its detection_id, or that of a copy that is set aside now."""
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
    orphans: Mapping[str, str],
    repeats: Mapping[str, list[str]],
    ids: Mapping[str, str],
) -> None:
    """Record in `account` the fate of each candidate and of the files that it names."""
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
        elif name in orphans:
            spectrum = folder.absolute_uri(orphans[name])
            aside(name, f"by its name the background of {spectrum}, which cannot be read")
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


def _report_unnamed(identities: Sequence[HeaderIdentity], sources: Sequence[str | None]) -> None:
    """Log how many spectra get no name because their target's name does not mean one source."""
    pairs = zip(identities, sources, strict=True)
    unnamed = Counter(
        each.target_name for each, source in pairs if each.target_name and source is None
    )
    shown = ", ".join(f"{name} ({n})" for name, n in unnamed.most_common(_NAMED_IN_LOG))
    if unnamed:
        log.info(
            "discover: %d spectra get no name of a source, since their OBJECT may be another one: "
            "%s; to name them, give --catalog a table with a column name",
            unnamed.total(),
            shown,
        )


def _files(
    folder: Workspace, name: str, companions: Companions, stamps: Mapping[str, str]
) -> dict[str, str | None]:
    """Return the columns of a manifest that are about the files of a spectrum."""
    background = companions.background if companions.background != name else None
    files = [name, companions.arf, companions.rmf, background]
    columns = ("pha_uri", "arf_uri", "rmf_uri", "background_uri")
    uris = (folder.absolute_uri(file) if file else None for file in files)
    stamp = " ".join(stamps[file] if file else "" for file in files)
    return {**dict(zip(columns, uris, strict=True)), "files_stamp": stamp}
