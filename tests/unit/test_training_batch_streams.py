"""Spectra in memory and read anew: the same rows, in little memory, in an order of the seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from raypipe.config import ModelConfig, TrainConfig
from raypipe.errors import RaypipeError
from raypipe.model.features import Batch, prepare
from raypipe.model.presets import build
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.layout import part_name
from raypipe.store.workspace import Workspace
from raypipe.training.batch_streams import FileStream, ResidentStream
from raypipe.training.compact import CompactSpectra, compact_area, compact_counts
from raypipe.training.data import Roster
from raypipe.training.data_placement import open_stream
from raypipe.training.reading import PartReader
from tests.unit.model_spectra import power_laws
from tests.unit.synthetic_workspace import RELEASE, make_workspace

CPU = torch.device("cpu")
ROWS, PART_ROWS, WINDOW, SHARE = 120, 13, 30, 7


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Spectra in parts of 13 rows, the last row the most exposed, so that rows tell themselves."""
    made = make_workspace(tmp_path_factory.mktemp("w"), ROWS, presets=()).workspace
    table = made.read_table(part_name(f"spectra/{RELEASE}", 0))
    exposure = pa.array(np.arange(1.0, ROWS + 1.0))
    table = table.set_column(table.column_names.index("exposure_s"), "exposure_s", exposure)
    for part, start in enumerate(range(0, ROWS, PART_ROWS)):
        made.write_table(part_name("spectra/parts", part), table.slice(start, PART_ROWS))
    return made


@pytest.fixture
def roster(workspace: Workspace) -> Roster:
    files = workspace.files("spectra/parts", ".parquet")
    table = workspace.read_folder("spectra/parts", ["detection_id"])
    return Roster(
        detection_ids=np.array(table["detection_id"].to_pylist(), dtype=object),
        names=table["detection_id"],
        keys=np.arange(ROWS),
        labels=np.full(ROWS, None, dtype=object),
        split=np.full(ROWS, "train"),
        usable=np.ones(ROWS, bool),
        part=(np.arange(ROWS) // PART_ROWS).astype(np.int32),
        files=files,
        fingerprint="0",
    )


@pytest.fixture
def reader(workspace: Workspace, roster: Roster) -> PartReader:
    return PartReader(workspace, roster, CPU)


def _identity(batch: Batch) -> list[int]:
    return [round(value) - 1 for value in batch.exposure_s.tolist()]


def test_compact_spectra_say_what_whole_ones_do(workspace: Workspace, reader: PartReader) -> None:
    rows = np.arange(5, 90)
    table = workspace.read_folder("spectra/parts").slice(5, 85)
    whole = prepare(SpectraBatch.from_table(table, ResponseLibrary(workspace)))
    compact = reader.read(rows).take(torch.arange(85))
    for name in "counts", "background", "background_variance", "background_scale", "exposure_s":
        assert torch.equal(getattr(compact, name), getattr(whole, name)), name
    assert torch.allclose(compact.arf_cm2, whole.arf_cm2, rtol=5e-4, atol=1e-6)
    folded = [each.responses[each.response_index] for each in (compact, whole)]
    assert torch.equal(*folded)


def test_areas_in_half_precision_hardly_change_a_loss() -> None:
    spectra, _ = power_laws(200)
    torch.manual_seed(0)
    network = build(ModelConfig(width=16, depth=1, heads=2, decoder_width=32), EnergyGrid()).eval()
    whole = prepare(spectra)
    rounded = replace(whole, arf_cm2=compact_area(whole.arf_cm2).float())
    with torch.no_grad():
        losses, others = (network(batch, batch)[0] for batch in (whole, rounded))
    assert not torch.equal(losses, others)
    assert torch.allclose(losses, others, rtol=1e-4)


def test_a_row_is_small(reader: PartReader) -> None:
    spectra = reader.read(np.arange(ROWS))
    assert spectra.row_bytes == 2 * 256 * 2 + 810 * 2 + 3 * 4


def test_what_is_too_large_for_small_numbers_keeps_its_own() -> None:
    assert compact_counts(torch.tensor([32_767])).dtype == torch.int16
    assert compact_counts(torch.tensor([32_768])).tolist() == [32_768]
    assert compact_area(torch.tensor([65_000.0])).tolist() == [65_000.0]


def test_pieces_of_different_width_join(reader: PartReader) -> None:
    small, bright = reader.read(np.arange(3)), reader.read(np.arange(3))
    counts = bright.counts.int() + 40_000
    bright = CompactSpectra(**{**vars(bright), "counts": counts})
    joined = CompactSpectra.join([small, bright], small.responses, small.axes)
    assert joined.counts.dtype == torch.int32
    assert torch.equal(joined.counts[3:], counts)
    assert len(joined) == 6


def test_a_worker_reads_only_the_parts_that_hold_its_rows(
    workspace: Workspace, roster: Roster, tmp_path: Path
) -> None:
    files = [*roster.files[:2], *["spectra/parts/not-there.parquet"] * (len(roster.files) - 2)]
    reader = PartReader(workspace, Roster(**{**vars(roster), "files": files}), CPU)
    assert len(reader.read(np.arange(3, 2 * PART_ROWS))) == 2 * PART_ROWS - 3
    with pytest.raises(RaypipeError, match="not-there"):
        reader.read(np.arange(2 * PART_ROWS, ROWS))


def test_a_row_that_is_gone_or_not_finite_is_an_error(
    workspace: Workspace, roster: Roster, tmp_path: Path
) -> None:
    other = Workspace(tmp_path)
    table = workspace.read_table(roster.files[0])
    place = table.column_names.index("exposure_s")
    exposure = table["exposure_s"].to_numpy().copy()
    exposure[4] = np.nan
    for name in workspace.files("responses", ".parquet"):
        other.write_bytes(name, workspace.read_bytes(name))
    other.write_table(roster.files[0], table.set_column(place, "exposure_s", pa.array(exposure)))
    reader = PartReader(other, roster, CPU)
    with pytest.raises(RaypipeError, match=f"exposure_s of {roster.detection_ids[4]} is not"):
        reader.read(np.arange(PART_ROWS))
    for name in workspace.files("responses", ".parquet"):
        other.write_bytes(name, workspace.read_bytes(name))
    other.write_table(roster.files[0], table.slice(1))
    with pytest.raises(RaypipeError, match="has changed"):
        reader.read(np.arange(PART_ROWS))


def test_all_spectra_once_in_order(reader: PartReader) -> None:
    rows = np.arange(3, 110)
    for stream in ResidentStream(reader.read(rows)), FileStream(reader, rows, WINDOW):
        seen = [(places, batch) for places, batch in stream.sweep()]
        assert torch.equal(torch.cat([p for p, _ in seen]), torch.arange(len(rows)))
        assert [i for _, batch in seen for i in _identity(batch)] == rows.tolist()


def test_steps_of_both_streams(reader: PartReader) -> None:
    rows = np.arange(3, 110)
    count = len(rows) // SHARE
    for stream in ResidentStream(reader.read(rows)), FileStream(reader, rows, WINDOW):
        orders = []
        for seed in 0, 0, 1:
            batches = list(stream.steps(count, SHARE, seed))
            assert [len(batch) for _, batch in batches] == [SHARE] * count
            assert all(_identity(batch) == rows[p].tolist() for p, batch in batches)
            orders.append([i for _, batch in batches for i in _identity(batch)])
        assert orders[0] == orders[1] != orders[2]
        assert len(set(orders[0])) == count * SHARE
        assert sorted(orders[0]) != orders[0]


def test_a_stream_holds_two_windows_at_most(
    reader: PartReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are read while those before are used, and never more than that."""
    asked: list[int] = []
    read = PartReader.read

    def counted(self: PartReader, rows: np.ndarray) -> CompactSpectra:
        asked.append(len(rows))
        return read(self, rows)

    monkeypatch.setattr(PartReader, "read", counted)
    stream = FileStream(reader, np.arange(ROWS), WINDOW)
    used = 0
    for _, batch in stream.steps(ROWS // SHARE, SHARE, 0):
        used += len(batch)
        assert sum(asked) - used <= 2 * (WINDOW + PART_ROWS) + SHARE
    assert max(asked) < WINDOW + PART_ROWS < ROWS
    assert sum(asked) == ROWS


def test_spectra_stay_where_they_fit(reader: PartReader, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = [np.arange(80), np.arange(80, 100)]
    placement, streams = open_stream(reader, shares, TrainConfig(), 1)
    assert placement.name == "resident"
    assert [type(stream) for stream in streams] == [ResidentStream, ResidentStream]
    assert "those of the first worker take 0.3 MB" in placement.text
    needed = placement.row_bytes * 100
    for room, name in (needed, "resident"), (needed - 1, "stream"):
        monkeypatch.setattr("raypipe.training.data_placement._free_bytes", lambda *_, r=room: 2 * r)
        assert open_stream(reader, shares, TrainConfig(), 1)[0].name == name
    forced, streams = open_stream(reader, shares, TrainConfig(data="stream", stream_rows=9), 1)
    assert forced.name == "stream"
    assert isinstance(streams[0], FileStream)
    assert streams[0].window == 9
    assert [len(stream) for stream in streams] == [80, 20]


def test_no_spectra_to_validate(reader: PartReader) -> None:
    nothing = np.arange(0)
    for stream in ResidentStream(reader.read(nothing)), FileStream(reader, nothing, WINDOW):
        assert len(stream) == 0
        assert sum(len(batch) for _, batch in stream.sweep()) == 0
