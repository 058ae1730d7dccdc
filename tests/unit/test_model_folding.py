from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raypipe.errors import OgipError
from raypipe.model.features import prepare
from raypipe.model.folding import best_amplitude, cash_per_bin, fold, redistribute
from raypipe.model.smooth_background import kernels_of, smooth_background
from raypipe.model.statistics import cash
from raypipe.ogip import read_spectrum
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.grid import EnergyGrid
from raypipe.spectra.gridding import grid_detection
from raypipe.spectra.redistribution import overlap_shares
from tests.unit.model_spectra import BINS, GRID, power_laws

WIDTHS = torch.tensor(GRID.widths_kev, dtype=torch.float32)
KERNELS = kernels_of([BINS])


def _smooth(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The smooth background of ACIS."""
    return smooth_background(counts, torch.zeros(len(counts), dtype=torch.long), KERNELS)


REAL = [
    "csc/acisf01575_001N001_r0085_pha3.fits.gz",
    "csc/acisf02779_001N001_r0004_pha3.fits.gz",
    "csc/acisf04487_001N023_r0009_pha3.fits.gz",
    "csc/acisf04736_000N001_r0079_pha3.fits.gz",
    "csc/acisf04938_000N002_r0043_pha3.fits.gz",
    "csc/acisf06152_000N002_r0070_pha3.fits.gz",
    "ciao/3c273.pi",
    "ciao/9774.pi",
    "ciao/obs1.pi",
    "ciao/bubble.pi",
    "ciao/q1127_src1.pi.gz",
]


@pytest.mark.parametrize("name", REAL)
def test_the_coarse_fold_agrees_with_the_full_one(shared_data: Path, name: str) -> None:
    """An absorbed power law through the model's grid, against the file's own resolution."""
    spectrum = read_spectrum(shared_data / name)

    def flux(energy: np.ndarray) -> np.ndarray:
        return 1e-4 * energy**-1.7 * np.exp(-0.05 * energy**-2.5)

    spectra = SpectraBatch.from_spectra([spectrum])
    full, batch = spectra.bins[0].bin_counts(spectrum.fold(flux)), prepare(spectra)
    parts = (np.arange(10) + 0.5) / 10
    fine = GRID.edges_kev[:-1, None] + parts * GRID.widths_kev[:, None]
    mean_flux = flux(fine).mean(1)
    coarse = fold(torch.tensor(mean_flux[None], dtype=torch.float32), batch, WIDTHS)
    assert coarse[0].numpy() == pytest.approx(full, rel=0.02, abs=1e-3 * full.max())
    assert coarse.sum() == pytest.approx(full.sum(), rel=2e-3)


def test_hrc_is_outside_the_model(shared_data: Path) -> None:
    spectrum = read_spectrum(shared_data / "csc/hrcf24564_000N030_r0001_pha3.fits.gz")
    with pytest.raises(OgipError, match="HRC has almost no energy resolution"):
        grid_detection(spectrum, EnergyGrid())


def test_shares_of_overlap_sum_to_the_part_covered() -> None:
    edges = np.array([0.0, 1.0, 2.0, 4.0])
    low = np.array([-0.5, 0.25, 1.5, 2.5])
    high = np.array([0.25, 1.5, 2.5, 3.0])
    shares = overlap_shares(low, high, edges).toarray()
    assert shares.sum(1) == pytest.approx([1.0, 1.0, 0.5])
    assert shares[0] == pytest.approx([0.25, 0.75, 0.0, 0.0])


def test_folding_by_groups_is_folding_one_by_one() -> None:
    spectra, _ = power_laws(9)
    batch = prepare(spectra)
    flux = torch.rand(9, GRID.n_energy)
    together = fold(flux, batch, WIDTHS)
    for i in range(9):
        photons = flux[i] * batch.arf_cm2[i] * batch.exposure_s[i] * WIDTHS
        alone = photons @ batch.responses[batch.response_index[i]]
        assert torch.allclose(together[i], alone, rtol=1e-4)


@pytest.mark.parametrize("axes", [(), (3,)])
@pytest.mark.parametrize("index", [[2, 0, 3, 0, 2, 2, 3], [1] * 4, [0, 1, 2, 3], []])
def test_rows_and_gradients_go_through_their_own_response(
    index: list[int], axes: tuple[int, ...]
) -> None:
    """Rows in any order, responses left out, further axes: as one row after another."""
    torch.manual_seed(0)
    responses = torch.rand(4, 9, 5, dtype=torch.float64)
    photons = torch.rand(len(index), *axes, 9, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(len(index), *axes, 5, dtype=torch.float64)
    rows = torch.tensor(index, dtype=torch.int64)
    folded = redistribute(photons, rows, responses)
    plain = torch.einsum("n...k,nkc->n...c", photons, responses[rows])
    assert folded.shape == weights.shape
    assert torch.allclose(folded, plain, rtol=1e-14)
    if index:
        slopes = [torch.autograd.grad((out * weights).sum(), photons) for out in (folded, plain)]
        assert torch.allclose(slopes[0][0], slopes[1][0], rtol=1e-14)


def test_the_amplitude_is_the_most_likely_one() -> None:
    spectra, expected = power_laws(6)
    batch = prepare(spectra)
    shape = torch.tensor(expected, dtype=torch.float32) * 0.037
    best = best_amplitude(batch.counts, shape, batch.background)

    def total(a: torch.Tensor) -> torch.Tensor:
        return cash_per_bin(batch.counts, a * shape + batch.background).sum(-1)

    assert (total(best) <= total(best * 1.01)).all()
    assert (total(best) <= total(best * 0.99)).all()


def test_amplitudes_stay_finite_without_counts_or_shape() -> None:
    counts, background = torch.zeros(2, 256), torch.zeros(2, 256)
    shape = torch.stack([torch.ones(256), torch.zeros(256)])
    assert torch.isfinite(best_amplitude(counts, shape, background)).all()


def test_both_cash_statistics_are_one() -> None:
    counts = torch.tensor([0.0, 1.0, 12.0])
    mu = torch.tensor([0.4, 2.0, 9.0])
    assert cash_per_bin(counts, mu).numpy() == pytest.approx(cash(counts, mu), rel=1e-5)


def test_smooth_background_keeps_the_total_and_has_no_zeros() -> None:
    counts = torch.poisson(torch.full((4, 256), 0.02), generator=torch.Generator().manual_seed(0))
    smooth, _ = _smooth(counts)
    assert (smooth > 0).all()
    assert smooth.sum(-1).numpy() == pytest.approx(counts.sum(-1).numpy(), rel=1e-4)
    line = torch.full((1, 256), 50.0)
    line[0, 100] = 500.0
    assert _smooth(line)[0][0, 100] > 120.0


@pytest.mark.parametrize("rate", [0.02, 0.2, 2.0, 20.0])
def test_smooth_background_is_right_on_average_and_knows_its_noise(rate: float) -> None:
    torch.manual_seed(0)
    smooth, variance = _smooth(torch.poisson(torch.full((4000, 256), rate)))
    inner = smooth[:, 40:-40]
    assert inner.mean().item() == pytest.approx(rate, rel=0.05)
    scatter = inner.var(0).mean().item()
    assert variance[:, 40:-40].mean().item() == pytest.approx(scatter, rel=0.5)
