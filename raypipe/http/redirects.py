"""Check where a redirect leads: a server outside must not send raypipe to one inside."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urljoin, urlsplit

from raypipe.http.errors import FetchError
from raypipe.redaction import printable, redact

MOST_REDIRECTS = 5
"""Redirects that are followed for one request."""

REDIRECT_STATUSES = (301, 302, 303, 307, 308)

_SHOWN_CHARACTERS = 300


def resolve(url: str, location: str) -> str:
    """Return the absolute URL of `location`, the Location header in the answer of `url`.

    Raises FetchError if it is not a URL.
    """
    try:
        target = urljoin(url, location)
        urlsplit(target)
    except ValueError as error:
        raise FetchError(url, "redirects to something that is not a URL", retryable=True) from error
    return target


def require_allowed(url: str, target: str) -> None:
    """Raise FetchError if `url` must not redirect to `target`.

    That is so if the target is neither http nor https, or an address inside (`leads_inside`).
    """
    shown = printable(redact(target), _SHOWN_CHARACTERS)
    if urlsplit(target).scheme.lower() not in ("http", "https"):
        raise FetchError(url, f"redirects to {shown}, which is not http(s)", retryable=True)
    if leads_inside(url, target):
        raise FetchError(
            url, f"redirects to {shown}, an address that is not public", retryable=True
        )


def too_many_redirects(url: str) -> FetchError:
    """Return the error of a URL that redirects more than MOST_REDIRECTS times."""
    return FetchError(url, f"more than {MOST_REDIRECTS} redirects", retryable=True)


def leads_inside(asked: str, target: str) -> bool:
    """Return whether a redirect leads from the internet into a private network.

    A redirect to a link-local address counts in any case: there clouds give their credentials to
    every process. Host names are resolved; one that cannot be resolved is left to a proxy.
    """
    addresses = _addresses(target)
    if any(address.is_link_local for address in addresses):
        return True
    return _any_inside(addresses) and not _any_inside(_addresses(asked))


def _any_inside(addresses: set[IPv4Address | IPv6Address]) -> bool:
    return any(not address.is_global for address in addresses)


def _addresses(url: str) -> set[IPv4Address | IPv6Address]:
    try:
        host = urlsplit(url).hostname
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError, ValueError):
        return set()
    addresses = {ip_address(str(entry[4][0]).partition("%")[0]) for entry in found}
    return {getattr(address, "ipv4_mapped", None) or address for address in addresses}
