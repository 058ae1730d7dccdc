"""What there is to say of exports: what made them, which files there are, columns and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pyarrow as pa

from raypipe.catalog.formats.content import Content, Fact, is_vector
from raypipe.catalog.publication import Publication
from raypipe.workspace import Workspace

RECORD = "exports.json"
"""File beside the exports that says of each what it holds."""


@dataclass(frozen=True)
class Written:
    """An export that was written: its name, and what is in it."""

    name: str
    format: str
    table: str
    rows: int
    rows_left_out: int
    columns_left_out: tuple[str, ...]
    facts: Mapping[str, str | int]

    @classmethod
    def of(cls, content: Content, format: str, name: str, rows_left_out: int) -> Written:
        """The record of a content that was written."""
        return cls(
            name=name,
            format=format,
            table=content.table,
            rows=content.rows - rows_left_out,
            rows_left_out=rows_left_out,
            columns_left_out=content.left_out,
            facts={fact.name: fact.value for fact in content.facts},
        )

    @property
    def notes(self) -> list[str]:
        """What the catalog has and the export has not."""
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
    """Of detections or sources: number, counts by class and by flag, columns."""

    rows: int
    classes: Mapping[str, int]
    flags: Mapping[str, int]
    columns: list[tuple[str, str, str, str, str]]


@dataclass(frozen=True)
class Summary:
    """All of it."""

    publication: Publication
    facts: list[Fact]
    files: list[Written]
    tables: Mapping[str, TableSummary]


def summarize(
    workspace: Workspace, publication: Publication, destination: Workspace, new: Written
) -> Summary:
    """The summary of what is in `destination` once `new` is; records that there."""
    known = destination.read_json(RECORD) if destination.exists(RECORD) else []
    files = [Written(**one) for one in known if one["name"] != new.name]
    files = [one for one in files if destination.exists(one.name)]
    files = sorted([*files, new], key=lambda one: one.name)
    destination.write_json(RECORD, [asdict(one) for one in files])
    contents = [Content.of(workspace, publication, name) for name in ("detections", "sources")]
    return Summary(
        publication=publication,
        facts=contents[0].facts,
        files=files,
        tables={content.table: _summarize_table(content) for content in contents},
    )


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
