"""Channel bins of a response: which native channels are summed, and which responses have none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raypipe.errors import OgipError
from raypipe.ogip import read_rmf
from raypipe.spectra.channel_bins import MOST_BINS, channel_bins_of, fwhm_of, is_acis
from tests.unit.telescopes import ACIS, Telescope, made


@pytest.mark.parametrize("name", ACIS)
def test_acis_has_the_bins_it_always_had(shared_data: Path, name: str) -> None:
    """256 bins of two channels, of which the first is channel 35."""
    bins = Telescope(shared_data, name).bins
    counts = np.random.default_rng(2).poisson(3, (4, 1024)).astype(np.int32)
    former = counts[:, 34:546].reshape(4, 256, 2).sum(-1)
    assert bins.is_acis
    assert np.array_equal(bins.bin_counts(counts), former)
    edges = 0.0146 * np.arange(34, 547, 2)
    assert np.array_equal(bins.lo_kev, edges[:-1])
    assert np.array_equal(bins.hi_kev, edges[1:])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("xmm-pn", 179), ("swift-xrt", 142), ("nicer", 231), ("nustar-a", 58), ("asca-sis", 241)],
)
def test_bins_of_other_telescopes(shared_data: Path, name: str, expected: int) -> None:
    telescope = Telescope(shared_data, name)
    bins, edges = telescope.bins, telescope.rmf.channel_energy_kev
    assert not is_acis(telescope.rmf)
    assert abs(len(bins) - expected) <= 3
    assert bins.lo_kev[0] >= 0.3 - 1e-4
    assert bins.hi_kev[-1] <= 10.0 + 1e-4
    assert (np.diff(bins.first) >= 1).all()
    assert bins.lo_kev[1:] == pytest.approx(bins.hi_kev[:-1], abs=1e-5)
    assert np.array_equal(bins.lo_kev, edges[bins.first[:-1], 0])
    assert (bins.width_kev <= 0.5 * bins.fwhm_kev).all()
    assert np.array_equal(channel_bins_of(telescope.rmf).first, bins.first)


def test_no_count_is_split_or_lost(shared_data: Path) -> None:
    bins = Telescope(shared_data, "xmm-pn").bins
    counts = np.random.default_rng(3).poisson(2, 4096)
    binned = bins.bin_counts(counts)
    assert binned.sum() == counts[bins.first[0] : bins.first[-1]].sum()
    assert binned[7] == counts[bins.first[7] : bins.first[8]].sum()
    with pytest.raises(ValueError, match="1024 channels, expected 4096"):
        bins.bin_counts(np.zeros(1024))


@pytest.mark.parametrize("fwhm", [0.05, 0.1, 0.3])
def test_the_resolution_is_that_of_the_matrix(fwhm: float) -> None:
    assert fwhm_of(made(fwhm))([0.5, 2.0, 8.0]) == pytest.approx([fwhm] * 3, rel=0.03)


def test_fine_resolution_gets_no_more_bins_than_there_may_be() -> None:
    bins = channel_bins_of(made(0.02, width_kev=0.005, channels=2400))
    assert 200 < len(bins) <= MOST_BINS


def test_coarse_channels_stay_whole() -> None:
    bins = channel_bins_of(made(0.1, width_kev=0.1, channels=120))
    assert len(bins) == 97
    assert (np.diff(bins.first) == 1).all()


def test_channels_that_descend_are_refused() -> None:
    rmf = made()
    backward = replace(rmf, channel_energy_kev=rmf.channel_energy_kev[::-1].copy())
    with pytest.raises(OgipError, match=r"x\.rmf: energies of channels do not ascend"):
        channel_bins_of(backward, "x.rmf")


def test_no_channel_in_the_band_is_refused() -> None:
    rmf = made()
    hard = replace(rmf, channel_energy_kev=rmf.channel_energy_kev + 20.0)
    with pytest.raises(OgipError, match=r"x\.rmf: no channel between 0\.3 and 10 keV"):
        channel_bins_of(hard, "x.rmf")


def test_no_energy_resolution_is_refused(shared_data: Path) -> None:
    hrc = read_rmf(shared_data / "csc/hrcf24564_000N030_r0001_rmf3.fits.gz")
    with pytest.raises(OgipError, match=r"hrc\.rmf: almost no energy resolution"):
        channel_bins_of(hrc, "hrc.rmf")


def test_a_proportional_counter_has_a_resolution(shared_data: Path) -> None:
    pspc = read_rmf(shared_data / "cases/rosat-zero-width/pspcc_gain1_256.rsp")
    assert fwhm_of(pspc)([0.5, 1.0, 2.0]) == pytest.approx([0.28, 0.37, 0.56], rel=0.1)
    assert channel_bins_of(pspc).hi_kev[-1] < 2.6


def test_a_few_bins_alone_are_refused(shared_data: Path) -> None:
    hxmt = read_rmf(shared_data / "cases/rsp-without-hduclas3/P011160506306_ME_RSP.fits")
    with pytest.raises(OgipError, match=r"x\.rsp: only 4 bins lie between 0\.3 and 10 keV"):
        channel_bins_of(hxmt, "x.rsp")


def test_a_spectrum_of_fewer_channels_has_the_bins_within(shared_data: Path) -> None:
    bins = Telescope(shared_data, "xmm-pn").bins
    fewer = bins.within(int(bins.first[10]) + 1, int(bins.first[20]))
    assert np.array_equal(fewer.first, bins.first[11:21])
    assert np.array_equal(fewer.mid_kev, bins.mid_kev[11:20])
    assert bins.within(0, 4096) is bins
    with pytest.raises(ValueError, match="no channel bin"):
        bins.within(0, 3)
