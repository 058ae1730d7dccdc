"""Find rows that the same model has measured before from the same spectra."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pyarrow as pa

from raypipe.store.layout import catalog_folder
from raypipe.store.publication import find_publication
from raypipe.store.workspace import Workspace

RECIPE = "recipe_sha256"
"""Metadata key of a catalog part: a hash of everything beside spectra that determines its rows."""
ROW_KEYS = "row_keys"
"""Metadata key of a catalog part: `CONTENT` of the spectra of its rows, a JSON list."""
CONTENT = "content_sha256"
"""Column of spectra with the hash of everything that a model sees of a detection."""

_PART = re.compile(r"/part-(\d+)-\w+\.parquet$")


@dataclass(frozen=True)
class CachedRows:
    """Hold rows measured before, and the position of each key among them."""

    table: pa.Table
    rows: dict[str, int]

    def take(self, keys: list[str]) -> pa.Table:
        """Return the rows of these keys, in their order; all of them must be cached."""
        return self.table.take(pa.array([self.rows[key] for key in keys], pa.int64()))


class RowCache:
    """Find rows of a release's detections in the catalogs that a model made of any release.

    It reads parts of this release, published or not, and published parts of other releases. A hash
    assigns detections to parts, and numbers of parts are powers of two: a detection of part i can
    only be in those parts of another release that equal i modulo the smaller number of parts.
    """

    def __init__(
        self, workspace: Workspace, release: str, model_id: str, parts: int, recipe: str
    ) -> None:
        self._workspace, self._recipe = workspace, recipe
        self._names: dict[int, list[str]] = {part: [] for part in range(parts)}
        for name in workspace.files(catalog_folder(release, model_id), ".parquet"):
            if match := _PART.search(name):
                self._names.setdefault(int(match[1]), []).append(name)
        for other in workspace.folders("catalog"):
            publication = find_publication(workspace, other, model_id)
            if other != release and publication is not None:
                common = min(parts, len(publication.parts))
                for part in range(parts):
                    self._names[part] += publication.parts[part % common :: common]

    def has(self, part: int) -> bool:
        """Tell whether any part of a catalog may hold rows of a part."""
        return bool(self._names.get(part))

    def of(self, part: int) -> CachedRows:
        """Return the rows of a part that were measured with the same recipe."""
        tables: list[pa.Table] = []
        rows: dict[str, int] = {}
        for name in self._names[part]:
            metadata = self._workspace.read_metadata(name)
            if metadata.get(RECIPE) == self._recipe:
                held = sum(table.num_rows for table in tables)
                keys = json.loads(metadata[ROW_KEYS])
                rows |= {key: held + i for i, key in enumerate(keys)}
                tables.append(self._workspace.read_table(name).replace_schema_metadata(None))
        nothing = pa.table({})
        table = pa.concat_tables(tables, promote_options="permissive") if tables else nothing
        return CachedRows(table, rows)
