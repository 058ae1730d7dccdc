"""Nothing is lost, and everything comes in the end, whatever file servers do."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pyarrow as pa
import pytest

from raypipe.http.errors import FetchError
from raypipe.ingestion.fetch import Fetcher
from raypipe.ingestion.part import ingest_part
from raypipe.ingestion.progress import is_done
from raypipe.store.layout import part_name, spectra_folder
from raypipe.store.workspace import Workspace
from tests.pipeline import file_server
from tests.pipeline.fetching import (
    DETECTIONS,
    QUICK,
    RELEASE,
    config_of,
    expect_unbroken,
    ingest_all,
    rejects_of,
    spectra_of,
)
from tests.pipeline.file_server import FileServer, serve, write_remote_manifest

BOMB = zlib.compressobj(9, wbits=31)
BOMB_BYTES = BOMB.compress(bytes(300 << 20)) + BOMB.flush()

PLAIN_FAULTS = {
    "overloaded": (file_server.status(503), "503 Service Unavailable"),
    "asked to wait": (file_server.status(503, Retry_After="0"), "503 Service Unavailable"),
    "too many": (file_server.status(429), "429 Too Many Requests"),
    "cut": (file_server.cut_connection(0.5), "the connection"),
    "cut without a length": (file_server.cut_without_length(0.5), "gzip stream"),
    "dripping": (file_server.drip_body, "incomplete after 1 s"),
    "dripping headers": (file_server.drip_headers, "incomplete after 1 s"),
    "silent": (file_server.say_nothing, "nothing arrived for 0.6 s"),
    "a page": (
        file_server.page("<html><head><title>Site down</title></head></html>"),
        "not a FITS file but text/html: Site down",
    ),
    "nothing": (file_server.page(""), "not a FITS file"),
    "damaged": (file_server.other_content(lambda c: c[:2000] + b"!!!!" + c[2004:]), "gzip stream"),
    "a bomb": (file_server.other_content(lambda c: BOMB_BYTES), "expands to more than"),
    "a lie about its length": (file_server.huge_length, "larger than 4 MiB"),
    "endless": (file_server.endless, "larger than 4 MiB"),
    "led astray": (file_server.redirect("file:///etc/passwd"), "not http(s)"),
    "led inside": (
        file_server.redirect("http://169.254.169.254/latest"),
        "an address that is not public",
    ),
    "led around": (file_server.redirect("/files/around"), "redirects"),
}


@pytest.mark.parametrize("name", PLAIN_FAULTS)
def test_plain_files(
    name: str, server: FileServer, served: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    fault, said = PLAIN_FAULTS[name]
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, served, server)
    hit = rows["detection_id"].iloc[[2, 7]].tolist()
    for uri in rows["pha_uri"].iloc[[2, 7]]:
        server.fail(fault, uri.rsplit("/", 1)[1])
    if name == "led around":
        server.fail(fault, "around")
    config = config_of(server, max_file_mb=4)
    assert ingest_all(workspace, config).retryable == 2
    rejects = rejects_of(workspace)
    assert set(rejects.index) == set(hit)
    assert rejects.reason.str.contains(said, regex=False).all(), rejects.reason.tolist()
    server.faults.clear()
    server.log.clear()
    expect_unbroken(workspace, config, unbroken)
    assert len(server.log) == 3 * len(hit), "what was published is not fetched again"


def test_a_storm_that_passes_is_waited_out(
    server: FileServer, served: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server)
    server.fail(file_server.status(503), times=2)
    outcome = ingest_all(workspace, config_of(server, attempts=3))
    assert (outcome.spectra, outcome.rejects) == (DETECTIONS, 0)
    assert outcome.requests == len(server.log) == 3 * 3 * DETECTIONS
    assert outcome.retries == 2 * 3 * DETECTIONS
    assert spectra_of(workspace).drop_columns("source_uri").equals(unbroken)


def test_a_server_is_asked_again_when_it_said(
    server: FileServer, served: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, served, server)
    name = rows["pha_uri"][0].rsplit("/", 1)[1]
    server.fail(file_server.status(429, Retry_After="1"), name, times=1)
    assert ingest_all(workspace, QUICK).rejects == 0
    asked = zip(server.moments, server.log, strict=True)
    first, second = (moment for moment, path in asked if name in path)
    assert second - first > 1
    quiet = [moment for moment in server.moments if first + 0.5 < moment < first + 1]
    assert not quiet, "the host is left alone, not the file"


def test_proxies_are_used_and_watched(
    server: FileServer, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    name = next(served.glob("*pha3*")).name
    fetcher = Fetcher(QUICK)
    assert fetcher.fetch(f"http://archive.example/files/{name}") == (served / name).read_bytes()
    assert server.log == [f"http://archive.example/files/{name}"]
    server.fail(file_server.drip_body)
    with pytest.raises(FetchError, match="incomplete after 1 s"):
        fetcher.fetch(f"http://archive.example/files/{name}")


def test_files_the_server_does_not_have_are_not_asked_for_again(
    server: FileServer, served: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, served, server)
    server.fail(file_server.status(404), rows["arf_uri"][3].rsplit("/", 1)[1])
    server.fail(file_server.status(503), rows["arf_uri"][4].rsplit("/", 1)[1])
    outcome = ingest_all(workspace, QUICK)
    assert (outcome.rejects, outcome.retryable, outcome.retries) == (2, 1, 1)
    gone = rejects_of(workspace).loc[rows["detection_id"][3]]
    assert (gone.uri, gone.reason) == (rows["arf_uri"][3], "the server answered 404 Not Found")
    server.faults.clear()
    server.log.clear()
    assert ingest_all(workspace, QUICK).rejects == 1
    assert len(server.log) == 3
    mended = QUICK.model_copy(update={"retry_rejects": "all"})
    assert not is_done(workspace, RELEASE, 0, mended)
    expect_unbroken(workspace, mended, unbroken)


def test_no_server_at_all(server: FileServer, served: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server)
    server.shutdown()
    server.server_close()
    outcome = ingest_all(workspace, QUICK)
    assert outcome.retryable == DETECTIONS
    assert outcome.requests < 2 * 3 * DETECTIONS, "a host that is down is not asked thrice each"
    assert rejects_of(workspace).reason.str.contains("Connection refused").all()


def test_duplicates_are_rejects(server: FileServer, served: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, served, server, limit=4)
    name = part_name(f"manifest/{RELEASE}", 0)
    table = workspace.read_table(name)
    workspace.write_table(name, pa.concat_tables([table, table.take([1])]))
    outcome = ingest_part(workspace, RELEASE, 0, QUICK)
    assert (outcome.spectra, outcome.rejects, outcome.retryable) == (4, 1, 0)
    assert is_done(workspace, RELEASE, 0, QUICK)
    twice = rows["detection_id"][1]
    assert f"duplicate of {twice}" in rejects_of(workspace).loc[twice].reason
    assert len(server.log) == 12


def test_credentials_stay_out_of_what_is_stored(
    server: FileServer, served: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server, limit=4)
    name = part_name(f"manifest/{RELEASE}", 0)
    rows = workspace.read_table(name).to_pandas()
    for key in "pha_uri", "arf_uri", "rmf_uri":
        signed = rows[key].str.replace("http://", "http://me:hunter2@") + "?X-Amz-Signature=s3cr3t"
        rows[key] = signed
    workspace.write_table(name, pa.Table.from_pandas(rows, preserve_index=False))
    paths = [uri.rsplit("/", 1)[1].split("?")[0] for uri in rows["pha_uri"]]
    server.fail(file_server.status(403), paths[0])
    server.fail(lambda exchange, content: exchange.give(exchange.path.encode()), paths[1])
    server.fail(file_server.cut_without_length(0.5), paths[2])
    outcome = ingest_part(workspace, RELEASE, 0, QUICK)
    assert (outcome.spectra, outcome.rejects) == (1, 3)
    stored = json.dumps(
        [spectra_of(workspace)["source_uri"].to_pylist(), rejects_of(workspace).to_dict("list")]
    )
    for secret in "hunter2", "s3cr3t", "me:":
        assert secret not in stored
        assert secret not in caplog.text


def test_a_cache_saves_the_network_and_keeps_no_damage(
    server: FileServer, served: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    config = config_of(server, cache_dir=str(tmp_path / "cache"))
    for number, packages in enumerate((False, True, False, True)):
        workspace = Workspace(tmp_path / str(number))
        rows = write_remote_manifest(workspace, served, server, packages=packages)
        if number == 0:
            broken = rows["pha_uri"][5].rsplit("/", 1)[1]
            server.fail(file_server.other_content(lambda c: c[:-9] + b"?" * 9), broken)
            assert ingest_all(workspace, config).rejects == 1
            server.faults.clear()
        server.log.clear()
        expect_unbroken(workspace, config, unbroken)
        assert len(server.log) == {0: 3, 1: 3, 2: 0, 3: 0}[number]


def test_requests_to_a_host_are_bounded_and_connections_reused(
    served: Path, tmp_path: Path
) -> None:
    with serve(served, latency_s=0.02) as server:
        workspace = Workspace(tmp_path)
        write_remote_manifest(workspace, served, server)
        ingest_all(workspace, QUICK.model_copy(update={"host_concurrency": 3}))
        assert server.most_at_once == 3
        assert server.connections <= 2 * 3


def test_names_with_odd_characters(served: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a b%20#?é"
    odd.mkdir()
    for path in sorted(served.glob("*.gz"))[:12]:
        (odd / path.name).write_bytes(path.read_bytes())
    with serve(odd) as server:
        workspace = Workspace(tmp_path / "w")
        write_remote_manifest(workspace, odd, server, limit=2)
        name = part_name(f"manifest/{RELEASE}", 0)
        rows = workspace.read_table(name).to_pandas()
        rows["pha_uri"] = [str(odd / uri.rsplit("/", 1)[1]) for uri in rows["pha_uri"]]
        rows.loc[1, "arf_uri"] = "http://[::broken/x"
        rows.loc[1, "rmf_uri"] = "gopher://me:hunter2@host/x"
        workspace.write_table(name, pa.Table.from_pandas(rows, preserve_index=False))
        outcome = ingest_part(workspace, RELEASE, 0, QUICK)
    assert (outcome.spectra, outcome.rejects, outcome.retryable) == (1, 1, 0)
    assert "internal error" not in rejects_of(workspace).reason.iloc[0]


def test_a_rerun_killed_between_rejects_and_spectra_loses_nothing(
    server: FileServer, served: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server)
    server.fail(file_server.status(503), "acisf00003_")
    assert ingest_all(workspace, QUICK).retryable == 1
    name = part_name(spectra_folder(RELEASE), 0)
    spectra_of_first_run = workspace.read_bytes(name)
    server.faults.clear()
    assert ingest_all(workspace, QUICK).kept == DETECTIONS - 1
    workspace.write_bytes(name, spectra_of_first_run)
    assert not is_done(workspace, RELEASE, 0, QUICK)
    expect_unbroken(workspace, QUICK, unbroken)


def test_only_new_rows_of_a_manifest_are_fetched(
    server: FileServer, served: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server, limit=DETECTIONS - 2)
    ingest_part(workspace, RELEASE, 0, QUICK)
    rows = write_remote_manifest(workspace, served, server)
    server.log.clear()
    assert not is_done(workspace, RELEASE, 0, QUICK)
    assert ingest_all(workspace, QUICK).kept == DETECTIONS - 2
    assert sorted(server.log) == sorted(
        f"/files/{uri.rsplit('/', 1)[1]}"
        for uri in rows[["pha_uri", "arf_uri", "rmf_uri"]].iloc[-2:].to_numpy().ravel()
    )
    assert spectra_of(workspace).drop_columns("source_uri").equals(unbroken)
