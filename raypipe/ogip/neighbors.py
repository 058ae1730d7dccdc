"""Find files that a PHA names beside it, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

from raypipe.identity import parse_csc_name

MAX_NAME_LENGTH = 1024
"""Longest name that is searched for, since a header may hold strings of any length."""

_SELECTORS = re.compile(r"(\[[^\]]*\]|\{\d+\})+$")


def find_beside(path: Path, named: str) -> Path | None:
    """Return the file called `named` in the folder of `path`, None if there is none.

    Folders in `named` and selectors of an HDU at its end are ignored, and `.gz` may be present or
    absent. Of a product of the Chandra Source Catalog the newest version is used if this version is
    absent, since the versions of a PHA and its responses may differ. If no file has exactly this
    name, upper and lower case are ignored, since some tools write all names in capitals.
    """
    name = _bare_name(named)
    if name is None:
        return None
    plain = _plain(name)
    for candidate in dict.fromkeys((name, plain, f"{plain}.gz")):
        found = path.parent / candidate
        if _is_file(found):
            return found
    return _newest_version(path.parent, plain) or _in_other_case(path.parent, plain)


def is_same_product(named: str, file_name: str) -> bool:
    """Tell whether a name in a header means the file itself, apart from `.gz` and CSC version."""
    name = _bare_name(named)
    return name is not None and _identity(name) == _identity(file_name)


def _bare_name(named: str) -> str | None:
    if len(named) > MAX_NAME_LENGTH:
        return None
    name = re.split(r"[/\\]", _SELECTORS.sub("", named.strip()))[-1]
    return name if name.isprintable() and name not in ("", ".", "..") else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _identity(name: str) -> str:
    product = parse_csc_name(name)
    return product._replace(version=0).plain if product else _plain(name)


def _newest_version(folder: Path, name: str) -> Path | None:
    product = parse_csc_name(name)
    if product is None:
        return None
    versions = [
        found
        for found in folder.glob(f"{product.observation}N*_{product.product}.fits*")
        if _identity(found.name) == _identity(name) and _is_file(found)
    ]
    return max(versions, key=lambda found: found.name, default=None)


def _in_other_case(folder: Path, name: str) -> Path | None:
    """Return the only file whose name differs just in case, None if there are several."""
    wanted = name.casefold()
    try:
        found = [each for each in folder.iterdir() if _plain(each.name).casefold() == wanted]
    except OSError:
        return None
    files = [each for each in found if _is_file(each)]
    names = {_plain(each.name) for each in files}
    return min(files, key=lambda each: each.name) if len(names) == 1 else None


def _plain(name: str) -> str:
    """Return a name without `.gz` at its end, in upper or lower case."""
    return name[:-3] if name.lower().endswith(".gz") else name
