"""Spectra in the forms that archives and tools write them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from raypipe.ogip import Note, OgipError, Pha, notes, read_pha
from tests.unit.ogip_files import (
    N_CHANNELS,
    arf_hdu,
    column,
    counts_of,
    pha_bytes,
    pha_hdu,
    table,
    to_bytes,
)


def codes(pha: Pha) -> list[str]:
    return [note.code for note in pha.warnings]


def test_total_and_background_of_one_file() -> None:
    background = counts_of(seed=2)
    total = pha_hdu(BACKFILE="spec.fits", ANCRFILE="NONE", RESPFILE="  ")
    pha = read_pha(to_bytes(pha_hdu(counts=background, HDUCLAS2="BKG", BACKSCAL=2.0), total))
    np.testing.assert_array_equal(pha.counts, counts_of())
    assert pha.background is not None
    np.testing.assert_array_equal(pha.background.counts, background)
    assert pha.background.backscal == 2.0
    assert (pha.backfile, pha.ancrfile, pha.respfile) == ("spec.fits", None, None)
    assert pha.warnings == ()


def test_background_alone_is_a_spectrum() -> None:
    pha = read_pha(pha_bytes(HDUCLAS2="BKG"))
    assert pha.background is None
    np.testing.assert_array_equal(pha.counts, counts_of())


def test_extname_counts_only_where_unclassified() -> None:
    plain = read_pha(pha_bytes(drop=("HDUCLAS1", "HDUCLAS2")))
    np.testing.assert_array_equal(plain.counts, counts_of())
    with pytest.raises(OgipError, match="no spectrum"):
        read_pha(pha_bytes(HDUCLAS1="EVENTS"))
    odd = read_pha(pha_bytes(HDUCLAS1="PHA_SPECTRUM"))
    np.testing.assert_array_equal(odd.counts, counts_of())
    renamed = read_pha(pha_bytes(EXTNAME="SOMETHING"))
    np.testing.assert_array_equal(renamed.counts, counts_of())


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_channels_from_zero_or_one_as_integers_or_floats(first: int, dtype: Any) -> None:
    channels = np.arange(first, first + N_CHANNELS, dtype=dtype)
    pha = read_pha(pha_bytes(channels=channels))
    assert pha.channels.dtype == np.int64
    np.testing.assert_array_equal(pha.channels, np.arange(first, first + N_CHANNELS))


def test_channels_out_of_order_are_sorted_with_what_belongs_to_them() -> None:
    order = np.random.default_rng(3).permutation(N_CHANNELS)
    quality = np.arange(N_CHANNELS) % 3
    pha = read_pha(
        pha_bytes(
            [column("QUALITY", "I", quality[order])],
            channels=np.arange(1, N_CHANNELS + 1)[order],
            counts=counts_of()[order],
        )
    )
    np.testing.assert_array_equal(pha.channels, np.arange(1, N_CHANNELS + 1))
    np.testing.assert_array_equal(pha.counts, counts_of())
    np.testing.assert_array_equal(pha.quality, quality)
    assert "sorted" in pha.warnings[0]
    assert codes(pha) == [notes.SORTED_CHANNELS]


def test_repeated_channel_is_refused_by_row() -> None:
    channels = np.arange(1, N_CHANNELS + 1)
    channels[7] = 3
    with pytest.raises(OgipError, match=r"CHANNEL repeats an earlier one at row 8"):
        read_pha(pha_bytes(channels=channels))


def test_fractional_channel_is_refused() -> None:
    with pytest.raises(OgipError, match="not a whole number at row 1"):
        read_pha(pha_bytes(channels=np.arange(N_CHANNELS) + 0.5))


def test_rate_times_exposure() -> None:
    rate = counts_of() / 500.0
    pha = read_pha(pha_bytes(counts=rate, count_column="RATE", EXPOSURE=500.0))
    np.testing.assert_allclose(pha.counts, counts_of(), rtol=1e-12)
    with pytest.raises(OgipError, match="RATE needs a positive EXPOSURE"):
        read_pha(pha_bytes(counts=rate, count_column="RATE", EXPOSURE=0.0))


def test_count_rate_is_not_rate() -> None:
    rates = column("COUNT_RATE", "D", np.full(N_CHANNELS, 7.0))
    np.testing.assert_array_equal(read_pha(pha_bytes([rates])).counts, counts_of())
    with pytest.raises(OgipError, match="column COUNTS is missing"):
        read_pha(pha_bytes(counts=counts_of() / 2, count_column="COUNT_RATE"))


@pytest.mark.parametrize("bad", [np.nan, -np.inf, np.inf])
def test_bad_counts_are_refused_by_row(bad: float) -> None:
    counts = counts_of().astype(float)
    counts[4] = bad
    with pytest.raises(OgipError, match=r"spec\.pha\[1: SPECTRUM\]: COUNTS .* at row 5"):
        read_pha(pha_bytes(counts=counts), name="spec.pha")


def test_missing_exposure_names_the_keyword() -> None:
    with pytest.raises(OgipError, match="EXPOSURE is missing"):
        read_pha(pha_bytes(drop=("EXPOSURE",)))
    with pytest.raises(OgipError, match="expected a number"):
        read_pha(pha_bytes(EXPOSURE="long"))


@pytest.mark.parametrize("keywords", [{}, {"HDUCLAS1": "MYSPEC"}])
def test_columns_tell_a_spectrum_without_name_and_class(keywords: dict[str, Any]) -> None:
    unclassified = tuple(key for key in ("HDUCLAS1", "HDUCLAS2") if key not in keywords)
    content = pha_bytes(EXTNAME="PHA", drop=unclassified, **keywords)
    np.testing.assert_array_equal(read_pha(content).counts, counts_of())
    channels = [column("CHANNEL", "J", [1, 2]), column("STAT_ERR", "E", [1, 2])]
    with pytest.raises(OgipError, match="no spectrum"):
        read_pha(to_bytes(table(channels, EXTNAME="PHA", EXPOSURE=1.0)))


def test_numbers_written_as_text() -> None:
    pha = read_pha(pha_bytes(EXPOSURE=" 1.0D3", BACKSCAL="2.5e-1", AREASCAL="1", QUALITY="5"))
    assert (pha.exposure_s, pha.backscal, pha.areascal) == (1000.0, 0.25, 1.0)
    assert pha.quality is not None
    assert pha.quality[0] == 5
    assert pha.warnings == ()


def test_keywords_of_the_primary_header_stand_in() -> None:
    missing = ("EXPOSURE", "BACKSCAL", "AREASCAL")
    content = to_bytes(
        pha_hdu(drop=missing), EXPOSURE=77.0, BACKSCAL=0.5, AREASCAL=0.9, ANCRFILE="a.arf"
    )
    pha = read_pha(content)
    assert (pha.exposure_s, pha.backscal, pha.areascal) == (77.0, 0.5, 0.9)
    assert pha.ancrfile == "a.arf"
    assert pha.assumed == frozenset()
    own = read_pha(to_bytes(pha_hdu(), EXPOSURE=77.0, LIVETIME=76.0))
    assert own.exposure_s == 1000.0


@pytest.mark.parametrize("of_primary", [{}, {"LIVETIME": 55.0}])
def test_livetime_takes_the_place_of_exposure_with_a_warning(of_primary: dict[str, Any]) -> None:
    own = {} if of_primary else {"LIVETIME": 55.0}
    pha = read_pha(to_bytes(pha_hdu(drop=("EXPOSURE",), **own), **of_primary))
    assert pha.exposure_s == 55.0
    assert codes(pha) == [notes.LIVETIME_USED]


def test_small_letters() -> None:
    content = pha_bytes(QUALITY=3, BACKSCAL=0.125)
    for word in (b"EXPOSURE", b"BACKSCAL", b"QUALITY", b"TTYPE1", b"CHANNEL", b"COUNTS"):
        assert word in content
        content = content.replace(word, word.lower())
    content = content.replace(b"'SPECTRUM'", b"'Spectrum'").replace(b"'TOTAL", b"'total")
    pha = read_pha(content)
    np.testing.assert_array_equal(pha.counts, counts_of())
    assert (pha.exposure_s, pha.backscal) == (1000.0, 0.125)
    assert pha.header["EXPOSURE"] == 1000.0


def test_the_old_name_of_binary_tables() -> None:
    content = pha_bytes().replace(b"'BINTABLE'", b"'A3DTABLE'")
    np.testing.assert_array_equal(read_pha(content).counts, counts_of())


class TestWhatIsNoCounts:
    def test_negative_values_are_read_and_said(self) -> None:
        counts = counts_of().astype(float)
        counts[4] = -1.5
        pha = read_pha(pha_bytes(counts=counts))
        np.testing.assert_array_equal(pha.counts, counts)
        assert codes(pha) == [notes.NET_COUNTS]
        assert "negative value at row 5" in pha.warnings[0]
        background = read_pha(pha_bytes(counts=counts, HDUCLAS2="BKG"))
        assert codes(background) == [notes.NEGATIVE_BACKGROUND]

    @pytest.mark.parametrize("stated", [False, "F", "f ", 0])
    def test_whole_numbers_may_be_counts_whatever_poisserr_says(self, stated: Any) -> None:
        assert codes(read_pha(pha_bytes(POISSERR=stated))) == [notes.NOT_POISSON]
        halves = pha_bytes(counts=counts_of() + 0.5, POISSERR=stated)
        assert codes(read_pha(halves)) == [notes.NOT_POISSON, notes.NET_COUNTS]

    def test_rates_in_single_precision_are_whole(self) -> None:
        rates = (counts_of() * 1000 / 777.7).astype(np.float32)
        content = pha_bytes(counts=rates, count_column="RATE", EXPOSURE=777.7, POISSERR=False)
        assert codes(read_pha(content)) == [notes.NOT_POISSON]

    def test_poisson_errors_are_no_oddity(self) -> None:
        for stated in (True, "T", 1, "unknown"):
            assert codes(read_pha(pha_bytes(POISSERR=stated))) == []


def test_a_note_is_its_text_and_keeps_its_code() -> None:
    note = Note("EXPOSURE is 0 s", notes.EXPOSURE_ODD)
    assert note == "EXPOSURE is 0 s"
    assert "EXPOSURE" in note
    again = pickle.loads(pickle.dumps(note))
    assert (again, again.code) == (note, notes.EXPOSURE_ODD)


def test_useless_exposure_and_scale_are_read_with_a_warning() -> None:
    pha = read_pha(pha_bytes(EXPOSURE=0.0, BACKSCAL=-1.0))
    assert pha.exposure_s == 0.0
    assert pha.warnings == ("EXPOSURE is 0 s", "BACKSCAL is not positive everywhere")
    assert codes(pha) == [notes.EXPOSURE_ODD, notes.SCALE_ODD]
    content = pha_bytes(EXPOSURE=1234.5).replace(b"1234.5", b"   NAN")
    assert np.isnan(read_pha(content).exposure_s)


def test_scales_and_flags_as_columns() -> None:
    backscal = np.linspace(0.1, 0.2, N_CHANNELS)
    flags = [
        column("QUALITY", "I", np.arange(N_CHANNELS) % 2),
        column("GROUPING", "I", np.where(np.arange(N_CHANNELS) % 4, -1, 1)),
        column("BACKSCAL", "D", backscal),
        column("AREASCAL", "D", np.full(N_CHANNELS, 0.5)),
    ]
    pha = read_pha(pha_bytes(flags, drop=("BACKSCAL", "AREASCAL")))
    np.testing.assert_array_equal(pha.backscal, backscal)
    assert pha.areascal == 0.5
    assert pha.quality is not None
    assert pha.quality.sum() == N_CHANNELS // 2
    assert pha.grouping is not None
    assert set(pha.grouping.tolist()) == {-1, 1}


def test_scales_and_flags_as_keywords_or_absent() -> None:
    pha = read_pha(pha_bytes(drop=("BACKSCAL", "AREASCAL"), QUALITY=5, GROUPING=0))
    assert (pha.backscal, pha.areascal) == (1.0, 1.0)
    np.testing.assert_array_equal(pha.quality, np.full(N_CHANNELS, 5))
    assert pha.grouping is None


@pytest.mark.parametrize("keyword", ["HDUCLAS3", "HDUCLAS4"])
def test_type_ii_is_refused_with_the_reason(keyword: str) -> None:
    with pytest.raises(OgipError, match=r"gratings type II spectra .* are not supported"):
        read_pha(pha_bytes(**{keyword: "TYPE:II"}))


def test_type_ii_is_known_by_its_columns() -> None:
    spectra = fits.BinTableHDU.from_columns(
        [
            column("CHANNEL", "8J", np.tile(np.arange(1, 9), (3, 1))),
            column("COUNTS", "8J", np.ones((3, 8), dtype=int)),
        ]
    )
    spectra.header.update(EXTNAME="SPECTRUM", HDUCLAS1="SPECTRUM", EXPOSURE=1.0)
    numbered = pha_bytes([column("SPEC_NUM", "I", np.arange(N_CHANNELS))])
    for content in (to_bytes(spectra), numbered):
        with pytest.raises(OgipError, match="type II"):
            read_pha(content)


def test_net_and_several_spectra_are_told_of() -> None:
    pha = read_pha(to_bytes(pha_hdu(HDUCLAS2="NET"), pha_hdu(counts=counts_of(seed=8))))
    np.testing.assert_array_equal(pha.counts, counts_of())
    assert codes(pha) == [notes.NET_COUNTS, notes.SEVERAL_SPECTRA]


def test_other_products_are_not_spectra() -> None:
    with pytest.raises(OgipError, match="no spectrum"):
        read_pha(to_bytes(arf_hdu()))


def test_images_between_tables_are_skipped() -> None:
    image = fits.ImageHDU(np.zeros((50, 70), dtype=np.int16), name="MASK")
    np.testing.assert_array_equal(read_pha(to_bytes(image, pha_hdu(), image)).counts, counts_of())


def test_empty_checksums_do_not_matter() -> None:
    np.testing.assert_array_equal(
        read_pha(pha_bytes(DATASUM="", CHECKSUM="nonsense")).counts, counts_of()
    )


def test_pha_survives_pickling() -> None:
    pha = pickle.loads(pickle.dumps(read_pha(pha_bytes(OBJECT="it's"))))
    np.testing.assert_array_equal(pha.counts, counts_of())
    assert pha.header["OBJECT"] == "it's"
