"""A spectrum, the files it names, and the fold through its responses."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypipe.ogip import Note, OgipError, Spectrum, read_spectrum
from raypipe.ogip.neighbors import find_beside
from raypipe.ogip.notes import (
    AREA_TWICE,
    ARF_MISSING,
    CHANNELS_MATCHED,
    EXPOSURE_ODD,
    NEGATIVE_BACKGROUND,
    NET_COUNTS,
    NO_AREASCAL,
    NO_BACKSCAL,
    NOT_POISSON,
    PARTIAL_RESPONSE,
    RMF_MISSING,
)
from raypipe.ogip.quadrature import integrate
from tests.unit.ogip_files import (
    N_CHANNELS,
    arf_hdu,
    column,
    counts_of,
    dense_matrix,
    energy_edges,
    pha_bytes,
    pha_hdu,
    rmf_bytes,
    to_bytes,
    write,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* of the 6.5 keV from 0.5 to 7 keV"),
    pytest.mark.filterwarnings("ignore:.*these are no counts"),
    pytest.mark.filterwarnings("ignore:.*already subtracted"),
]

BACKGROUND = counts_of(seed=2)
SECRET = counts_of(seed=99)


def survey(
    folder: Path, *, pha: dict[str, Any] | None = None, suffix: str = "", name: str = "source.pi"
) -> Path:
    named = {"BACKFILE": "source_bg.pi", "ANCRFILE": "source.arf", "RESPFILE": "source.rmf"}
    path = write(folder, name, pha_bytes(**(named | (pha or {}))))
    write(folder, f"source_bg.pi{suffix}", pha_bytes(counts=BACKGROUND, BACKSCAL=0.5))
    write(folder, f"source.arf{suffix}", to_bytes(arf_hdu()))
    write(folder, f"source.rmf{suffix}", rmf_bytes())
    return path


def notes_of(spectrum: Spectrum) -> tuple[Note, ...]:
    """All but that the small responses of these tests reach from 0.5 to 3.5 keV."""
    return tuple(note for note in spectrum.warnings if note.code != PARTIAL_RESPONSE)


def codes_of(spectrum: Spectrum) -> list[str]:
    return [note.code for note in notes_of(spectrum)]


def flat(energy_kev: np.ndarray) -> np.ndarray:
    return np.full_like(energy_kev, 0.01)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_named_files_beside_the_pha(tmp_path: Path, suffix: str) -> None:
    spectrum = read_spectrum(survey(tmp_path, suffix=suffix))
    np.testing.assert_array_equal(spectrum.counts, counts_of())
    np.testing.assert_array_equal(spectrum.background_counts, BACKGROUND)
    assert spectrum.background_scale == 0.5
    assert spectrum.exposure_s == 1000.0
    assert spectrum.channel_energy_kev is not None
    assert spectrum.channel_energy_kev.shape == (N_CHANNELS, 2)
    assert notes_of(spectrum) == ()


def test_name_with_gz_for_a_file_without(tmp_path: Path) -> None:
    path = survey(tmp_path, pha={"ANCRFILE": "source.arf.gz", "RESPFILE": "source.rmf[MATRIX]"})
    spectrum = read_spectrum(path)
    assert spectrum.arf is not None
    assert spectrum.rmf is not None


def test_fold_is_photons_times_area_through_the_matrix(tmp_path: Path) -> None:
    spectrum = read_spectrum(survey(tmp_path))
    low, high = energy_edges()
    photons = 0.01 * (high - low) * np.linspace(100, 400, len(low)) * 1000.0
    np.testing.assert_allclose(spectrum.fold(flat), photons @ dense_matrix(), rtol=1e-6)
    np.testing.assert_allclose(spectrum.fold(lambda _: 0.01), spectrum.fold(flat))


def test_integral_over_bins_is_exact_for_a_steep_power_law() -> None:
    edges = np.geomspace(0.3, 9.3, 60)
    integral = integrate(lambda energy: energy**-3.0, edges[:-1], edges[1:])
    np.testing.assert_allclose(integral, (edges[:-1] ** -2 - edges[1:] ** -2) / 2, rtol=1e-9)


def test_area_on_the_grid_of_the_matrix(tmp_path: Path) -> None:
    path = survey(tmp_path)
    edges = np.linspace(0.5, 3.5, 31)
    fine = arf_hdu(edges[:-1], edges[1:], np.repeat(np.linspace(100, 400, 6), 5))
    other = read_spectrum(path, arf=to_bytes(fine))
    np.testing.assert_allclose(other.fold(flat), read_spectrum(path).fold(flat), rtol=1e-5)


@pytest.mark.parametrize(
    ("keyword", "said"),
    [
        ("BACKFILE", "BACKFILE gone.fits not found: no background"),
        ("ANCRFILE", "ANCRFILE gone.fits not found: no ARF"),
        ("RESPFILE", "RESPFILE gone.fits not found: no RMF"),
    ],
)
def test_a_missing_file_is_done_without(tmp_path: Path, keyword: str, said: str) -> None:
    path = survey(tmp_path, pha={keyword: "gone.fits"})
    with pytest.warns(UserWarning, match=said):
        spectrum = read_spectrum(path)
    assert notes_of(spectrum) == (said,)
    missing = {"BACKFILE": "background_counts", "ANCRFILE": "arf", "RESPFILE": "rmf"}[keyword]
    assert getattr(spectrum, missing) is None
    np.testing.assert_array_equal(spectrum.counts, counts_of())


def test_fold_names_what_is_missing(tmp_path: Path) -> None:
    none = {"BACKFILE": "None", "ANCRFILE": "NONE", "RESPFILE": ""}
    spectrum = read_spectrum(survey(tmp_path, pha=none))
    assert spectrum.background_counts is None
    assert spectrum.background_scale is None
    assert spectrum.channel_energy_kev is None
    with pytest.raises(OgipError, match=r"source\.pi: no RMF"):
        spectrum.fold(flat)
    with pytest.raises(OgipError, match=r"source\.pi: no ARF"):
        read_spectrum(spectrum.path, rmf=tmp_path / "source.rmf").fold(flat)


def test_full_matrix_needs_no_arf(tmp_path: Path) -> None:
    path = survey(tmp_path, pha={"ANCRFILE": "none"})
    spectrum = read_spectrum(path, rmf=rmf_bytes(HDUCLAS3="FULL"))
    assert spectrum.fold(flat).sum() == pytest.approx(0.01 * 3.0 * 1000.0)
    with pytest.warns(UserWarning, match="the ARF multiplies it"):
        twice = read_spectrum(path, arf=to_bytes(arf_hdu()), rmf=rmf_bytes(HDUCLAS3="FULL"))
    assert AREA_TWICE in codes_of(twice)


def test_none_is_no_file_whatever_the_header_names(tmp_path: Path) -> None:
    path = survey(tmp_path)
    bare = read_spectrum(path, arf=None, rmf=None, background=None)
    assert (bare.arf, bare.rmf, bare.background_counts) == (None, None, None)
    assert bare.warnings == ()
    full = read_spectrum(path, arf=None, rmf=rmf_bytes(HDUCLAS3="FULL"))
    assert full.fold(flat).sum() == pytest.approx(0.01 * 3.0 * 1000.0)


def test_areascal_multiplies_what_is_predicted(tmp_path: Path) -> None:
    plain = read_spectrum(survey(tmp_path)).fold(flat)
    half = read_spectrum(survey(tmp_path, pha={"AREASCAL": 0.5}))
    np.testing.assert_allclose(half.fold(flat), 0.5 * plain)
    np.testing.assert_allclose(half.background_scale, 0.25)
    by_channel = np.linspace(0.2, 1.0, N_CHANNELS)
    scales = {"extra": [column("AREASCAL", "D", by_channel)], "drop": ("AREASCAL",)}
    np.testing.assert_allclose(
        read_spectrum(survey(tmp_path, pha=scales)).fold(flat), by_channel * plain
    )


@pytest.mark.parametrize(("key", "code"), [("BACKSCAL", NO_BACKSCAL), ("AREASCAL", NO_AREASCAL)])
def test_a_scale_of_one_of_the_pair_alone_is_said(tmp_path: Path, key: str, code: str) -> None:
    path = survey(tmp_path)
    with pytest.warns(UserWarning, match=f"the background has no {key} .1 is assumed."):
        spectrum = read_spectrum(path, background=pha_bytes(drop=(key,)))
    assert codes_of(spectrum) == [code]
    path = survey(tmp_path, pha={"drop": (key,)})
    with pytest.warns(UserWarning, match=f"the spectrum has no {key} .1 is assumed."):
        assert codes_of(read_spectrum(path)) == [code]
    assert codes_of(read_spectrum(path, background=pha_bytes(drop=(key,)))) == []


def test_background_of_other_first_channel_matches_in_order(tmp_path: Path) -> None:
    path = survey(tmp_path)
    for first in (0, 2):
        other = pha_bytes(counts=BACKGROUND, channels=np.arange(first, first + N_CHANNELS))
        with pytest.warns(UserWarning, match=f"from 1, those of the background from {first}"):
            spectrum = read_spectrum(path, background=other)
        assert codes_of(spectrum) == [CHANNELS_MATCHED]
        np.testing.assert_array_equal(spectrum.background_counts, BACKGROUND)
    gaps = pha_bytes(counts=BACKGROUND, channels=np.arange(0, 2 * N_CHANNELS, 2))
    with pytest.raises(OgipError, match="background is on other channels"):
        read_spectrum(path, background=gaps)


def test_a_negative_background_is_read_and_said(tmp_path: Path) -> None:
    counts = BACKGROUND.astype(float)
    counts[3] = -0.25
    path = survey(tmp_path)
    with pytest.warns(UserWarning, match="the background has negative values"):
        spectrum = read_spectrum(path, background=pha_bytes(counts=counts, HDUCLAS2="TOTAL"))
    assert NEGATIVE_BACKGROUND in codes_of(spectrum)
    spectrum = read_spectrum(path, background=pha_bytes(counts=counts, HDUCLAS2="BKG"))
    assert spectrum.warnings[0].startswith("background: a negative value at row 4")
    assert codes_of(spectrum) == [NEGATIVE_BACKGROUND]


def test_notes_of_every_part_are_kept(tmp_path: Path) -> None:
    path = survey(tmp_path, pha={"HDUCLAS2": "NET"})
    with pytest.warns(UserWarning, match="background: EXPOSURE is 0 s"):
        spectrum = read_spectrum(path, background=pha_bytes(EXPOSURE=0.0), arf=to_bytes(arf_hdu()))
    said = {note.code: str(note) for note in spectrum.warnings}
    assert said.keys() == {NET_COUNTS, EXPOSURE_ODD, PARTIAL_RESPONSE}
    assert said[EXPOSURE_ODD] == "background: EXPOSURE is 0 s"


def test_poisserr_is_noted_and_nobody_is_warned(tmp_path: Path) -> None:
    path = survey(tmp_path, pha={"POISSERR": False})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectrum = read_spectrum(path, arf=None, rmf=None)
    assert codes_of(spectrum) == [NOT_POISSON]


def test_names_in_capitals(tmp_path: Path) -> None:
    names = {"BACKFILE": "SOURCE_BG.PI", "ANCRFILE": "SOURCE.ARF", "RESPFILE": "Source.Rmf.GZ"}
    spectrum = read_spectrum(survey(tmp_path, pha=names))
    assert notes_of(spectrum) == ()
    np.testing.assert_array_equal(spectrum.background_counts, BACKGROUND)
    write(tmp_path, "SOURCE.arf", to_bytes(arf_hdu(area=np.ones(6))))
    with pytest.warns(UserWarning, match="ANCRFILE SoUrCe.ArF not found"):
        read_spectrum(survey(tmp_path, pha={"ANCRFILE": "SoUrCe.ArF"}))


def test_long_names_are_cut_in_notes(tmp_path: Path) -> None:
    path = survey(tmp_path, pha={"ANCRFILE": "x" * 5000})
    with pytest.warns(UserWarning, match="ANCRFILE x+"):
        (note,) = notes_of(read_spectrum(path))
    assert note.code == ARF_MISSING
    assert len(note) < 300


def test_caldb_is_not_searched(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="RESPFILE is CALDB, which is not searched: give rmf="):
        spectrum = read_spectrum(survey(tmp_path, pha={"RESPFILE": "caldb"}))
    assert codes_of(spectrum) == [RMF_MISSING]


class TestGridsThatDiffer:
    def test_area_stays_with_its_own_energies(self, tmp_path: Path) -> None:
        """The flux of a steep source is not the same in both halves of a bin of the matrix."""
        edges = np.array([0.5, 0.7, 1.1, 2.25, 3.5])
        area = np.array([100.0, 10.0, 300.0, 50.0])
        path = survey(tmp_path)
        spectrum = read_spectrum(path, arf=to_bytes(arf_hdu(edges[:-1], edges[1:], area)))
        cuts = np.unique(np.concatenate([edges, np.linspace(0.5, 3.5, 7)]).astype(np.float32))
        cuts = cuts.astype(float)
        photons = (cuts[:-1] ** -2 - cuts[1:] ** -2) / 2
        middle = 0.5 * (cuts[1:] + cuts[:-1])
        photons *= area[np.searchsorted(edges, middle) - 1]
        rows = np.bincount(np.searchsorted(energy_edges()[0], middle) - 1, photons)
        np.testing.assert_allclose(
            spectrum.fold(lambda energy: energy**-3.0), 1000.0 * rows @ dense_matrix(), rtol=1e-5
        )

    def test_area_at_other_energies_altogether_gives_nothing(self, tmp_path: Path) -> None:
        far = to_bytes(arf_hdu(np.array([20.0, 30.0]), np.array([30.0, 40.0]), np.ones(2)))
        assert (read_spectrum(survey(tmp_path), arf=far).fold(flat) == 0).all()

    def test_energies_without_area_give_nothing(self, tmp_path: Path) -> None:
        low, high = energy_edges()
        half = to_bytes(arf_hdu(low[:3], high[:3], np.full(3, 100.0)))
        folded = read_spectrum(survey(tmp_path), arf=half).fold(flat)
        expected = np.where(np.arange(6) < 3, 0.01 * 0.5 * 100.0 * 1000.0, 0.0) @ dense_matrix()
        np.testing.assert_allclose(folded, expected, rtol=1e-5)


def test_named_lines_are_integrated_whatever_their_width(tmp_path: Path) -> None:
    spectrum = read_spectrum(survey(tmp_path), arf=to_bytes(arf_hdu(area=np.full(6, 100.0))))
    sigma = 2e-6

    def line(energy: np.ndarray) -> np.ndarray:
        shape = np.exp(-0.5 * ((energy - 1.2345) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        return 1e-3 * shape + 1e-2

    without = spectrum.fold(lambda energy: np.full_like(energy, 1e-2)).sum()
    assert spectrum.fold(line).sum() == pytest.approx(without)
    with_line = spectrum.fold(line, lines_kev=[1.2345, 50.0]).sum()
    assert with_line - without == pytest.approx(100.0, rel=1e-5)


def test_overrides_take_the_place_of_named_files(tmp_path: Path) -> None:
    path = survey(tmp_path)
    other = write(tmp_path, "other.pi", pha_bytes(counts=SECRET, BACKSCAL=1.0))
    spectrum = read_spectrum(path, arf=to_bytes(arf_hdu(area=np.ones(6))), background=other)
    np.testing.assert_array_equal(spectrum.background_counts, SECRET)
    assert spectrum.background_scale == 0.25
    assert spectrum.arf is not None
    assert spectrum.arf.area_cm2.max() == 1.0
    with pytest.raises(OgipError, match=r"nowhere\.arf: cannot be read: No such file"):
        read_spectrum(path, arf=tmp_path / "nowhere.arf")


def test_names_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    write(tmp_path, "secret.pi", pha_bytes(counts=SECRET))
    for name in ("../secret.pi", str(tmp_path / "secret.pi"), "..\\secret.pi", ".."):
        path = survey(inside, pha={"BACKFILE": name})
        with pytest.warns(UserWarning, match="not found"):
            assert read_spectrum(path).background_counts is None
    write(inside, "secret.pi", pha_bytes(counts=BACKGROUND))
    spectrum = read_spectrum(survey(inside, pha={"BACKFILE": "/elsewhere/secret.pi"}))
    np.testing.assert_array_equal(spectrum.background_counts, BACKGROUND)


def test_a_link_to_the_file_is_not_its_background(tmp_path: Path) -> None:
    path = survey(tmp_path, pha={"BACKFILE": "link.pi"})
    (tmp_path / "link.pi").symlink_to(path)
    with pytest.warns(UserWarning, match="names the file itself"):
        assert read_spectrum(path).background_counts is None


@pytest.mark.parametrize("name", ["x" * 300, "[" * 20_000, "a\tb", "dir/"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    assert find_beside(tmp_path / "source.pi", name) is None


class TestCatalogProducts:
    STEM = "acisf01575_001N{:03d}_r0085_{}3.fits"

    def write_pha(self, folder: Path, *blocks: Any, version: int = 2) -> Path:
        named = {
            "BACKFILE": self.STEM.format(version, "pha"),
            "ANCRFILE": self.STEM.format(version, "arf"),
            "RESPFILE": self.STEM.format(version, "rmf"),
        }
        content = to_bytes(pha_hdu(**named), *blocks)
        return write(folder, self.STEM.format(version, "pha") + ".gz", content)

    def test_own_block_is_the_background(self, tmp_path: Path) -> None:
        block = pha_hdu(counts=BACKGROUND, HDUCLAS2="BKG", BACKSCAL=2.5, BACKFILE="none")
        path = self.write_pha(tmp_path, block)
        write(tmp_path, self.STEM.format(2, "pha"), pha_bytes(counts=SECRET))
        write(tmp_path, self.STEM.format(2, "arf"), to_bytes(arf_hdu()))
        write(tmp_path, self.STEM.format(2, "rmf"), rmf_bytes())
        spectrum = read_spectrum(path)
        np.testing.assert_array_equal(spectrum.background_counts, BACKGROUND)
        assert spectrum.background_scale == pytest.approx(0.1)

    @pytest.mark.parametrize("version", [1, 2])
    def test_a_file_is_never_its_own_background(self, tmp_path: Path, version: int) -> None:
        path = self.write_pha(tmp_path)
        write(tmp_path, self.STEM.format(version, "pha"), path.read_bytes())
        for product, content in (("arf", to_bytes(arf_hdu())), ("rmf", rmf_bytes())):
            write(tmp_path, self.STEM.format(2, product), content)
        with pytest.warns(UserWarning, match="names the file itself"):
            assert read_spectrum(path).background_counts is None

    def test_any_version_of_the_same_detection_newest_first(self, tmp_path: Path) -> None:
        path = self.write_pha(tmp_path, pha_hdu(counts=BACKGROUND, HDUCLAS2="BKG"))
        for version in (1, 7, 3):
            area = to_bytes(arf_hdu(area=np.full(6, float(version))))
            write(tmp_path, self.STEM.format(version, "arf") + ".gz", area)
        write(tmp_path, "acisf01575_001N009_r0086_arf3.fits", to_bytes(arf_hdu()))
        write(tmp_path, self.STEM.format(1, "rmf"), rmf_bytes())
        spectrum = read_spectrum(path)
        assert spectrum.arf is not None
        assert spectrum.arf.area_cm2[0] == 7.0
        assert spectrum.rmf is not None

    def test_another_catalog_file_as_background_gives_its_block(self, tmp_path: Path) -> None:
        block = pha_hdu(counts=BACKGROUND, HDUCLAS2="BKG")
        path = survey(tmp_path)
        spectrum = read_spectrum(path, background=self.write_pha(tmp_path, block))
        np.testing.assert_array_equal(spectrum.background_counts, BACKGROUND)


def test_scale_differs_by_channel_where_a_column_does(tmp_path: Path) -> None:
    backscal = np.linspace(1.0, 2.0, N_CHANNELS)
    content = pha_bytes(
        [column("BACKSCAL", "D", backscal)], counts=BACKGROUND, drop=("BACKSCAL",), EXPOSURE=2000.0
    )
    spectrum = read_spectrum(survey(tmp_path), background=content)
    np.testing.assert_allclose(spectrum.background_scale, 0.25 / backscal / 2)


def test_part_of_the_channels(tmp_path: Path) -> None:
    path = survey(tmp_path)
    whole = read_spectrum(path)
    some = np.array([3, 4, 8, 15])
    part = pha_bytes(channels=some, counts=counts_of()[some - 1], RESPFILE="source.rmf")
    spectrum = read_spectrum(write(tmp_path, "part.pi", part), arf=tmp_path / "source.arf")
    np.testing.assert_allclose(spectrum.fold(flat), whole.fold(flat)[some - 1])
    assert whole.channel_energy_kev is not None
    np.testing.assert_array_equal(spectrum.channel_energy_kev, whole.channel_energy_kev[some - 1])


def test_channels_counted_from_elsewhere_match_in_order(tmp_path: Path) -> None:
    path = survey(tmp_path)
    shifted = pha_bytes(channels=np.arange(N_CHANNELS))
    with pytest.warns(UserWarning, match="count from 0, those of the RMF from 1"):
        spectrum = read_spectrum(
            write(tmp_path, "zero.pi", shifted), arf=tmp_path / "source.arf", rmf=rmf_bytes()
        )
    np.testing.assert_array_equal(spectrum.fold(flat), read_spectrum(path).fold(flat))


def test_channels_that_do_not_match_are_refused(tmp_path: Path) -> None:
    path = survey(tmp_path)
    longer = pha_bytes(counts=counts_of(N_CHANNELS + 1))
    with pytest.raises(OgipError, match="background is on other channels"):
        read_spectrum(path, background=longer)
    with pytest.raises(OgipError, match="1 to 17 are not all among those of the RMF, 1 to 16"):
        read_spectrum(write(tmp_path, "longer.pi", longer), rmf=rmf_bytes())


def test_spectrum_survives_pickling(tmp_path: Path) -> None:
    spectrum: Spectrum = pickle.loads(pickle.dumps(read_spectrum(survey(tmp_path))))
    assert spectrum.fold(flat).sum() > 0
    assert spectrum.header["HDUCLAS1"] == "SPECTRUM"


def test_a_spectrum_shows_itself_in_one_line(tmp_path: Path) -> None:
    spectrum = read_spectrum(survey(tmp_path), background=None)
    assert len(repr(spectrum)) < 300
    assert f"{spectrum.counts.sum():.0f} counts in {len(spectrum.channels)} channels" in repr(
        spectrum
    )
    assert "without background" in repr(spectrum)
    assert spectrum.net_counts == spectrum.counts.sum()


def test_net_counts_are_less_the_scaled_background(tmp_path: Path) -> None:
    spectrum = read_spectrum(survey(tmp_path), background=pha_bytes(BACKSCAL=0.5))
    assert spectrum.background_counts is not None
    assert spectrum.background_scale == 0.5
    expected = spectrum.counts.sum() - 0.5 * spectrum.background_counts.sum()
    assert spectrum.net_counts == pytest.approx(expected)
