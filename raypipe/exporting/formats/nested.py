"""Nest the detections of each source into its row: light curves of latents and fluxes.

The column is a struct of lists of the same length, which nested-pandas and LSDB read as a nested
frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.catalog.source_table import by_source
from raypipe.errors import RaypipeError
from raypipe.exporting.formats.content import Content

NESTED = "detections"
"""Name of the nested column."""

_CURVES = re.compile(
    r"detection_id|obsid|obi|region_id|telescope|instrument|mjd_start|mjd_stop|exposure_s"
    r"|total_counts|z\d+(_err|_std)?|(phot)?flux_[usmhb](_lolim|_hilim)?"
    r"|hard_(hs|hm|ms)(_lolim|_hilim)?|cash|fit_zscore|anomaly_score|posterior_ess|flags"
)
"""Columns of the detections that are nested."""

_DESCRIPTION = "detections of the source in order of time, one list per column"


@dataclass(frozen=True)
class NestedDetections:
    """Hold the detections of all sources, those of a source from `starts` (s,) to `ends` (s,)."""

    rows: pa.Table
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, sources: Content) -> NestedDetections:
        """Read the detections of the publication, in the order of its table of sources.

        Within a source they are in order of time; those without one come last.
        """
        content = Content.of(sources.workspace, sources.publication, "detections")
        names = [name for name in content.schema.names if _CURVES.fullmatch(name)]
        table = pa.concat_tables(content.tables([*names, "name"]))
        order, starts = by_source(table)
        sizes = np.diff(np.append(starts, len(order)))
        if "mjd_start" in names:
            times = table["mjd_start"].to_numpy()[order]
            order = order[np.lexsort((times, np.repeat(np.arange(len(sizes)), sizes)))]
        return cls(table.select(names).take(pa.array(order)), starts, starts + sizes)

    @property
    def field(self) -> pa.Field:
        """Return the field of the nested column."""
        kinds = [field.with_type(pa.list_(field.type)) for field in self.rows.schema]
        return pa.field(NESTED, pa.struct(kinds), metadata={"description": _DESCRIPTION})

    def beside(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Append the nested column to the rows of sources, which come in the order of the catalog.

        Raises RaypipeError if the number of detections of a source is not that of its row.
        """
        first = 0
        for table in tables:
            here = slice(first, first + table.num_rows)
            starts, ends = self.starts[here], self.ends[here]
            if not np.array_equal(ends - starts, table["n_detections"].to_numpy()):
                raise RaypipeError(
                    "the table of sources is not that of the detections; run raypipe embed again"
                )
            yield table.append_column(self.field, self._nested(starts, ends))
            first = here.stop

    def _nested(self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> pa.StructArray:
        begin, end = (int(starts[0]), int(ends[-1])) if len(starts) else (0, 0)
        rows = self.rows.slice(begin, end - begin).combine_chunks()
        offsets = pa.array(np.append(starts, end) - begin, pa.int32())
        kind = self.field.type
        lists = [
            pa.ListArray.from_arrays(offsets, _whole(column), type=kind.field(i).type)
            for i, column in enumerate(rows.columns)
        ]
        return pa.StructArray.from_arrays(lists, fields=list(kind))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, also if it has no chunk."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
