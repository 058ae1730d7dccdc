"""Files that a spectrum's header names: its responses and its background."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from raypipe.discovery.files import list_files
from raypipe.ogip import Pha
from raypipe.store.workspace import Workspace

MAX_NAME_LENGTH = 1024
"""Longest name looked for: a header may hold strings of any length."""

_SELECTORS = re.compile(r"(\[[^\]]*\]|\{\d+\})+$")


class Companions(NamedTuple):
    """Names of a spectrum's files: as its header gives them or as the folder has them."""

    arf: str | None = None
    rmf: str | None = None
    background: str | None = None


def named_by(pha: Pha) -> Companions:
    """The files that a spectrum's header names, as it spells them."""
    return Companions(pha.ancrfile, pha.respfile, pha.backfile)


def find_companions(
    folder: Workspace, named: Mapping[str, Companions]
) -> tuple[dict[str, Companions], dict[str, str]]:
    """Find what spectra name among the files of a folder: names by spectrum, stamps by name.

    Only files that the folder lists count, so no path of a header leads out of it. A path counts
    from the folder of its spectrum; where it leads to no file, the file is looked for beside the
    spectrum. The name may lack its `.gz` or have one too many, may select an HDU, and may be in
    other letters, capital or small, than the file's if no file has it exactly. Where the header
    leads to no ARF or RMF, the one beside the spectrum is taken that has its name, or that is alone
    there; an RSP, which may include the area, stands alone.
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
    """Add the ARF and RMF beside a spectrum where its header leads to none."""
    rmf = companions.rmf or _beside(name, beside.get((_parent(name), "rmf"), []))
    arf = companions.arf
    if arf is None and not (rmf and _plain(rmf).endswith(".rsp")):
        arf = _beside(name, beside.get((_parent(name), "arf"), []))
    return companions._replace(arf=arf, rmf=rmf)


def _beside(name: str, candidates: list[str]) -> str | None:
    """Of files beside a spectrum the one with its name, else the only one."""
    own = [each for each in candidates if _stem(each) == _stem(name)]
    chosen = own or candidates
    return chosen[0] if len(chosen) == 1 else None


def _response_kind(name: str) -> str | None:
    """Whether a file is an ARF or an RMF by its name."""
    suffix = posixpath.splitext(_plain(name))[1]
    return {".arf": "arf", ".rmf": "rmf", ".rsp": "rmf"}.get(suffix)


def _parent(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _plain(name: str) -> str:
    """A file's name in small letters, without `.gz`."""
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
    """Names that a file which a spectrum names may have, the likeliest first."""
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
