"""One flipped bit in what a workspace holds is an error or changes nothing: never other numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raypipe
from raypipe.catalog.brought_table import read_catalog
from raypipe.catalog.labels import read_labels
from raypipe.config import IngestConfig
from raypipe.errors import RaypipeError, UsageError
from raypipe.ingestion.part import ingest_part
from raypipe.ingestion.progress import parts_to_ingest
from raypipe.model.bundle import load_model
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.layout import model_folder, part_name, spectra_folder
from raypipe.store.publication import require_publication
from raypipe.store.workspace import Workspace
from tests.unit.synthetic_workspace import RELEASE, make_workspace

FLIPS = 60
MENDS = r"run raypipe (ingest|embed) again|train (it|the model) again"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("flips"), detections=24).workspace


def flips(file: Path, seed: int, places: int = FLIPS) -> Iterator[None]:
    """Flip one bit of a file after another, each at a random place, and mend it again."""
    data = file.read_bytes()
    rng = np.random.default_rng(seed)
    try:
        for place, bit in zip(
            rng.integers(len(data), size=places), rng.integers(8, size=places), strict=True
        ):
            changed = bytearray(data)
            changed[place] ^= 1 << int(bit)
            file.write_bytes(changed)
            yield
    finally:
        file.write_bytes(data)


def outcome(read: Callable[[], Any]) -> tuple[str, Any]:
    """The error that reading ends in, or empty text and what is read."""
    try:
        return "", read()
    except RaypipeError as error:
        return str(error), None


def check_flips(file: Path, read: Callable[[], Any], same: Callable[[Any, Any], bool]) -> None:
    """Every flip is an error that names the file and the mend, or what is read is the same."""
    before = read()
    noticed = 0
    for _ in flips(file, seed=15):
        said, after = outcome(read)
        if said:
            assert str(file.parent) in said
            assert re.search(MENDS, said), said
        else:
            assert same(before, after)
        noticed += bool(said)
    assert noticed > FLIPS / 2


def same_table(before: pa.Table, after: pa.Table) -> bool:
    """Whether all is the same, NaN where there was NaN."""
    return before.schema.equals(after.schema, check_metadata=True) and repr(
        before.to_pydict()
    ) == repr(after.to_pydict())


def test_spectra(made: Workspace) -> None:
    name = part_name(spectra_folder(RELEASE), 0)
    check_flips(Path(made.path(name)), lambda: made.read_table(name), same_table)


def test_one_column_of_the_spectra(made: Workspace) -> None:
    name = part_name(spectra_folder(RELEASE), 0)
    before = made.read_table(name, ["counts"])
    for _ in flips(Path(made.path(name)), seed=16):
        said, after = outcome(lambda: made.read_table(name, ["counts"]))
        assert "run raypipe ingest again" in said if said else after.equals(before)


def test_the_catalog(made: Workspace) -> None:
    own = require_publication(made, RELEASE, "folded-test")
    for name in (*own.parts, own.sources):
        check_flips(Path(made.path(name)), lambda name=name: made.read_table(name), same_table)


def test_responses(made: Workspace) -> None:
    (name,) = made.files("responses")
    rmf_id = Path(name).stem
    check_flips(Path(made.path(name)), lambda: ResponseLibrary(made).load(rmf_id), np.array_equal)


@pytest.mark.parametrize("file", ["model.safetensors", "config.toml"])
def test_models(made: Workspace, file: str) -> None:
    folder = made.path(model_folder("folded-test"))

    def numbers() -> list[np.ndarray]:
        model = load_model(folder)
        own = model.population
        network = [value.numpy() for value in model.network.state_dict().values()]
        arrays = [own.weights, own.means, own.precisions_cholesky, own.reference_z]
        keys = [own.reference_class, own.reference_source, model.train_sources]
        texts = [model.model_id, *own.classes, model.config.to_toml(), str(own.temperature)]
        return [*network, *arrays, *keys, model.validation_sources, np.array(texts)]

    def same(before: list[np.ndarray], after: list[np.ndarray]) -> bool:
        return all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))

    check_flips(Path(folder) / file, numbers, same)


def test_all_bytes_of_a_small_file(tmp_path: Path) -> None:
    """Headers of pages and the footer, too, which checksums of pages do not cover."""
    workspace = Workspace(tmp_path)
    table = pa.table(
        {
            "class": ["AGN", None],
            "n": pa.array([7, None], pa.int32()),
            "z": pa.array([[0.5, 1.5], None], pa.list_(pa.float32())),
        }
    )
    workspace.write_tables("t.parquet", [table, table], {"n_channel_bins": "2"})
    before = workspace.read_table("t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    for place in range(0, 8 * len(data), 13):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        (tmp_path / "t.parquet").write_bytes(changed)
        said, after = outcome(lambda: workspace.read_table("t.parquet"))
        assert "t.parquet: damaged" in said if said else same_table(before, after), place


def test_a_file_without_seal_or_checksums_is_read(tmp_path: Path) -> None:
    """As raypipe wrote them first, and other programs write them."""
    lists = pa.array([[1.0], None], pa.list_(pa.field("element", pa.float64())))
    table = pa.table({"a": [1, 2], "b": lists}).replace_schema_metadata({"k": "v"})
    pq.write_table(table, tmp_path / "old.parquet")
    workspace = Workspace(tmp_path)
    assert workspace.read_table("old.parquet").equals(table, check_metadata=True)
    assert workspace.read_metadata("old.parquet") == {"k": "v"}
    footer = workspace.read_footer("old.parquet")
    assert footer is not None
    assert footer.rows == 2


def test_what_the_error_says_mends_the_file(tmp_path: Path) -> None:
    """A damaged part of the spectra and a damaged response are made again as they were."""
    raypipe.simulate(tmp_path / "survey", detections=12, seed=2)
    workspace = Workspace(tmp_path / "w")
    raypipe.discover(workspace, source=str(tmp_path / "survey"))
    config = IngestConfig()
    ingest_part(workspace, "sim", 0, config)
    name = part_name(spectra_folder("sim"), 0)
    before = workspace.read_table(name)
    rmf_id = before["rmf_id"][0].as_py()
    response = ResponseLibrary(workspace).load(rmf_id)
    for damaged, read in (
        (name, lambda: workspace.read_table(name)),
        (f"responses/{rmf_id}.parquet", lambda: ResponseLibrary(workspace).load(rmf_id)),
    ):
        data = bytearray(workspace.read_bytes(damaged))
        data[len(data) // 2] ^= 16
        workspace.write_bytes(damaged, bytes(data))
        said, _ = outcome(read)
        assert said.startswith(workspace.absolute_uri(damaged))
        assert said.endswith("run raypipe ingest again")
        workspace.delete(damaged)
        workspace.delete(name)
        assert parts_to_ingest(workspace, "sim", config) == [0]
        ingest_part(workspace, "sim", 0, config)
        assert same_table(before, workspace.read_table(name))
        again = ResponseLibrary(workspace).load(rmf_id)
        assert np.array_equal(response.redistribution, again.redistribution)


def test_all_kinds_of_columns_come_back(tmp_path: Path) -> None:
    """What is read is counted against the footer, which must not refuse what is whole."""
    fields = {
        "text": pa.array(["a", None, "", "b"]).dictionary_encode(),
        "lists": pa.array([[1], [], None, [2, None]], pa.list_(pa.int64())),
        "lists of lists": pa.array(
            [[[1.0], []], None, [None], []], pa.list_(pa.list_(pa.float64()))
        ),
        "fixed": pa.array([[1, 2], None, [None, 3], [4, 5]], pa.list_(pa.int32(), 2)),
        "pair.x": pa.array([{"x": 1, "y": None}, None, {"x": None, "y": 2}, {"x": 3, "y": 4}]),
        "one": pa.array([{"x": None}, None, {"x": 2}, {"x": 3}]),
        "nothing": pa.nulls(4),
        "nan": pa.array([np.nan, None, 1.0, np.inf]),
        "truth": pa.array([True, None, False, None]),
    }
    table = pa.Table.from_arrays(
        [*fields.values(), fields["nan"], fields["truth"]], names=[*fields, "twice", "twice"]
    )
    workspace = Workspace(tmp_path)
    workspace.write_tables("all.parquet", [table, table.slice(1, 2), table.slice(0, 0)])
    whole = pa.concat_tables([table, table.slice(1, 2)])
    assert str(workspace.read_table("all.parquet").to_pylist()) == str(whole.to_pylist())
    for name in fields:
        read = workspace.read_table("all.parquet", [name])
        assert str(read[name].to_pylist()) == str(whole[name].to_pylist())
    workspace.write_table("none.parquet", table.slice(0, 0))
    assert workspace.read_table("none.parquet").num_rows == 0


def test_other_programs_read_sealed_files(made: Workspace) -> None:
    name = part_name(spectra_folder(RELEASE), 0)
    assert pq.read_table(made.path(name)).equals(made.read_table(name))
    assert len(pd.read_parquet(made.path(name))) == 24


def test_catalogs_and_labels_of_others(tmp_path: Path) -> None:
    """Their pages are checked where they carry checksums."""
    rows = 400
    counts = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(rows * 1024, np.float32)), 1024)
    table = pa.table(
        {"name": [str(i) for i in range(rows)], "class": ["AGN"] * rows, "model_counts": counts}
    )
    file = tmp_path / "labels.parquet"
    how = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(table, file, **how)
    data = bytearray(file.read_bytes())
    for column, read in ((1, read_catalog), (2, read_labels)):
        chunk = pq.read_metadata(file).row_group(0).column(column)
        changed = data.copy()
        changed[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 1
        (tmp_path / "changed.parquet").write_bytes(changed)
        with pytest.raises((UsageError, OSError), match="CRC checksum"):
            read(tmp_path / "changed.parquet")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_files_cut_short_say_so_in_every_verb(tmp_path: Path, kept: float) -> None:
    """JSON and Parquet, whichever verb reads them: the file and the mend."""
    workspace = make_workspace(tmp_path, detections=8).workspace
    own = require_publication(workspace, RELEASE, "folded-test")
    export = partial(raypipe.export, format="fits")
    readers: dict[str, Sequence[Callable[[Workspace], Any]]] = {
        "manifest/sim/manifest.json": (raypipe.report,),
        own.name: (raypipe.open_catalog, raypipe.open_sources, raypipe.evaluate, export),
        own.parts[0]: (raypipe.open_catalog, raypipe.evaluate, raypipe.report, export),
        own.sources: (raypipe.open_sources, export),
        part_name(spectra_folder(RELEASE), 0): (raypipe.status, raypipe.evaluate, raypipe.report),
        f"{model_folder('folded-test')}/metrics.json": (raypipe.report, raypipe.evaluate, export),
        f"{model_folder('folded-test')}/config.toml": (raypipe.report, raypipe.evaluate),
    }
    for name, verbs in readers.items():
        file = Path(workspace.path(name))
        whole = file.read_bytes()
        file.write_bytes(whole[: int(kept * len(whole))])
        for verb in verbs:
            said, _ = outcome(partial(verb, workspace))
            assert str(file.parent) in said, (name, verb)
            assert "again" in said
        file.write_bytes(whole)
