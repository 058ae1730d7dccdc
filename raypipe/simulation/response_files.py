"""Find which response files of a folder belong together, and spectra observed through them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raypipe.errors import OgipError, UsageError
from raypipe.identity import parse_csc_name
from raypipe.ogip import Pha, read_pha
from raypipe.ogip.columns import AREA, MATRIX, SPECTRUM, tables_of_class
from raypipe.ogip.fits import read_hdus

RESPONSE_NAME = re.compile(
    r"(?P<stem>.+)[._]w?(?P<kind>arf|rmf|rsp)3?(\.fits?)?(\.gz)?", re.IGNORECASE
)
SPECTRUM_NAME = re.compile(r"(?P<stem>.+)[._](pha|pi)3?(\.fits?)?(\.gz)?", re.IGNORECASE)
FITS_NAME = re.compile(r".+\.(fits?|fts|ftz|ds)(\.gz)?", re.IGNORECASE)
INDEX_FILE = "index.json"
MAX_INDEX_BYTES = 16 << 20
MAX_FILES = 100_000
"""Most files of one folder that are looked through."""


@dataclass(frozen=True)
class ResponseFiles:
    """Name the files of one response.

    `arf` is None if the matrix has to include the area. `spectrum` is a PHA that was observed
    through the response and `background` the file of its background, None where there is none or
    where the PHA holds it.
    """

    name: str
    rmf: Path
    arf: Path | None
    spectrum: Path | None = None
    background: Path | None = None


@dataclass
class FolderFiles:
    """Sort the files of a folder by their kind."""

    arfs: list[Path] = field(default_factory=list)
    rmfs: list[Path] = field(default_factory=list)
    spectra: dict[Path, Pha] = field(default_factory=dict)
    indexes: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find_response_files(folder: Path) -> tuple[list[ResponseFiles], list[str]]:
    """Pair the ARF and RMF files in `folder` and the folders in it.

    Return the pairs, ordered by name, and a sentence on what to do for each file without a pair. A
    pair is taken from the first of these sources that has it: an `index.json`, a list of objects
    with the keys "rmf", "arf", and, optionally, "name", "pha" and "background", whose paths count
    from its folder; the keywords RESPFILE and ANCRFILE of the PHA files; the names, where `x.arf`
    and `x.rmf.gz`, or `x_arf3.fits.gz` and `x_rmf3.fits.gz`, share a stem; the only RMF of a
    folder, which belongs to all ARFs beside it that have no other. Raises UsageError where the
    folder is missing or an index is malformed.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of responses")
    files = _sort_files(folder)
    pairs: dict[Path, ResponseFiles] = {}
    for pair in (
        *_listed_pairs(files, folder),
        *_stated_pairs(files),
        *_named_pairs(files),
        *_lone_rmf_pairs(files),
    ):
        pairs.setdefault(pair.arf or pair.rmf, pair)
    for rmf in _unpaired_rmfs(files, pairs):
        pairs[rmf] = ResponseFiles(response_name(rmf), rmf, None)
    files.problems += [
        f"{arf}: no RMF found for it; give both the same name (NAME.arf, NAME.rmf), leave one RMF "
        f"in its folder, or write an {INDEX_FILE} there"
        for arf in files.arfs
        if arf not in pairs
    ]
    return _with_unique_names(_with_spectra(list(pairs.values()), files), folder), files.problems


def response_name(path: Path) -> str:
    """Return the part of a file's name that the two files of a pair share.

    The versions of two products of the Chandra Source Catalog may differ.
    """
    if product := parse_csc_name(path.name):
        return product.region
    match = RESPONSE_NAME.fullmatch(path.name)
    return match["stem"] if match else path.name.split(".")[0]


def _sort_files(folder: Path) -> FolderFiles:
    files = FolderFiles()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if len(paths) > MAX_FILES:
        raise UsageError(
            f"{folder}: {len(paths)} files, at most {MAX_FILES}; give a folder of responses"
        )
    for path in paths:
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            _sort_file(path, files)
        except OgipError as error:
            files.problems.append(f"{error}; passed over")
    return files


def _sort_file(path: Path, files: FolderFiles) -> None:
    match = RESPONSE_NAME.fullmatch(path.name)
    if path.name == INDEX_FILE:
        files.indexes.append(path)
    elif match:
        (files.arfs if match["kind"].lower() == "arf" else files.rmfs).append(path)
    elif SPECTRUM_NAME.fullmatch(path.name):
        files.spectra[path] = read_pha(path)
    elif FITS_NAME.fullmatch(path.name):
        hdus = read_hdus(path)
        if tables_of_class(hdus, MATRIX):
            files.rmfs.append(path)
        elif tables_of_class(hdus, AREA):
            files.arfs.append(path)
        elif tables_of_class(hdus, SPECTRUM):
            files.spectra[path] = read_pha(path)


def _listed_pairs(files: FolderFiles, folder: Path) -> Iterator[ResponseFiles]:
    """Yield the pairs that the index files list."""
    for index in files.indexes:
        for number, entry in enumerate(_entries(index), start=1):
            where = f"{index}: entry {number}"
            rmf = _listed_file(entry, "rmf", index, folder, where)
            if rmf is None:
                raise UsageError(f"{where} has no rmf; give the path of one")
            arf, spectrum, background = (
                _listed_file(entry, key, index, folder, where)
                for key in ("arf", "pha", "background")
            )
            name = entry.get("name")
            yield ResponseFiles(
                name if isinstance(name, str) and name else response_name(arf or rmf),
                rmf,
                arf,
                spectrum,
                background,
            )


def _entries(index: Path) -> list[dict[str, Any]]:
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise UsageError(f"{index}: larger than {MAX_INDEX_BYTES} bytes, no list of responses")
    try:
        entries = json.loads(index.read_text())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{index}: cannot be read as JSON ({error})") from None
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise UsageError(f'{index}: expected a list of objects with "rmf" and "arf"')
    return entries


def _listed_file(
    entry: Mapping[str, Any], key: str, index: Path, folder: Path, where: str
) -> Path | None:
    """Return a file that an entry names, which has to be inside the folder."""
    named = entry.get(key)
    if named is None:
        return None
    if not isinstance(named, str):
        raise UsageError(f"{where}: {key} is no path")
    path = index.parent / named
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{where}: {key} {named!r} leads out of {folder}")
    if not path.is_file():
        raise UsageError(f"{where}: {key} {named!r} is not there; correct the path")
    return path


def _stated_pairs(files: FolderFiles) -> Iterator[ResponseFiles]:
    """Yield the pairs that the headers of spectra name, if both files exist."""
    for path, pha in files.spectra.items():
        arf = _beside(path, pha.ancrfile)
        rmf = _beside(path, pha.respfile)
        if arf in files.arfs and rmf in files.rmfs:
            assert arf is not None
            assert rmf is not None
            yield ResponseFiles(
                response_name(arf), rmf, arf, path, _beside(path, pha.backfile, itself=False)
            )


def _beside(spectrum: Path, named: str | None, *, itself: bool = True) -> Path | None:
    """Return the file that a header names, beside the spectrum, compressed or not."""
    if not named:
        return None
    base = re.sub(r"(\[[^\]]*\])+$", "", named.strip()).replace("\\", "/").rsplit("/", 1)[-1]
    for name in (base, base + ".gz", base.removesuffix(".gz")):
        path = spectrum.parent / name
        if name and path.is_file() and (itself or path != spectrum):
            return path
    return None


def _named_pairs(files: FolderFiles) -> Iterator[ResponseFiles]:
    """Yield the pairs whose names share a stem."""
    rmfs = {(rmf.parent, response_name(rmf)): rmf for rmf in reversed(files.rmfs)}
    for arf in files.arfs:
        rmf = rmfs.get((arf.parent, response_name(arf)))
        if rmf is not None:
            yield ResponseFiles(response_name(arf), rmf, arf)


def _lone_rmf_pairs(files: FolderFiles) -> Iterator[ResponseFiles]:
    """Yield the pairs of the only RMF of a folder with each ARF beside it."""
    by_folder = defaultdict(list)
    for rmf in files.rmfs:
        by_folder[rmf.parent].append(rmf)
    for arf in files.arfs:
        if len(beside := by_folder[arf.parent]) == 1:
            yield ResponseFiles(response_name(arf), beside[0], arf)


def _unpaired_rmfs(files: FolderFiles, pairs: Mapping[Path, ResponseFiles]) -> list[Path]:
    """Return the matrices that no pair uses: responses by themselves if they include the area."""
    used = {pair.rmf for pair in pairs.values()}
    return [rmf for rmf in files.rmfs if rmf not in used]


def _with_spectra(pairs: list[ResponseFiles], files: FolderFiles) -> list[ResponseFiles]:
    """Complete pairs by the spectrum that names their ARF or shares their name, if there is one."""
    by_arf: dict[Path, Path] = {}
    by_name: dict[tuple[Path, str], Path] = {}
    for path, pha in files.spectra.items():
        if arf := _beside(path, pha.ancrfile):
            by_arf.setdefault(arf, path)
        by_name.setdefault((path.parent, SPECTRUM_NAME.sub(r"\g<stem>", path.name)), path)
    found = []
    for pair in pairs:
        spectrum, background, named_by = pair.spectrum, pair.background, pair.arf or pair.rmf
        if spectrum is None:
            in_name = by_name.get((named_by.parent, response_name(named_by)))
            spectrum = by_arf.get(named_by) or in_name
        if background is None and spectrum in files.spectra:
            background = _beside(spectrum, files.spectra[spectrum].backfile, itself=False)
        found.append(replace(pair, spectrum=spectrum, background=background))
    return found


def _with_unique_names(pairs: list[ResponseFiles], folder: Path) -> list[ResponseFiles]:
    """Prefix names that several pairs share with their folder, and sort the pairs by name."""
    times: dict[str, int] = defaultdict(int)
    for pair in pairs:
        times[pair.name] += 1
    named = []
    for pair in pairs:
        name = pair.name
        if times[name] > 1:
            place = (pair.arf or pair.rmf).relative_to(folder)
            name = "-".join((*place.parent.parts, response_name(place), response_name(pair.rmf)))
        named.append(replace(pair, name=name))
    return sorted(named, key=lambda pair: pair.name)
