"""What comes from outside is data: it does not run, does not grow and does not lead astray.

docs/threats.md lists the threats; each names tests, here and elsewhere.
"""

from __future__ import annotations

import ast
import gzip
import io
import logging
import pickle
import re
import shutil
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import ray.tune
import requests
import torch
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray
from ray.train import Checkpoint
from safetensors import safe_open
from safetensors.numpy import save_file

import raypipe
from raypipe.archive.tap import _read_votable
from raypipe.catalog.brought_table import read_catalog
from raypipe.catalog.labels import _read_true_counts
from raypipe.discovery import own_files
from raypipe.errors import RaypipeError, ServiceError, UsageError
from raypipe.http.policy import Patience
from raypipe.http.redirects import leads_inside
from raypipe.http.session import PoliteSession
from raypipe.logs import TextLines
from raypipe.redaction import printable, redact_text
from raypipe.store.parquet import require_plain
from raypipe.store.workspace import Workspace
from raypipe.training.checkpoints import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "tests" / "data" / "bundle-format-2"


class Trap:
    """What writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.file,)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """A file that is there if a trap was unpickled."""
    return tmp_path / "sprung"


def test_the_trap_works(sprung: Path) -> None:
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


def test_every_threat_has_its_tests() -> None:
    text = (ROOT / "docs" / "threats.md").read_text()
    sections = re.split(r"(?m)^## ", text)[1:]
    assert len(sections) >= 8
    for section in sections:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", section)
        assert named, f"{section.splitlines()[0]}: no test is named"
        for file, test in named:
            tree = ast.parse((ROOT / file).read_text())
            defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert test in defined, f"{file} has no {test}"
    for file in re.findall(r"`(raypipe/[\w/]+\.py)`", text):
        assert (ROOT / file).is_file()


def _trapped_table(sprung: Path, name: str) -> pa.Table:
    objects = ArrowPythonObjectArray.from_objects([Trap(sprung), Trap(sprung)])
    return pa.table({"obsid": [1, 2], "obi": [0, 0], "region_id": [1, 2], name: objects})


def test_parquet_does_not_run_when_it_is_read(tmp_path: Path, sprung: Path) -> None:
    file = tmp_path / "catalog.parquet"
    pq.write_table(_trapped_table(sprung, "class"), file)
    with pytest.raises(UsageError, match=r"column class is of extension type ray\.data"):
        read_catalog(file)
    with pytest.raises(RaypipeError, match="column class is of extension type"):
        Workspace(tmp_path).read_table("catalog.parquet")
    with pytest.raises(RaypipeError, match="column class is of extension type"):
        Workspace(tmp_path).read_folder("")
    pq.write_table(_trapped_table(sprung, "true_counts"), file)
    with pytest.raises(RaypipeError, match="column true_counts is of extension type"):
        _read_true_counts(file)
    assert not sprung.exists()
    pd.read_parquet(file)  # what would have happened
    assert sprung.exists()


@pytest.mark.parametrize("nest", [pa.list_, lambda kind: pa.struct({"a": kind})])
def test_nor_where_it_is_nested(nest: Any, sprung: Path) -> None:
    kind = _trapped_table(sprung, "x").schema.field("x").type
    with pytest.raises(RaypipeError, match="column y is of extension type"):
        require_plain(pa.schema({"x": pa.int64(), "y": nest(kind)}), "f")
    require_plain(pa.schema({"y": nest(pa.dictionary(pa.int8(), pa.string()))}), "f")


def test_checkpoints_hold_tensors_alone(tmp_path: Path, sprung: Path) -> None:
    torch.save({"epoch": Trap(sprung)}, tmp_path / "checkpoint.pt")
    checkpoint = Checkpoint(str(tmp_path), pafs.LocalFileSystem())
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        read_checkpoint(checkpoint, torch.device("cpu"))
    assert not sprung.exists()


def test_weights_are_no_pickle(tmp_path: Path, sprung: Path) -> None:
    bundle = shutil.copytree(BUNDLE, tmp_path / "bundle")
    torch.save({"network.x": Trap(sprung)}, bundle / "model.safetensors")
    with pytest.raises(RaypipeError, match="not a whole raypipe model"):
        raypipe.load_model(bundle)
    assert not sprung.exists()


def test_a_bundle_cannot_ask_for_a_model_of_any_size(tmp_path: Path) -> None:
    bundle = shutil.copytree(BUNDLE, tmp_path / "bundle")
    with safe_open(bundle / "model.safetensors", "numpy") as file:  # as if it had no hash
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        description = {"raypipe": file.metadata()["raypipe"]}
    save_file(tensors, bundle / "model.safetensors", metadata=description)
    text = (bundle / "config.toml").read_text()
    (bundle / "config.toml").write_text(
        re.sub(r"decoder_width = \d+", "decoder_width = 9999999", text)
    )
    with pytest.raises(RaypipeError, match="decoder_width"):
        raypipe.load_model(bundle)


def test_the_state_of_a_search_runs_when_it_is_restored(tmp_path: Path, sprung: Path) -> None:
    """Not bounded: who may write a workspace's tuning folder runs programs as who restores it."""
    (tmp_path / "tuner.pkl").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(Exception):  # noqa: B017, PT011 - what is in the file is no Tuner
        ray.tune.Tuner.restore(str(tmp_path), trainable=lambda config: None)
    assert sprung.exists()


@contextmanager
def serve(body: bytes, **headers: str) -> Iterator[str]:
    """A server on loopback that answers everything with `body`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("packed", [False, True])
def test_answers_of_services_are_bounded(packed: bool) -> None:
    body = bytes(64 << 20)
    headers = {"Content_Encoding": "gzip"} if packed else {}
    with serve(gzip.compress(body, 1) if packed else body, **headers) as url:
        patience = Patience(attempts=1, backoff_s=1.0, silence_s=60.0, answer_s=60.0)
        session = PoliteSession(patience, answer_bytes=1 << 20)
        tracemalloc.start()
        try:
            with pytest.raises(ServiceError, match="larger than 1 MiB"):
                session.get(f"{url}/tap?key=s3cr3t")
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()


def _votable(prologue: str, cell: str) -> requests.Response:
    text = (
        f'<?xml version="1.0"?>{prologue}<VOTABLE version="1.4" '
        'xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE type="results">'
        '<INFO name="QUERY_STATUS" value="OK"/><TABLE><FIELD name="name" datatype="char" '
        f'arraysize="*"/><DATA><TABLEDATA><TR><TD>{cell}</TD></TR></TABLEDATA></DATA></TABLE>'
        "</RESOURCE></VOTABLE>"
    )
    response = requests.Response()
    response.status_code = 200
    response.url = "http://service/tap"
    response.raw = io.BytesIO(text.encode())
    return response


def test_entities_of_xml_do_not_multiply() -> None:
    laughs = "".join(
        f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "ha" * 50}">' for n in range(10)
    )
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a complete VOTable"):
            _read_votable(_votable(f"<!DOCTYPE VOTABLE [{laughs}]>", "&l9;"))
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()


def test_entities_of_xml_bring_no_files(tmp_path: Path) -> None:
    assert _read_votable(_votable("", "a name")).table.to_pylist() == [{"name": "a name"}]
    (tmp_path / "secret").write_text("s3cr3t")
    doctype = f'<!DOCTYPE VOTABLE [<!ENTITY f SYSTEM "file://{tmp_path}/secret">]>'
    try:
        rows = _read_votable(_votable(doctype, "&f;")).table.to_pylist()
    except ValueError as error:
        rows = [str(error)]
    assert "s3cr3t" not in str(rows)


@pytest.mark.parametrize(
    ("asked", "target", "inside"),
    [
        ("http://8.8.8.8/a", "http://127.0.0.1/b", True),
        ("http://8.8.8.8/a", "http://10.1.2.3/b", True),
        ("http://8.8.8.8/a", "http://192.168.0.1:8080/b", True),
        ("http://8.8.8.8/a", "http://[::1]/b", True),
        ("http://8.8.8.8/a", "http://[::ffff:10.0.0.1]/b", True),
        ("http://8.8.8.8/a", "http://localhost/b", True),
        ("http://8.8.8.8/a", "http://2130706433/b", True),
        ("http://127.0.0.1/a", "http://169.254.169.254/latest/meta-data", True),
        ("http://8.8.8.8/a", "http://[fe80::1]/b", True),
        ("http://8.8.8.8/a", "http://1.1.1.1/b", False),
        ("http://127.0.0.1/a", "http://127.0.0.1:81/b", False),
        ("http://10.0.0.1/a", "http://10.0.0.2/b", False),
        ("http://8.8.8.8/a", "http://no.such.host.invalid/b", False),
    ],
)
def test_redirects_do_not_lead_inside(asked: str, target: str, inside: bool) -> None:
    assert leads_inside(asked, target) is inside


def test_own_spectra_of_any_size_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_files, "_MOST_BYTES", 1000)
    (tmp_path / "big.pi").write_bytes(bytes(1001))
    folder = Workspace(tmp_path)
    monkeypatch.setattr(Workspace, "read_bytes", None)
    (table,) = own_files.own_detections(folder, {"big.pi": "1001@0"})
    assert table["pha_uri"].to_pylist() == [str(tmp_path / "big.pi")]


@pytest.mark.parametrize("name", ["../out", "a/../../out", "..", "spectra/.."])
def test_names_do_not_lead_out_of_a_workspace(tmp_path: Path, name: str) -> None:
    workspace = Workspace(tmp_path / "w")
    with pytest.raises(UsageError, match="leads out of the workspace"):
        workspace.write_bytes(name, b"")


def test_a_uri_must_not_contain_credentials() -> None:
    with pytest.raises(UsageError, match="must not contain credentials") as refused:
        Workspace("s3://AKIAEXAMPLE:s3cr3t@bucket/prefix")
    assert "s3cr3t" not in str(refused.value)
    assert "AKIA" not in str(refused.value)
    Workspace("s3://bucket/a@b")


@pytest.mark.parametrize("uri", ["s3:/bucket/w", "https:/me:pw@h/w", "file:/w"])
def test_an_address_that_lacks_a_slash_is_no_local_folder(uri: str) -> None:
    with pytest.raises(UsageError, match="two slashes") as refused:
        Workspace(uri)
    assert "pw" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("run --source https://me:pw@h/a?sig=1 -v", "run --source https://h/a -v"),
        ("a.b=http://me:pw@h:80/x", "a.b=http://h:80/x"),
        ('tap_url = "https://u:p@h/tap"\nx = 1', 'tap_url = "https://h/tap"\nx = 1'),
        ("two: s3://k:s@b/a#1, http://h/?t=2 end", "two: s3://b/a#1, http://h/ end"),
        ("no URI: a@b, 1:2", "no URI: a@b, 1:2"),
        ("get https://me:p/w@h/a end", "get https://h/a end"),
        ("get https://me:p?w@h/a?sig=1 end", "get https://h/a end"),
        ("get https://me:p#w@h/a end", "get https://h/a end"),
        ("""get 'https://me:p'w"x@h/a' end""", "get 'https://h/a' end"),
        ("a slash short: https:/me:pw@h/a", "a slash short: https:/h/a"),
        ("cut short: https://me:pw", "cut short: https://..."),
        (
            "hosts: http://[::1]:80/a@b http://h:80/a@b",
            "hosts: http://[::1]:80/a@b http://h:80/a@b",
        ),
        ('{"a": "http://h:80/x", "b": "c:d@e"}', '{"a": "http://h:80/x", "b": "c:d@e"}'),
    ],
)
def test_credentials_are_taken_out_of_texts(text: str, shown: str) -> None:
    assert redact_text(text) == shown


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("plain.pi", None, "plain.pi"),
        ("a\n12:00:00 all is well", None, "a\\n12:00:00 all is well"),
        ("\x1b[2Jgone", None, "\\x1b[2Jgone"),
        ("not-utf8-\udcff.pi", None, "not-utf8-\\udcff.pi"),
        ("x" * 600, 500, "x" * 497 + "..."),
        ("\x1b" * 200, 500, ("\\x1b" * 200)[:497] + "..."),
        ("x" * 500, 500, "x" * 500),
    ],
)
def test_control_characters_are_escaped(text: str, limit: int | None, shown: str) -> None:
    assert printable(text, limit) == shown


def test_a_name_does_not_forge_a_line_of_the_log() -> None:
    record = logging.LogRecord("raypipe", 20, "", 0, "%s: read", ("a\nb\x1b[2J.pi",), None)
    assert TextLines().format(record).endswith("a\\nb\\x1b[2J.pi: read")
