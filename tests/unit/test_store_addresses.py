"""Tables named by an address: fetched within bounds, and no password of an address is printed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

import raypipe
from raypipe.catalog.brought_table import read_catalog
from raypipe.catalog.labels import read_labels
from raypipe.cli import main
from raypipe.errors import RaypipeError, ServiceError, UsageError
from raypipe.http import redirects
from raypipe.http.policy import Patience
from raypipe.store import addresses
from raypipe.store.addresses import file_name, local_file, shown
from tests.unit.synthetic_workspace import make_workspace

CSV = b"detection_id,class\nsim:0.0.1,AGN\nsim:1.0.1,AGN\n"
SECRET = "hunter2"


@contextmanager
def served(files: dict[str, bytes], redirect: str = "") -> Iterator[str]:
    """A server on this machine that asks for a password: its host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.partition("?")[0]
            if "Authorization" not in self.headers:
                self.send_error(401)
            elif name == "/away":
                self.send_response(302)
                self.send_header("Location", redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif name in files:
                self.send_response(200)
                self.send_header("Content-Length", str(len(files[name])))
                self.end_headers()
                self.wfile.write(files[name])
            else:
                self.send_error(404)

        def log_message(self, format: str, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_table_behind_a_password_is_read_and_the_password_not_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, "raypipe")
    made = make_workspace(tmp_path, 6)
    truth = pa.table({"detection_id": [f"sim:{i}.0.1" for i in range(6)], "z0": range(6)})
    truth = truth.append_column("class", pa.array(["AGN", "AGN", "CV", "CV", "NS", "NS"]))
    pq.write_table(truth, tmp_path / "labels.parquet")
    files = {"/d/labels.parquet": (tmp_path / "labels.parquet").read_bytes(), "/d/c.csv": CSV}
    with served(files) as host:
        address = f"http://someone:{SECRET}@{host}/d/labels.parquet?token={SECRET}"
        assert read_catalog(address)["class"].to_pylist() == truth["class"].to_pylist()
        assert len(read_labels(f"http://someone:{SECRET}@{host}/d/c.csv")) == 2
        for wrong in (address.replace("labels", "nothing"), address.replace("http", "ftp", 1)):
            with pytest.raises(UsageError) as raised:
                read_catalog(wrong)
            assert SECRET not in str(raised.value)
        arguments = ["evaluate", "--workspace", made.workspace.uri, "--labels", address]
        assert main(arguments) == 0
        assert main([*arguments[:-1], address.replace("labels", "nothing")]) != 0
    metrics = (tmp_path / "evaluation/sim/folded-test/metrics.json").read_text()
    assert "labels.parquet, joined on detection_id" in metrics
    records = "".join(file.read_text() for file in tmp_path.glob("runs/*/*"))
    said = caplog.text + "".join(capsys.readouterr()) + metrics + records
    assert "labels.parquet" in said
    assert SECRET not in said


@pytest.mark.parametrize("verb", ["discover", "evaluate", "simulate"])
def test_a_path_made_of_an_address_is_refused_without_its_password(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(f"https://someone:{SECRET}@example.org/c.csv")
    assert "//" not in str(broken)
    with pytest.raises(UsageError, match="give the address as text") as raised:
        read_catalog(broken)
    assert SECRET not in str(raised.value) + shown(broken) + file_name(broken)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "acisf00001_000N001_r0001_pha3.fits.gz").touch()
    if verb == "discover":
        with pytest.raises(UsageError) as raised:
            raypipe.discover(tmp_path / "w", source=str(tmp_path / "s"), catalog=broken)
    elif verb == "simulate":
        with pytest.raises(UsageError) as raised:
            raypipe.simulate(tmp_path / "w", detections=1, catalog=broken)
    else:
        make_workspace(tmp_path / "w", 6)
        with pytest.raises(UsageError) as raised:
            raypipe.evaluate(tmp_path / "w", labels=broken)
    assert SECRET not in str(raised.value) + "".join(capsys.readouterr())


def test_an_object_of_a_bucket_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bucket" / "d").mkdir(parents=True)
    (tmp_path / "bucket" / "d" / "c.csv").write_bytes(CSV)
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    monkeypatch.setattr(addresses, "open_filesystem", lambda uri: (store, uri[len("s3://") :]))
    assert read_catalog("s3://bucket/d/c.csv")["class"].to_pylist() == ["AGN", "AGN"]
    with pytest.raises(UsageError, match="s3://bucket/d/absent: no such file"):
        read_catalog("s3://bucket/d/absent")
    monkeypatch.setattr(addresses, "MOST_BYTES", len(CSV) - 1)
    with pytest.raises(UsageError, match="larger than"):
        read_catalog("s3://bucket/d/c.csv")


def test_an_answer_is_bounded_in_size_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    hasty = Patience(attempts=1, backoff_s=0.0, silence_s=1.0, answer_s=1.0)
    monkeypatch.setattr(addresses, "_PATIENCE", hasty)
    monkeypatch.setattr(addresses, "MOST_BYTES", 100)
    with (
        served({"/c.csv": CSV * 10}) as host,
        pytest.raises(ServiceError, match="the answer is larger"),
        local_file(f"http://a:{SECRET}@{host}/c.csv"),
    ):
        pass
    with (
        pytest.raises(RaypipeError, match="http://127") as raised,
        local_file(f"http://a:{SECRET}@127.0.0.1:1/c.csv"),
    ):
        pass
    assert SECRET not in str(raised.value)


def test_a_server_outside_cannot_lead_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own machine is no public address: one outside is one whose name is said to be."""
    monkeypatch.setattr(redirects, "leads_inside", lambda asked, target: "inside" in target)
    with (
        served({"/c.csv": CSV}, redirect="/c.csv") as host,
        local_file(f"http://a:b@{host}/away") as file,
    ):
        assert file.read_bytes() == CSV
    with (
        served({"/inside.csv": CSV}, redirect="/inside.csv") as host,
        pytest.raises(
            ServiceError, match=r"redirects to .*/inside\.csv, an address that is not public"
        ),
        local_file(f"http://a:b@{host}/away"),
    ):
        pass


def test_what_is_no_address_is_a_usage_error() -> None:
    for address in ("http://", "https://[", "s3://a:b@bucket/c.csv", "gopher://x/c.csv"):
        with pytest.raises(UsageError), local_file(address):
            pass
