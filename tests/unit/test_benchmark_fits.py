"""Fits of real spectra beside those of scipy and XSPEC, as the benchmark compares them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fits import Compared, differences, xspec_fits
from benchmarks.real_spectra import MOST_COUNTS, RealSpectrum, read_folders

SPECTRA = {
    "csc": ["acisf01575_001N001_r0085", "acisf06152_000N002_r0070"],
    "ciao": ["obs2", "q1127_src1"],
    "missions": ["xmm-pn", "swift-xrt", "nicer", "nustar-a", "nustar-b", "asca-sis"],
}


@pytest.mark.slow
@pytest.mark.parametrize("folder", list(SPECTRA))
def test_no_fit_of_a_real_spectrum_is_worse_than_that_of_scipy(
    shared_data: Path, folder: str
) -> None:
    found = {each.name: each for each in read_folders([shared_data / folder])}
    assert set(SPECTRA[folder]) <= set(found)
    for name in SPECTRA[folder]:
        thinned: RealSpectrum = found[name].thinned(MOST_COUNTS, seed=1)
        assert max(differences(thinned).values()) < 0.01, name


def test_power_laws_and_fluxes_are_those_of_xspec_for_the_same_energies(shared_data: Path) -> None:
    """The largest difference is in N_H of ASCA with 50,000 counts: see `docs/fits.md`."""
    compared = [Compared.of(*each) for each in xspec_fits(shared_data)]
    assert len(compared) == 11
    for each in compared:
        assert abs(each.gamma) < 1.0, each.reference["name"]
        assert abs(each.nh) < 1.1, each.reference["name"]
        assert each.flux == pytest.approx(1.0, abs=0.02), each.reference["name"]
