from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from raypipe.archive.products import product_uri
from raypipe.config import IngestConfig
from raypipe.http.client import first_line
from raypipe.http.errors import FetchError
from raypipe.http.policy import Host
from raypipe.ingestion.cache import Cache
from raypipe.ingestion.fetch import Fetcher, is_remote, read_stored
from raypipe.redaction import redact


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://h/a.fits", "https://h/a.fits"),
        ("https://me:pw@h:80/a@b.fits?sig=1#x", "https://h:80/a@b.fits"),
        ("HTTP://me@h/a?sig=1", "HTTP://h/a"),
        ("https://h?sig=1", "https://h"),
        ("s3://key:secret@bucket/a?b#c.fits", "s3://bucket/a?b#c.fits"),
        ("ftp://me:pw@h/x", "ftp://h/x"),
        ("/data/a?b@c#d.fits", "/data/a?b@c#d.fits"),
        ("file:///a@b?c", "file:///a@b?c"),
        ("csc:csc2.1/1.0.1/pha3", "csc:csc2.1/1.0.1/pha3"),
    ],
)
def test_credentials_are_left_out(uri: str, shown: str) -> None:
    assert redact(uri) == shown
    assert str(FetchError(uri, "gone", retryable=False)) == f"{shown}: gone"


def test_what_is_remote() -> None:
    assert all(map(is_remote, ["http://h/a", "s3://b/a", "csc:csc2.1/1.0.1/pha3", "ftp://h/a"]))
    assert not any(map(is_remote, ["/a/b", "/a://b", "file:///a"]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\n  plain\ttext \nmore", "plain text"),
        (b"<!-- x --><HTML><style>p{}</style><script>1</script><p>Down</p>", "Down"),
        (b"<VOTABLE>\n<INFO value='ERROR'>No such\x07 table</INFO>", "No such table"),
        (b"<p>cut<a href='", "cut"),
        (b"x" * 900, "x" * 200),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_first_lines(content: bytes, said: str) -> None:
    assert first_line(content) == said


def test_a_host_is_left_alone_for_as_long_as_it_asks() -> None:
    host = Host(2)
    host.hold(0.2)
    host.hold(0.05)
    started = time.monotonic()

    def ask() -> None:
        with host.turn():
            pass

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.2 <= time.monotonic() - started < 1.0


def test_files_that_cannot_be_had_say_why(tmp_path: Path) -> None:
    for uri, said in {
        str(tmp_path / "none"): "no such file",
        str(tmp_path): "not a file",
        str(tmp_path / "a\0b"): "not a valid file name",
    }.items():
        with pytest.raises(FetchError, match=said) as caught:
            read_stored(uri, 10)
        assert not caught.value.retryable


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_cache_keeps_and_forgets(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100_000)
    for number in range(300):
        cache.put(f"http://h/{number}", bytes([number % 256]) * 1000)
        assert cache.get("http://h/0") == bytes(1000), "what is used stays"
    assert 50_000 < _size(tmp_path) <= 100_000
    assert cache.get("http://h/1") is None, "the oldest go"
    assert cache.get("http://h/299") == bytes([299 % 256]) * 1000
    cache.put("http://h/large", bytes(50_000))
    assert "http://h/large" not in cache, "one file does not drive out the others"


def test_damaged_cache_files_are_ignored(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100_000)
    cache.put("u", b"content")
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    for damage in (path.read_bytes()[:-1], b"", path.read_bytes() + b"x"):
        path.write_bytes(damage)
        assert cache.get("u") is None
        cache.put("u", b"content")
        assert cache.get("u") == b"content"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file", 1000)
    cache.put("u", b"content")
    assert cache.get("u") is None


@pytest.mark.parametrize("error", [MemoryError(), ValueError("a member of a tar")])
def test_whatever_goes_wrong_with_a_package_is_said_of_its_products(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr("raypipe.archive.package.PackageService.fetch", fail)
    uris = [product_uri("csc2.1", obsid, 0, 1, "pha3") for obsid in (1, 2)]
    products = Fetcher(IngestConfig()).fetch_products(uris)
    assert list(products) == uris
    for failure in products.values():
        assert isinstance(failure, FetchError)
        assert failure.retryable
        assert type(error).__name__ in failure.problem
