"""The FITS reader against astropy.io.fits, and against malformed files."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import OgipError
from raypipe.ogip import loading, read_pha, read_rmf
from raypipe.ogip.fits import read_hdus
from raypipe.ogip.header import Header
from raypipe.ogip.table import Table
from tests.unit.ogip_files import pha_bytes, ragged, rmf_bytes, table, to_bytes


def header_of(*cards: str) -> Header:
    return Header("".join(card.ljust(80) for card in cards).encode())


class TestHeader:
    @pytest.mark.parametrize(
        ("card", "value"),
        [
            ("KEY     =                   42 / answer", 42),
            ("KEY     =                  -42", -42),
            ("KEY     =                    T / it's so", True),
            ("KEY     =                    F", False),
            ("KEY     =               1.5E+3", 1500.0),
            ("KEY     =               1.5D+3 / double", 1500.0),
            ("KEY     =               -.5", -0.5),
            ("KEY     = 'text    '           / comment", "text"),
            ("KEY     = 'it''s a / slash'", "it's a / slash"),
            ("KEY     = ''", ""),
            ("KEY     =", None),
            ("KEY     =                      / undefined", None),
            ("KEY     = (1, 2)", "(1, 2)"),
            ("KEY     = 1_0", "1_0"),
            ("KEY     = 'never closed", "'never closed"),
        ],
    )
    def test_values(self, card: str, value: Any) -> None:
        parsed = header_of("SIMPLE  =                    T", card)["KEY"]
        assert parsed == value
        assert type(parsed) is type(value)

    def test_long_strings(self) -> None:
        header = header_of(
            "LONG    = 'first &'", "CONTINUE  'sec''ond &'", "CONTINUE  'third'  / done", "A = 1"
        )
        assert header["LONG"] == "first sec'ond third"
        assert header_of("LONG    = 'AT&T&'", "OTHER   = 'x'")["LONG"] == "AT&T&"

    def test_long_strings_end_somewhere(self) -> None:
        header = header_of("LONG    = 'x&'", *["CONTINUE  'y&'"] * 5000, "A = 1")
        assert header["LONG"] == "x" + "y" * 999 + "y&"

    def test_is_a_mapping_of_keywords(self) -> None:
        header = header_of(
            "B       = 1", "COMMENT = no value", "A       = 'x'", "B       = 2", "HISTORY"
        )
        assert dict(header) == {"B": 1, "A": "x"}
        assert len(header) == 2
        assert header["b"] == 1
        assert "COMMENT" not in header
        assert header.get("MISSING", 3) == 3
        with pytest.raises(KeyError, match="MISSING"):
            header["MISSING"]
        assert header == {"B": 1, "A": "x"}

    @given(
        st.dictionaries(
            st.from_regex(r"[A-Z][A-Z0-9_-]{0,7}", fullmatch=True).filter(
                lambda key: key not in ("COMMENT", "HISTORY", "CONTINUE", "END", "SIMPLE")
            ),
            st.one_of(
                st.booleans(),
                st.integers(-(2**60), 2**60),
                st.floats(allow_nan=False, allow_infinity=False),
                st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=150),
            ),
            max_size=8,
        )
    )
    @settings(max_examples=100, deadline=None)
    def test_reads_what_astropy_reads(self, cards: dict[str, Any]) -> None:
        written = fits.Header()
        for key, value in cards.items():
            written[key] = value
        text = written.tostring(endcard=False, padding=False)
        ours, theirs = dict(Header(text.encode())), dict(fits.Header.fromstring(text))
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert value in (theirs[key], cards[key]), "astropy ends a text of '/ at the quote"

    def test_a_slash_after_a_quote_belongs_to_the_text(self) -> None:
        assert header_of("A       = '''/'    / a comment")["A"] == "'/"


def one_table(*columns: fits.Column) -> Table:
    return Table(read_hdus(to_bytes(table(list(columns))))[1])


class TestColumns:
    @pytest.mark.parametrize(
        ("form", "values"),
        [
            ("B", np.array([0, 255], dtype=np.uint8)),
            ("I", np.array([-(2**15), 2**15 - 1], dtype=np.int16)),
            ("J", np.array([-(2**31), 2**31 - 1], dtype=np.int32)),
            ("K", np.array([-(2**63), 2**63 - 1], dtype=np.int64)),
            ("E", np.array([1.5, np.nan], dtype=np.float32)),
            ("D", np.array([np.pi, -np.inf])),
            ("L", np.array([True, False])),
            ("3E", np.arange(6, dtype=np.float32).reshape(2, 3)),
            ("4A", np.array([b"ab", b"wxyz"])),
        ],
    )
    def test_types(self, form: str, values: np.ndarray) -> None:
        first = fits.Column(name="FIRST", format="I", array=[1, 2])
        read = one_table(first, fits.Column(name="X", format=form, array=values)).column("X")
        np.testing.assert_array_equal(read, values)
        assert read.dtype == values.dtype
        assert read.dtype.isnative

    def test_scaling(self) -> None:
        unsigned = np.array([0, 2**15, 2**16 - 1], dtype=np.uint16)
        hdu = table(
            [
                fits.Column(name="U", format="I", bzero=2**15, array=unsigned),
                fits.Column(name="S", format="I", array=[0, 3, -2]),
            ],
            XSCAL2=0.5,
            XZERO2=10.0,
        )
        content = to_bytes(hdu).replace(b"XSCAL2", b"TSCAL2").replace(b"XZERO2", b"TZERO2")
        scaled = Table(read_hdus(content)[1])
        np.testing.assert_array_equal(scaled.column("U"), unsigned)
        assert scaled.column("U").dtype.kind == "i"
        np.testing.assert_array_equal(scaled.column("S"), [10.0, 11.5, 9.0])

    @pytest.mark.parametrize("descriptor", ["P", "Q"])
    @pytest.mark.parametrize("code", ["B", "I", "J", "K", "E", "D"])
    @pytest.mark.parametrize("long", [1, 40])
    def test_variable_length(self, descriptor: str, code: str, long: int) -> None:
        dtype = {"B": "u1", "I": "i2", "J": "i4", "K": "i8", "E": "f4", "D": "f8"}[code]
        rows = [[1] * 3 * long, [], [2, 3] * long, [4] * long, []]
        column = fits.Column(name="V", format=f"{descriptor}{code}()", array=ragged(rows, dtype))
        odd = fits.Column(name="ODD", format="PB()", array=ragged([[1], [2], [], [3], [4]], "u1"))
        read = one_table(odd, column).ragged("V")
        np.testing.assert_array_equal(read.values, np.concatenate(rows))
        np.testing.assert_array_equal(read.lengths, [len(row) for row in rows])
        assert read.values.dtype == np.dtype(dtype)

    def test_first_of_each_row(self) -> None:
        rows = [[1, 2, 3], [], [4, 5], [6]]
        column = fits.Column(name="V", format="PJ()", array=ragged(rows, np.int32))
        read = one_table(column).ragged("V")
        np.testing.assert_array_equal(read.first(np.array([2, 0, 0, 1])), [1, 2, 6])

    def test_heap_behind_a_gap(self) -> None:
        rows = [[1.5, 2.5], [3.5]]
        column = fits.Column(name="V", format="PE()", array=ragged(rows, np.float32))
        content = to_bytes(table([column]))
        gap = b"\xff" * 8
        start = content.index(b"END", 2880 + 80) // 2880 * 2880 + 2880
        body = content[start : start + 16] + gap + content[start + 16 : start + 28]
        keyword = b"THEAP   =                   24".ljust(80)
        head = content[:start].replace(
            b"PCOUNT  =                   12", b"PCOUNT  =                   20"
        )
        head = head.replace(b"END".ljust(80) + b" " * 80, keyword + b"END".ljust(80))
        head = head[:2880] + head[2880:].replace(b" " * 80 + b"END", b"END".ljust(80))
        read = Table(read_hdus(head + body.ljust(2880, b"\0"))[1]).ragged("V")
        np.testing.assert_array_equal(read.values, [1.5, 2.5, 3.5])


def edited(content: bytes, keyword: str, value: str, occurrence: int = 0) -> bytes:
    """Content with the value of a keyword (from its `occurrence`-th card on) replaced."""
    card = f"{keyword:8}= ".encode()
    position = -1
    for _ in range(occurrence + 1):
        position = content.index(card, position + 1)
    return content[: position + 10] + value.rjust(20).ljust(70).encode() + content[position + 80 :]


class TestMalformed:
    @pytest.mark.parametrize(
        ("keyword", "value", "said"),
        [
            ("NAXIS1", "9", "NAXIS1 is 9, the columns take 8 bytes"),
            ("NAXIS1", "-8", "NAXIS1 is -8"),
            ("NAXIS1", "8.0", "NAXIS1 is 8.0, expected a whole number"),
            ("NAXIS2", "999999999999", "the file is truncated"),
            ("NAXIS2", "0", "the table has no rows"),
            ("PCOUNT", "-1", "PCOUNT is -1"),
            ("PCOUNT", "1" + "0" * 60, "the file is truncated"),
            ("GCOUNT", "0", "GCOUNT"),
            ("BITPIX", "7", "BITPIX is 7"),
            ("BITPIX", "8.0", "BITPIX is 8.0"),
            ("NAXIS", "1000", "expected at most 999"),
            ("TFIELDS", "1000", "expected at most 999"),
            ("TFIELDS", "3", "TFORM3 is None"),
            ("TFORM2", "'PJ(3)'", "NAXIS1 is 8, the columns take 12 bytes"),
            ("TFORM2", "'Z'", "TFORM2 is 'Z'"),
            ("TFORM2", "'PP'", "TFORM2 is 'PP'"),
            ("TFORM2", "5", "TFORM2 is 5"),
            ("TFORM2", "'4A'", "holds no numbers"),
            ("TFORM2", "'32X'", "of type X, expected numbers"),
            ("TFORM2", "'999999999J'", "the columns take"),
        ],
    )
    def test_header_that_lies(self, keyword: str, value: str, said: str) -> None:
        occurrence = 1 if keyword in ("NAXIS", "BITPIX") else 0
        content = edited(pha_bytes(), keyword, value, occurrence)
        with pytest.raises(OgipError, match=said) as caught:
            read_pha(content, name="odd.pha")
        assert str(caught.value).startswith("odd.pha[1")

    @pytest.mark.parametrize("descriptor", ["P", "Q"])
    @pytest.mark.parametrize("pair", [(2**30, 0), (-1, 0), (4, 10**9), (4, -4), (2**31 - 1, -1)])
    def test_descriptor_outside_the_heap(self, descriptor: str, pair: tuple[int, int]) -> None:
        content = rmf_bytes(descriptor=descriptor)
        hdu = read_hdus(content)[1]
        at = hdu.data_start + Table(hdu).columns["MATRIX"].start
        raw = np.array(pair, dtype=">i4" if descriptor == "P" else ">i8").tobytes()
        with pytest.raises(OgipError, match=r"MATRIX, row 1: .* lie outside the heap"):
            read_rmf(content[:at] + raw + content[at + len(raw) :])

    def test_rows_that_share_the_heap_are_bounded(self) -> None:
        content = bytearray(rmf_bytes())
        hdu = read_hdus(bytes(content))[1]
        matrix = Table(hdu)
        heap = hdu.data_bytes - matrix.row_bytes * matrix.n_rows
        for row in range(matrix.n_rows):
            at = hdu.data_start + row * matrix.row_bytes + matrix.columns["MATRIX"].start
            content[at : at + 8] = np.array([heap // 4, 0], dtype=">i4").tobytes()
        with pytest.raises(OgipError, match="share a heap"):
            read_rmf(bytes(content))

    @pytest.mark.parametrize("content", [b"", b"SIMPLE", b"<html>not found</html>", b"\x1f\x8b"])
    def test_no_fits_at_all(self, content: bytes) -> None:
        with pytest.raises(OgipError):
            read_pha(content)

    def test_truncated_anywhere(self) -> None:
        content = pha_bytes()
        end = read_hdus(content)[1].data_start + read_hdus(content)[1].data_bytes
        for size in range(0, end, 97):
            with pytest.raises(OgipError):
                read_pha(content[:size])
        assert read_pha(content[:end]).counts.size

    def test_trailing_garbage_is_left_alone(self) -> None:
        content = pha_bytes()
        for tail in (b"\0" * 100, b"garbage" * 1000, b"END     " * 400):
            assert read_pha(content + tail).counts.size
            assert read_pha(gzip.compress(content) + tail).counts.size


class TestLoading:
    def test_gzip_is_told_by_content(self, tmp_path: Path) -> None:
        plain, packed = tmp_path / "plain.fits.gz", tmp_path / "packed.fits"
        plain.write_bytes(pha_bytes())
        packed.write_bytes(gzip.compress(pha_bytes()))
        for source in (plain, str(packed), packed.read_bytes()):
            assert read_pha(source).counts.size

    def test_members_are_joined(self) -> None:
        content = pha_bytes()
        halves = gzip.compress(content[:3000]) + gzip.compress(content[3000:])
        np.testing.assert_array_equal(read_pha(halves).counts, read_pha(content).counts)

    @given(
        streams=st.lists(st.binary(max_size=300), min_size=1, max_size=3, unique=True),
        padding=st.sampled_from([b"", b"\0" * 8, b"no gzip at all"]),
    )
    def test_streams_of_any_size_are_told_apart(self, streams: list[bytes], padding: bytes) -> None:
        content = b"".join(gzip.compress(stream) for stream in streams) + padding
        assert loading.load(content)[1] == b"".join(streams)

    def test_many_members_are_refused(self) -> None:
        with pytest.raises(OgipError, match="more than 100 gzip streams"):
            read_pha(gzip.compress(b"") * 100_000)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda packed: packed[:-1],
            lambda packed: packed[: len(packed) // 2],
            lambda packed: packed[:12],
            lambda packed: packed[:-8] + bytes(4) + packed[-4:],
            lambda packed: packed[:40] + bytes(30) + packed[70:],
        ],
    )
    def test_broken_gzip(self, damage: Callable[[bytes], bytes]) -> None:
        with pytest.raises(OgipError, match="gzip"):
            read_pha(damage(gzip.compress(pha_bytes())), name="bad.fits.gz")

    def test_expansion_stops_at_the_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        content = pha_bytes()
        packed = gzip.compress(content)
        monkeypatch.setattr(loading, "MAX_EXPANDED_BYTES", len(content))
        assert read_pha(packed).counts.size
        monkeypatch.setattr(loading, "MAX_EXPANDED_BYTES", len(content) - 1)
        for bomb in (packed, gzip.compress(content[:3000]) + gzip.compress(content[3000:])):
            with pytest.raises(OgipError, match="expands to more than"):
                read_pha(bomb)

    def test_size_of_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "large.fits"
        path.write_bytes(pha_bytes())
        monkeypatch.setattr(loading, "MAX_FILE_BYTES", 100)
        for source in (path, path.read_bytes()):
            with pytest.raises(OgipError, match="more than the 100 a file may have"):
                read_pha(source)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(OgipError, match="cannot be read: No such file"):
            read_pha(tmp_path / "none.fits")
        with pytest.raises(OgipError, match="not a regular file"):
            read_pha(tmp_path)
        with pytest.raises(OgipError, match="cannot be read"):
            read_pha("null\0byte")


def test_reads_the_same_as_astropy(shared_data: Path) -> None:
    path = shared_data / "csc" / "acisf01575_001N001_r0085_pha3.fits.gz"
    ours = read_hdus(path)
    with fits.open(io.BytesIO(gzip.decompress(path.read_bytes()))) as theirs:
        assert len(ours) == len(theirs)
        for hdu, expected in zip(ours, theirs, strict=True):
            for key in set(expected.header) - {"COMMENT", "HISTORY", ""}:
                assert hdu.header[key] == expected.header[key]
            if isinstance(expected, fits.BinTableHDU):
                read = Table(hdu)
                for name in expected.columns.names:
                    np.testing.assert_array_equal(read.column(name), expected.data[name])
