"""Where a redirect may lead: a server outside must not send us to one inside."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit


def leads_inside(asked: str, target: str) -> bool:
    """Whether a redirect leads from the internet into the own network, or to this machine's cloud.

    The latter are link-local addresses, where clouds answer any process with its credentials; no
    server may lead there. Names are looked up; one that cannot be is left to a proxy.
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
