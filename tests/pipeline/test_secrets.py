"""Secrets that raypipe is given are in nothing that it writes or says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from raypipe.cli import main
from raypipe.store.layout import part_name
from raypipe.store.workspace import Workspace
from tests.pipeline.fetching import RELEASE
from tests.pipeline.file_server import FileServer, status, write_remote_manifest
from tests.pipeline.tap_server import Archive, TapServer

BUCKET = "private"
AWS_SECRET = "wJalrXUtnFEMIraypipeTESTONLYbPxRfiCY"
PASSWORD = "hunter2-of-the-mirror"
SIGNATURE = "5ignature0fThisUrl"
SECRETS = (AWS_SECRET, PASSWORD, SIGNATURE)


@pytest.fixture
def ray_logs() -> Iterator[Path]:
    """Where the command's own Ray writes; its sockets need a short path."""
    folder = Path(tempfile.mkdtemp(prefix="rp", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def environment(ray_logs: Path, isolated_home: Path) -> Iterator[dict[str, str]]:
    """What a command is run with: a bucket of its own, reached with AWS_SECRET."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": AWS_SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield {**os.environ, "RAY_TMPDIR": str(ray_logs)}
        for entry in boto3.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", []):
            boto3.client("s3").delete_object(Bucket=BUCKET, Key=entry["Key"])
    server.stop()


def with_credentials(url: str) -> str:
    return url.replace("http://", f"http://me:{PASSWORD}@")


Said = tuple[int, str]


def process(environment: dict[str, str], *arguments: str) -> Said:
    """Run raypipe in a process with a Ray of its own; its exit code and all that it said."""
    run = subprocess.run(
        [sys.executable, "-m", "raypipe.cli", *arguments, "-v"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return run.returncode, run.stdout + run.stderr


@pytest.fixture
def command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Said]:
    """Runs a verb without Ray in this process; its exit code and all that it said.

    The record of a run has the command line of the process, which is set for that.
    """

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["raypipe", *arguments, "-v"])
        capfd.readouterr()
        code = main()
        said = capfd.readouterr()
        return code, said.out + said.err

    return run


def contents(bucket: Any) -> dict[str, str]:
    """Everything in the bucket as text, tables with their values and metadata."""
    found = {}
    for entry in bucket.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        data = bucket.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
        if entry["Key"].endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(data))
            found[entry["Key"]] = f"{table.schema.metadata} {table.to_pylist()}"
        else:
            found[entry["Key"]] = data.decode("utf-8", "replace")
    return found


def test_the_search_would_find_them(environment: dict[str, str]) -> None:
    workspace = Workspace(f"s3://{BUCKET}/known")
    workspace.write_table("a.parquet", pa.table({"x": [PASSWORD] * 1000}))
    workspace.write_table("b.parquet", pa.table({"x": [1]}), {"note": SIGNATURE})
    found = contents(boto3.client("s3"))
    assert PASSWORD in found["known/a.parquet"]
    assert SIGNATURE in found["known/b.parquet"]


@pytest.mark.slow
def test_no_secret_is_written_or_said(
    environment: dict[str, str],
    ray_logs: Path,
    server: FileServer,
    served: Path,
    command: Callable[..., Said],
) -> None:
    said = []
    home = f"s3://{BUCKET}/w"

    workspace = Workspace(home)
    write_remote_manifest(workspace, served, server, limit=6)
    name = part_name(f"manifest/{RELEASE}", 0)
    rows = workspace.read_table(name)
    for key in "pha_uri", "arf_uri", "rmf_uri":
        signed = [f"{with_credentials(uri)}?sig={SIGNATURE}" for uri in rows[key].to_pylist()]
        rows = rows.set_column(rows.column_names.index(key), key, pa.array(signed))
    workspace.write_table(name, rows)
    refused = rows["pha_uri"][0].as_py().rsplit("/", 1)[1].split("?")[0]
    server.fail(status(403), refused)
    package_url = f"ingest.package_url={with_credentials(server.package_url)}?sig={SIGNATURE}"
    options = ["--set", package_url, "--set", "ingest.rmf=exact", "--set", "ray.num_cpus=1"]
    options += ["--set", "ingest.attempts=1"]
    code, text = process(environment, "ingest", "--workspace", home, *options)
    assert code == 0, text
    assert "= 5 spectra + 1 rejects" in text
    said.append(text)

    with TapServer(Archive(stacks=4)) as tap:
        tap_url = f"discover.tap_url={with_credentials(tap.url)}"
        options = ["--set", tap_url, "--set", "discover.attempts=1"]
        options += ["--workspace", f"s3://{BUCKET}/tap"]
        code, text = command("discover", "--source", "csc2.1", *options)
        assert code == 0, text
        said.append(text)
        bad = command("discover", "--source", "csc2.1", "--where", "no SQL", *options)
        assert bad[0] == 2, bad[1]
        said.append(bad[1])
    gone = command("discover", "--source", "csc2.1", "--where", "o.theta < 5", *options)
    assert gone[0] != 0
    said.append(gone[1])
    for source in (
        f"https://me:{PASSWORD}@127.0.0.1/products?sig={SIGNATURE}",
        f"s3://someone:{AWS_SECRET}@{BUCKET}/products",
    ):
        code, text = command("discover", "--source", source, "--workspace", home)
        assert code == 2, text
        assert "127.0.0.1" in text or BUCKET in text
        said.append(text)

    written = contents(boto3.client("s3"))
    runs = [json.loads(text) for key, text in written.items() if key.endswith("/run.json")]
    assert {"ingest", "discover"} == {run["verb"] for run in runs}
    for setting in "package_url", "tap_url":
        assert any(setting in " ".join(run["command"]) for run in runs)
    del written[f"w/{name}"]  # the manifest says where files are, as it was told
    logs = {
        str(path): path.read_text(errors="replace")
        for path in ray_logs.rglob("*.*")
        if path.is_file()
    }
    assert any("raylet" in path for path in logs)
    for place, text in {**written, **logs, **dict(enumerate(said))}.items():
        found = [secret for secret in SECRETS if secret in text]
        assert not found, f"{place} has {found}"
