"""What was measured before of the same spectra by the same model, row by row."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.catalog.publication import find_publication
from raypipe.workspace import Workspace, catalog_folder

RECIPE = "recipe_sha256"
"""Key of a catalog part's metadata that says with what, beside the spectra, it was measured."""
ROW_KEYS = "row_keys"
"""Key of a catalog part's metadata with the `row_keys` of its rows, a JSON list."""

_KEY_LENGTH = 16


def row_keys(spectra: pa.Table, sources: npt.NDArray[np.int64]) -> list[str]:
    """A hash of what each row is measured from: its spectrum, and its source `sources` (n,)."""
    contents = spectra["content_sha256"].to_pylist()
    texts = (f"{one}|{other}" for one, other in zip(contents, sources, strict=True))
    return [hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH] for text in texts]


@dataclass(frozen=True)
class Earlier:
    """Rows measured before, and the place of each key among them."""

    table: pa.Table | None
    rows: dict[str, int]

    def take(self, keys: list[str]) -> pa.Table | None:
        """The rows of these keys, all of which are here, in their order; None without any."""
        if self.table is None or not keys:
            return None
        return self.table.take(pa.array([self.rows[key] for key in keys], pa.int64()))


def earlier_rows(
    workspace: Workspace, release: str, model_id: str, part: int, parts: int, recipe: str
) -> Earlier:
    """What catalogs by the model hold of the detections of a part, measured by the same recipe.

    Parts of this release, published or not, and of other releases' publications: detections are
    in the same part there, where the numbers of parts are the same, for both are powers of two.
    """
    tables, rows = [], dict[str, int]()
    held = 0
    for name in _candidates(workspace, release, model_id, part, parts):
        metadata = workspace.read_metadata(name)
        if metadata.get(RECIPE) != recipe:
            continue
        table = workspace.read_table(name)
        rows |= {key: held + i for i, key in enumerate(json.loads(metadata[ROW_KEYS]))}
        held += table.num_rows
        tables.append(table.replace_schema_metadata(None))
    table = pa.concat_tables(tables, promote_options="permissive") if tables else None
    return Earlier(table, rows)


def _candidates(
    workspace: Workspace, release: str, model_id: str, part: int, parts: int
) -> list[str]:
    own = catalog_folder(release, model_id)
    names = [name for name in workspace.files(own, ".parquet") if part_of(name) == part]
    for other in workspace.folders("catalog"):
        if other == release:
            continue
        publication = find_publication(workspace, other, model_id)
        theirs = publication.parts if publication else ()
        common = min(parts, len(theirs))
        names += [name for name in theirs if part_of(name) % common == part % common]
    return names


def part_of(name: str) -> int:
    """Number of the part that a catalog's file is."""
    return int(name.rsplit("/", 1)[1].split("-")[1])
