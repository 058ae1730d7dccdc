"""A manifest is the same however its rows came together, and whatever went to disk meanwhile."""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.discovery.catalog_join import CatalogJoin
from raypipe.discovery.columns import ColumnTypes, manifest_rows
from raypipe.discovery.discover import discover
from raypipe.discovery.manifest import write_manifest
from raypipe.errors import RaypipeError, UsageError
from raypipe.store.fingerprints import FINGERPRINT, manifest_fingerprint
from raypipe.store.hash_partitioner import BUCKETS, HashPartitioner, remove_leftovers
from raypipe.store.workspace import Workspace

FOLDER = "manifest/r"

values = st.fixed_dictionaries(
    {
        "detection_id": st.integers(0, 40).map(lambda number: f"r:{number}.0.1"),
        "pha_uri": st.sampled_from(["a", "b", "ä"]),
        "count": st.none() | st.integers(-5, 2**53 + 1),
        "flux": st.none() | st.floats(allow_nan=False),
        "flag": st.none() | st.booleans(),
        "kind": st.none() | st.text(max_size=3),
        "name": st.none() | st.sampled_from(["n1", "n2", ""]),
    }
)
TYPES = {
    "count": pa.int64(),
    "flux": pa.float64(),
    "flag": pa.bool_(),
    "kind": pa.string(),
}


def table_of(rows: list[dict[str, Any]], careless: bool) -> pa.Table:
    """Rows as a service gives them: careless about the type of a column without values."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = {}
    for name, column in columns.items():
        empty = careless and all(value is None for value in column)
        arrays[name] = pa.array(column, pa.float64() if empty else TYPES.get(name))
    return manifest_rows(pa.table(arrays))


def published(workspace: Workspace) -> dict[str, tuple[list[Any], pa.Schema, str]]:
    """Rows, columns and fingerprint of each part."""
    answer = {}
    for name in workspace.files(FOLDER, ".parquet"):
        part = workspace.read_table(name)
        bare = part.replace_schema_metadata(None)
        assert manifest_fingerprint(bare) == workspace.read_metadata(name)[FINGERPRINT]
        answer[name] = bare.to_pylist(), bare.schema, workspace.read_metadata(name)[FINGERPRINT]
    return answer


def part_of(identifier: str, parts: int) -> int:
    bare = identifier.split(":")[-1]
    digest = hashlib.blake2b(bare.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % parts


CATALOG = pa.table(
    {
        "name": ["n1", "n1", "n3"],
        "detection_id": ["r:3.0.1", "r:5.0.1", None],
        "class": ["AGN", "NS", "CV"],
        "number": [1, 2, 3],
        "sure": [True, False, True],
        "kind": ["x", "y", "z"],
    }
)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(values, min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    part_rows=st.sampled_from([1, 3, 50]),
    memory=st.sampled_from([0, 2000, 1 << 20]),
    careless=st.booleans(),
    catalog=st.sampled_from([None, CATALOG, CATALOG.drop_columns("detection_id")]),
)
def test_chunks_do_not_show(
    rows: list[dict[str, Any]],
    cuts: list[int],
    part_rows: int,
    memory: int,
    careless: bool,
    catalog: pa.Table | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    chunks = [rows[start:end] for start, end in pairwise(edges)]
    answers: list[tuple[Any, dict[str, Any]]] = []
    for tables, limit in (
        ([table_of(rows, careless)], 1 << 20),
        ([table_of(chunk, careless) for chunk in chunks], memory),
    ):
        workspace = Workspace(tmp_path_factory.mktemp("w"))
        join = CatalogJoin(catalog) if catalog is not None else None
        try:
            summary = write_manifest(
                workspace, "r", tables, part_rows, "here", join=join, memory=limit
            )
            answers.append((summary, published(workspace)))
        except UsageError as error:
            answers.append((str(error), {}))
        assert not list(Path(workspace.path(FOLDER)).glob(".*")), "nothing is left on disk"
    assert answers[0] == answers[1]
    summary, parts = answers[0]
    if isinstance(summary, str):
        assert catalog is not None
        assert "no row of the catalog is a detection" in summary
        return
    assert summary["rows"] == len(rows)
    assert len(parts) == summary["parts"]
    for number, (held, _, _) in enumerate(parts.values()):
        own = [row for row in rows if part_of(row["detection_id"], len(parts)) == number]
        expected = sorted(own, key=lambda row: row["detection_id"])
        columns = [name for name in rows[0] if catalog is None or name not in CATALOG.column_names]
        assert [[row[name] for name in columns] for row in held] == [
            [row[name] for name in columns] for row in expected
        ]


def test_another_order_of_other_detections_is_the_same_manifest(tmp_path: Path) -> None:
    ids = [f"r:{number}.0.1" for number in range(50)]
    tables = [
        table_of([{"detection_id": i, "pha_uri": i} for i in order], False)
        for order in (ids, ids[::-1])
    ]
    first, second = (
        write_manifest(Workspace(tmp_path / str(n)), "r", [table], 9, "here")
        for n, table in enumerate(tables)
    )
    assert first == second
    assert published(Workspace(tmp_path / "0")) == published(Workspace(tmp_path / "1"))


def test_fingerprints_tell_values_columns_and_types_apart() -> None:
    def of(**columns: Any) -> str:
        return manifest_fingerprint(pa.table({name: list(v) for name, v in columns.items()}))

    base = of(a=[1, None, 3], b="xyz")
    others = [
        of(a=[1, None, 4], b="xyz"),
        of(a=[1, 3, None], b="xyz"),
        of(b="xyz"),
        of(a=[1.0, None, 3.0], b="xyz"),
        of(c=[1, None, 3], b="xyz"),
        of(a=[1, 0, 3], b="xyz"),
    ]
    assert len({base, *others}) == 7
    whole = pa.table({"a": [1, None, 3], "b": list("xyz")})
    assert manifest_fingerprint(whole.slice(0, 1)) == of(a=[1], b="x"), "other rows do not matter"


def test_text_and_numbers_in_one_column_are_refused() -> None:
    types = ColumnTypes()
    types.see(pa.table({"gamma": [1.5, None]}))
    types.see(pa.table({"gamma": pa.array([None], pa.string())}))
    with pytest.raises(RaypipeError, match=r"column gamma: double in some rows, .*string in"):
        types.see(pa.table({"gamma": ["steep"]}))


@pytest.mark.parametrize("memory", [0, 1500, 1 << 20])
@pytest.mark.parametrize("count", [1, 4, BUCKETS])
def test_what_is_put_aside_comes_back(memory: int, count: int, tmp_path: Path) -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 300, np.uint64)
    rows = pa.table({"hash": hashes, "number": np.arange(300)})
    partitioner = HashPartitioner(tmp_path / "s", memory)
    for start in range(0, 300, 60):
        chunk = rows.slice(start, 60)
        odd = chunk.append_column("more", pa.array(["x"] * 60)) if start == 60 else chunk
        partitioner.add(odd, hashes[start : start + 60])
    assert (tmp_path / "s").exists() == (memory < 1 << 20)
    came = [
        pa.concat_tables(share, promote_options="default") for share in partitioner.shares(count)
    ]
    for number, share in enumerate(came):
        own = share["hash"].to_numpy()
        assert (own % count == number).all()
        for bucket in range(BUCKETS):
            numbers = share["number"].to_numpy()[own % BUCKETS == bucket]
            assert (np.diff(numbers) > 0).all(), "rows of one hash in the order they came"
    assert sum(len(share) for share in came) == 300
    together = pa.concat_tables(came)
    assert sorted(together["number"].to_pylist()) == list(range(300))
    assert together["more"].null_count == 240


def test_a_disk_that_fills_is_told_and_left_clean(small_disk: Path) -> None:
    noise = [os.urandom(20).hex() for _ in range(20_000)]
    table = manifest_rows(pa.table({"detection_id": noise, "pha_uri": noise}))
    with pytest.raises(RaypipeError, match=r"\.draft-.*cannot be written"):
        write_manifest(Workspace(small_disk), "r", [table], 500, "here", memory=0)
    assert not [path for path in small_disk.rglob("*") if path.is_file()]


def test_what_a_killed_run_left_goes(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "acisf00001_000N001_r0001_pha3.fits.gz").touch()
    left = tmp_path / "w" / "manifest" / "s" / ".draft-12345678"
    left.mkdir(parents=True)
    (left / "0.arrow").touch()
    discover(tmp_path / "w", source=str(tmp_path / "s"))
    assert not left.exists()
    remove_leftovers(Workspace(tmp_path / "absent"), "r")
