"""raypipe describe: text, JSON, table, figures and page of single spectra."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raypipe
from raypipe.cli import main
from raypipe.config import EmbedConfig
from raypipe.describing import cautions
from raypipe.describing.cautions import counts_per_frame
from raypipe.describing.description import Description, Descriptions, Flux, Interval
from raypipe.describing.measure import nearest_references
from raypipe.describing.page import description_fragment, description_page
from raypipe.describing.physics_posterior import Axis, physics_posterior
from raypipe.describing.plot_files import PlotFiles
from raypipe.describing.text import best_covered_flux, flux_words, interval_words
from raypipe.errors import OgipError, UsageError
from raypipe.model.bundle import Model, load_model
from raypipe.ogip import Spectrum
from raypipe.searching.causes import FRAME_S
from raypipe.searching.query import measure_spectrum
from raypipe.spectra.batch import SpectraBatch
from tests.unit.acis_spectra import CHANNELS, spectrum

BUNDLE = Path(__file__).resolve().parents[1] / "data" / "bundle-format-2"
HOSTILE = "<script>alert(1)</script>"
CONTRACT = {
    "file", "telescope", "instrument", "exposure_s", "total_counts", "background_share", "fluxes",
    "fits", "best_fit", "cash", "fit_zscore", "posterior_ess", "classes", "neighbors", "warnings",
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(BUNDLE)


def power_law_spectrum(**changes: Any) -> Spectrum:
    """About 2,000 counts of a power law of photon index 1.8 through an ACIS-like response."""
    header = {"TELESCOP": "CHANDRA", "INSTRUME": "ACIS", "OBJECT": HOSTILE}
    made = spectrum(header=header, background_counts=np.zeros(len(CHANNELS)), **changes)
    expected = made.fold(lambda energy: 2.2e-4 * energy**-1.8)
    counts = np.random.default_rng(5).poisson(expected).astype(float)
    return replace(made, counts=counts)


@pytest.fixture(scope="module")
def described(model: Model) -> Description:
    found = raypipe.describe(power_law_spectrum(path=f"{HOSTILE.replace('/', '')}.pi"), model=model)
    assert isinstance(found, Description)
    return found


def test_without_a_background_its_share_is_not_known(model: Model) -> None:
    bare = replace(power_law_spectrum(), background_counts=None, background_scale=None)
    found = raypipe.describe(bare, model=model)
    assert isinstance(found, Description)
    assert np.isnan(found.background_share)
    assert "an unknown share of them background" in str(found)
    assert "an unknown share" in description_page(found)


def test_the_json_has_what_the_contract_names(described: Description) -> None:
    answer = json.loads(json.dumps(described.as_json(), allow_nan=False))
    assert set(answer) >= CONTRACT
    assert set(answer["fluxes"]) == set("usmhb")
    assert set(answer["fluxes"]["b"]) == {"value", "lolim", "hilim", "upper_limit"}
    assert set(answer["fits"]) == {"powlaw", "bb", "brems", "plasma"}
    for fit in answer["fits"].values():
        assert "stat" in fit
    assert set(answer["fits"]["powlaw"]["powlaw_gamma"]) == {"value", "lolim", "hilim"}
    assert answer["best_fit"] in answer["fits"]
    assert sum(answer["classes"].values()) == pytest.approx(1.0)
    distances = [each["distance"] for each in answer["neighbors"]]
    assert distances == sorted(distances)
    assert len(distances) == 10


def test_a_power_law_is_found_again(described: Description) -> None:
    fit = described.fits["powlaw"]
    assert fit.parameters["powlaw_gamma"].value == pytest.approx(1.8, abs=0.25)
    assert described.best_fit in ("powlaw", "brems")
    # The integral of E F(E) of the power law over 0.5-7 keV.
    kev = 2.2e-4 * (7.0**0.2 - 0.5**0.2) / 0.2
    assert described.fluxes["b"].value == pytest.approx(1.602176634e-9 * kev, rel=0.1)


def test_draws_belong_to_the_described_spectrum(described: Description) -> None:
    draws = described.draws
    assert draws.z.shape[0] == 1
    assert draws.z.shape[2] == 8
    assert float(draws.weights.sum()) == pytest.approx(1.0, abs=1e-4)
    assert described.posterior_ess == pytest.approx(float(draws.ess[0]))


def test_the_text_says_what_the_classes_and_neighbors_are(described: Description) -> None:
    text = str(described)
    assert "the 600 labeled" in " ".join(text.split())
    assert "power laws that folded-format2 was trained on" in " ".join(text.split())
    assert "nearest of the 600 labeled spectra of the training" in " ".join(text.split())
    assert "best physical fit: " in text
    assert "z-score" in text
    assert repr(described).startswith("Description(")
    assert len(repr(described)) < 500


def test_limits_are_shown_as_limits() -> None:
    assert interval_words(Interval(0.0, math.nan, 3.2)) == "< 3.20 (68%, best 0)"
    assert interval_words(Interval(60.0, 12.0, math.nan)) == "> 12.0 (68%, best 60.0)"
    assert interval_words(Interval(1.5, 1.25, 2.0)) == "1.50 (1.25 to 2.00)"
    assert interval_words(Interval(1.2731, 1.2662, 1.2808)) == "1.273 (1.266 to 1.281)"
    assert interval_words(Interval(0.0, math.nan, 3.2), "keV") == "< 3.20 keV (68%, best 0)"
    assert interval_words(Interval(2.0, 1.5, 2.5), "keV") == "2.00 (1.50 to 2.50) keV"
    assert flux_words(Flux(1e-15, 0.0, 3e-15, 3e-15)) == "< 3.00e-15 (90% upper limit)"
    assert "partly extrapolated" in flux_words(Flux(1e-15, 9e-16, 2e-15, None, True))
    assert flux_words(Flux(math.nan, math.nan, math.nan)) == "not covered by the channels"


def _codes(found: Any) -> set[str]:
    return {warning.code for warning in found.warnings}


def test_pile_up_is_estimated_for_frames_of_acis_alone() -> None:
    mine = power_law_spectrum()
    assert counts_per_frame(mine, 900.0) == pytest.approx(900 / 3e4 * FRAME_S)
    for changes, expected in (
        ({"EXPTIME": 0.1}, 900 / 3e4 * 0.1),
        ({"EXPTIME": "long"}, 900 / 3e4 * FRAME_S),
        ({"READMODE": "CONTINUOUS"}, None),
        ({"INSTRUME": "EPN"}, None),
    ):
        found = counts_per_frame(replace(mine, header={**mine.header, **changes}), 900.0)
        assert found == (expected if expected is None else pytest.approx(expected))


def test_warnings_name_pile_up_background_and_few_counts(
    model: Model, described: Description
) -> None:
    assert "pileup" in _codes(described)
    rng = np.random.default_rng(0)
    faint = replace(
        power_law_spectrum(),
        counts=rng.poisson(0.06, len(CHANNELS)).astype(float),
        background_counts=rng.poisson(0.5, len(CHANNELS)).astype(float),
    )
    found = _codes(raypipe.describe(faint, model=model))
    assert {"few_counts", "background_dominated"} <= found
    assert "pileup" not in found


def test_energies_that_no_channel_covers_are_called_extrapolated(
    model: Model, shared_data: Path
) -> None:
    nustar = shared_data / "missions" / "nustar"
    name = "nu90402339002A01"
    found = raypipe.describe(
        nustar / f"{name}_sr.pha",
        model=model,
        arf=nustar / f"{name}_sr.arf",
        rmf=nustar / "nustar_fpma.rmf.gz",
        background=nustar / f"{name}_bk.pha",
    )
    assert isinstance(found, Description)
    assert math.isnan(found.fluxes["s"].value)
    assert found.fluxes["s"].is_extrapolated
    codes = _codes(found)
    assert codes & {"outside_population", "badly_fit"}


def test_significances_beyond_any_number_say_so() -> None:
    assert cautions._sigmas(5.04) == "5.0 sigma"
    assert cautions._sigmas(37.0) == "more than 37 sigma"


def test_a_bad_file_leaves_the_others_described(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(shared_data / "ciao" / "obs1.pi")
    hrc = str(next((shared_data / "csc").glob("hrc*_pha3.fits.gz")))
    bad = tmp_path / "bad\x1b[31m.pi"
    bad.write_bytes(b"no FITS at all")
    command = ["describe", good, str(bad), hrc, str(tmp_path / "absent.pi")]
    options = ["--model", str(BUNDLE)]
    assert main([*command, *options, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [set(each) == {"file", "error"} for each in answer] == [False, True, True, True]
    assert answer[0]["total_counts"] == 49
    assert "HRC" in answer[2]["error"]
    assert main([*command, *options]) == 1
    printed = capsys.readouterr()
    assert "obs1.pi" in printed.out
    assert printed.err.count("raypipe: ") == 3
    assert "\x1b" not in printed.out + printed.err
    assert main([command[0], str(bad), *options]) == 1
    assert capsys.readouterr().out == ""
    assert main([command[0], good, *options]) == 0
    assert "energy flux" in capsys.readouterr().out


def test_one_bad_spectrum_raises_in_python(model: Model, tmp_path: Path) -> None:
    with pytest.raises(OgipError, match="absent"):
        raypipe.describe(tmp_path / "absent.pi", model=model)
    some = raypipe.describe(tmp_path / "absent.pi", power_law_spectrum(), model=model)
    assert isinstance(some, Descriptions)
    assert [len(some), len(some.described), len(some.undescribed)] == [2, 1, 1]
    assert "not described: " in str(some)
    assert "mine.pi" in str(some)
    assert "absent.pi" in some._repr_html_()


def test_responses_replace_those_that_are_not_there(
    model: Model, shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "ciao"
    pha = shutil.copy(folder / "3c273.pi", tmp_path / "mine.pi")
    with pytest.raises(OgipError, match="give --arf FILE"):
        raypipe.describe(pha, model=model)
    given = {"arf": folder / "3c273.arf", "rmf": folder / "3c273.rmf"}
    found = raypipe.describe(pha, model=model, background=folder / "3c273_bg.pi", **given)
    assert isinstance(found, Description)
    assert found.fluxes["b"].value > 0
    with pytest.raises(UsageError, match="belong to one spectrum"):
        raypipe.describe(pha, pha, model=model, **given)


@pytest.mark.parametrize(
    ("name", "begins"),
    [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.html", b"<!DOCTYPE html>")],
)
def test_each_format_of_plot_is_written(
    model: Model, tmp_path: Path, name: str, begins: bytes
) -> None:
    raypipe.describe(power_law_spectrum(), model=model, plot=tmp_path / "new" / name)
    content = (tmp_path / "new" / name).read_bytes()
    assert content.startswith(begins)
    assert len(content) > 20_000


def test_names_of_plots_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    for plot, problem in (("a.pdf", "expected a name that ends"), ("a.png", "a file each")):
        with pytest.raises(UsageError, match=problem):
            raypipe.describe("one.pi", "two.pi", plot=tmp_path / plot)
    files = PlotFiles.of(tmp_path, ["a/src.pi", "b/src.pi.gz"]).files
    assert files == (tmp_path / "src.png", tmp_path / "src-2.png")
    assert PlotFiles.of("p/x-{file}.svg", ["a/src.pi"]).files == (Path("p/x-src.svg"),)


def test_html_escapes_what_a_file_says(described: Description) -> None:
    for shown in (description_page(described), description_fragment(described)):
        assert "<script>" not in shown
        assert "&lt;script&gt;" in shown
        assert shown.count("<svg") == 3
    assert "http://" not in description_page(described).replace("http://www.w3.org", "")


def test_the_corner_plot_has_the_interval_of_the_fit(described: Description) -> None:
    fit = described.fits["powlaw"]
    physics = physics_posterior(described.evidence, fit, "powlaw")
    assert physics is not None
    assert physics.density.sum() == pytest.approx(1.0)
    marginal = physics.marginal(1)
    mean = np.average(physics.y.values, weights=marginal)
    width = np.sqrt(np.average((physics.y.values - mean) ** 2, weights=marginal))
    gamma = fit.parameters["powlaw_gamma"]
    assert mean == pytest.approx(gamma.value, abs=gamma.hilim - gamma.lolim)
    assert width == pytest.approx(0.5 * (gamma.hilim - gamma.lolim), rel=0.6)
    low, high = physics.levels((0.683, 0.954))
    assert physics.density[physics.density >= high].sum() == pytest.approx(0.683, abs=0.03)
    assert physics.density[physics.density >= low].sum() == pytest.approx(0.954, abs=0.02)


def test_the_corner_plot_of_few_counts_ends_where_the_posterior_does(
    model: Model, shared_data: Path
) -> None:
    found = raypipe.describe(shared_data / "ciao" / "obs1.pi", model=model)
    assert isinstance(found, Description)
    physics = found.physics
    assert physics is not None
    # 49 counts: the likelihood alone has a tail to the limit of 5,000.
    assert 10.0 < physics.x.values[-1] < 500.0
    assert physics.x.values[0] == pytest.approx(0.0, abs=1e-9)
    assert physics.marginal(0)[-1] < 0.1


def test_axes_are_even_in_what_priors_are_flat_in() -> None:
    axis = Axis(np.array([0.0, 20.0, 5000.0]), "N_H", 10.0)
    np.testing.assert_allclose(axis.place(axis.values), np.log([10.0, 30.0, 5010.0]))
    np.testing.assert_allclose(axis.value(axis.place(axis.values)), axis.values, atol=1e-9)
    assert axis.bends
    assert axis.ticks()[0] == 0.0
    assert 4 <= len(axis.ticks()) <= 6
    assert not Axis(np.array([2300.0, 2400.0]), "N_H", 10.0).bends
    assert not Axis(np.array([1.0, 3.0]), "photon index", None).bends


def test_neighbors_have_names_classes_and_distances_with_errors(model: Model) -> None:
    population = model.population
    names = tuple(f"source {row}" for row in range(len(population.reference_z)))
    named = replace(model, population=replace(population, reference_names=names))
    covariance = 1e-4 * np.diag(np.arange(1.0, 9.0) ** 2)
    z = population.reference_z[7] + np.array([0.005, 0, 0, 0, 0, 0, 0, 0])
    nearest = nearest_references(z, covariance, named)
    (seventh,) = (each for each in nearest if each.name == "source 7")
    assert seventh.label == population.classes[population.reference_class[7]]
    assert seventh.separation == pytest.approx(0.005)
    assert seventh.separation_err == pytest.approx(0.01)
    assert seventh.distance == pytest.approx(0.5)
    assert {each.name for each in nearest_references(z, covariance, model)} == {None}


def test_a_page_has_the_flux_of_a_band_that_is_covered(described: Description) -> None:
    nothing, known = Flux(math.nan, math.nan, math.nan), Flux(5e-10, 4.9e-10, 5.1e-10)
    fluxes = {**dict.fromkeys("usmb", nothing), "h": known}
    hard = replace(described, fluxes=fluxes)
    assert best_covered_flux(hard) == ("h", known)
    page = description_page(hard)
    assert "flux, 2-7 keV" in page
    assert ">nan<" not in page
    none = replace(described, fluxes=dict.fromkeys("usmhb", nothing))
    assert "flux, " not in description_page(none).partition("Figures</h2>")[0]


def test_a_table_shows_limits_as_limits(described: Description) -> None:
    fit = described.fits["powlaw"]
    limited = fit.parameters | {"powlaw_nh": Interval(0.0, math.nan, 4.2)}
    fits = {"powlaw": replace(fit, parameters=limited)}
    both = Descriptions((replace(described, fits=fits), described))
    text = str(both)
    assert "nh <4.20" in text
    assert max(map(len, text.splitlines())) < 160


def test_an_interrupted_description_promises_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("raypipe.describing.describe.describe_all", interrupt)
    assert main(["describe", "one.pi"]) == 130
    assert capsys.readouterr().err.endswith("raypipe: interrupted\n")


def test_latents_alone_are_measured_without_draws(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A description draws once, for its fluxes; a search and `encode` do not draw."""

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("drew from the posterior")

    monkeypatch.setattr("raypipe.model.encode.draw", refuse)
    made = power_law_spectrum()
    assert isinstance(raypipe.describe(made, model=model), Description)
    assert np.isfinite(measure_spectrum(made, model, EmbedConfig()).posterior.z).all()
    assert np.isfinite(model.encode(made)["z0"]).all()
    with pytest.raises(AssertionError, match="drew from"):
        model.encode_batch(SpectraBatch.from_spectra([made]), config=EmbedConfig())


def test_a_model_without_flux_is_refused(model: Model) -> None:
    class Paper:
        name = "paper"

    with pytest.raises(UsageError, match="preset paper has no flux"):
        raypipe.describe(power_law_spectrum(), model=replace(model, network=Paper()))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no spectrum was given"):
        raypipe.describe(model=model)
    with pytest.raises(UsageError, match="of type int"):
        raypipe.describe(3, model=model)  # type: ignore[arg-type]


def test_describing_needs_neither_ray_nor_sklearn() -> None:
    code = "import sys, raypipe.describing.measure, raypipe.describing.figures; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    assert not {"ray", "sklearn", "astropy"} & set(loaded.stdout.split())
