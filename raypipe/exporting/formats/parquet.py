"""Write VOParquet: one Parquet file with a VOTable's description of its columns.

The convention is that of the IVOA note "Parquet in the VO" 1.0: a VOTable without DATA in the
file's key-value metadata.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.exporting.formats.content import Content
from raypipe.exporting.formats.packing import Extent, measure
from raypipe.exporting.formats.votable import columns_of, describe_table, to_xml
from raypipe.store.parquet import COMPRESSION

VERSION_KEY = "IVOA.VOTable-Parquet.version"
CONTENT_KEY = "IVOA.VOTable-Parquet.content"

_ASTROPY_WIDTH = "table::len::"
_ROW_GROUP = 65_536


def write_parquet(content: Content, path: Path) -> None:
    """Write the table to a Parquet file, a row group at a time."""
    metadata = voparquet_metadata(content, content.schema, measure(content))
    schema = content.schema.with_metadata(metadata)
    how = {"compression": COMPRESSION, "write_page_checksum": True}
    with pq.ParquetWriter(path, schema, **how) as writer:
        held: list[pa.Table] = []
        for table in content.tables():
            held.append(table)
            if sum(one.num_rows for one in held) >= _ROW_GROUP:
                writer.write_table(pa.concat_tables(held))
                held = []
        if held:
            writer.write_table(pa.concat_tables(held))


def voparquet_metadata(
    content: Content, schema: pa.Schema, extents: dict[str, Extent]
) -> dict[str, str]:
    """Return the key-value metadata of VOParquet for columns of `schema`.

    The width of text stands there as in a VOTable, and once more under the keys of astropy, whose
    reader otherwise fails on text with nulls.
    """
    document = describe_table(content, columns_of(schema, extents))
    widths = {
        f"{_ASTROPY_WIDTH}{field.name}": str(extents[field.name].utf16_width)
        for field in schema
        if pa.types.is_string(field.type)
    }
    return {VERSION_KEY: "1.0", CONTENT_KEY: to_xml(document), **widths}
