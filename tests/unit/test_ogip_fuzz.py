"""Damaged and hostile files: read right or refused with OgipError, in bounded time and memory."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raypipe.ogip import Arf, OgipError, Pha, Rmf, loading, read_arf, read_pha, read_rmf
from raypipe.ogip.notes import NEGATIVE_BACKGROUND, NET_COUNTS
from tests.unit.ogip_files import (
    arf_hdu,
    bounds_hdu,
    column,
    counts_of,
    dense_matrix,
    energy_edges,
    pha_hdu,
    rmf_bytes,
    rmf_hdus,
    table,
    to_bytes,
)

Edit = tuple[str, float, Any]

SLACK_BYTES = 2**20
MEMORY_FACTOR = 8
MOST_OF_A_MESSAGE = 2000

HOSTILE_INTEGERS = (0, 1, 2, 3, 7, -1, 255, 2880, 65535, 2**31 - 1, -(2**31), 2**32, 2**62, 10**60)
HOSTILE_VALUES = [str(value) for value in HOSTILE_INTEGERS] + [
    *("1.5", "1E400", "NAN", "T", "", "'J'", "'1J'", "'0J'", "'1024E'", "'PJ(3)'", "'QE(9)'"),
    *("'1PE(2)'", "'999999999D'", "'8X'", "'9A'", "'BKG'", "'TOTAL'", "'TYPE:II'", "'EBOUNDS'"),
    *(
        "'RESPONSE'",
        "'SPECTRUM'",
        "'RSP_MATRIX'",
        "'COUNTS'",
        "'CHANNEL'",
        "'N_GRP'",
        "'keV'",
        "'L'",
    ),
]
HOSTILE_WORDS = [
    np.array(value, dtype=dtype).tobytes()
    for dtype in (">i2", ">i4", ">i8")
    for value in (0, 1, 2, 100, -1, np.iinfo(dtype).max, np.iinfo(dtype).min)
] + [np.array(value, dtype=">f4").tobytes() for value in (np.nan, np.inf, -1.0, 1e30, 1e-40)]
STRUCTURE = (
    *(b"XTENSION", b"BITPIX", b"NAXIS", b"PCOUNT", b"GCOUNT", b"TFIELDS", b"TFORM", b"TTYPE"),
    *(b"TLMIN", b"TZERO", b"TSCAL", b"THEAP", b"HDUCLAS", b"EXTNAME", b"EXPOSURE", b"END"),
)


def pha_files() -> list[bytes]:
    flags = [column("QUALITY", "I", np.zeros(16)), column("BACKSCAL", "D", np.linspace(1, 2, 16))]
    plain = to_bytes(pha_hdu(), pha_hdu(counts=counts_of(seed=2), HDUCLAS2="BKG"))
    rates = pha_hdu(flags, counts=counts_of() / 10, count_column="RATE", drop=("BACKSCAL",))
    odd = pha_hdu(drop=("EXPOSURE", "HDUCLAS1", "HDUCLAS2"), BACKSCAL="0.5", POISSERR=False)
    texts = to_bytes(odd, EXPOSURE="1000.0", LIVETIME=999.0).replace(b"'BINTABLE'", b"'A3DTABLE'")
    return [plain, to_bytes(rates), to_bytes(pha_hdu(counts=counts_of(3000), TLMIN1=1)), texts]


def arf_files() -> list[bytes]:
    return [to_bytes(arf_hdu()), to_bytes(arf_hdu(*energy_edges(2000)))]


def rmf_files() -> list[bytes]:
    wide = np.random.default_rng(0).uniform(size=(40, 300)) * (np.arange(300) % 50 < 40)
    forms = [{}, {"descriptor": "Q"}, {"variable": False}, {"pad_groups": 3}, {"limit": 1}]
    split = to_bytes(*rmf_hdus(), rmf_hdus(dense_matrix(3))[0])
    return [*(rmf_bytes(**form) for form in forms), rmf_bytes(wide.astype(np.float32)), split]


def check_pha(pha: Pha) -> None:
    n_channels = len(pha.channels)
    assert n_channels > 0
    assert (np.diff(pha.channels) > 0).all()
    assert pha.counts.shape == (n_channels,)
    assert np.isfinite(pha.counts).all()
    codes = {note.code for note in pha.warnings}
    assert (pha.counts >= 0).all() or codes & {NET_COUNTS, NEGATIVE_BACKGROUND}
    dict(pha.header)


def check_arf(arf: Arf) -> None:
    assert (np.diff(arf.energy_lo_kev) > 0).all()
    assert (arf.energy_hi_kev > arf.energy_lo_kev).all()
    assert np.isfinite(arf.area_cm2).all()


def check_rmf(rmf: Rmf) -> None:
    n_energies, n_channels = rmf.matrix.shape
    assert len(rmf.energy_lo_kev) == n_energies
    assert rmf.channel_energy_kev.shape == (n_channels, 2)
    rmf.matrix.check_format(full_check=True)
    assert np.isfinite(rmf.matrix.data).all()


PRODUCTS: dict[str, tuple[Callable[..., Any], Callable[[Any], None], list[bytes]]] = {
    "pha": (read_pha, check_pha, pha_files()),
    "arf": (read_arf, check_arf, arf_files()),
    "rmf": (read_rmf, check_rmf, rmf_files()),
}

places = st.floats(0, 1, exclude_max=True)
edits = st.lists(
    st.one_of(
        st.tuples(st.just("card"), places, st.sampled_from(HOSTILE_VALUES)),
        st.tuples(st.just("data"), places, st.sampled_from(HOSTILE_WORDS)),
        st.tuples(st.just("byte"), places, st.binary(min_size=1, max_size=4)),
        st.tuples(st.just("insert"), places, st.binary(min_size=1, max_size=90)),
        st.tuples(st.just("cut"), places, st.none()),
        st.tuples(st.just("drop"), places, st.sampled_from([1, 80, 2880])),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, kind: str, place: float, what: Any) -> bytes:
    at = int(place * len(content))
    match kind:
        case "card":
            return with_card(content, place, what)
        case "data":
            return with_word(content, place, what)
        case "byte":
            return content[:at] + what + content[at + len(what) :]
        case "insert":
            return content[:at] + what + content[at:]
        case "cut":
            return content[:at]
        case _:
            return content[:at] + content[at + what :]


def with_card(content: bytes, place: float, value: str) -> bytes:
    """A structural keyword of an extension gets another value."""
    cards = [
        at
        for at in range(2880, len(content) - 79, 80)
        if content[at : at + 80].startswith(STRUCTURE)
    ]
    if not cards:
        return content
    at = cards[int(place * len(cards))]
    return content[: at + 8] + f"= {value:>20}".ljust(72)[:72].encode() + content[at + 80 :]


def with_word(content: bytes, place: float, word: bytes) -> bytes:
    """A number somewhere behind the headers, descriptors of rows among them, is replaced."""
    start = content.find(b"END".ljust(80)) + 80
    start = max(content.find(b"END".ljust(80), start), 0) // 2880 * 2880 + 2880
    at = start + int(place * max(len(content) - start, 0)) // 2 * 2
    return content[:at] + word + content[at + len(word) :]


def read_within_bounds(product: str, content: bytes, expanded: int) -> None:
    read, check, _ = PRODUCTS[product]
    outcome, complaint = None, "fuzzed"
    tracemalloc.start()
    try:
        outcome = read(content, name="fuzzed")
    except OgipError as error:
        complaint = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert complaint.startswith("fuzzed")
    assert len(complaint) < MOST_OF_A_MESSAGE
    assert peak < MEMORY_FACTOR * max(expanded, len(content)) + SLACK_BYTES
    if outcome is not None:
        check(outcome)


fuzzing = settings(
    max_examples=250,
    deadline=5000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("product", PRODUCTS)
@fuzzing
@given(number=st.integers(0, 9), changes=edits)
@example(number=0, changes=[("cut", 0.999, None)])
@example(number=5, changes=[("card", 0.2, "2147483647")])
def test_damaged_files(product: str, number: int, changes: list[Edit]) -> None:
    files = PRODUCTS[product][2]
    content = files[number % len(files)]
    for change in changes:
        content = damaged(content, *change)
    read_within_bounds(product, content, len(content))


@pytest.mark.parametrize("product", PRODUCTS)
@fuzzing
@given(
    number=st.integers(0, 9), before=st.lists(edits, max_size=1), after=st.lists(edits, max_size=1)
)
def test_damaged_gzip_files(
    product: str, number: int, before: list[list[Edit]], after: list[list[Edit]]
) -> None:
    files = PRODUCTS[product][2]
    content = files[number % len(files)]
    for change in (change for changes in before for change in changes):
        content = damaged(content, *change)
    expanded = len(content)
    content = gzip.compress(content, compresslevel=1)
    for kind, place, what in (change for changes in after for change in changes):
        if kind not in ("card", "data"):
            content = damaged(content, kind, place, what)
    read_within_bounds(product, content, expanded)


@fuzzing
@given(content=st.binary(max_size=400), magic=st.sampled_from([b"", b"\x1f\x8b\x08", b"SIMPLE  ="]))
def test_bytes_of_any_kind(content: bytes, magic: bytes) -> None:
    with pytest.raises(OgipError):
        read_pha(magic + content)


@pytest.mark.parametrize("product", PRODUCTS)
def test_every_single_card(product: str) -> None:
    read, check, files = PRODUCTS[product]
    n_cards = files[0].count(b"= ")
    for value in HOSTILE_VALUES:
        for place in np.linspace(0, 1, n_cards, endpoint=False):
            try:
                outcome = read(with_card(files[0], float(place), value))
            except OgipError:
                continue
            check(outcome)


def card(text: str) -> bytes:
    return text.ljust(80).encode()


def with_cards(content: bytes, *cards: bytes) -> bytes:
    """Content whose first extension begins with other cards behind XTENSION."""
    at = content.index(b"XTENSION") + 80
    end = content.index(card("END"), at)
    kept = [content[i : i + 80] for i in range(at, end, 80)]
    stated = {each[:8] for each in cards}
    header = b"".join([*cards, *(each for each in kept if each[:8] not in stated), card("END")])
    data = content[end // 2880 * 2880 + 2880 :]
    padding = b" " * (-(80 + len(header)) % 2880)
    return content[:at] + header + padding + data


class TestBoundedMessages:
    def test_axes_whose_product_has_thousands_of_digits(self) -> None:
        axes = [card(f"NAXIS{axis:<3}= {'9' * 60}") for axis in range(1, 1000)]
        content = with_cards(pha_files()[0], card("NAXIS   = 999"), *axes)
        with pytest.raises(OgipError, match="data of over 9223372036854775808 bytes"):
            read_pha(content, name="odd.pha")

    @pytest.mark.parametrize("key", ["EXTNAME", "TTYPE1", "EXPOSURE", "TFORM1", "TUNIT1"])
    @pytest.mark.parametrize("product", PRODUCTS)
    def test_a_value_of_megabytes_is_cut(self, product: str, key: str) -> None:
        pieces = [card(f"CONTINUE  '{'x' * 66}&'") for _ in range(30_000)]
        content = with_cards(
            PRODUCTS[product][2][0], card(f"{key:8}= 'long&'"), *pieces, card("PCOUNT  = -1")
        )
        read_within_bounds(product, content, len(content))

    def test_names_keep_no_control_characters(self) -> None:
        content = (
            pha_files()[0].replace(b"'SPECTRUM'", b"'A\x1b[2J\n' ").replace(b"COUNTS", b"CO\nNTS")
        )
        with pytest.raises(OgipError) as caught:
            read_pha(content, name="a\nb")
        assert str(caught.value).isprintable()
        assert caught.value.path == "a\nb"

    def test_many_columns_of_long_names(self) -> None:
        names = [column("C" * 60 + str(i), "J", [0]) for i in range(400)]
        unnamed = to_bytes(
            table([column("CHANNEL", "J", [1]), *names], HDUCLAS1="SPECTRUM", EXPOSURE=1.0)
        )
        with pytest.raises(OgipError, match="COUNTS is missing") as caught:
            read_pha(unnamed)
        assert len(str(caught.value)) < MOST_OF_A_MESSAGE


def test_gzip_bomb_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MAX_EXPANDED_BYTES", 4 * 2**20)
    compressor = zlib.compressobj(9, wbits=31)
    chunk = bytes(2**20)
    bomb = b"".join([*(compressor.compress(chunk) for _ in range(200)), compressor.flush()])
    tracemalloc.start()
    try:
        with pytest.raises(OgipError, match="expands to more than 4194304 bytes"):
            read_rmf(bomb)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_rows_that_point_at_the_same_bytes_stay_small() -> None:
    """Each row states a third of the heap: reading them all would take 60 times the file."""
    wide = np.tile(dense_matrix(1, 16), (200, 100))
    content = bytearray(rmf_bytes(wide.astype(np.float32)))
    start = content.index(b"END".ljust(80), 2880 + 80) // 2880 * 2880 + 2880
    row_bytes = 4 + 4 + 2 + 3 * 8
    heap = len(content) // 2
    for row in range(200):
        at = start + row * row_bytes + 26
        content[at : at + 8] = np.array([heap // 4 // 3, 0], dtype=">i4").tobytes()
    with pytest.raises(OgipError, match="share a heap"):
        read_rmf(bytes(content))
    read_within_bounds("rmf", bytes(content), len(content))


def test_many_short_rows_take_memory_in_proportion_to_the_file() -> None:
    """Dense, these 300,000 energy bins and 4,000 channels would take 5 GB."""
    rows, channels = 300_000, 4_000
    edges = np.float32(0.1).view(np.uint32) + 50 * np.arange(rows + 1, dtype=np.uint32)
    energies = edges.astype(np.uint32).view(np.float32)
    low, high = energies[:-1], energies[1:]
    matrix = table(
        [
            column("ENERG_LO", "E", low, "keV"),
            column("ENERG_HI", "E", high, "keV"),
            column("N_GRP", "I", np.ones(rows)),
            column("F_CHAN", "I", 1 + np.arange(rows) % channels),
            column("N_CHAN", "I", np.ones(rows)),
            column("MATRIX", "E", np.ones(rows)),
        ],
        HDUCLAS1="RESPONSE",
        HDUCLAS2="RSP_MATRIX",
    )
    content = to_bytes(matrix, bounds_hdu(channels))
    read_within_bounds("rmf", content, len(content))
    rmf = read_rmf(content)
    assert rmf.matrix.shape == (rows, channels)
    assert rmf.matrix.nnz == rows
