"""The served explorer exchanges selections with other programs through a real SAMP hub."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from astropy.table import Table
from pyvo.samp import SAMPHubServer, SAMPIntegratedClient

from raypipe.evaluation.evaluated_catalog import choose_catalog
from raypipe.exploring.samp import POINT, ROWS, TABLE, Samp
from raypipe.exploring.served_catalog import ServedCatalog
from tests.unit.synthetic_workspace import NASTY_NAME, make_workspace


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> ServedCatalog:
    made = make_workspace(tmp_path_factory.mktemp("samp"), detections=60)
    return ServedCatalog(made.workspace, choose_catalog(made.workspace, None, None), None, 1.0)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SAMPHubServer]:
    lock = tmp_path / "samp"
    monkeypatch.setenv("SAMP_HUB", f"std-lockurl:{lock.as_uri()}")
    hub = SAMPHubServer(addr="127.0.0.1", web_profile=False, lockfile=str(lock))
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture
def samp(catalog: ServedCatalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Samp]:
    monkeypatch.setenv("SAMP_HUB", f"std-lockurl:{(tmp_path / 'samp').as_uri()}")
    samp = Samp(catalog)
    yield samp
    samp.close()


class Viewer:
    """Another program: it takes tables, and keeps what it is sent."""

    def __init__(self) -> None:
        self.client = SAMPIntegratedClient(name="viewer", addr="127.0.0.1")
        self.client.connect()
        self.taken: list[dict[str, Any]] = []
        self.client.bind_receive_notification(TABLE, self._take)

    def _take(
        self, private_key: str, sender_id: str, mtype: str, params: dict[str, Any], extra: Any
    ) -> None:
        self.taken.append(params)

    def say(self, kind: str, **parameters: object) -> None:
        self.client.notify_all({"samp.mtype": kind, "samp.params": parameters})


@pytest.fixture
def viewer(hub: SAMPHubServer) -> Iterator[Viewer]:
    viewer = Viewer()
    yield viewer
    viewer.client.disconnect()


def wait(true: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def received(samp: Samp, number: int) -> dict[str, Any]:
    """Return what was received with a number, as the page asks for it."""
    wait(lambda: len(samp.answers()["samp_received"]({"after": 0})) >= number)
    (found,) = samp.answers()["samp_received"]({"after": number - 1})
    return dict(found)


def test_a_selection_arrives_and_rows_of_it_come_back(
    catalog: ServedCatalog, samp: Samp, viewer: Viewer
) -> None:
    assert samp.answers()["samp_connect"]({}) == {}
    assert samp.answers()["samp_send"]({"rows": [0, 41, 7]}) == {"programs": ["viewer"]}
    wait(lambda: viewer.taken)
    (sent,) = viewer.taken
    table = Table.read(unquote(urlsplit(sent["url"]).path), format="votable")
    assert list(table["detection_id"]) == ["sim:0.0.1", "sim:41.0.1", "sim:7.0.1"]
    assert table["name"][0] == NASTY_NAME
    assert np.allclose(table["z2"], catalog.column("z2")[[0, 41, 7]])
    assert str(table["exposure_s"].unit) == "s"
    viewer.say(ROWS, **{"table-id": sent["table-id"], "row-list": ["2", "0"]})
    found = received(samp, 1)
    assert found["rows"] == [7, 0]
    assert found["text"] == "viewer sent 2 rows."


def test_a_table_of_others_selects_its_detections(
    samp: Samp, viewer: Viewer, tmp_path: Path
) -> None:
    samp.connect()
    file = tmp_path / "others.xml"
    names = ["2CXO J000003", "2CXO J000003", "somewhere else"]
    Table({"name": names, "flux": [1.0, 1.0, 2.0]}).write(file, format="votable")
    viewer.say(TABLE, url=file.as_uri(), name="others")
    assert received(samp, 1)["rows"] == [6, 7]
    viewer.say(POINT, ra="10.0", dec="-5.0")
    assert len(received(samp, 2)["rows"]) == 1
    viewer.say(POINT, ra="200.0", dec="-5.0")
    assert received(samp, 3)["text"] == "viewer sent a position that no detection is near."


@pytest.mark.parametrize(
    ("kind", "parameters", "said"),
    [
        (TABLE, {"url": "file:///nowhere"}, "cannot be used"),
        (TABLE, {"url": "gopher://x"}, "its address begins with 'gopher'"),
        (TABLE, {}, "cannot be used"),
        (ROWS, {"table-id": "another", "row-list": ["0"]}, "a table that is not ours"),
        (POINT, {"ra": "<script>", "dec": "1"}, "cannot be used"),
    ],
)
def test_messages_that_make_no_sense_are_said(
    samp: Samp, viewer: Viewer, kind: str, parameters: dict[str, Any], said: str
) -> None:
    samp.connect()
    viewer.say(kind, **parameters)
    found = received(samp, 1)
    assert said in found["text"]
    assert found["rows"] == []


def test_without_a_hub_it_says_what_to_start(samp: Samp) -> None:
    assert "start TOPCAT or Aladin" in samp.answers()["samp_connect"]({})["error"]
    assert "start TOPCAT or Aladin" in samp.answers()["samp_send"]({"rows": [1]})["error"]


def test_a_call_is_answered(samp: Samp, viewer: Viewer) -> None:
    samp.connect()
    target = next(iter(viewer.client.get_subscribed_clients(POINT)))
    message = {"samp.mtype": POINT, "samp.params": {"ra": "10", "dec": "-5"}}
    answer = viewer.client.call_and_wait(target, message, "30")
    assert answer["samp.status"] == "samp.ok"
