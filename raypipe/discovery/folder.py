"""Find the detections among the files of a folder or bucket."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from raypipe.discovery.account import Account, SetAside
from raypipe.discovery.files import UNSEEN, Skipped, list_files
from raypipe.discovery.listing import CscFiles, looks_like_pha, may_be_pha
from raypipe.discovery.own_files import own_detections
from raypipe.discovery.peek import look_into
from raypipe.errors import UsageError
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

MOST_LOOKS = 10_000
"""Largest number of files whose headers are searched because their names say nothing."""


def detections(
    folder: Workspace,
    release: str,
    scratch: Path,
    account: Account,
    published: Mapping[str, str],
) -> Iterator[pa.Table]:
    """Find the detections among a folder's files and yield them in tables.

    `account` records what becomes of each file. `published` holds the detection_ids that files
    outside the CSC keep, by name. Raises UsageError if there are no detections.
    """
    csc_files = CscFiles(scratch)
    own_files = _sort_out(folder, csc_files, account)
    for table in csc_files.detections(release, f"{folder.absolute_uri()}/"):
        _count_csc(account, table)
        yield table
    yield from own_detections(folder, own_files, account, published)
    if not account.spectra:
        raise UsageError(f"{folder.uri}: no spectra there (CSC names, .pi, .pha files): {account}")


def _sort_out(folder: Workspace, csc_files: CscFiles, account: Account) -> dict[str, str]:
    """Separate CSC files from others by their names; return the spectra among the others."""
    own_files: dict[str, str] = {}
    unknown: dict[str, str] = {}
    skipped: list[Skipped] = []
    not_looked_at = 0
    for name, stamp in list_files(folder, skipped):
        account.listed += 1
        if csc_files.add(name, stamp):
            account.unused += 1
        elif looks_like_pha(name):
            own_files[name] = stamp
        elif may_be_pha(name) and len(unknown) < MOST_LOOKS:
            unknown[name] = stamp
        else:
            not_looked_at += may_be_pha(name)
            account.overlook(name)
    if not_looked_at:
        log.warning(
            "%d FITS files of other names are not looked into: more than %d",
            not_looked_at,
            MOST_LOOKS,
        )
    for entry in skipped:
        account.skip(entry, f"{folder.absolute_uri()}/{entry.name}")
    return own_files | _spectra_among(folder, unknown, account)


def _spectra_among(
    folder: Workspace, unknown: Mapping[str, str], account: Account
) -> dict[str, str]:
    """Return the files whose headers are those of a spectrum."""
    found = {}
    for name, answer in look_into(folder, sorted(unknown)):
        if isinstance(answer, OSError):
            reason = f"cannot be read ({answer.strerror or answer})"
            if unknown[name] == UNSEEN:
                reason = "a link to a file that is not there (git annex get brings it)"
            account.set_aside.append(SetAside(folder.absolute_uri(name), reason))
        elif answer:
            found[name] = unknown[name]
        else:
            account.overlook(name)
    return found


def _count_csc(account: Account, table: pa.Table) -> None:
    """Move the files of the detections in a table from the unused to the spectra and companions."""
    spectra, arfs, rmfs = (
        table.num_rows - table[name].null_count for name in ("pha_uri", "arf_uri", "rmf_uri")
    )
    account.spectra += spectra
    account.companions += arfs + rmfs
    account.unused -= spectra + arfs + rmfs
