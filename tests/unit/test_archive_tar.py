from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.archive.tar import Member, NotATar, TarError, read_tar

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
Files = list[tuple[str, bytes]]


def _pack(files: Files, form: int = tarfile.PAX_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def _source(data: bytes, piece: int = 1000) -> Callable[[int], bytes]:
    stream = io.BytesIO(data)
    return lambda size: stream.read(min(size, piece))


def _read(data: bytes, **bounds: int) -> list[Member]:
    limits = {"max_members": 100, "max_member_bytes": 1 << 20, "max_bytes": 1 << 24} | bounds
    return list(read_tar(_source(data), **limits))


def _read_until_error(data: bytes) -> tuple[list[Member], TarError | None]:
    members = []
    try:
        for member in read_tar(
            _source(data), max_members=100, max_member_bytes=1 << 20, max_bytes=1 << 24
        ):
            members.append(member)
    except TarError as error:
        return members, error
    return members, None


names = st.text("abcé_-.0", min_size=1, max_size=60).filter(lambda name: name not in (".", ".."))
folders = st.lists(names, max_size=5).map(lambda parts: "/".join(parts))
files = st.lists(
    st.tuples(st.builds("{}/{}".format, folders.filter(bool), names), st.binary(max_size=2000)),
    max_size=5,
)


@given(files, st.sampled_from(FORMATS), st.booleans())
@settings(max_examples=60, deadline=None)
def test_reads_what_tarfile_writes(files: Files, form: int, zipped: bool) -> None:
    try:
        data = _pack(files, form)
    except ValueError:  # a name too long for ustar
        return
    members = _read(gzip.compress(data) if zipped else data)
    assert [(m.name, m.content, m.refused) for m in members] == [(*file, None) for file in files]


SAMPLE: Files = [("p/a.fits", b"a" * 700), ("p/" + "long" * 40, b"b" * 512), ("p/c", b"c" * 30)]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_cut_anywhere_is_noticed(zipped: bool) -> None:
    data = _pack(SAMPLE)
    end = data.rindex(b"c") // 512 * 512 + 512
    whole = gzip.compress(data) if zipped else data
    for cut in range(0, len(whole), 7 if zipped else 64):
        members, error = _read_until_error(whole[:cut])
        assert [(m.name, m.content) for m in members] == SAMPLE[: len(members)]
        if error is None:
            assert not zipped
            assert cut >= end + 512


def test_damaged_headers_are_never_the_end() -> None:
    data = bytearray(_pack(SAMPLE, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        start = tar.getmembers()[2].offset
    for place in range(start, start + 512):
        data[place] ^= 0x01
        members, error = _read_until_error(bytes(data))
        assert len(members) == (2 if error else 3)
        assert error is not None or place == start + 155, "only the checksum's filler means nothing"
        data[place] ^= 0x01


@given(st.binary(max_size=3000), st.integers(0, 4000))
@settings(max_examples=200, deadline=None)
def test_anything_else_is_a_tar_error(noise: bytes, place: int) -> None:
    data = _pack(SAMPLE)
    _read_until_error(data[:place] + noise + data[place:])
    _, error = _read_until_error(b"x" + noise)
    assert isinstance(error, NotATar)


def test_an_empty_tar_is_whole() -> None:
    assert _read(_pack([])) == []
    with pytest.raises(NotATar):
        _read(b"")


def test_bounds() -> None:
    data = _pack(SAMPLE)
    assert len(_read(data, max_members=3)) == 3
    with pytest.raises(TarError, match="more than 2 members"):
        _read(data, max_members=2)
    assert [m.refused is None for m in _read(data, max_member_bytes=600)] == [False, True, True]
    with pytest.raises(TarError, match=r"larger than the 0\.0019\d+ MiB allowed"):
        _read(data, max_bytes=2000)
    with pytest.raises(TarError, match="larger than the 1 MiB allowed"):
        _read(gzip.compress(_pack([("p/bomb", bytes(1 << 21))])), max_bytes=1 << 20)


def test_extended_headers_are_bounded() -> None:
    with pytest.raises(TarError, match="extended header"):
        _read(_pack([("p/" + "n" * 100_000, b"")], tarfile.GNU_FORMAT))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "c:/x", "a\\..\\x", "a\nb"])
def test_names_that_lead_astray_are_refused(name: str) -> None:
    (member,) = _read(_pack([(name, b"x")]))
    assert member.refused is not None
    assert member.content == b""
