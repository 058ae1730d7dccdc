"""Write HATS: Parquet files by HEALPix pixel, which LSDB opens, searches and cross-matches.

Pixels are divided until none has more than a number of rows; rows of a pixel are sorted by their
HEALPix index of order 29. Rows without a position have no pixel and are left out.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypipe._version import __version__
from raypipe.errors import UsageError
from raypipe.exporting.formats.content import CITATION, Content
from raypipe.exporting.formats.nested import NestedDetections
from raypipe.exporting.formats.packing import measure
from raypipe.exporting.formats.parquet import voparquet_metadata
from raypipe.store.hash_partitioner import BUCKETS, HashPartitioner

if TYPE_CHECKING:
    from hats.pixel_math.healpix_pixel import HealpixPixel

IntArray = npt.NDArray[np.int64]

_ORDER = 7
"""HEALPix order of the smallest partition, half a degree wide."""

_MAP_ORDER = 5
"""HEALPix order of the map of the number of rows."""


def require_hats() -> None:
    """Raise UsageError if the package hats is not installed."""
    try:
        import hats  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--format hats needs the package hats, which is not installed: "
            "pip install 'raypipe[hats]'"
        ) from error


def write_hats(content: Content, folder: Path, partition_rows: int) -> int:
    """Write the table as a HATS catalog and return the number of rows that it lacks.

    Rows of sources have their detections in a nested column (`nested.NESTED`), which the VOTable in
    the metadata cannot describe.

    A partition has at most `partition_rows` rows, or those of one pixel of order 7 if these are
    more. Raises UsageError if hats is not installed, or if no row has a position.
    """
    require_hats()
    from hats.io.parquet_metadata import write_parquet_metadata

    histogram = _histogram(content)
    if not histogram.any():
        raise UsageError(
            f"no row of the {content.table} has ra and dec, which HATS needs: "
            "export fits, votable or parquet"
        )
    pixels, place = _align(histogram, partition_rows)
    index = pa.field("_healpix_29", pa.int64(), nullable=False)
    schema = content.schema.insert(0, index)
    metadata = voparquet_metadata(content, schema, measure(content))
    tables = content.tables()
    if content.table == "sources":
        nested = NestedDetections.of(content)
        schema, tables = schema.append(nested.field), nested.beside(tables)
    schema = schema.with_metadata(metadata)
    scratch = folder / ".scratch"
    partitioner = HashPartitioner(scratch)
    for table in tables:
        placed = _with_index(table, index)
        partitioner.add(placed, place[_coarser(placed, _ORDER)].astype(np.uint64))
    for share in partitioner.shares(BUCKETS):
        rows = pa.concat_tables(share) if share else pa.table({})
        if rows.num_rows:
            _write_partitions(rows.sort_by("_healpix_29"), pixels, place, schema, folder)
    shutil.rmtree(scratch, ignore_errors=True)
    write_parquet_metadata(folder)
    _describe(content, folder, pixels, histogram)
    return content.rows - int(histogram.sum())


def _histogram(content: Content) -> IntArray:
    """Count the rows in each pixel of the finest partitions."""
    from hats.pixel_math.partition_stats import empty_histogram, generate_histogram

    histogram = empty_histogram(_ORDER)
    if {"ra", "dec"} <= set(content.schema.names):
        for table in content.tables(["ra", "dec"]):
            histogram += generate_histogram(table.filter(_is_placed(table)).to_pandas(), _ORDER)
    return np.asarray(histogram)


def _align(histogram: IntArray, partition_rows: int) -> tuple[list[HealpixPixel], IntArray]:
    """Choose the partitions; return them, and the number of the partition of each fine pixel."""
    from hats.pixel_math import HealpixPixel
    from hats.pixel_math.partition_stats import generate_alignment

    threshold = max(partition_rows, int(histogram.max()))
    alignment = generate_alignment(histogram, highest_order=_ORDER, threshold=threshold)
    numbers: dict[HealpixPixel, int] = {}
    place = np.zeros(len(histogram), np.int64)
    for fine in np.flatnonzero(histogram):
        order, pixel, _ = alignment[fine]
        place[fine] = numbers.setdefault(HealpixPixel(int(order), int(pixel)), len(numbers))
    return list(numbers), place


def _with_index(table: pa.Table, index: pa.Field) -> pa.Table:
    """Select the rows with a position, with their HEALPix index of order 29 as first column."""
    from hats.pixel_math.spatial_index import compute_spatial_index

    rows = table.filter(_is_placed(table))
    values = compute_spatial_index(rows["ra"].to_numpy(), rows["dec"].to_numpy())
    return rows.add_column(0, index, pa.array(values, pa.int64()))


def _is_placed(table: pa.Table) -> pa.ChunkedArray:
    dec = pc.less_equal(pc.abs(table["dec"]), 90.0)
    return pc.fill_null(pc.and_(pc.is_finite(table["ra"]), dec), False)


def _coarser(rows: pa.Table, order: int) -> IntArray:
    from hats.pixel_math.spatial_index import spatial_index_to_healpix

    return np.asarray(spatial_index_to_healpix(rows["_healpix_29"].to_numpy(), order))


def _write_partitions(
    rows: pa.Table, pixels: list[HealpixPixel], place: IntArray, schema: pa.Schema, folder: Path
) -> None:
    """Write the partitions of these rows, which are sorted by their index."""
    from hats.io.file_io.file_io import get_parquet_write_table_kwargs
    from hats.io.paths import pixel_catalog_file

    options: dict[str, Any] = get_parquet_write_table_kwargs(schema) | {"write_page_checksum": True}
    numbers = place[_coarser(rows, _ORDER)]
    for number in np.unique(numbers):
        path = Path(str(pixel_catalog_file(folder, pixels[number])))
        path.parent.mkdir(parents=True, exist_ok=True)
        own = rows.filter(pa.array(numbers == number)).cast(schema)
        pq.write_table(own, path, **options)


def _describe(
    content: Content, folder: Path, pixels: list[HealpixPixel], histogram: IntArray
) -> None:
    """Write the list of partitions, the map of the sky, and the properties."""
    from hats.catalog.dataset.table_properties import TableProperties
    from hats.catalog.partition_info import PartitionInfo
    from hats.io.skymap import write_skymap
    from hats.pixel_math.healpix_pixel_function import sort_pixels

    partitions = PartitionInfo.from_healpix(sort_pixels(pixels))
    partitions.write_to_file(catalog_path=folder)
    coarse = histogram.reshape(-1, 4 ** (_ORDER - _MAP_ORDER)).sum(axis=1)
    write_skymap(coarse, folder)
    own = content.publication
    provenance = TableProperties.new_provenance_dict(
        folder,
        builder=f"raypipe v{__version__}",
        obs_title=f"Latent catalog of X-ray spectra, {content.table}",
        obs_description=f"{content.table} of {own.release} by {own.model_id}",
        bib_reference=CITATION,
        **{f"raypipe_{fact.name}": str(fact.value) for fact in content.facts},
    )
    TableProperties(
        catalog_name=f"{own.release}_{own.model_id}_{content.table}",
        catalog_type="source" if content.table == "detections" else "object",
        total_rows=int(histogram.sum()),
        ra_column="ra",
        dec_column="dec",
        healpix_column="_healpix_29",
        healpix_order=29,
        skymap_order=_MAP_ORDER,
        moc_sky_fraction=partitions.calculate_fractional_coverage(),
        **provenance,
    ).to_properties_file(folder)
