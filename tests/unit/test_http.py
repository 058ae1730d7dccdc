"""One policy for all requests: what files and sessions do alike when a server is in trouble."""

from __future__ import annotations

import logging
import random
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from raypipe.config import DiscoverConfig, IngestConfig
from raypipe.errors import RaypipeError, ServiceError
from raypipe.http import redirects
from raypipe.http.client import Body, HttpClient, Traffic
from raypipe.http.errors import FetchError, TryAgain
from raypipe.http.policy import LONGEST_PAUSE_S, Host, Patience, ask_until_answered, retry_after_s
from raypipe.http.session import PoliteSession
from tests.pipeline import file_server
from tests.pipeline.file_server import Exchange, Fault, FileServer, serve

CONTENT = bytes(range(256)) * 40
ATTEMPTS = 3
CONNECTIONS = 3
"""Another number than other tests have, so that no server of theirs is shared."""

Limits = dict[str, float]
Ask = Callable[[str], bytes]
NewAsk = Callable[..., Ask]


def _limits(changes: Limits) -> Limits:
    return {"attempts": ATTEMPTS, "backoff_s": 0.01, "silence_s": 5.0, "answer_s": 10.0} | changes


def client(**changes: float) -> Ask:
    config = IngestConfig(host_concurrency=CONNECTIONS, **_limits(changes))  # type: ignore[arg-type]
    files = HttpClient(config, Traffic())
    return lambda url: files.request(lambda: url, 1 << 20, Body.read_all)


def session(**changes: float) -> Ask:
    patience = Patience.from_settings(DiscoverConfig(**_limits(changes)))  # type: ignore[arg-type]
    polite = PoliteSession(patience, answer_bytes=1 << 20)
    return lambda url: polite.get(url).content


both = pytest.mark.parametrize("new", [client, session])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "x").write_bytes(CONTENT)
    with serve(tmp_path) as running:
        yield running


def ask(new: NewAsk, server: FileServer, name: str = "files/x", **changes: float) -> bytes:
    return new(**changes)(f"{server.url}/{name}")


def failure(new: NewAsk, server: FileServer, **changes: float) -> str:
    with pytest.raises(RaypipeError) as raised:
        ask(new, server, **changes)
    return str(raised.value)


@both
@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 529])
def test_a_server_in_trouble_is_asked_again(new: NewAsk, status: int, server: FileServer) -> None:
    server.fail(file_server.status(status), times=ATTEMPTS - 1)
    assert ask(new, server) == CONTENT
    server.log.clear()
    server.faults.clear()
    server.fail(file_server.status(status))
    said = failure(new, server)
    assert f"/files/x: the server answered {status}" in said
    assert f"after {ATTEMPTS} attempts" in said
    assert len(server.log) == ATTEMPTS


@both
@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 413, 414, 422])
def test_a_refusal_is_final(new: NewAsk, status: int, server: FileServer) -> None:
    server.fail(file_server.status(status))
    if new is client:
        assert f"the server answered {status}" in failure(new, server)
    else:
        assert ask(new, server) == b"busy", "pyvo reads the refusal"
    assert len(server.log) == 1


BROKEN: dict[str, tuple[Fault, str]] = {
    "cut": (file_server.cut_connection(0.5), "the connection"),
    "silent": (file_server.say_nothing, "nothing arrived for 0.3 s"),
    "dripping": (file_server.drip_body, "incomplete after 0.5 s"),
    "dripping headers": (file_server.drip_headers, "incomplete after 0.5 s"),
}


@both
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_ends_in_time_and_is_asked_for_again(
    new: NewAsk, name: str, server: FileServer
) -> None:
    """A byte every 50 ms is no silence: only the deadline ends an answer that drips."""
    fault, said = BROKEN[name]
    server.fail(fault, times=1)
    assert ask(new, server, silence_s=0.3, answer_s=0.5) == CONTENT
    server.faults.clear()
    server.fail(fault)
    started = time.monotonic()
    problem = failure(new, server, silence_s=0.3, answer_s=0.5, attempts=2)
    assert time.monotonic() - started < 2.5
    assert said in problem
    assert "after 2 attempts" in problem


@both
def test_connections_are_kept_for_the_next_request(new: NewAsk, server: FileServer) -> None:
    asker = new()
    assert [asker(f"{server.url}/files/x") for _ in range(3)] == [CONTENT] * 3
    assert server.connections == 1


@both
def test_proxies_are_used_and_have_the_same_deadline(
    new: NewAsk, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    url = "http://proxied.example/files/x"
    assert new()(url) == CONTENT
    assert server.log == [url]
    server.fail(file_server.drip_headers)
    with pytest.raises(RaypipeError, match=r"incomplete after 0\.5 s"):
        new(answer_s=0.5, attempts=1)(url)


@both
def test_no_server_at_all(new: NewAsk, server: FileServer) -> None:
    server.shutdown()
    server.server_close()
    assert "the connection failed (Connection refused), after 3 attempts" in failure(new, server)


@both
def test_a_short_retry_after_is_waited_for(
    new: NewAsk, server: FileServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "raypipe")
    server.fail(file_server.status(503, Retry_After="1"), times=1)
    assert ask(new, server) == CONTENT
    first, second = server.moments
    assert second - first > 0.95
    if new is session:
        assert "retrying in 1 s, as the server asks" in caplog.text


@both
def test_a_long_retry_after_ends_the_request_and_spares_the_server(
    new: NewAsk, server: FileServer
) -> None:
    server.fail(file_server.status(429, Retry_After="3600"), "busy")
    asker = new()
    started, moment = time.monotonic(), datetime.now(UTC)
    with pytest.raises(
        RaypipeError, match=r"429 .*; the server asks to come back at .* UTC"
    ) as one:
        asker(f"{server.url}/files/busy")
    with pytest.raises(RaypipeError, match=r"asks to come back at .* UTC"):
        asker(f"{server.url}/files/x")
    (said,) = re.findall(r"back at (.*) UTC", str(one.value))
    back = datetime.strptime(said, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    assert 3600 <= (back - moment).total_seconds() <= 3665
    assert server.log == ["/files/busy"], "the server is left alone, not only the file"
    assert time.monotonic() - started < 2


@both
@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("file:///etc/passwd", "file:///etc/passwd, which is not http"),
        ("ftp://127.0.0.1/x", "ftp://127.0.0.1/x, which is not http"),
        ("http://169.254.169.254/latest?key=1", "169.254.169.254/latest, an address that is not"),
        ("http://[::broken/x", "something that is not a URL"),
        ("/files/around", "more than 5 redirects"),
    ],
)
def test_redirects_that_are_not_followed(
    new: NewAsk, location: str, said: str, server: FileServer
) -> None:
    server.fail(file_server.redirect(location))
    problem = failure(new, server)
    assert said in problem
    assert "key=1" not in problem
    assert len(server.log) == (6 if "around" in location else 1), "no attempt is repeated"


@both
def test_a_server_outside_cannot_lead_inside(
    new: NewAsk, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine is no public address, so names decide here what is inside."""
    monkeypatch.setattr(redirects, "leads_inside", lambda asked, target: "inside" in target)
    server.fail(file_server.redirect("/files/x"), "outside")
    server.fail(file_server.redirect("/files/inside"), "astray")
    assert ask(new, server, "files/outside") == CONTENT
    with pytest.raises(RaypipeError, match=r"redirects to .*/inside, an address that is not"):
        ask(new, server, "files/astray")
    assert server.count("inside") == 0


@both
def test_the_content_of_a_redirect_is_not_read(new: NewAsk, server: FileServer) -> None:
    sent = 0

    def endless(exchange: Exchange, content: bytes) -> None:
        nonlocal sent
        exchange.begin(302, Location="/files/x", Connection="close")
        for _ in range(200):
            exchange.wfile.write(bytes(1 << 20))
            sent += 1

    server.fail(endless, "away")
    assert ask(new, server, "files/away") == CONTENT
    assert sent < 30


@both
def test_answers_are_bounded(new: NewAsk, server: FileServer, tmp_path: Path) -> None:
    for fault in file_server.huge_length, file_server.endless:
        server.faults.clear()
        server.log.clear()
        server.fail(fault)
        assert "the answer is larger than 1 MiB" in failure(new, server)
        assert len(server.log) == 1


@both
def test_certificates_that_are_not_trusted_are_final(
    new: NewAsk, server: FileServer, tmp_path: Path
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("making a certificate needs openssl")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key -out cert"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    before = server.connections
    with pytest.raises(RaypipeError, match="certificate is not trusted"):
        new()(f"{server.url.replace('http', 'https')}/files/x")
    assert server.connections - before <= 1


def test_a_post_is_not_repeated_because_the_page_it_leads_to_is_busy(server: FileServer) -> None:
    server.fail(file_server.redirect("/files/x"), "create")
    server.fail(file_server.status(503), "files/x", times=2)
    polite = PoliteSession(Patience(attempts=3, backoff_s=0.01, silence_s=5.0, answer_s=10.0))
    response = polite.post(f"{server.url}/create", data={"QUERY": "SELECT"})
    assert response.content == CONTENT
    assert [hop.status_code for hop in response.history] == [302]
    assert response.url == f"{server.url}/files/x"
    assert server.log == ["/create", "/files/x", "/files/x", "/files/x"]
    assert polite.requests_sent == 4
    assert response.raw.read(decode_content=True) == CONTENT, "pyvo reads here"


def test_redirects_are_left_to_who_wants_them(server: FileServer) -> None:
    server.fail(file_server.redirect("ftp://127.0.0.1/jobs"))
    polite = PoliteSession(Patience(attempts=1, backoff_s=0.0, silence_s=5.0, answer_s=10.0))
    assert polite.get(f"{server.url}/x", allow_redirects=False).status_code == 302


def test_cookies_of_redirects_are_kept(server: FileServer) -> None:
    def log_in(exchange: Exchange, content: bytes) -> None:
        exchange.give(b"", 302, Location="/files/x", Set_Cookie="session=1; Path=/")

    seen = []
    server.fail(log_in, "login")
    server.fail(lambda exchange, content: seen.append(exchange.headers["Cookie"]), "files/x")
    polite = PoliteSession(Patience(attempts=1, backoff_s=0.0, silence_s=0.2, answer_s=10.0))
    with pytest.raises(ServiceError):
        polite.get(f"{server.url}/login")
    assert seen == ["session=1"]


def test_a_server_that_is_down_is_asked_once_per_request() -> None:
    host = Host(1)
    patience = Patience(attempts=3, backoff_s=0.0, silence_s=1.0, answer_s=1.0)
    calls = []

    def fail() -> None:
        calls.append(1)
        raise TryAgain("down")

    for _ in range(15):
        with pytest.raises(FetchError):
            ask_until_answered("http://h/x", host, patience, fail, lambda failure: None)
    assert len(calls) == 10 * 3 + 5
    ask_until_answered("http://h/x", host, patience, lambda: None, lambda failure: None)
    with pytest.raises(FetchError):
        ask_until_answered("http://h/x", host, patience, fail, lambda failure: None)
    assert len(calls) == 10 * 3 + 5 + 3


def test_pauses_double_up_to_a_limit_and_differ() -> None:
    random.seed(0)
    patience = Patience(attempts=9, backoff_s=2.0, silence_s=1.0, answer_s=1.0)
    for attempt, longest in (1, 2.0), (2, 4.0), (5, 32.0), (6, LONGEST_PAUSE_S), (9999, 60.0):
        pauses = [patience.pause_s(attempt) for _ in range(50)]
        assert longest / 2 <= min(pauses) < 0.6 * longest < 0.9 * longest < max(pauses) <= longest


def test_retry_after_in_seconds_or_as_a_date() -> None:
    assert retry_after_s("7") == retry_after_s(" 7 ") == 7
    assert retry_after_s("9" * 500) == 365 * 86400
    for unreadable in (None, "", "soon", "-3", "\u00b2", "Wed, 99 Oct 99999 07:28:00 GMT"):
        assert retry_after_s(unreadable) == 0
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert retry_after_s(later) == pytest.approx(60, abs=3)
