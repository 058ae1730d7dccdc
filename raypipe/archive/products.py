"""Name the releases and products of the Chandra archive, and request them from its services.

A product in the archive has a URI of the form

    csc:RELEASE/OBSID.OBI.REGION/PRODUCT        csc:csc2.1/1575.1.85/pha3

where PRODUCT is pha3, arf3 or rmf3. Such a URI names no server: RELEASES has the address of each
release's package service, and the setting `ingest.package_url` overrides it. The service returns
many products per request in one tar file; `package_url` builds the request for a batch of keys,

    BASE?version=VERSION&packageset=1575.1.85/spectrum/b,1575.1.85/arf/b,...

where the last part of an entry is the energy band (b for the whole file of an ACIS detection).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from raypipe.errors import UsageError

SCHEME = "csc:"

PRODUCTS = {"pha3": "spectrum", "arf3": "arf", "rmf3": "rmf"}
"""Products as in the archive's file names, and the package service's names for them."""

BAND = "b"
"""Energy band requested from the package service."""

_RELEASE_NAME = re.compile(r"csc\d+\.\d+")
_URI = re.compile(
    r"csc:(?P<release>csc\d+\.\d+)/(?P<obsid>\d+)\.(?P<obi>\d+)\.(?P<region>\d+)/(?P<product>\w+)"
)


@dataclass(frozen=True)
class Release:
    """Hold a release's addresses: its TAP service, its tables' schema and its package service."""

    tap_url: str
    schema: str
    package_url: str
    package_version: str


RELEASES = {
    "csc2.0": Release(
        tap_url="http://cda.cfa.harvard.edu/csc2tap",
        schema="csc2",
        package_url="http://cda.cfa.harvard.edu/csccli/retrieve",
        package_version="rel2.0",
    ),
    "csc2.1": Release(
        tap_url="http://cda.cfa.harvard.edu/csc21tap",
        schema="csc21",
        package_url="http://cda.cfa.harvard.edu/csccli/retrieve",
        package_version="cur",
    ),
}
"""Releases that can be discovered by name."""


@dataclass(frozen=True, order=True)
class ProductKey:
    """Identify a product in the archive; `product` is a key of PRODUCTS."""

    release: str
    obsid: int
    obi: int
    region_id: int
    product: str


def is_release_name(name: str) -> bool:
    """Tell whether a name has the form of a release (csc2.1), even of an unknown one."""
    return _RELEASE_NAME.fullmatch(name) is not None


def find_release(name: str) -> Release:
    """Return the addresses of a release; raises UsageError if it is unknown."""
    if name not in RELEASES:
        raise UsageError(f"{name}: unknown release; known are {', '.join(RELEASES)}")
    return RELEASES[name]


def is_product_uri(uri: str) -> bool:
    """Tell whether a URI names a product in the archive rather than a file or object."""
    return uri.startswith(SCHEME)


def product_uri(release: str, obsid: int, obi: int, region_id: int, product: str) -> str:
    """Return the URI of a product in the archive; raises UsageError if the product is unknown."""
    if product not in PRODUCTS:
        raise UsageError(f"{product}: unknown product; known are {', '.join(PRODUCTS)}")
    return f"{SCHEME}{release}/{obsid}.{obi}.{region_id}/{product}"


def parse_product_uri(uri: str) -> ProductKey:
    """Parse the URI of a product in the archive; raises UsageError for any other text."""
    match = _URI.fullmatch(uri)
    if match is None or match["product"] not in PRODUCTS:
        raise UsageError(f"{uri}: not of the form {SCHEME}RELEASE/OBSID.OBI.REGION/PRODUCT")
    return ProductKey(
        release=match["release"],
        obsid=int(match["obsid"]),
        obi=int(match["obi"]),
        region_id=int(match["region"]),
        product=match["product"],
    )


def package_url(base_url: str, version: str, keys: Iterable[ProductKey]) -> str:
    """Return the request URL for a batch of products, in the order given.

    `base_url` and `version` are `package_url` and `package_version` of the release. The service
    accepts about 50 detections per request and returns a tar file.
    """
    entries = ",".join(
        f"{key.obsid}.{key.obi}.{key.region_id}/{PRODUCTS[key.product]}/{BAND}" for key in keys
    )
    return f"{base_url}?version={quote(version)}&packageset={quote(entries, safe='/,.')}"
