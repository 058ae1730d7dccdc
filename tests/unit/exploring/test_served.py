"""The served explorer answers from the catalog's parts, and only its own page."""

from __future__ import annotations

import http.client
import io
import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

import raypipe
from raypipe.catalog.added_columns import write_added
from raypipe.cli import main
from raypipe.errors import RaypipeError, UsageError
from raypipe.evaluation.evaluated_catalog import choose_catalog
from raypipe.evaluation.selection import read_spectra
from raypipe.exploring.serve import MOST_BYTES, ExplorerServer
from raypipe.exploring.served_catalog import ServedCatalog
from raypipe.exploring.served_page import answers_from
from raypipe.exploring.shading import CLASS_COLORS, Coloring, View, draw_image
from raypipe.exploring.sky import sky_positions
from raypipe.model.bundle import load_model
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.responses import ResponseLibrary
from raypipe.store.layout import model_folder, part_name, spectra_folder
from raypipe.store.publication import detections_of, require_publication
from tests.unit.synthetic_workspace import RELEASE, Synthetic, make_workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return make_workspace(tmp_path_factory.mktemp("served"), detections=80)


def opened(made: Synthetic, table: Path | None = None) -> ServedCatalog:
    store = made.workspace
    return ServedCatalog(store, choose_catalog(store, None, None), table, 1.0)


@pytest.fixture(scope="module")
def catalog(made: Synthetic) -> ServedCatalog:
    return opened(made)


@pytest.fixture(scope="module")
def frame(made: Synthetic) -> pd.DataFrame:
    return raypipe.open_catalog(made.workspace)


@pytest.fixture(scope="module")
def server(catalog: ServedCatalog) -> Iterator[ExplorerServer]:
    server = ExplorerServer("127.0.0.1", 0, "<p>the page</p>", answers_from(catalog))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def request(
    server: ExplorerServer, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
    connection.request(
        method, path, body, {name.replace("_", "-"): v for name, v in headers.items()}
    )
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def ask(server: ExplorerServer, name: str, question: object, **headers: str) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {server.token}", **headers}
    return request(server, "POST", f"/api/{name}", json.dumps(question).encode(), **headers)


def numbers(server: ExplorerServer, name: str, question: object) -> np.ndarray:
    status, content = ask(server, name, question)
    assert status == 200, content
    return np.frombuffer(content, "<f4")


def answer(server: ExplorerServer, name: str, question: object) -> Any:
    status, content = ask(server, name, question)
    assert status == 200, content
    return json.loads(content)


def test_the_page_needs_the_token(server: ExplorerServer) -> None:
    with urllib.request.urlopen(server.address) as found:
        assert found.read() == b"<p>the page</p>"
        assert found.headers["Referrer-Policy"] == "no-referrer"
    assert request(server, "GET", "/")[0] == 403
    assert request(server, "GET", "/?token=guess")[0] == 403
    assert request(server, "GET", f"/etc/passwd?token={server.token}")[0] == 404


def test_questions_need_the_token_and_come_from_our_page(server: ExplorerServer) -> None:
    good = {"row": 1}
    host = f"127.0.0.1:{server.server_address[1]}"
    assert ask(server, "point", good)[0] == 200
    assert ask(server, "point", good, Origin=f"http://{host}")[0] == 200
    assert ask(server, "point", good, Authorization="Bearer guess")[0] == 403
    assert ask(server, "point", good, Authorization="")[0] == 403
    assert ask(server, "point", good, Origin="https://elsewhere.example")[0] == 403
    # The name of another machine that was made to lead here.
    assert ask(server, "point", good, Host="rebound.example:80")[0] == 403


@pytest.mark.parametrize(
    ("name", "question", "status"),
    [
        ("point", {"row": 80}, 400),
        ("point", {"row": -1}, 400),
        ("point", {"row": True}, 400),
        ("point", {"row": "../../manifest"}, 400),
        ("records", {"rows": [0, 99]}, 400),
        ("records", {"rows": list(range(80)) * 2}, 400),
        ("column", {"name": "../models/folded-test/model.safetensors"}, 400),
        ("column", {"name": "z_cov"}, 400),
        ("sky", {"frame": "../x"}, 400),
        ("map", {"number": 9}, 400),
        ("similar", {"rows": [0], "k": 10**9}, 400),
        ("find", {"text": "a" * 1000, "radius": 1}, 400),
        ("find", {"text": "a", "radius": "wide"}, 400),
        ("image", {"x": [0, 1], "y": [1, 0]}, 400),
        ("../../etc/passwd", {}, 404),
        ("__class__", {}, 404),
        ("point", [1], 400),
    ],
)
def test_bad_questions_are_refused(
    server: ExplorerServer, name: str, question: object, status: int
) -> None:
    found, content = ask(server, name, question)
    assert found == status
    assert json.loads(content)["error"]


def test_large_and_broken_questions_are_refused(server: ExplorerServer) -> None:
    headers = {"Authorization": f"Bearer {server.token}"}
    assert request(server, "POST", "/api/point", b"{", **headers)[0] == 400
    assert request(server, "POST", "/api/point", b"[" * 100_000, **headers)[0] == 400
    long = {**headers, "Content_Length": str(MOST_BYTES + 1)}
    assert request(server, "POST", "/api/point", b"{}", **long)[0] == 413


def test_an_image_of_any_size_is_not_made(server: ExplorerServer) -> None:
    asked = image_of("total_counts") | {"width": 10**6}
    assert ask(server, "image", asked)[0] == 400


def test_columns_are_those_of_the_catalog(server: ExplorerServer, frame: pd.DataFrame) -> None:
    for name in ("total_counts", "z3", "p_AGN"):
        assert np.allclose(numbers(server, "column", {"name": name}), frame[name], rtol=1e-6)
    codes = numbers(server, "column", {"name": "class"})
    assert np.array_equal(np.unique(frame["class"])[codes.astype(int)], frame["class"])
    assert np.isfinite(numbers(server, "column", {"name": "far_sigmas"})).all()
    places = numbers(server, "sky", {"frame": "galactic"}).reshape(2, -1).T
    assert np.allclose(places, sky_positions(frame["ra"], frame["dec"], "galactic"), atol=1e-5)


def test_records_have_all_columns(
    server: ExplorerServer, catalog: ServedCatalog, frame: pd.DataFrame
) -> None:
    rows = [41, 0, 7]
    found = answer(server, "records", {"rows": rows})
    assert [each["id"] for each in found] == frame["detection_id"].iloc[rows].tolist()
    assert [each["name"] for each in found] == frame["name"].iloc[rows].tolist()
    names = [each.name for each in catalog.columns]
    for each, (_, row) in zip(found, frame.iloc[rows].iterrows(), strict=True):
        values = dict(zip(names, each["values"], strict=True))
        assert values["z5"] == pytest.approx(row["z5"])
        assert values["counts_b"] == row["counts_b"]
        assert catalog.held["class"].categories[int(values["class"])] == row["class"]


def test_a_point_is_its_spectrum(
    server: ExplorerServer, made: Synthetic, frame: pd.DataFrame
) -> None:
    model = load_model(made.workspace.absolute_uri(model_folder(made.models[0])))
    found = answer(server, "point", {"row": 30})
    expected = read_spectra(made.workspace, RELEASE, frame.iloc[[30]], model)
    assert expected is not None
    assert expected.model_counts is not None
    spectrum, n = found["spectrum"], len(expected.bins[0])
    assert spectrum["counts"] == expected.counts[0, :n].tolist()
    assert np.allclose(spectrum["fold"], expected.model_counts[0, :n], rtol=1e-4)
    table = made.workspace.read_table(part_name(spectra_folder(RELEASE), 0)).slice(30, 1)
    density = model.flux_density(
        SpectraBatch.from_table(table, ResponseLibrary(made.workspace)), 64
    )
    assert np.allclose(
        spectrum["flux"], np.interp(spectrum["fluxKev"], density.energy_kev, density.value[0])
    )
    assert (np.array(spectrum["low"]) < spectrum["flux"]).all()
    assert (np.array(spectrum["high"]) > spectrum["flux"]).all()
    assert np.allclose(found["triangle"], frame["z_cov"].iloc[30], rtol=1e-5)
    assert len(found["ellipses"]) == 2
    assert all(each[0] > 0 and each[2] > 0 for each in found["ellipses"])


def test_a_detection_without_a_spectrum_has_none(catalog: ServedCatalog) -> None:
    z = catalog.z[:, [0]].T.astype(float)
    assert catalog.spectra.spectrum(0, "sim:none", z) is None
    assert catalog.spectra.spectrum(7, "sim:1.0.1", z) is None
    nothing = np.full((1, 8), np.nan)
    found = catalog.spectra.spectrum(0, "sim:1.0.1", nothing)
    assert found is not None
    assert "fold" not in found


def test_look_alikes_are_those_of_search(
    server: ExplorerServer, made: Synthetic, frame: pd.DataFrame
) -> None:
    found = answer(server, "similar", {"rows": [12], "k": 5})
    expected = raypipe.search(made.workspace, detection=frame["detection_id"].iloc[12], k=5)
    assert frame["detection_id"].iloc[[int(each["row"]) for each in found]].tolist() == (
        expected["detection_id"].tolist()
    )
    assert np.allclose([each["overlap"] for each in found], expected["log_overlap"], rtol=1e-5)


@pytest.mark.parametrize(
    ("question", "rows", "how"),
    [
        ({"text": "j000003"}, [6, 7], "by name or id"),
        ({"text": "<SCRIPT>"}, [0], "by name or id"),
        ({"text": "10 -5", "ra": 10.0, "dec": -5.0}, list(range(80)), "within 2 arcsec"),
        ({"text": "10 -5.1", "ra": 10.0, "dec": -5.1}, [], "within 2 arcsec"),
        ({"text": "(.*"}, [], "by name or id"),
        ({"text": " "}, [], ""),
    ],
)
def test_it_finds(
    server: ExplorerServer, question: dict[str, Any], rows: list[int], how: str
) -> None:
    found = answer(server, "find", {"radius": 2, **question})
    assert found == {"rows": rows, "how": how}


def image_of(column: str, **more: object) -> dict[str, Any]:
    view = {"latents": ["z0", "z1"], "x": [-6, 6], "y": [-6, 6], "width": 120, "height": 90}
    return view | {"column": column, "low": 1, "high": 4, "logarithmic": True, **more}


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def test_an_image_shows_the_points_that_pass(server: ExplorerServer, frame: pd.DataFrame) -> None:
    status, content = ask(server, "image", image_of("total_counts"))
    assert status == 200
    drawn = pixels(content)
    assert drawn.shape == (90, 120, 4)
    assert (drawn[..., 3] > 0).sum() > 16
    bright = float(frame["total_counts"].quantile(0.5))
    few = [{"column": "total_counts", "low": bright, "high": None, "words": None}]
    half = pixels(ask(server, "image", image_of("total_counts", filters=few))[1])
    assert 0 < (half[..., 3] > 0).sum() < (drawn[..., 3] > 0).sum()
    none = [{"column": "class", "low": None, "high": None, "words": []}]
    empty = pixels(ask(server, "image", image_of("total_counts", filters=none))[1])
    assert not empty[..., 3].any()


def test_points_have_their_place_and_color() -> None:
    places = np.array([[0.25, 0.25], [0.75, 0.75], [9.0, 9.0]])
    view, kept = View((0, 1), (0, 1), 40, 40), np.ones(3, dtype=bool)
    words = draw_image(places, np.array([5.0, 2.0, 2.0]), kept, view, Coloring(0, 1, words=[5]))
    drawn = pixels(words)
    rgb = tuple(int(CLASS_COLORS[0][i : i + 2], 16) for i in (1, 3, 5))
    assert tuple(drawn[29, 10, :3]) == rgb  # y grows upwards
    assert tuple(drawn[9, 30, :3]) == (0x8A, 0x8F, 0x98)
    assert not drawn[9, 10, 3]
    ends = draw_image(places, np.array([1.0, 100.0, 1.0]), kept, view, Coloring(0, 2, True))
    drawn = pixels(ends)
    assert drawn[29, 10, :3].sum() < 150  # the dark end of the palette
    assert drawn[9, 30, :3].sum() > 350
    unknown = draw_image(places, np.array([np.nan, 1.0, 1.0]), kept, view, Coloring(0, 2))
    assert tuple(pixels(unknown)[29, 10, :3]) == (0x8A, 0x8F, 0x98)


def test_columns_of_a_table_and_of_other_verbs_are_there(tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "w", detections=60)
    table = tmp_path / "t.csv"
    table.write_text(
        "detection_id,weekday\n" + "".join(f"sim:{i}.0.1,{i % 7}\n" for i in range(60))
    )
    publication = require_publication(made.workspace, RELEASE, made.models[0])
    ids = detections_of(made.workspace, publication)["detection_id"]
    added = pa.table({"detection_id": ids, "group_of_mine": [f"g{i % 3}" for i in range(60)]})
    write_added(made.workspace, publication, "cluster", added, {})
    catalog = opened(made, table)
    assert catalog.columns[0].name == "weekday"
    assert np.array_equal(catalog.column("weekday"), np.arange(60) % 7)
    assert np.array_equal(catalog.column("group_of_mine"), np.arange(60) % 3)
    place = [each.name for each in catalog.columns].index("group_of_mine")
    assert catalog.records([5])[0]["values"][place] == 5 % 3
    assert "60 of 60 detections have a row of" in catalog.notes[0]


def test_files_that_are_gone_are_an_error_that_is_said(tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "w", detections=60)
    catalog = opened(made)
    for part in Path(made.workspace.absolute_uri("catalog")).rglob("*.parquet"):
        part.unlink()
    with pytest.raises(RaypipeError, match="no such file"):
        catalog.column("exposure_s")


def test_options_that_exclude_each_other(made: Synthetic) -> None:
    workspace = made.workspace.absolute_uri()
    assert main(["explore", "--workspace", workspace, "--serve", "--sample", "9"]) == 2
    assert main(["explore", "--workspace", workspace, "--port", "8000"]) == 2
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1 port 0"):
        ExplorerServer("192.0.2.1", 0, "", {})


def test_without_datashader_it_says_what_to_install(
    made: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datashader", None)
    with pytest.raises(UsageError, match=r'pip install "raypipe\[serve\]"'):
        raypipe.explore(made.workspace, serve=True)


def test_it_warns_where_others_can_reach_it(caplog: pytest.LogCaptureFixture) -> None:
    server = ExplorerServer("0.0.0.0", 0, "", {})
    server.serve_forever = lambda: None  # type: ignore[method-assign,misc]
    with caplog.at_level(logging.WARNING):
        server.run()
    assert "anyone who has this address can see the catalog" in caplog.text


@pytest.mark.slow
def test_a_browser_that_leaves_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    left = threading.Event()

    def answer(_: object) -> bytes:
        left.wait(30)
        return bytes(1 << 24)

    server = ExplorerServer("127.0.0.1", 0, "", {"slow": answer})
    server.daemon_threads = False  # Closing the server then waits for its threads.
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        head = f"POST /api/slow HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}"
        with socket.create_connection(server.server_address[:2]) as browser:
            browser.sendall(f"{head}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        left.set()
        assert request(server, "GET", f"/?token={server.token}") == (200, b"")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert "Traceback" not in capfd.readouterr().err


def test_ctrl_c_ends_it(made: Synthetic) -> None:
    command = [sys.executable, "-m", "raypipe.cli", "explore", "--serve", "--workspace"]
    process = subprocess.Popen(
        [*command, made.workspace.absolute_uri()], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        lines = (re.search(r"Open (http://127\S+/\?token=\S+)", each) for each in process.stderr)
        found = next(filter(None, lines))
        with urllib.request.urlopen(found[1], timeout=60) as page:
            assert b"80 detections" in page.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.stderr.close()
