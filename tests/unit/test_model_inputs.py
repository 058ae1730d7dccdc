"""A model takes spectra and the paths of files, and says which row belongs to which."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import raypipe
from raypipe.config_toml import load_config
from raypipe.errors import OgipError, UsageError
from raypipe.model.bundle import Model, load_model
from raypipe.model.inputs import identity_of, read_all
from raypipe.model.presets import build
from raypipe.spectra.batch import SpectraBatch
from tests.unit.acis_spectra import spectrum
from tests.unit.model_spectra import power_laws

MODEL = Path(__file__).resolve().parents[1] / "data" / "bundle-format-2"


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(MODEL)


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("products")
    raypipe.simulate(folder, detections=3, seed=1)
    return sorted(folder.rglob("*_pha3.fits*"))


def test_paths_encode_like_the_spectra_that_they_hold(model: Model, products: list[Path]) -> None:
    spectra = [raypipe.read_spectrum(path) for path in products]
    from_paths = model.encode([products[0], str(products[1]), spectra[2]])
    assert from_paths.equals(model.encode(spectra))
    assert model.encode(products[0]).equals(model.encode([spectra[0]]))
    assert model.encode(path for path in products).equals(from_paths)


def test_rows_keep_path_and_id(model: Model, products: list[Path]) -> None:
    frame = model.encode(products)
    assert frame["path"].tolist() == [str(path) for path in products]
    named = raypipe.read_spectrum(products[0]).header
    obsid, obi, region = frame["detection_id"][0].split(".")
    assert (int(obsid), int(obi)) == (int(named["OBS_ID"]), int(named["OBI_NUM"]))
    assert f"_r{int(region):04d}_" in products[0].name


def test_ids_follow_the_names_of_files() -> None:
    paths = ["/a/acisf01575_001N002_r0085_pha3.fits.gz", "/b/3c273.pi", "jet.pha.gz"]
    named = identity_of([spectrum(path=path) for path in paths])
    assert named == {"detection_id": ["1575.1.85", "file:3c273", "file:jet"], "path": paths}


def test_the_file_that_cannot_be_read_is_named(model: Model, products: list[Path]) -> None:
    with pytest.raises(OgipError, match=r"absent\.pi: cannot be read"):
        model.encode([products[0], "absent.pi"])
    with pytest.raises(OgipError, match=r"mine\.pi.*no RMF"):
        model.encode(spectrum(rmf=None, channel_energy_kev=None))
    with pytest.raises(UsageError, match="spectrum 1 is of type float"):
        read_all([spectrum(), 3.0])  # type: ignore[list-item]


def test_the_fold_of_spectra_is_that_of_their_batch(model: Model) -> None:
    mine = [spectrum(), spectrum(exposure_s=1e4)]
    latents = model.encode(mine)
    batch = SpectraBatch.from_spectra(mine)
    z = latents[[f"z{i}" for i in range(8)]].to_numpy()
    expected = model.reconstruct(batch, z)
    for fold in (model.reconstruct(mine), model.reconstruct(mine, latents)):
        np.testing.assert_allclose(fold.total, expected.total, rtol=1e-5)
    assert expected.flux is not None
    np.testing.assert_allclose(model.flux(mine, latents), expected.flux, rtol=1e-5)
    assert model.flux(mine[0]).shape == (1, model.grid.n_energy)


def test_a_flux_folds_to_the_counts_beside_it(model: Model) -> None:
    """The flux is in photon/cm2/s/keV: folded by the spectrum itself, it leaves these counts."""
    mine = spectrum(background_counts=None, background_scale=None)
    flux, edges = model.flux(mine)[0], model.grid.edges_kev

    def density(energy_kev: np.ndarray) -> np.ndarray:
        place = np.searchsorted(edges, energy_kev, side="right") - 1
        inside = (place >= 0) & (place < len(flux))
        return np.where(inside, flux[place.clip(0, len(flux) - 1)], 0.0)

    (bins,) = SpectraBatch.from_spectra([mine]).bins
    folded = bins.bin_counts(mine.fold(density))
    expected = model.reconstruct(mine).total[0, : len(bins)]
    np.testing.assert_allclose(folded, expected, rtol=0.02, atol=0.02)


def test_a_spectrum_that_cannot_be_measured_has_no_fold(model: Model) -> None:
    batch, _ = power_laws(2)
    batch.exposure_s[1] = np.nan
    fold = model.reconstruct(batch)
    assert np.isfinite(fold.total[0]).all()
    assert not np.isfinite(fold.total[1]).any()


def test_preset_paper_has_no_flux(model: Model) -> None:
    config = load_config(settings={"model": {"preset": "paper"}})
    network = build(config.model, model.grid).eval()
    paper = dataclasses.replace(model, config=config, network=network)
    with pytest.raises(UsageError, match="preset paper has no flux"):
        paper.flux(spectrum(), np.zeros(8))
