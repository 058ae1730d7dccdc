"""Fetch products of many detections as a tar from the archive's package service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from raypipe.archive.products import ProductKey, find_release, package_url, parse_product_uri
from raypipe.archive.tar import Member, NotATar, TarError, read_tar
from raypipe.config import IngestConfig
from raypipe.errors import UsageError
from raypipe.http.client import Body, HttpClient, first_line
from raypipe.http.errors import FetchError, TryAgain
from raypipe.http.policy import TOO_LARGE
from raypipe.identity import parse_csc_name
from raypipe.redaction import redact

Products = dict[str, bytes | FetchError]
"""By product URI: the content, or the error that says why there is none."""

_MOST_MEMBERS = 10_000
_MESSAGE_BYTES = 4096
_ONE_AT_FAULT = (400, 404, 410, TOO_LARGE, 414, 422)
"""Statuses for a whole package that a single detection in it may cause."""


class PackageService:
    """Fetch products in packages of at most `ingest.package_batch` detections."""

    def __init__(self, client: HttpClient, config: IngestConfig) -> None:
        self._client = client
        self._config = config

    def fetch(self, uris: Iterable[str]) -> Products:
        """Return products by URI: the content, or the FetchError that says why there is none."""
        answer: Products = {}
        by_release: dict[str, dict[ProductKey, str]] = {}
        for uri in uris:
            try:
                key = parse_product_uri(uri)
                find_release(key.release)
            except UsageError as error:
                answer[uri] = FetchError(uri, str(error), retryable=False)
            else:
                by_release.setdefault(key.release, {})[key] = uri
        for release, wanted in by_release.items():
            for batch in _batches(wanted, self._config.package_batch):
                answer.update(self._fetch_package(release, batch))
        return answer

    def _fetch_package(self, release: str, wanted: dict[ProductKey, str]) -> Products:
        package = _Package(release, wanted, self._config)
        server = find_release(release)
        base = self._config.package_url or server.package_url

        def make_url() -> str:
            return package_url(base, server.package_version, package.missing())

        try:
            self._client.request(make_url, self._config.max_package_mb << 20, package.unpack)
        except FetchError as error:
            missing = {key: wanted[key] for key in package.missing()}
            halves = _halves(missing)
            if error.status in _ONE_AT_FAULT and len(halves) > 1:
                answer = package.found()
                for half in halves:
                    answer.update(self._fetch_package(release, half))
                return answer
            problem = f"package service {redact(base)}: {error.problem}"
            return package.found() | {
                uri: FetchError(uri, problem, retryable=error.retryable) for uri in missing.values()
            }
        return package.found() | package.absent()


class _Package:
    """Collect the products of one package over as many answers as it takes."""

    def __init__(self, release: str, wanted: dict[ProductKey, str], config: IngestConfig) -> None:
        self._release = release
        self._wanted = wanted
        self._max_member_bytes = config.max_file_mb << 20
        self._max_bytes = config.max_package_mb << 20
        self._contents: dict[ProductKey, bytes] = {}
        self._ranks: dict[ProductKey, tuple[int, int]] = {}
        self._refusals: dict[ProductKey, str] = {}

    def missing(self) -> list[ProductKey]:
        """Return the products that have not arrived yet, in order."""
        return [key for key in self._wanted if key not in self._contents]

    def found(self) -> Products:
        """Return the products that arrived."""
        return {self._wanted[key]: content for key, content in self._contents.items()}

    def absent(self) -> Products:
        """Return an error for each product that a complete package does not hold."""
        return {self._wanted[key]: self._absence(key) for key in self.missing()}

    def unpack(self, body: Body) -> None:
        """Take the wanted products from an answer. Raises TryAgain if it is not a complete tar."""
        members = read_tar(
            body.read,
            max_members=_MOST_MEMBERS,
            max_member_bytes=self._max_member_bytes,
            max_bytes=self._max_bytes,
        )
        try:
            for member in members:
                self._take(member)
        except NotATar as error:
            said = first_line(error.start + body.read(_MESSAGE_BYTES))
            raise TryAgain(f"not a tar but {body.content_type}: {said}") from error
        except TarError as error:
            if missing := self.missing():
                raise TryAgain(f"the tar is {error}; {len(missing)} files are missing") from error

    def _take(self, member: Member) -> None:
        name = parse_csc_name(member.name)
        if name is None:
            return
        key = ProductKey(self._release, name.obsid, name.obi, name.region_id, name.product)
        if key not in self._wanted:
            return
        if member.refused:
            self._refusals[key] = f"its package holds {member.name!r}, refused: {member.refused}"
        elif key not in self._contents or name.rank > self._ranks[key]:
            self._contents[key], self._ranks[key] = member.content, name.rank

    def _absence(self, key: ProductKey) -> FetchError:
        uri = self._wanted[key]
        if key in self._refusals:
            return FetchError(uri, self._refusals[key], retryable=True)
        detection = f"{key.obsid}.{key.obi}.{key.region_id}"
        problem = f"the archive has no {key.product} of {detection}"
        return FetchError(uri, problem, retryable=False)


def _detection(key: ProductKey) -> tuple[int, int, int]:
    return key.obsid, key.obi, key.region_id


def _batches(wanted: dict[ProductKey, str], size: int) -> Iterator[dict[ProductKey, str]]:
    """Yield products of at most `size` detections; those of one detection stay together."""
    detections = list(dict.fromkeys(map(_detection, wanted)))
    for start in range(0, len(detections), size):
        chosen = set(detections[start : start + size])
        yield {key: uri for key, uri in wanted.items() if _detection(key) in chosen}


def _halves(wanted: dict[ProductKey, str]) -> list[dict[ProductKey, str]]:
    """Split a package into two with half of the detections each; one detection stays whole."""
    detections = set(map(_detection, wanted))
    return list(_batches(wanted, max(1, (len(detections) + 1) // 2)))
