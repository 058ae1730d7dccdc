"""Serve an explorer over HTTP: one page, and answers to its questions about the catalog.

Every question needs the token that the page's address contains, so that neither other users of the
machine nor other pages of the browser can ask. No text of a question names a file.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs, urlsplit

from raypipe.errors import RaypipeError, UsageError
from raypipe.redaction import printable, redact_text

Answer = bytes | list[Any] | dict[str, Any]
Question = dict[str, Any]
Answers = dict[str, Callable[[Question], Answer]]

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 22
"""Largest question: a selection of some 500,000 rows."""

_IDLE_S = 60
_POLICY = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class BadQuestionError(Exception):
    """Report a question that has no answer; the text is shown on the page."""


class ExplorerServer(ThreadingHTTPServer):
    """Answer `/` by the page, and questions at `/api/<name>` by the functions of `answers`."""

    daemon_threads = True

    def __init__(self, host: str, port: int, page: str, answers: Answers) -> None:
        self.page, self.answers = page.encode(), answers
        self.token = secrets.token_urlsafe(24)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {host} port {port} ({error.strerror}); choose another --port or "
                "--host"
            ) from error
        self.is_loopback = ip_address(str(self.server_address[0])).is_loopback

    @property
    def address(self) -> str:
        """Return the address of the page, with its token."""
        host, port = str(self.server_address[0]), self.server_address[1]
        if ip_address(host).is_unspecified:
            host = socket.gethostname()
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{port}/?token={self.token}"

    def run(self) -> None:
        """Serve until the user presses Ctrl-C."""
        if not self.is_loopback:
            log.warning(
                "explore: anyone who has this address can see the catalog, and what is sent is not "
                "encrypted: listen elsewhere than on this machine only in networks that you trust"
            )
        # Logs are redacted, and would lose the token.
        print(f"Open {self.address} in a browser; Ctrl-C ends it.", file=sys.stderr, flush=True)
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            log.info("explore: ended")
        finally:
            self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore that a browser has left; print other errors."""
        if isinstance(sys.exception(), ConnectionError):
            log.debug("explore: the browser left before its answer was sent")
        else:
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S
    server: ExplorerServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        given = parse_qs(parts.query).get("token", [""])[0]
        if parts.path != "/":
            self._fail(HTTPStatus.NOT_FOUND, "there is no such page")
        elif not self._is_ours(given):
            self._fail(
                HTTPStatus.FORBIDDEN, "open the address that raypipe explore has printed, as it is"
            )
        else:
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)

    def do_POST(self) -> None:
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        question = self._question()
        if question is None:
            return
        if not self._is_ours(given):
            self._fail(HTTPStatus.FORBIDDEN, "this page is of an earlier run: open the new address")
            return
        answer = self.server.answers.get(urlsplit(self.path).path.removeprefix("/api/"))
        if answer is None:
            self._fail(HTTPStatus.NOT_FOUND, "there is no such question")
            return
        try:
            found = answer(question)
        except BadQuestionError as error:
            self._fail(HTTPStatus.BAD_REQUEST, str(error))
        except RaypipeError as error:
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        except Exception:
            log.exception("explore: a question failed")
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, "the answer failed; see the log")
        else:
            if isinstance(found, bytes):
                self._send(HTTPStatus.OK, "application/octet-stream", found)
            else:
                self._send(HTTPStatus.OK, "application/json", json.dumps(found).encode())

    def _is_ours(self, token: str) -> bool:
        """Return whether a request has the token and comes from the page of this server."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            return False
        if self.server.is_loopback and not _is_loopback_name(host):
            return False
        return secrets.compare_digest(token.encode(), self.server.token.encode())

    def _question(self) -> Question | None:
        """Read the JSON object of a request; answer with an error, and return None, without one."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the question is too long")
            return None
        try:
            question = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            question = None
        if not isinstance(question, dict):
            self._fail(HTTPStatus.BAD_REQUEST, "the question is not a JSON object")
            return None
        return question

    def _fail(self, status: HTTPStatus, problem: str) -> None:
        text = printable(redact_text(problem), 1000)
        self._send(status, "application/json", json.dumps({"error": text}).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in _POLICY.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        # The address of a request contains the token, which belongs in no log.
        log.debug("explore: %s", self.command)


def _is_loopback_name(host: str) -> bool:
    """Return whether a Host header names this machine; other names could be rebound to it."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
