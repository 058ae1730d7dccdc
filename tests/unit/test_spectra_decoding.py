"""Rows of the spectra table as arrays, and the files of responses that they name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from raypipe.errors import RaypipeError
from raypipe.model.channel_axes import ChannelAxes
from raypipe.model.features import prepare
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.channel_bins import ChannelBins, Resolution, acis_bins, channel_bins_of
from raypipe.spectra.decoding import SpectraDecoder
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.redistribution import GriddedResponse
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.workspace import Workspace
from raypipe.training.compact import CompactSpectra
from tests.unit.telescopes import made

GRID = EnergyGrid()
ACIS = acis_bins(Resolution((0.006, 0.003, 0.0)))
OTHER = channel_bins_of(made())
"""Bins of a response with 1,200 channels of 10 eV."""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def library(workspace: Workspace) -> ResponseLibrary:
    return ResponseLibrary(workspace)


def _response(bins: ChannelBins, value: float) -> GriddedResponse:
    return GriddedResponse(np.full((GRID.n_energy, len(bins)), value, np.float32), bins)


def _table(library: ResponseLibrary, **changes: pa.Array) -> tuple[pa.Table, list[np.ndarray]]:
    """Six rows through three responses, two of ACIS, in turns; every third has no background."""
    responses = [_response(ACIS, 0.001), _response(OTHER, 0.002), _response(ACIS, 0.003)]
    ids = [library.add(each) for each in responses]
    rng = np.random.default_rng(1)
    counts = [rng.poisson(2, responses[row % 3].bins.n_channels) for row in range(6)]
    kind = pa.list_(pa.int32())
    columns = {
        "counts": pa.array([row.tolist() for row in counts], kind),
        "background_counts": pa.array(
            [None if i % 3 == 2 else (row + 1).tolist() for i, row in enumerate(counts)], kind
        ),
        "background_scale": pa.array([0.1, 0.2, None, 0.4, 0.5, None]),
        "background_scale_by_bin": pa.nulls(6, pa.list_(pa.float32())),
        "exposure_s": pa.array(np.full(6, 1e4)),
        "arf_cm2": pa.array(
            np.full((6, GRID.n_energy), 100.0).tolist(), pa.list_(pa.float32(), GRID.n_energy)
        ),
        "rmf_id": pa.array([ids[row % 3] for row in range(6)]),
    }
    return pa.table(columns | changes), counts


def test_rows_of_mixed_responses_are_binned_each_by_its_own(library: ResponseLibrary) -> None:
    table, counts = _table(library)
    for some in (table, table.slice(2, 3), table.take([5, 0, 4])):
        decoder = SpectraDecoder(library)
        decoded = decoder.decode(some)
        rows = [table.column("counts").to_pylist().index(row.as_py()) for row in some["counts"]]
        for place, (row, bins) in enumerate(zip(rows, decoder.bins_of(decoded), strict=True)):
            assert len(bins) == len(OTHER if row % 3 == 1 else ACIS)
            expected = bins.bin_counts(counts[row])
            background = np.zeros(len(bins)) if row % 3 == 2 else bins.bin_counts(counts[row] + 1)
            assert decoded.counts[place, : len(bins)].tolist() == expected.tolist()
            assert decoded.background_counts[place, : len(bins)].tolist() == background.tolist()
            assert not decoded.counts[place, len(bins) :].any()
    assert SpectraDecoder(library).decode(table.slice(0, 0)).counts.shape == (0, 256)


def test_a_decoder_numbers_responses_as_it_meets_them(library: ResponseLibrary) -> None:
    table, _ = _table(library)
    decoder = SpectraDecoder(library)
    assert decoder.decode(table.slice(1, 2)).response_index.tolist() == [0, 1]
    assert decoder.decode(table).response_index.tolist() == [2, 0, 1, 2, 0, 1]
    assert [len(each.bins) for each in decoder.responses] == [len(OTHER), 256, 256]


def test_a_background_scale_by_bin_comes_back(library: ResponseLibrary) -> None:
    by_bin = np.linspace(0.1, 0.3, len(OTHER)).astype(np.float32)
    cells = [None, by_bin.tolist(), None, None, None, None]
    table, _ = _table(library, background_scale_by_bin=pa.array(cells, pa.list_(pa.float32())))
    batch = prepare(SpectraBatch.from_table(table, library))
    assert batch.background_scale.shape == (6, 256)
    assert batch.background_scale[1, : len(OTHER)].tolist() == by_bin.tolist()
    assert batch.background_scale[0].unique().tolist() == pytest.approx([0.1])
    short = pa.array([None, [0.1], None, None, None, None], pa.list_(pa.float32()))
    with pytest.raises(RaypipeError, match="has 1 background scales, its response"):
        SpectraBatch.from_table(_table(library, background_scale_by_bin=short)[0], library)


def test_scales_of_one_number_join_those_by_bin() -> None:
    def piece(scale: torch.Tensor) -> CompactSpectra:
        rows = torch.zeros(len(scale), 256)
        return CompactSpectra(
            counts=rows,
            background_counts=rows,
            background_scale=scale,
            exposure_s=rows[:, 0],
            arf_cm2=torch.zeros(len(scale), GRID.n_energy),
            response_index=torch.zeros(len(scale), dtype=torch.int32),
            responses=torch.zeros(1, GRID.n_energy, 256),
            axes=ChannelAxes.of([ACIS]),
        )

    pieces = [piece(torch.full((2, 1), 0.5)), piece(torch.full((1, 256), 0.2))]
    joined = CompactSpectra.join(pieces, torch.zeros(1, GRID.n_energy, 256), ChannelAxes.of([ACIS]))
    assert joined.background_scale.shape == (3, 256)
    assert joined.background_scale.mean(1).tolist() == pytest.approx([0.5, 0.5, 0.2])


def test_rows_of_an_earlier_version_are_to_be_ingested_again(library: ResponseLibrary) -> None:
    former = pa.array([[1.0] * 450] * 6, pa.list_(pa.float32(), 450))
    with pytest.raises(RaypipeError, match=r"expected 810 energy bins: .*run raypipe ingest again"):
        SpectraBatch.from_table(_table(library, arf_cm2=former)[0], library)
    other = pa.array([[1] * 1024] * 6, pa.list_(pa.int32()))
    with pytest.raises(
        RaypipeError, match="a spectrum of 1024 channels names a response of 1200: run raypipe"
    ):
        SpectraBatch.from_table(_table(library, counts=other)[0], library)


def test_a_response_comes_back_with_its_bins(
    workspace: Workspace, library: ResponseLibrary
) -> None:
    response = _response(OTHER, 0.01)
    response.redistribution[:100] = 0.0
    rmf_id = library.add(response)
    again = ResponseLibrary(workspace).load(rmf_id)
    assert np.array_equal(again.redistribution, response.redistribution)
    for part, other in zip(again.bins.parts(), OTHER.parts(), strict=True):
        assert np.array_equal(part, other)
    assert (again.bins.n_channels, again.bins.is_acis) == (1200, False)
    assert _response(ACIS, 0.01).rmf_id != _response(OTHER, 0.01).rmf_id


def test_a_response_of_the_former_grid_is_to_be_ingested_again(
    workspace: Workspace, library: ResponseLibrary
) -> None:
    rmf_id = library.add(_response(ACIS, 0.01))
    name = f"responses/{rmf_id}.parquet"
    table = workspace.read_table(name)
    for former in (table.replace_schema_metadata({"n_channel_bins": "256"}), table.slice(0, 450)):
        workspace.write_table(name, former)
        with pytest.raises(RaypipeError, match=r"parquet: made for another energy grid.*ingest"):
            ResponseLibrary(workspace).load(rmf_id)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("is_acis", False, "damaged"),
        ("n_channels", 2000, "damaged"),
        ("n_channels", 100, "not within its channels"),
        ("lo_kev", [0.5], "parts of different lengths"),
        ("first", None, "not a redistribution"),
    ],
)
def test_bins_that_are_not_those_of_the_name_are_refused(
    workspace: Workspace, library: ResponseLibrary, key: str, value: object, said: str
) -> None:
    rmf_id = library.add(_response(ACIS, 0.01))
    name = f"responses/{rmf_id}.parquet"
    table = workspace.read_table(name)
    described = json.loads(table.schema.metadata[b"channel_bins"]) | {key: value}
    workspace.write_table(
        name, table.replace_schema_metadata({"channel_bins": json.dumps(described)})
    )
    with pytest.raises(RaypipeError, match=rf"{rmf_id}\.parquet: .*{said}"):
        ResponseLibrary(workspace).load(rmf_id)


def test_even_bins_of_acis_are_those_of_equal_shares() -> None:
    """The published recipe divides the range of 256 equal bins into 400."""
    shares = ChannelAxes.of([ACIS]).even_shares[0]
    old, new = np.linspace(0, 1, 257), np.linspace(0, 1, 401)
    low = np.maximum(old[:-1, None], new[None, :-1])
    high = np.minimum(old[1:, None], new[None, 1:])
    expected = np.clip(high - low, 0.0, None) * 256
    assert shares.numpy() == pytest.approx(expected, abs=1e-6)
    mixed = ChannelAxes.of([ACIS, OTHER, ACIS])
    assert mixed.kind.tolist() == [0, 1, 0]
    assert mixed.even_shares.shape == (2, 256, 400)
    assert float(mixed.even_shares[1].sum()) == pytest.approx(
        float(((OTHER.lo_kev > 0.4964) & (OTHER.hi_kev < 7.9716)).sum()), abs=2
    )
