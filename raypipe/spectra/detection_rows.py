"""Read the rows of detections from the table of spectra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.store.layout import spectra_folder
from raypipe.store.workspace import Workspace


def iterate_spectra(
    workspace: Workspace, release: str, detection_ids: Sequence[str], columns: list[str]
) -> Iterator[pa.Table]:
    """Yield the rows of these detections in the spectra table, with `detection_id`, per part."""
    wanted = pa.array(list(detection_ids), pa.string())
    for name in workspace.files(spectra_folder(release), ".parquet"):
        identity = workspace.read_table(name, ["detection_id"])
        if pc.any(pc.is_in(identity["detection_id"].cast(pa.string()), wanted)).as_py():
            table = workspace.read_table(name, ["detection_id", *columns])
            yield table.filter(pc.is_in(table["detection_id"].cast(pa.string()), wanted))
