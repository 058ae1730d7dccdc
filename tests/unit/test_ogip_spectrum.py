"""A spectrum and the files that it names."""

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
from tests.unit.ogip_files import (
    BACKGROUND,
    N_CHANNELS,
    arf_hdu,
    column,
    counts_of,
    flat,
    pha_bytes,
    pha_hdu,
    rmf_bytes,
    survey,
    to_bytes,
    write,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* of the 6.5 keV from 0.5 to 7 keV"),
    pytest.mark.filterwarnings("ignore:.*these are no counts"),
    pytest.mark.filterwarnings("ignore:.*already subtracted"),
]

SECRET = counts_of(seed=99)


def notes_of(spectrum: Spectrum) -> tuple[Note, ...]:
    """All but that the small responses of these tests reach from 0.5 to 3.5 keV."""
    return tuple(note for note in spectrum.warnings if note.code != PARTIAL_RESPONSE)


def codes_of(spectrum: Spectrum) -> list[str]:
    return [note.code for note in notes_of(spectrum)]


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


def test_none_is_no_file_whatever_the_header_names(tmp_path: Path) -> None:
    path = survey(tmp_path)
    bare = read_spectrum(path, arf=None, rmf=None, background=None)
    assert (bare.arf, bare.rmf, bare.background_counts) == (None, None, None)
    assert bare.warnings == ()
    full = read_spectrum(path, arf=None, rmf=rmf_bytes(HDUCLAS3="FULL"))
    assert full.fold(flat).sum() == pytest.approx(0.01 * 3.0 * 1000.0)


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
