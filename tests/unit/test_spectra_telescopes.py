"""Responses and spectra of any telescope on the grid: counts, folds, bands, backgrounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from raypipe.errors import OgipError
from raypipe.model.bundle import load_model
from raypipe.model.features import prepare
from raypipe.model.folding import cash_per_bin
from raypipe.model.smooth_background import kernels_of, smooth_background
from raypipe.model.statistics import cash_moments
from raypipe.ogip import read_pha, read_spectrum
from raypipe.spectra.band_counts import band_channels, band_counts
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.gridding import grid_detection, put_on_grid
from raypipe.spectra.redistribution import (
    beyond_share,
    is_covered,
    overlap_of,
    put_rmf_on_grid,
    reach_kev,
    redistribution_on_grid,
)
from tests.unit.spectra_release import MODEL
from tests.unit.telescopes import ACIS, OTHERS, Telescope
from tests.unit.test_model_folding import REAL

GRID = EnergyGrid()


@pytest.mark.parametrize("name", [*ACIS, *OTHERS])
def test_counts_of_smooth_spectra_are_those_of_the_file_s_own_grid(
    shared_data: Path, name: str
) -> None:
    telescope = Telescope(shared_data, name)
    rmf, arf, bins = telescope.rmf, telescope.arf, telescope.bins
    edges = GRID.edges_kev
    low = np.clip(rmf.energy_lo_kev, edges[0], edges[-1])
    high = np.clip(rmf.energy_hi_kev, edges[0], edges[-1])
    area = arf.area_on(rmf.energy_lo_kev, rmf.energy_hi_kev)
    overlap = overlap_of(arf.energy_lo_kev, arf.energy_hi_kev, GRID)
    gridded = overlap.shares @ arf.area_cm2[overlap.begin : overlap.end]
    redistribution = redistribution_on_grid(rmf, GRID, bins, name).astype(np.float64)
    assert redistribution.sum(1).max() < 1.02

    def photons(lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        return (lo**-0.7 - hi**-0.7) / 0.7

    expected = bins.bin_counts(rmf.fold(np.where(high > low, photons(low, high), 0.0) * area))
    counts = (photons(edges[:-1], edges[1:]) * gridded) @ redistribution
    seen = expected > 1e-3 * expected.max()
    assert counts[seen] == pytest.approx(expected[seen], rel=1e-3)


@pytest.mark.parametrize("name", OTHERS)
def test_a_row_has_the_counts_that_sherpa_reads_and_folds_as_it_does(
    shared_data: Path, name: str
) -> None:
    row, response = grid_detection(Telescope(shared_data, name).spectrum(), GRID)
    with np.load(shared_data / "missions/sherpa_reference.npz") as reference:
        assert np.array_equal(row.counts, reference[f"{name}:counts"])
        expected = row.bins.bin_counts(reference[f"{name}:powerlaw_counts"])
    low, high = GRID.edges_kev[:-1], GRID.edges_kev[1:]
    photons = 1e-4 * (low**-0.7 - high**-0.7) / 0.7
    folded = (photons * row.exposure_s * row.arf_cm2) @ response.redistribution.astype(np.float64)
    seen = expected > 1e-3 * expected.max()
    # NuSTAR's tail from above 12 keV is left out, and a flag says so.
    within = 6e-3 if name.startswith("nustar") else 1e-3
    assert folded[seen] == pytest.approx(expected[seen], rel=within)
    assert ("beyond_energy_grid" in row.flags) == name.startswith("nustar")
    assert "arf_truncated" not in row.flags


@pytest.mark.parametrize("name", OTHERS)
def test_dense_and_sparse_give_the_same_bits(
    shared_data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    telescope = Telescope(shared_data, name)
    dense = redistribution_on_grid(telescope.rmf, GRID, telescope.bins, name)
    monkeypatch.setattr("raypipe.spectra.redistribution._DENSE_ELEMENTS", 10)
    assert np.array_equal(redistribution_on_grid(telescope.rmf, GRID, telescope.bins, name), dense)


def test_the_area_that_a_matrix_includes_is_divided_out(shared_data: Path) -> None:
    telescope = Telescope(shared_data, "xmm-pn")
    rmf = telescope.rmf
    area = telescope.arf.area_on(rmf.energy_lo_kev, rmf.energy_hi_kev)
    matrix = sparse.csr_array(rmf.matrix.multiply(area[:, None]), dtype=np.float32)
    whole = replace(rmf, matrix=matrix, includes_area=True)
    gridded = put_rmf_on_grid(whole, GRID, "x.rsp")
    assert gridded.area_cm2 is not None
    assert np.array_equal(gridded.bins.first, telescope.bins.first)
    within = overlap_of(rmf.energy_lo_kev, rmf.energy_hi_kev, GRID)
    native = whole.matrix[within.begin : within.end].toarray().astype(np.float64)
    expected = gridded.bins.bin_counts(within.shares @ native)
    folded = gridded.area_cm2[:, None] * gridded.redistribution
    assert folded == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_an_arf_has_to_cover_what_its_bins_need_not_the_whole_grid(shared_data: Path) -> None:
    telescope = Telescope(shared_data, "csc")
    bins, arf = telescope.bins, telescope.arf
    assert reach_kev(bins) == (0.3, 9.3)
    overlap = overlap_of(arf.energy_lo_kev, arf.energy_hi_kev, GRID)
    assert is_covered(overlap, GRID, reach_kev(bins))
    assert not is_covered(overlap, GRID, (0.2, 12.0))


@pytest.mark.parametrize(
    ("name", "beyond"), [("nustar-a", True), ("nicer", False), ("xmm-pn", False)]
)
def test_photons_beyond_the_grid_are_noticed(shared_data: Path, name: str, beyond: bool) -> None:
    telescope = Telescope(shared_data, name)
    rmf = telescope.rmf
    area = telescope.arf.area_on(rmf.energy_lo_kev, rmf.energy_hi_kev)
    assert (beyond_share(rmf, area, GRID, telescope.bins) > 1e-3) == beyond


def test_a_background_scale_by_channel_is_averaged_over_each_bin(shared_data: Path) -> None:
    telescope = Telescope(shared_data, "csc")
    backscal = np.linspace(1.0, 2.0, 1024)
    row = put_on_grid(telescope.spectrum(backscal=backscal), GRID, telescope.bins)
    whole = put_on_grid(telescope.spectrum(backscal=1.0), GRID, telescope.bins)
    assert row.scale_by_bin is not None
    assert whole.background_scale is not None
    expected = whole.background_scale * 0.5 * (backscal[34:546:2] + backscal[35:546:2])
    assert row.scale_by_bin == pytest.approx(expected, rel=1e-6)
    both = [telescope.spectrum(backscal=each) for each in (backscal, 1.0)]
    batch = prepare(SpectraBatch.from_spectra(both))
    assert batch.background_scale.shape == (2, 256)
    assert batch.background_scale[0].numpy() == pytest.approx(expected, rel=1e-6)
    assert batch.background_scale[1].numpy() == pytest.approx(whole.background_scale, rel=1e-6)


def test_a_spectrum_of_fewer_channels_has_a_response_of_its_own(shared_data: Path) -> None:
    telescope = Telescope(shared_data, "swift-xrt")
    pha = read_pha(telescope.pha)
    fewer = {"channels": pha.channels[40:800], "counts": pha.counts[40:800]}
    row, response = grid_detection(telescope.spectrum(**fewer), GRID)
    assert row.counts.shape == (1024,)
    assert row.bins.lo_kev[0] >= 0.4 - 1e-6
    assert row.bins.hi_kev[-1] <= 8.0 + 1e-6
    assert response.bins is row.bins
    gaps = {"channels": pha.channels[::2], "counts": pha.counts[::2]}
    with pytest.raises(OgipError, match="channels are left out between others"):
        grid_detection(telescope.spectrum(**gaps), GRID)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"INSTRUME": "HRC"}, "almost no energy resolution"),
        ({"INSTRUME": "RGS1"}, "a dispersed order"),
        ({"INSTRUME": "ACIS", "GRATING": "HETG", "TG_M": -1}, "a dispersed order"),
    ],
)
def test_what_is_refused(shared_data: Path, header: dict[str, Any], said: str) -> None:
    with pytest.raises(OgipError, match=said):
        grid_detection(Telescope(shared_data, "csc").spectrum(header=header), GRID)


def test_band_counts_of_acis_are_those_of_nominal_energies(shared_data: Path) -> None:
    telescope = Telescope(shared_data, "csc")
    counts = read_pha(telescope.pha).counts
    sums = band_counts(counts, band_channels(telescope.rmf.channel_energy_kev))
    reference = json.loads((shared_data / "csc/sherpa_reference.json").read_text())
    row = next(each for each in reference if each["file"] == telescope.pha.name)
    for band in "smh":
        assert sums[band] == row[f"counts_{band}"]
    assert sums["b"] == sum(sums[band] or 0 for band in "smh")


FORMER_BANDS_KEV = {"s": (0.5, 1.2), "m": (1.2, 2.0), "h": (2.0, 7.0), "b": (0.5, 7.0)}


@pytest.mark.parametrize("name", REAL)
def test_counts_of_acis_are_what_they_always_were(shared_data: Path, name: str) -> None:
    """Channel bins and bands as they were when all spectra had the 1,024 channels of ACIS."""
    spectrum = read_spectrum(shared_data / name)
    row, _ = grid_detection(spectrum, GRID)
    middles = 0.0146 * np.arange(1, 1025) - 0.5 * 0.0146
    for kind, counts in (
        ("counts", spectrum.counts),
        ("background_counts", spectrum.background_counts),
    ):
        gridded = getattr(row, kind)
        if counts is None:
            assert gridded is None
            assert {row.bands[f"{kind}_{band}"] for band in FORMER_BANDS_KEV} == {None}
            continue
        former = counts[34:546].reshape(256, 2).sum(1)
        assert row.bins.bin_counts(gridded).tolist() == former.tolist()
        for band, (low, high) in FORMER_BANDS_KEV.items():
            begin, end = np.searchsorted(middles, (low, high))
            assert row.bands[f"{kind}_{band}"] == counts[begin:end].sum()


def test_bands_a_telescope_does_not_cover_are_unknown(shared_data: Path) -> None:
    edges = Telescope(shared_data, "nustar-a").rmf.channel_energy_kev
    sums = band_counts(np.ones(4096), band_channels(edges))
    assert sums["h"] == 125
    assert [sums[band] for band in "usmb"] == [None] * 4
    assert band_counts(None, band_channels(edges))["b"] is None


def test_smooth_backgrounds_of_mixed_responses_are_those_of_each(shared_data: Path) -> None:
    bins = [Telescope(shared_data, name).bins for name in ("csc", "xmm-pn", "nustar-a")]
    rng = np.random.default_rng(5)
    counts, index = torch.zeros(30, 256), torch.arange(30) % 3
    for row in range(30):
        width = bins[row % 3].width_kev
        counts[row, : len(width)] = torch.tensor(rng.poisson(300 * width)).float()
    expected, variance = smooth_background(counts, index, kernels_of(bins))
    assert expected.sum(1).numpy() == pytest.approx(counts.sum(1).numpy(), rel=1e-6)
    assert torch.isfinite(variance).all()
    for row in range(30):
        own = bins[row % 3]
        there, beyond = expected[row, : len(own)], expected[row, len(own) :]
        assert (there > 0).all()
        assert not beyond.any()
        assert there.numpy() == pytest.approx(300 * own.width_kev, rel=0.8)
        alone, _ = smooth_background(
            counts[row : row + 1], torch.zeros(1, dtype=torch.long), kernels_of([own])
        )
        assert alone[0].numpy() == pytest.approx(expected[row].numpy(), rel=1e-5, abs=1e-7)


MIXED = ["csc", "xmm-pn", "nustar-a", "swift-xrt"]


def test_rows_of_mixed_telescopes_encode_as_each_alone(shared_data: Path) -> None:
    spectra = [Telescope(shared_data, name).spectrum() for name in MIXED]
    model = load_model(MODEL)
    together = model.encode(spectra)
    # Refinement in single precision repeats to 1e-4 where spectra have a million counts.
    for row, spectrum in enumerate(spectra):
        alone = model.encode(spectrum).iloc[0]
        for name in [*(f"z{i}" for i in range(8)), "cash", "cash_expected", "fit_zscore"]:
            assert together[name][row] == pytest.approx(alone[name], rel=1e-4, abs=1e-4), name
    assert together["n_bins"].tolist() == [len(each.bins) for each in _telescopes(shared_data)]


def _telescopes(shared_data: Path) -> list[Telescope]:
    return [Telescope(shared_data, name) for name in MIXED]


def test_padded_bins_add_nothing(shared_data: Path) -> None:
    """Neither counts, nor a background, nor anything to the statistic and its moments."""
    spectra = [telescope.spectrum() for telescope in _telescopes(shared_data)]
    batch = prepare(SpectraBatch.from_spectra(spectra))
    padding = ~batch.valid[batch.response_index]
    assert padding.sum() > 200
    network = load_model(MODEL).network
    with torch.no_grad():
        mu = network.expected_counts(network.encode(batch), batch)
    for values in (batch.counts, batch.background, batch.background_variance, mu):
        assert not values[padding].any()
        assert (values[~padding] >= 0).all()
    assert not cash_per_bin(batch.counts, mu)[padding].any()
    for moment in cash_moments(mu.numpy()):
        assert not moment[padding.numpy()].any()
    for edges in (batch.bin_lo_kev, batch.bin_hi_kev, batch.fwhm_kev):
        assert torch.isfinite(edges).all()
        assert (edges > 0).all()
    assert (batch.bin_hi_kev > batch.bin_lo_kev).all()
