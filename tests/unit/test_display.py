"""Spectra, models and settings show themselves: tables in notebooks, figures of spectra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from raypipe.config_toml import load_config
from raypipe.display.spectrum_figure import BinnedSpectrum, spectrum_figure
from raypipe.display.table import MAX_CELL, summary_table
from raypipe.model.bundle import Model, load_model
from raypipe.ogip import Note, OgipError
from raypipe.ogip.presentation import MAX_BINS, binned
from tests.unit.acis_spectra import CHANNEL_EDGES_KEV, arf, spectrum

MODEL = Path(__file__).resolve().parents[1] / "data" / "bundle-format-2"


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(MODEL)


def power_law(energy_kev: Any) -> Any:
    return 1e-4 * energy_kev**-1.7


def test_a_table_escapes_and_bounds_what_a_file_says() -> None:
    shown = summary_table("<b>", {"object": "<script>\x1b[31m", "long": "x" * 10_000, "none": None})
    assert "<script>" not in shown
    assert "&lt;script&gt;\\x1b[31m" in shown
    assert "&lt;b&gt;" in shown
    assert "none" not in shown
    assert len(shown) < MAX_CELL + 400


def test_a_spectrum_is_summarized_in_a_few_lines() -> None:
    noted = (Note("odd <thing>", "odd"),)
    header = {"TELESCOP": "CHANDRA", "INSTRUME": "ACIS", "GRATING": "NONE", "OBJECT": "3C <1>"}
    shown = spectrum(header=header, warnings=noted)._repr_html_()
    assert "CHANDRA ACIS<" in shown
    assert "3C &lt;1&gt;" in shown
    assert "2,048, net 1,945.6, in 1,024 channels" in shown
    assert "1,024 counts, scaled by 0.1" in shown
    assert "0.3 to 9.3 keV, up to 300 cm²" in shown
    assert "odd &lt;thing&gt;" in shown
    assert len(shown.splitlines()) < 16
    bare = spectrum(background_counts=None, background_scale=None, arf=None)._repr_html_()
    assert bare.count(">none<") == 2


def test_a_model_is_summarized_by_preset_grid_training_and_validation(model: Model) -> None:
    shown = model._repr_html_()
    for words in (
        "folded, 8 latents",
        "0.2 to 12 keV in 810 bins",
        "in at most 256 bins of each response",
        "600 detections of 600 sources, release power laws",
        "loss 7.924",
        "AGN, YSO",
    ):
        assert words in shown
    assert len(shown.splitlines()) < 12


def test_settings_are_summarized_by_what_differs_from_the_defaults() -> None:
    shown = load_config(overrides=["train.epochs=7"])._repr_html_()
    assert "train.epochs" in shown
    assert len(shown.splitlines()) < 6


def test_a_spectrum_draws_counts_model_and_residuals(model: Model) -> None:
    figure = spectrum().plot(model=model)
    assert isinstance(figure, Figure)
    rates, residuals = figure.axes
    assert rates.get_ylabel() == "counts s⁻¹ keV⁻¹"
    assert residuals.get_xlabel() == "energy (keV)"
    words = [text.get_text() for text in rates.get_legend().get_texts()]
    assert words == ["counts", "model", "background"]
    assert rates.get_title(loc="left") == "mine.pi: 1,024 counts from 0.5 to 8 keV in 30 ks"
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_counts_are_drawn_without_a_model_and_with_a_flux() -> None:
    assert len(spectrum().plot().axes) == 1
    assert len(spectrum().plot(power_law).axes) == 2


def test_what_is_drawn_of_a_flux_is_its_fold_and_the_scaled_background() -> None:
    mine = spectrum()
    shown = binned(mine, power_law)
    assert shown.model is not None
    assert len(shown.counts) <= MAX_BINS
    covered = (CHANNEL_EDGES_KEV.mean(1) > 0.3) & (CHANNEL_EDGES_KEV.mean(1) < 9.3)
    assert shown.counts.sum() == mine.counts[covered].sum()
    expected = (mine.fold(power_law) + 0.1 * mine.background_counts)[covered]
    assert shown.model.sum() == pytest.approx(expected.sum())
    assert shown.background.sum() == pytest.approx(0.1 * covered.sum())
    assert (shown.edges_kev[0], shown.edges_kev[-1]) == pytest.approx((0.3, 9.3), abs=0.02)


def test_channels_that_the_area_does_not_cover_are_not_drawn() -> None:
    middle = 0.5 * (arf().energy_lo_kev + arf().energy_hi_kev)
    shown = binned(spectrum(arf=arf(np.where(middle < 2.0, 300.0, 0.1))), None)
    assert shown.edges_kev[-1] == pytest.approx(2.0, abs=0.02)


def test_grouping_is_for_display_only() -> None:
    counts = np.random.default_rng(0).poisson(0.3, 256).astype(float)
    shown = BinnedSpectrum(counts, counts + 0.1, 0 * counts, np.linspace(0.5, 8, 257), 1e4)
    before = counts.copy()
    figure = spectrum_figure(shown)
    assert len(figure.axes[0].patches[0].get_data().values) < 40  # type: ignore[attr-defined]
    np.testing.assert_array_equal(counts, before)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rmf": None, "channel_energy_kev": None}, "no RMF"),
        ({"exposure_s": 0.0}, "EXPOSURE is 0 s"),
    ],
)
def test_what_cannot_be_drawn_names_the_file(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(OgipError, match=f"mine.pi.*{problem}"):
        spectrum(**changes).plot()


def test_channels_with_gaps_are_refused() -> None:
    edges = CHANNEL_EDGES_KEV.copy()
    edges[500:] += 1.0
    with pytest.raises(OgipError, match=r"mine\.pi.*gaps"):
        spectrum(channel_energy_kev=edges).plot()


def test_a_model_names_the_spectrum_that_it_cannot_measure(model: Model) -> None:
    with pytest.raises(OgipError, match=r"mine\.pi"):
        spectrum(header={"INSTRUME": "HRC"}).plot(model)
