"""Write README.md, index.html and CITATION.cff beside exports: origin, opening, citing."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from raypipe._version import __version__
from raypipe.exporting.citation import FILE as CITATION_FILE
from raypipe.exporting.citation import METHOD, citation_file
from raypipe.exporting.export_summary import Summary, TableSummary, Written
from raypipe.html.page import (
    Html,
    cards,
    count_of,
    details,
    heading,
    join,
    number_cell,
    page,
    paragraph,
    preformatted,
    section,
    table,
    text_cell,
)
from raypipe.store.workspace import Workspace

_OPENERS = {
    "fits": (
        ("TOPCAT", "topcat {0}"),
        ("astropy", 'Table.read("{0}")  # from astropy.table import Table'),
    ),
    "votable": (
        ("TOPCAT", "topcat {0}"),
        ("astropy", 'Table.read("{0}")  # or astropy.io.votable.parse("{0}")'),
    ),
    "parquet": (
        ("pandas", 'pandas.read_parquet("{0}")'),
        ("astropy", 'Table.read("{0}", format="parquet.votable")'),
        ("TOPCAT", "topcat {0}  # with its libraries for Parquet"),
    ),
    "hats": (
        ("LSDB", 'lsdb.open_catalog("{0}").cone_search(ra=10.7, dec=41.3, radius_arcsec=600)'),
        ("LSDB", 'lsdb.open_catalog("{0}")  # or its URL on a web server or in a bucket'),
        ("pandas", 'pandas.read_parquet("{0}/dataset")'),
    ),
}
_COLUMN_HEADERS = ("column", "type", "unit", "UCD", "description")
_NULLS = (
    "All formats have the same numbers. A missing value is NaN, TNULL or empty text in FITS, and "
    "null or NaN in the others. FITS escapes characters beyond ASCII, such as \\xe9."
)
_CITE = f"Please cite raypipe and the method it builds on: {METHOD}. CITATION.cff lists them."


def describe_export(destination: Workspace, summary: Summary) -> None:
    """Write README.md, index.html and CITATION.cff beside the exports."""
    citation = citation_file(summary.publication, summary.origin)
    destination.write_bytes(CITATION_FILE, citation.encode())
    destination.write_bytes("README.md", readme(summary).encode())
    destination.write_bytes("index.html", index_page(summary).encode())


def readme(summary: Summary) -> str:
    """Format the summary in Markdown."""
    own = summary.publication
    parts = [
        f"# {_title(summary)}",
        _lead(summary),
        "## Files",
        _rows(("file", "rows", "publication", "notes"), map(_file_row, summary.files)),
        _NULLS,
        "## Opening them",
        *(
            "\n".join(f"* {tool}: `{line}`" for tool, line in _opening(written))
            for written in summary.files
        ),
        "## What made it",
        _rows(("", "", ""), ((f.name, f.value, f.meaning) for f in summary.facts)),
        "## Counts",
        f"{count_of(own.rows, 'detection')} of {count_of(own.source_rows, 'source')}.",
    ]
    for title, counts in _counts(summary):
        parts += [f"### {title}", _rows(("", "detections", "sources"), counts)]
    for name, own_table in summary.tables.items():
        parts += [f"## Columns of the {name}", _rows(_COLUMN_HEADERS, own_table.columns)]
    origin = summary.origin
    parts += ["## Citing", _CITE, "## Data, license and acknowledgment", origin.data, origin.terms]
    return "\n\n".join(parts) + "\n"


def index_page(summary: Summary) -> Html:
    """Format the summary as an HTML page."""
    own = summary.publication
    numbers = cards(
        [
            ("detections", f"{own.rows:,}", f"release {own.release}"),
            ("sources", f"{own.source_rows:,}", "all detections of a name combined"),
            ("model", own.model_id, f"publication {own.number}, {own.published[:10]}"),
        ]
    )
    files = table(
        ("file", "rows", "publication", "notes"),
        ([*map(text_cell, _file_row(one))] for one in summary.files),
    )
    opening = "\n\n".join(
        "\n".join(f"{tool:<8} {line}" for tool, line in _opening(written))
        for written in summary.files
    )
    facts = ([text_cell(f.name), text_cell(f.value), text_cell(f.meaning)] for f in summary.facts)
    sections = [
        ("files", "Files", section("files", "Files", files, paragraph(_NULLS, "note"))),
        ("open", "Opening them", section("open", "Opening them", preformatted(opening))),
        ("counts", "Counts", section("counts", "Counts", *map(_count_table, _counts(summary)))),
        ("columns", "Columns", _column_section(summary.tables)),
        ("made", "What made it", section("made", "What made it", table(("", "", ""), facts))),
        (
            "cite",
            "Citing",
            section(
                "cite",
                "Citing",
                paragraph(_CITE),
                heading("Data, license and acknowledgment"),
                paragraph(f"{summary.origin.data} {summary.origin.terms}"),
            ),
        ),
    ]
    sections[0] = ("files", "Files", join([numbers, sections[0][2]]))
    return page(_title(summary), _lead(summary), sections, f"Written by raypipe {__version__}.")


def _title(summary: Summary) -> str:
    return f"Latent catalog of X-ray spectra: {summary.publication.release}"


def _lead(summary: Summary) -> str:
    return (
        "Eight numbers per detection, with errors, that describe its spectrum with the response of "
        f"the instrument removed, by the model {summary.publication.model_id} of raypipe."
    )


def _file_row(written: Written) -> tuple[str, str, str, str]:
    notes = [*([f"coverage in {written.moc}"] if written.moc else []), *written.notes]
    return (
        written.name,
        f"{written.rows:,}",
        str(written.facts["publication"]),
        "; ".join(notes),
    )


def _opening(written: Written) -> list[tuple[str, str]]:
    return [(tool, line.format(written.name)) for tool, line in _OPENERS[written.format]]


def _counts(summary: Summary) -> list[tuple[str, list[tuple[str, int, int]]]]:
    """Count detections and sources of each class and of each flag."""
    detections, sources = summary.tables["detections"], summary.tables["sources"]
    pairs = [
        ("By class", detections.classes, sources.classes),
        ("By flag", detections.flags, sources.flags),
    ]
    return [
        (title, [(name, first[name], second.get(name, 0)) for name in first])
        for title, first, second in pairs
        if first
    ]


def _count_table(counts: tuple[str, list[tuple[str, int, int]]]) -> Html:
    title, rows = counts
    cells = ([text_cell(name), number_cell(a, ",d"), number_cell(b, ",d")] for name, a, b in rows)
    return join([heading(title), table(("", "detections", "sources"), cells, (1, 2))])


def _column_section(tables: Mapping[str, TableSummary]) -> Html:
    shown = {
        name: table(_COLUMN_HEADERS, ([*map(text_cell, column)] for column in own.columns))
        for name, own in tables.items()
    }
    return section(
        "columns",
        "Columns",
        heading("Columns of the detections"),
        shown["detections"],
        details("Columns of the sources", shown["sources"]),
    )


def _rows(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a table in Markdown."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return html.escape(text, quote=False).replace("|", "\\|")
