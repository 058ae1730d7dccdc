"""Sources and workspaces in a bucket: a real S3 server on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import lsdb
import pandas as pd
import pyarrow as pa
import pytest
from hats.io.validation import is_valid_catalog
from moto.server import ThreadedMotoServer
from pyarrow.fs import FileSelector

import raypipe
from raypipe.cli import main
from raypipe.discovery.columns import manifest_rows
from raypipe.discovery.discover import discover
from raypipe.discovery.files import Skipped, list_files
from raypipe.discovery.manifest import write_manifest
from raypipe.errors import BusyError, RaypipeError, UsageError
from raypipe.evaluation.evaluated_catalog import choose_catalog
from raypipe.exploring.served_catalog import ServedCatalog
from raypipe.exporting.formats import FORMATS
from raypipe.ingestion.fetch import read_stored
from raypipe.model.bundle import load_model
from raypipe.store.layout import manifest_folder, model_folder
from raypipe.store.lease import exclusive
from raypipe.store.manifest import choose_release
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace
from tests.pipeline.tap_server import Archive, TapServer
from tests.unit.synthetic_workspace import RELEASE, make_workspace, publish_table
from tests.unit.test_lease import HOLD

BUCKET = "archive"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """A bucket that everything in this module finds under s3://archive."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client
    server.stop()


def pha_name(obsid: int, region: int = 1, version: int = 1, product: str = "pha3") -> str:
    return f"acisf{obsid:05d}_000N{version:03d}_r{region:04d}_{product}.fits.gz"


def put(bucket: Any, prefix: str, *names: str, body: bytes = b"a spectrum") -> None:
    for name in names:
        bucket.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=body)


def _manifest(workspace: str) -> str:
    return manifest_folder(choose_release(Workspace(workspace), None))


def manifest(workspace: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Workspace(workspace).read_folder(_manifest(workspace)).to_pylist()
    return sorted(rows, key=lambda row: row["detection_id"])


def test_more_keys_than_a_page_of_a_listing(
    bucket: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    put(bucket, "many", *(f"{i % 10}/{pha_name(i)}" for i in range(1200)))
    workspace = f"s3://{BUCKET}/workspace"
    arguments = ["discover", "--workspace", workspace, "--source", f"s3://{BUCKET}/many", "--json"]
    assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["parts"]) == (1200, 4)
    assert [row["obsid"] for row in manifest(workspace)] == sorted(range(1200), key=str)
    assert main([*arguments, "--set", "discover.part_rows=2000"]) == 0
    assert len(Workspace(workspace).files("manifest/many", ".parquet")) == 1
    assert len(manifest(workspace)) == 1200
    capsys.readouterr()
    assert main(["status", "--workspace", workspace, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["releases"][0]["rows"] == {"manifest": 1200, "spectra": 0, "rejects": 0}
    assert status["releases"][0]["source"] == f"s3://{BUCKET}/many"


def test_the_newest_version_wins(bucket: Any, tmp_path: Path) -> None:
    put(bucket, "versions", pha_name(1, version=2), pha_name(1, version=10))
    put(bucket, "versions/older", pha_name(1, version=9), pha_name(1, version=9, product="arf3"))
    discover(tmp_path, source=f"s3://{BUCKET}/versions/")
    (row,) = manifest(str(tmp_path))
    assert row["detection_id"] == "versions:1.0.1"
    assert row["pha_uri"] == f"s3://{BUCKET}/versions/{pha_name(1, version=10)}"
    assert row["arf_uri"].endswith(f"older/{pha_name(1, version=9, product='arf3')}")


def test_a_catalog_is_read_from_a_bucket(
    bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(bucket, "joined", pha_name(1), pha_name(2))
    catalog = b"OBSID,OBI,REGION_ID,gaia_id\n2,0,1,5853498713190525697\n"
    put(bucket, "tables", "c.csv", body=catalog)
    arguments = ["discover", "--workspace", str(tmp_path), "--source", f"s3://{BUCKET}/joined"]
    assert main([*arguments, "--catalog", f"s3://{BUCKET}/tables/c.csv"]) == 0
    rows = manifest(str(tmp_path))
    assert [row["gaia_id"] for row in rows] == [None, 5853498713190525697]
    capsys.readouterr()
    assert main([*arguments, "--catalog", f"s3://{BUCKET}/tables/absent.csv"]) == 2
    assert f"s3://{BUCKET}/tables/absent.csv: no such file" in capsys.readouterr().err
    assert main([*arguments, "--catalog", f"s3://me:hunter2@{BUCKET}/c.csv"]) == 2
    assert "hunter2" not in capsys.readouterr().err


def test_a_listing_is_that_of_pyarrow(bucket: Any) -> None:
    put(bucket, "listed", "a", "b/c.txt", "b/.hidden", "d/e%2F f", ".git/g.pi", body=b"12345")
    put(bucket, "listed", "b/", body=b"")
    folder = Workspace(f"s3://{BUCKET}/listed")
    infos = folder.fs.get_file_info(FileSelector(folder.root, recursive=True))
    expected = {
        info.path.removeprefix(f"{folder.root}/"): f"{info.size}@{info.mtime_ns}"
        for info in infos
        if info.is_file and info.base_name not in (".hidden", "g.pi")
    }
    skipped: list[Skipped] = []
    assert dict(list_files(folder, skipped)) == expected
    assert set(expected) == {"a", "b/c.txt", "d/e%2F f"}
    assert skipped == [Skipped(".git", "a hidden folder", is_folder=True)]


def test_rows_are_put_aside_on_the_machine(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    workspace = Workspace(f"s3://{BUCKET}/aside")
    rows = manifest_rows(pa.table({"detection_id": [f"r:{i}.0.1" for i in range(40)]}))
    aside = []

    def tables() -> Iterator[pa.Table]:
        for start in range(0, 40, 10):
            yield rows.slice(start, 10)
            aside.append(len(list(tmp_path.rglob("*.arrow"))))

    write_manifest(workspace, "r", tables(), 10, "here", memory=0)
    assert aside == [1, 2, 3, 4]
    assert workspace.read_folder("manifest/r").num_rows == 40
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "folder",
    ["with space", "Größe 星", "a+b", "100%", "%2Fslash", "what?x=1&y", "hash#1", "d:e", "~tilde'"],
)
def test_awkward_names(folder: str, bucket: Any) -> None:
    prefix = f"odd/{folder}"
    put(bucket, f"{prefix}/in {folder}", pha_name(7), body=folder.encode())
    workspace = f"s3://{BUCKET}/{prefix}/work space"
    discover(workspace, source=f"s3://{BUCKET}/{prefix}")
    (row,) = manifest(workspace)
    assert row["pha_uri"] == f"s3://{BUCKET}/{prefix}/in {folder}/{pha_name(7)}"
    assert read_stored(row["pha_uri"], 1000) == folder.encode()
    assert discover(workspace, source=f"s3://{BUCKET}/{prefix}")["rows"] == 1


def test_awkward_names_on_a_disk(tmp_path: Path) -> None:
    for folder in "with space", "Größe 星", "a+b", "100%", "%2Fslash", "what?x=1&y", "hash#1":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / pha_name(7)).write_bytes(folder.encode())
        discover(tmp_path / folder / "w", source=str(tmp_path / folder))
        (row,) = manifest(str(tmp_path / folder / "w"))
        assert read_stored(row["pha_uri"], 1000) == folder.encode()


def test_what_is_not_there_says_so(bucket: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        discover(tmp_path, source=f"s3://{BUCKET}/nothing")
    with pytest.raises(UsageError, match="no such folder"):
        discover(tmp_path, source="s3://no-such-bucket/nothing")
    put(bucket, "few", pha_name(1))
    with pytest.raises(RaypipeError, match="cannot be written"):
        discover("s3://no-such-bucket/w", source=f"s3://{BUCKET}/few")


def test_a_server_that_is_gone_is_an_error(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(RaypipeError, match=r"s3://archive/few.*cannot be"):
        discover(tmp_path, source=f"s3://{BUCKET}/few")


def test_workspaces_in_a_bucket_work_as_on_a_disk(bucket: Any) -> None:
    workspace = Workspace(f"s3://{BUCKET}/w")
    workspace.write_bytes("a/b.txt", b"1")
    workspace.write_bytes("a/b.txt", b"2")
    workspace.write_bytes("a/.hidden/c.txt", b"3")
    workspace.write_json("a/d.json", {"e": 1})
    assert workspace.files("a") == ["a/b.txt", "a/d.json"]
    assert workspace.folders("a") == [".hidden"]
    assert workspace.files("nothing") == workspace.folders("nothing") == []
    assert workspace.read_bytes("a/b.txt") == b"2"
    assert workspace.modified("a/b.txt") > 0
    workspace.delete("a/b.txt")
    workspace.delete("a/b.txt")
    assert not workspace.exists("a/b.txt")
    with pytest.raises(RaypipeError, match=r"s3://archive/w/a/b\.txt: no such file"):
        workspace.read_bytes("a/b.txt")
    with pytest.raises(RaypipeError, match="no such file"):
        workspace.read_table("a/none.parquet")


def test_of_many_who_create_an_object_one_succeeds(bucket: Any) -> None:
    workspace = Workspace(f"s3://{BUCKET}/one")
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda i: workspace.create_bytes("c/list.json", b"%d" % i), range(8))
        )
    assert sorted(answers) == [False] * 7 + [True]
    assert workspace.read_bytes("c/list.json") == b"%d" % answers.index(True)
    with pytest.raises(RaypipeError, match="cannot be written"):
        Workspace("s3://no-such-bucket/w").create_bytes("a", b"")


def test_a_release_into_a_bucket(bucket: Any) -> None:
    archive = Archive(stacks=6)
    workspace = f"s3://{BUCKET}/release"
    with TapServer(archive) as server:
        config = {"discover": {"tap_url": server.url, "page_rows": 20, "sync_rows": 2_000_000}}
        discover(workspace, source="csc2.1", config=config)
        asked = len(server.requests)
        discover(workspace, source="csc2.1", config=config)
        assert len(server.requests) == asked
    assert len(manifest(workspace)) == len(archive.truth)
    assert Workspace(workspace).folders("manifest") == ["csc2.1"]


def test_hats_in_a_bucket_opens_by_url(bucket: Any, tmp_path: Path) -> None:
    """As a public bucket is read: over HTTP, without credentials and without an S3 library."""
    made = make_workspace(tmp_path / "w", 24)
    out = f"s3://{BUCKET}/shared"
    raypipe.export(made.workspace, format="hats", sources=True, out=out)
    listing = bucket.list_objects_v2(Bucket=BUCKET, Prefix="shared/")["Contents"]
    names = {each["Key"] for each in listing}
    assert {"shared/sources-moc.fits", "shared/CITATION.cff", "shared/README.md"} <= names
    for name in names:
        bucket.put_object_acl(Bucket=BUCKET, Key=name, ACL="public-read")
    url = f"{bucket.meta.endpoint_url}/{BUCKET}/shared/sources-hats"
    rows = lsdb.open_catalog(url).compute()
    sources = raypipe.open_sources(made.workspace)
    assert sorted(rows["best_detection_id"]) == sorted(sources["best_detection_id"])
    assert rows["detections"].map(len).sum() == 24


def test_an_export_in_a_bucket_is_replaced_whole(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    made = make_workspace(tmp_path / "w", 16)
    model = load_model(made.workspace.absolute_uri(model_folder(made.models[0])))
    table = read_detections(made.workspace, RELEASE, model.model_id)
    out = "s3://archive/exports"
    for rows, ra in ((table, 10.0), (table.slice(0, 5), 200.0)):
        place = pa.array([ra] * rows.num_rows)
        moved = rows.set_column(rows.column_names.index("ra"), "ra", place)
        publish_table(made.workspace, model, moved)
        for format in FORMATS:
            uri = raypipe.export(made.workspace, format=format, out=out)
            assert uri.startswith(f"{out}/detections")
    assert not list(scratch.glob(".draft-*"))
    listing = bucket.list_objects_v2(Bucket=BUCKET, Prefix="exports/")["Contents"]
    for one in listing:
        if one["Key"].endswith("/"):
            continue
        copy = tmp_path / one["Key"]
        copy.parent.mkdir(parents=True, exist_ok=True)
        bucket.download_file(BUCKET, one["Key"], str(copy))
    folder = tmp_path / "exports"
    assert is_valid_catalog(folder / "detections-hats", strict=True)
    assert Workspace(folder).read_table("detections.parquet")["ra"].to_pylist() == [200.0] * 5
    assert {path.name for path in folder.iterdir()} == {
        *("detections.fits", "detections.vot", "detections.parquet", "detections-hats"),
        *("README.md", "index.html", "exports.json", "CITATION.cff", "detections-moc.fits"),
    }


def test_a_catalog_in_a_bucket_is_explored(bucket: Any, tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "w", 60)
    for path in (tmp_path / "w").rglob("*"):
        if path.is_file():
            key = f"explored/{path.relative_to(tmp_path / 'w')}"
            bucket.upload_file(str(path), BUCKET, key)
    store = Workspace(f"s3://{BUCKET}/explored")
    uri = raypipe.explore(store)
    assert uri == f"s3://{BUCKET}/explored/explorer/{RELEASE}/{made.models[0]}.html"
    assert b"60 detections" in store.read_bytes(f"explorer/{RELEASE}/{made.models[0]}.html")
    raypipe.report(store)
    page = store.read_bytes(f"reports/{RELEASE}/{made.models[0]}.html").decode()
    assert f"../../explorer/{RELEASE}/{made.models[0]}.html#detection=" in page
    catalog = ServedCatalog(store, choose_catalog(store, None, None), None, 1.0)
    local = ServedCatalog(made.workspace, choose_catalog(made.workspace, None, None), None, 1.0)
    assert catalog.point(7) == local.point(7)
    assert catalog.records([3, 30]) == local.records([3, 30])


def test_classes_are_added_to_a_catalog_in_a_bucket(bucket: Any, tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "w", 96, classes=["AGN", "CV", "YSO"])
    folder = tmp_path / "w"
    for file in filter(Path.is_file, folder.rglob("*")):
        bucket.upload_file(str(file), BUCKET, f"classes/{file.relative_to(folder)}")
    settings = ["--set", "classify.trees=12", "--set", "classify.folds=2"]
    truth = f"s3://{BUCKET}/classes/truth.parquet"
    there = ["classify", "--workspace", f"s3://{BUCKET}/classes", "--labels", truth, *settings]

    def objects() -> dict[str, Any]:
        listed = bucket.list_objects_v2(Bucket=BUCKET, Prefix="classes/")["Contents"]
        return {o["Key"]: o["LastModified"] for o in listed if "/columns/" in o["Key"]}

    assert main(there) == 0
    written = objects()
    assert main(there) == 0
    assert objects() == written
    here = ["classify", "--workspace", str(folder), "--labels", str(made.truth), *settings]
    assert main(here) == 0
    in_bucket, on_disk = (raypipe.open_sources(w) for w in (f"s3://{BUCKET}/classes", folder))
    assert "class_set" in in_bucket
    pd.testing.assert_frame_equal(in_bucket, on_disk)

    # Without labels, another workspace takes the classifier from the bucket.
    taken = f"s3://{BUCKET}/classes/models/{made.models[0]}/classifier.safetensors"
    bare = make_workspace(tmp_path / "bare", 96, labels=False, classes=["AGN", "CV", "YSO"])
    raypipe.classify(bare.workspace, classifier=taken)
    assert set(raypipe.open_catalog(bare.workspace)["best_class"].dropna()) <= {"AGN", "CV", "YSO"}


def test_clusters_are_added_to_a_catalog_in_a_bucket(
    bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_workspace(tmp_path / "w", 40)
    for file in (tmp_path / "w").rglob("*"):
        if file.is_file():
            bucket.upload_file(str(file), BUCKET, f"w/{file.relative_to(tmp_path / 'w')}")
    uri = f"s3://{BUCKET}/w"
    for clusters in ("2", "2", "3"):
        assert main(["cluster", "--workspace", uri, "--clusters", clusters]) == 0
    capsys.readouterr()
    there = raypipe.open_catalog(uri)["cluster"]
    for number in (2, 3):
        raypipe.cluster(made.workspace, clusters=number)
    assert there.tolist() == raypipe.open_catalog(made.workspace)["cluster"].tolist()
    folder = f"columns/{RELEASE}/{made.models[0]}/cluster"
    assert len(Workspace(uri).files(folder, ".json")) == 2
    assert len(Workspace(uri).files(folder, ".parquet")) == 4, "the files replaced are gone"


def test_one_run_at_a_time_in_a_bucket(bucket: Any) -> None:
    """Four at once: the put on a condition lets one of them at it, until it is killed."""
    workspace = Workspace(f"s3://{BUCKET}/locked")
    command = [sys.executable, "-c", HOLD, workspace.uri]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    deadline = time.monotonic() + 60
    while sum(run.poll() is None for run in runs) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert sum("BusyError" in run.communicate()[1] for run in runs if run.poll() is not None) == 3
    (holder,) = (run for run in runs if run.poll() is None)
    with pytest.raises(BusyError), exclusive(workspace, "ingest", []):
        pass
    holder.kill()
    holder.communicate()
    with exclusive(workspace, "ingest", []):
        assert len(workspace.files("locks/ingest")) == 1
