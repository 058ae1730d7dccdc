"""Find a spectrum's responses and background: files that its header names."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from raypipe.discovery.files import list_files
from raypipe.identity import stem
from raypipe.ogip import Pha
from raypipe.store.workspace import Workspace

MAX_NAME_LENGTH = 1024
"""Longest name that is searched for, since a header may hold strings of any length."""

_BACKGROUND = re.compile(
    r"background|(?<![a-z])(?:backgr|back|bkgd|bkg|bgd|bg|bk)(?![a-z])", re.IGNORECASE
)
_SPECTRUM = re.compile(
    r"spectrum|(?<![a-z])(?:source|src|sr|spec|pha|pi|grp\d*)(?![a-z])", re.IGNORECASE
)
"""Words by which names of background and source spectra differ: X_bkg.pi and X.pi of CIAO,
PNbackground_spectrum.fits and PN.pha of SAS, target_bk.pha and target_sr.pha of HEASoft."""

_SELECTORS = re.compile(r"(\[[^\]]*\]|\{\d+\})+$")


class Companions(NamedTuple):
    """Name a spectrum's files, as its header spells them or as the folder lists them."""

    arf: str | None = None
    rmf: str | None = None
    background: str | None = None


def named_by(pha: Pha) -> Companions:
    """Return the files that a spectrum's header names, as it spells them."""
    return Companions(pha.ancrfile, pha.respfile, pha.backfile)


def find_companions(
    folder: Workspace, named: Mapping[str, Companions]
) -> tuple[dict[str, Companions], dict[str, str]]:
    """Find the files that spectra name in a folder; return names by spectrum, and stamps by name.

    Only files that the folder lists are found, so no path in a header leads out of it. A path is
    relative to the folder of its spectrum; if there is no such file, a file of that name beside
    the spectrum is used. The name may lack `.gz` or have it although the file does not, may select
    an HDU, and may differ from the file's in upper and lower case if no file has it exactly. If the
    header leads to no ARF or RMF, the one beside the spectrum is taken that has its name, or that
    is alone there; an RSP, which may include the area, stands alone.
    """
    wanted = {
        spelling.casefold()
        for name, companions in named.items()
        for companion in companions
        for spelling in _spellings(name, companion)
    }
    stamps: dict[str, str] = {}
    beside: dict[tuple[str, str], list[str]] = defaultdict(list)
    if named:
        parents = {_parent(name) for name in named}
        for name, stamp in list_files(folder):
            kind = _response_kind(name) if _parent(name) in parents else None
            if kind is not None:
                beside[_parent(name), kind].append(name)
            if kind is not None or name.casefold() in wanted:
                stamps[name] = stamp
    alike = defaultdict(list)
    for name in sorted(stamps):
        alike[name.casefold()].append(name)
    found = {
        name: Companions(*(_find(_spellings(name, each), stamps, alike) for each in companions))
        for name, companions in named.items()
    }
    found = {name: _completed(name, each, beside) for name, each in found.items()}
    used = {each for companions in found.values() for each in companions if each}
    return found, {name: stamp for name, stamp in stamps.items() if name in used}


def _completed(
    name: str, companions: Companions, beside: Mapping[tuple[str, str], list[str]]
) -> Companions:
    """Add the ARF and RMF beside a spectrum if its header names none that exists."""
    rmf = companions.rmf or _beside(name, beside.get((_parent(name), "rmf"), []))
    arf = companions.arf
    if arf is None and not (rmf and _plain(rmf).endswith(".rsp")):
        arf = _beside(name, beside.get((_parent(name), "arf"), []))
    return companions._replace(arf=arf, rmf=rmf)


def _beside(name: str, candidates: list[str]) -> str | None:
    """Choose the file beside a spectrum that has its name, else the only one there."""
    own = [each for each in candidates if _stem(each) == _stem(name)]
    chosen = own or candidates
    return chosen[0] if len(chosen) == 1 else None


def _response_kind(name: str) -> str | None:
    """Tell by its name whether a file is an ARF or an RMF; None for neither."""
    suffix = posixpath.splitext(_plain(name))[1]
    return {".arf": "arf", ".rmf": "rmf", ".rsp": "rmf"}.get(suffix)


def _parent(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _plain(name: str) -> str:
    """Return a file's name in lower case, without `.gz`."""
    return name.casefold().removesuffix(".gz")


def _stem(name: str) -> str:
    return posixpath.splitext(_plain(name))[0]


def _find(
    spellings: Iterable[str], stamps: Mapping[str, str], alike: Mapping[str, list[str]]
) -> str | None:
    names = list(spellings)
    exact = (name for name in names if name in stamps)
    similar = (alike[name.casefold()][0] for name in names if name.casefold() in alike)
    return next(exact, None) or next(similar, None)


def _spellings(name: str, companion: str | None) -> Iterator[str]:
    """Yield the names that a companion named by a spectrum may have, the most probable first."""
    if companion is None or len(companion) > MAX_NAME_LENGTH:
        return
    path = _SELECTORS.sub("", companion.strip()).replace("\\", "/")
    parent = _parent(name)
    base = path.rsplit("/", 1)[-1]
    if base in ("", ".", ".."):
        return
    yield from _with_gz(posixpath.normpath(parent + path))
    yield from _with_gz(parent + base)


def _with_gz(name: str) -> Iterator[str]:
    plain = name.removesuffix(".gz")
    yield name
    yield plain if plain != name else f"{name}.gz"


def backgrounds_by_name(unreadable: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Find backgrounds of spectra that cannot be read, whose headers name none, by their names.

    A background is a file of `others` in the spectrum's folder whose name differs from that of the
    spectrum only in the words for background and source. Return the spectra by these files' names.
    """
    spectra = {_bare(name): name for name in unreadable if not _BACKGROUND.search(stem(name))}
    return {
        name: spectra[_bare(name)]
        for name in others
        if _BACKGROUND.search(stem(name)) and _bare(name) in spectra
    }


def _bare(name: str) -> tuple[str, str]:
    """Return a file's folder, and its stem without the words for source and background."""
    folder = name[: name.rfind("/") + 1]
    plain = _SPECTRUM.sub("", _BACKGROUND.sub("", stem(name)))
    return folder, re.sub(r"[\W_]+", "_", plain).strip("_").casefold()
