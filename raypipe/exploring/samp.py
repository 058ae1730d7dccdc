"""Exchange tables and rows with TOPCAT, Aladin and other programs by SAMP (IVOA 1.3)."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import numpy as np
from astropy import units
from astropy.io.votable import from_table
from astropy.table import Table
from pyvo.samp import SAMPClientError, SAMPHubError, SAMPIntegratedClient, SAMPProxyError

from raypipe.errors import RaypipeError
from raypipe.exploring.serve import Answers, Question
from raypipe.exploring.served_catalog import ServedCatalog
from raypipe.exploring.served_page import rows_of
from raypipe.redaction import printable

log = logging.getLogger(__name__)

TABLE, ROWS, POINT = "table.load.votable", "table.select.rowList", "coord.pointAt.sky"
"""The messages that are exchanged: a table, some of its rows, and a position."""

_PROBLEMS = (SAMPClientError, SAMPHubError, SAMPProxyError, OSError)
_NO_HUB = "no SAMP hub is running: start TOPCAT or Aladin, and connect again"
_MOST_BYTES = 1 << 28
_TIMEOUT_S = 20
_RADIUS_ARCSEC = 2.0
_POINTED_ARCSEC = 30.0
_KEPT_EVENTS = 100


@dataclass(frozen=True)
class Received:
    """Hold the rows of the catalog that another program has sent, and a sentence about them."""

    number: int
    rows: list[int]
    text: str


class Samp:
    """Connect to the SAMP hub of this user when asked, send selections, and keep received ones."""

    def __init__(self, catalog: ServedCatalog) -> None:
        self.catalog = catalog
        self.client: SAMPIntegratedClient | None = None
        self.sent: dict[str, list[int]] = {}
        self.events: list[Received] = []
        self._folder = tempfile.TemporaryDirectory(prefix="raypipe-samp-")
        self._lock = threading.Lock()
        self._count = 0

    def answers(self) -> Answers:
        """Return the function that answers each question of the page about SAMP."""
        return {
            "samp_connect": lambda asked: self._explained(self.connect),
            "samp_send": lambda asked: self._explained(
                lambda: {"programs": self.send(rows_of(self.catalog, asked, len(self.catalog)))}
            ),
            "samp_received": self._since,
        }

    def connect(self) -> dict[str, Any]:
        """Join the hub, and take messages from it."""
        with self._lock:
            if self.client is not None and self.client.is_connected:
                return {}
            client = SAMPIntegratedClient(
                name="raypipe explorer",
                description=f"{self.catalog.release} by {self.catalog.model_id}",
                addr="127.0.0.1",
            )
            client.connect()
            self.client = client
            for kind in (TABLE, ROWS, POINT):
                client.bind_receive_notification(kind, self._notified)
                client.bind_receive_call(kind, self._called)
        return {}

    def send(self, rows: list[int]) -> list[str]:
        """Send rows as a VOTable to all programs that take one, and return their names."""
        client = self._connected()
        self._count += 1
        name = f"raypipe-{self._count}"
        file = Path(self._folder.name) / f"{name}.vot"
        write_rows(self.catalog, rows, file)
        self.sent[name] = self.sent[file.as_uri()] = rows
        takers = [each for each in client.get_subscribed_clients(TABLE) if each != _own_id(client)]
        title = f"{self.catalog.release}, {len(rows):,} detections"
        parameters = {"url": file.as_uri(), "table-id": name, "name": title}
        for each in takers:
            client.notify(each, {"samp.mtype": TABLE, "samp.params": parameters})
        return [_name_of(client, each) for each in takers]

    def close(self) -> None:
        """Leave the hub, and remove the tables that were sent."""
        if self.client is not None:
            with suppress(*_PROBLEMS):
                self.client.disconnect()
        self._folder.cleanup()

    def _explained(self, act: Any) -> dict[str, Any]:
        try:
            return dict(act())
        except _PROBLEMS as error:
            log.info("explore: SAMP: %s", error)
            return {"error": _NO_HUB}

    def _since(self, asked: Question) -> list[Any]:
        after = asked.get("after")
        known = after if isinstance(after, int) else 0
        return [vars(each) for each in self.events if each.number > known]

    def _connected(self) -> SAMPIntegratedClient:
        if self.client is None or not self.client.is_connected:
            raise SAMPClientError("not connected")
        return self.client

    # The names of these parameters are those by which astropy passes them.
    def _notified(
        self, private_key: str, sender_id: str, mtype: str, params: dict[str, Any],
        extra: dict[str, Any],
    ) -> None:  # fmt: skip
        self._receive(sender_id, mtype, params)

    def _called(
        self, private_key: str, sender_id: str, msg_id: str, mtype: str, params: dict[str, Any],
        extra: dict[str, Any],
    ) -> None:  # fmt: skip
        self._receive(sender_id, mtype, params)
        self._connected().reply(msg_id, {"samp.status": "samp.ok", "samp.result": {}})

    def _receive(self, sender: str, kind: str, parameters: Mapping[str, Any]) -> None:
        who = printable(_name_of(self._connected(), sender), 60)
        try:
            rows, what = self._rows_meant(kind, parameters)
        except (RaypipeError, OSError, LookupError, TypeError, ValueError) as error:
            rows, what = [], f"a message that cannot be used: {printable(str(error), 300)}"
        with self._lock:
            number = self.events[-1].number + 1 if self.events else 1
            self.events.append(Received(number, rows, f"{who} sent {what}."))
            del self.events[:-_KEPT_EVENTS]

    def _rows_meant(self, kind: str, parameters: Mapping[str, Any]) -> tuple[list[int], str]:
        """Return the rows of the catalog that a message means, and a description of the message."""
        if kind == POINT:
            rows = _nearest_row(self.catalog, float(parameters["ra"]), float(parameters["dec"]))
            return rows, "a position" + ("" if rows else " that no detection is near")
        if kind == ROWS:
            known = self.sent.get(str(parameters.get("table-id"))) or self.sent.get(
                str(parameters.get("url"))
            )
            if known is None:
                return [], "rows of a table that is not ours"
            chosen = [int(place) for place in parameters["row-list"]]
            rows = [known[place] for place in chosen if 0 <= place < len(known)]
            return rows, f"{len(rows):,} rows"
        with tempfile.TemporaryDirectory(prefix="raypipe-samp-") as folder:
            file = Path(folder) / "received.vot"
            file.write_bytes(_fetch(str(parameters["url"])))
            rows = self.catalog.rows_in(file, _RADIUS_ARCSEC).tolist()
        return rows, f"a table with {len(rows):,} detections of this catalog"


def write_rows(catalog: ServedCatalog, rows: list[int], file: Path) -> None:
    """Write rows of a catalog with all its columns as a VOTable."""
    records = catalog.records(rows)
    table = Table()
    table["name"] = [each["name"] or "" for each in records]
    table["detection_id"] = [each["id"] for each in records]
    for name in ("ra", "dec"):
        degrees = [np.nan if each[name] is None else each[name] for each in records]
        table[name] = np.array(degrees) * units.deg
    for place, column in enumerate(catalog.columns):
        values = [each["values"][place] for each in records]
        if column.categories is not None:
            words = column.categories
            table[column.name] = ["" if value is None else words[int(value)] for value in values]
        else:
            table[column.name] = np.array([np.nan if x is None else x for x in values], float)
            with suppress(ValueError):
                table[column.name].unit = units.Unit(column.unit) if column.unit else None
        table[column.name].description = column.about
    from_table(table).to_xml(str(file), tabledata_format="binary2")


def _nearest_row(catalog: ServedCatalog, ra: float, dec: float) -> list[int]:
    rows, _ = catalog.find("\0", (ra, dec), _POINTED_ARCSEC)
    return rows[:1].tolist()


def _fetch(url: str) -> bytes:
    """Read a table, at most 256 MB, that a program of this user offers as a file or by a server."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        with Path(unquote(parts.path)).open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    elif parts.scheme in ("http", "https"):
        with urlopen(Request(url), timeout=_TIMEOUT_S) as stream:
            data = stream.read(_MOST_BYTES + 1)
    else:
        raise ValueError(f"its address begins with {printable(parts.scheme, 20)!r}")
    if len(data) > _MOST_BYTES:
        raise ValueError("its table is larger than 256 MB")
    return bytes(data)


def _own_id(client: SAMPIntegratedClient) -> str:
    return str(client.get_public_id())


def _name_of(client: SAMPIntegratedClient, identifier: str) -> str:
    try:
        found = client.get_metadata(identifier)
    except _PROBLEMS:
        return identifier
    return str(found.get("samp.name", identifier))
