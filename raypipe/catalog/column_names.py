"""Name the columns of a joined table: recognize some, and change those that must change.

A catalog is exported as FITS, VOTable, HATS and Parquet, so a column has a name that all of them
hold: letters, digits and `_` of ASCII, at most 68 of them, and no two that differ only in case.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence

from raypipe.store.manifest import IDENTITY

CLASS_COLUMNS = ["class", "muwclass_true_class", "true_class"]
"""Names of columns that hold class labels; in raypipe's own tables it is `class`."""

PREFIX = "catalog_"
"""Prefix of a column whose name is that of one of raypipe's own."""

MOST_CHARACTERS = 68
"""Largest number of characters that a card of a FITS header has for a name."""

_GOOD = re.compile(rf"[A-Za-z0-9_]{{1,{MOST_CHARACTERS}}}")
_OTHER = re.compile(r"[^A-Za-z0-9_]+")


def column_names(names: Sequence[str], is_reserved: Callable[[str], bool]) -> list[str]:
    """Return the new names of a joined table's columns, in order; most names stay as they are.

    Columns of `IDENTITY` are recognized in upper and lower case; the first of `CLASS_COLUMNS`
    becomes `class`. Reserved names get `PREFIX`. Characters that FITS does not allow are spelled in
    ASCII or become `_`, and long names are cut. Of names that differ only in case, all but the
    first get a number; a name that needs no other change comes first.
    """
    found = _understood(names)
    taken = set(found.values())
    wanted = {i: _wanted(name, i, is_reserved) for i, name in enumerate(names) if i not in found}
    for i in sorted(wanted, key=lambda i: wanted[i] != names[i]):
        found[i] = _numbered(wanted[i], taken)
        taken.add(found[i].lower())
    return [found[i] for i in range(len(names))]


def free_name(name: str, taken: Collection[str]) -> str:
    """Return the name, with `PREFIX` if it is among the `taken` ones, which are in lower case."""
    return _numbered(_cut(PREFIX + name), taken) if name.lower() in taken else name


def _understood(names: Sequence[str]) -> dict[int, str]:
    """Find the columns that identify a row; return raypipe's names for them, by place."""
    found = {}
    for own in IDENTITY:
        place = _find(names, own)
        if own == "class":
            places = (_find(names, known) for known in CLASS_COLUMNS)
            place = next((each for each in places if each is not None), None)
        if place is not None:
            found[place] = own
    return found


def _find(names: Sequence[str], wanted: str) -> int | None:
    """Return the place of a name, else that of the first that differs only in case."""
    if wanted in names:
        return names.index(wanted)
    return next((i for i, name in enumerate(names) if name.strip().lower() == wanted), None)


def _wanted(name: str, place: int, is_reserved: Callable[[str], bool]) -> str:
    if not _GOOD.fullmatch(name):
        ascii_name = _OTHER.sub("_", _spelled(name)).strip("_")
        name = ascii_name or f"column_{place + 1}"
    return _cut(PREFIX + name if is_reserved(name) or name.lower() in IDENTITY else name)


def _spelled(name: str) -> str:
    """Spell a name in ASCII as far as its letters have an equivalent: Größe α is Grosse alpha."""
    return "".join(_letter(each) for each in unicodedata.normalize("NFKD", name))


def _letter(character: str) -> str:
    if character.isascii() or unicodedata.combining(character):
        return character if character.isascii() else ""
    words = unicodedata.name(character, "").split(" WITH ")[0].split()
    if words[:1] == ["GREEK"] and "LETTER" in words:
        return words[-1].lower() if "SMALL" in words else words[-1].capitalize()
    return "ss" if character == "ß" else "_"


def _cut(name: str) -> str:
    """Cut a name to MOST_CHARACTERS; one that is cut ends in a hash of the whole name."""
    if len(name) <= MOST_CHARACTERS:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:7]
    return f"{name[: MOST_CHARACTERS - 8]}_{digest}"


def _numbered(name: str, taken: Collection[str]) -> str:
    number, candidate = 1, name
    while candidate.lower() in taken:
        number += 1
        ending = f"_{number}"
        candidate = name[: MOST_CHARACTERS - len(ending)] + ending
    return candidate
