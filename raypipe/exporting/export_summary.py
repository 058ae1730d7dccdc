"""Summarize exports: origin, files, columns and counts; and keep the record of the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import RaypipeError, UsageError
from raypipe.exporting.citation import Origin
from raypipe.exporting.formats.content import Content, Fact, is_vector
from raypipe.identity import OWN_FILE
from raypipe.store.manifest import is_simulated
from raypipe.store.publication import Publication
from raypipe.store.workspace import MissingFileError, Workspace

RECORD = "exports.json"
"""File beside the exports that describes each of them."""


@dataclass(frozen=True)
class Written:
    """Describe an export that was written: its name and its content."""

    name: str
    format: str
    table: str
    rows: int
    rows_left_out: int
    columns_left_out: tuple[str, ...]
    facts: Mapping[str, str | int]
    moc: str = ""

    @classmethod
    def of(
        cls, content: Content, format: str, name: str, rows_left_out: int, moc: str = ""
    ) -> Written:
        """Describe content that was written; `moc` is the file with its coverage."""
        return cls(
            name=name,
            format=format,
            table=content.table,
            rows=content.rows - rows_left_out,
            rows_left_out=rows_left_out,
            columns_left_out=content.left_out,
            facts={fact.name: fact.value for fact in content.facts},
            moc=moc,
        )

    @property
    def notes(self) -> list[str]:
        """List the contents of the catalog that the export lacks."""
        notes = []
        if self.rows_left_out:
            notes.append(
                f"{self.rows_left_out:,} of {self.rows + self.rows_left_out:,} rows left out, "
                "which have no position (ra, dec)"
            )
        if self.columns_left_out:
            notes.append(f"columns of nested values left out: {', '.join(self.columns_left_out)}")
        return notes


@dataclass(frozen=True)
class TableSummary:
    """Summarize detections or sources: their number, counts by class and by flag, columns."""

    rows: int
    classes: Mapping[str, int]
    flags: Mapping[str, int]
    columns: list[tuple[str, str, str, str, str]]


@dataclass(frozen=True)
class Summary:
    """Summarize a publication, the files that were exported from it, and their tables."""

    publication: Publication
    facts: list[Fact]
    files: list[Written]
    tables: Mapping[str, TableSummary]
    origin: Origin


def claim(destination: Workspace, name: str, moc: str) -> None:
    """Make sure that an export may write its files, `name` and `moc`, into `destination`.

    A folder of exports has a record of them. An export may replace these files, the record,
    README.md, index.html and CITATION.cff. Raises UsageError, and changes nothing, for a folder
    with files but without a record, and if one of its files exists that is not in the record.
    """
    names = [*destination.files(""), *destination.folders("")]
    taken = {name.lstrip("/") for name in names if not name.startswith(".")}
    if not taken:
        return
    where = destination.absolute_uri()
    if RECORD not in taken:
        raise UsageError(
            f"{where}: has {_some(taken)} and no exports; choose an empty folder or a new one "
            "by --out"
        )
    known = {each for one in _read_record(destination) for each in (one.name, one.moc)}
    for each in (name, moc):
        if each in taken - known:
            raise UsageError(
                f"{destination.absolute_uri(each)}: no export wrote this file; move it away, or "
                "choose another folder by --out"
            )


def record(destination: Workspace, new: Written) -> list[Written]:
    """Add `new` to the record of the exports in `destination` and return the whole record."""
    known = _read_record(destination) if destination.exists(RECORD) else []
    there = [one for one in known if one.name != new.name and destination.exists(one.name)]
    files = sorted([*there, new], key=lambda one: one.name)
    destination.write_json(RECORD, [asdict(one) for one in files])
    return files


def summarize(workspace: Workspace, publication: Publication, files: list[Written]) -> Summary:
    """Summarize a publication and the exports beside which the summary is written."""
    contents = [Content.of(workspace, publication, name) for name in ("detections", "sources")]
    return Summary(
        publication=publication,
        facts=contents[0].facts,
        files=files,
        tables={content.table: _summarize_table(content) for content in contents},
        origin=_origin(workspace, contents[0]),
    )


def _origin(workspace: Workspace, detections: Content) -> Origin:
    """Count the detections by what their spectra are."""
    own = 0
    for table in detections.tables(["detection_id"]):
        own += int(pc.sum(pc.starts_with(table["detection_id"], OWN_FILE)).as_py() or 0)
    simulated = is_simulated(workspace, detections.publication.release)
    return Origin(simulated, csc=detections.rows - own, own=own)


def _read_record(destination: Workspace) -> list[Written]:
    """Read the record of `destination`; raise UsageError if the file is not such a record."""
    try:
        return [Written(**one) for one in destination.read_json(RECORD)]
    except MissingFileError:
        raise
    except (RaypipeError, TypeError) as error:
        raise UsageError(
            f"{destination.absolute_uri(RECORD)}: not a record of exports ({error}); move it away "
            "with the files beside it, or choose another folder by --out"
        ) from error


def _some(names: set[str]) -> str:
    """Join up to three names, and count the others."""
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} others"


def _summarize_table(content: Content) -> TableSummary:
    classes, flags = Counter[str](), Counter[str]()
    wanted = [name for name in ("class", "flags") if name in content.schema.names]
    for table in content.tables(wanted):
        if "class" in wanted:
            classes.update(name or "none" for name in table["class"].to_pylist())
        if "flags" in wanted:
            texts = table["flags"].to_pylist()
            flags.update(flag for text in texts if text for flag in text.split("|"))
    return TableSummary(
        rows=content.rows,
        classes=dict(sorted(classes.items())),
        flags=dict(sorted(flags.items())),
        columns=[_column(field) for field in content.schema],
    )


def _column(field: pa.Field) -> tuple[str, str, str, str, str]:
    metadata = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()}
    kind = f"{field.type.value_type}[{field.type.list_size}]" if is_vector(field.type) else ""
    return (
        field.name,
        kind or str(field.type),
        metadata.get("unit", ""),
        metadata.get("ucd", ""),
        metadata.get("description", ""),
    )
