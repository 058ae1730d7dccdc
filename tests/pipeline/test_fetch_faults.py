"""Nothing is lost, and everything comes in the end, whatever servers do."""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from raypipe.config import IngestConfig
from raypipe.ingestion.fetch import Fetcher
from raypipe.ingestion.fetch_error import FetchError
from raypipe.ingestion.ingest import check_totals, count_rows
from raypipe.ingestion.part import Outcome, ingest_part, is_done
from raypipe.simulation.simulate import simulate
from raypipe.workspace import Workspace, part_name, rejects_folder, spectra_folder
from tests.pipeline import file_server
from tests.pipeline.file_server import FileServer, Members, member, serve, write_remote_manifest

RELEASE = "csc2.1"
DETECTIONS = 12
QUICK = IngestConfig(
    retries=1, backoff_s=0.01, http_timeout_s=0.6, http_deadline_s=1.0, package_batch=5
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    simulate(folder, detections=DETECTIONS, seed=5)
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    with serve(folder) as server:
        yield server


@pytest.fixture(scope="module")
def unbroken(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The spectra of a run in which nothing goes wrong."""
    workspace = Workspace(tmp_path_factory.mktemp("unbroken"))
    with serve(folder) as server:
        write_remote_manifest(workspace, folder, server)
        outcome = ingest_part(workspace, RELEASE, 0, QUICK)
    assert (outcome.spectra, outcome.retries) == (DETECTIONS, 0)
    return workspace.read_folder(f"spectra/{RELEASE}").drop_columns("source_uri")


def _config(server: FileServer, **changes: object) -> IngestConfig:
    return QUICK.model_copy(update={"package_url": server.package_url, **changes})


def _rejects(workspace: Workspace) -> pd.DataFrame:
    name = part_name(rejects_folder(RELEASE), 0)
    return workspace.read_table(name).to_pandas().set_index("detection_id")


def _spectra(workspace: Workspace) -> pa.Table:
    return workspace.read_table(part_name(spectra_folder(RELEASE), 0))


def _ingest(workspace: Workspace, config: IngestConfig) -> Outcome:
    """Ingest the only part; every row of the manifest must be in one place, once."""
    outcome = ingest_part(workspace, RELEASE, 0, config)
    check_totals(workspace, RELEASE, count_rows(workspace, RELEASE))
    spectra, rejects = _spectra(workspace), _rejects(workspace)
    identities = [*spectra["detection_id"].to_pylist(), *rejects.index]
    assert len(set(identities)) == len(identities) == DETECTIONS
    assert outcome.retryable == rejects.retryable.sum()
    assert (outcome.retryable == 0) == is_done(workspace, RELEASE, 0, config)
    return outcome


def _expect_unbroken(workspace: Workspace, config: IngestConfig, unbroken: pa.Table) -> None:
    _ingest(workspace, config)
    assert _spectra(workspace).drop_columns("source_uri").equals(unbroken)


BOMB = zlib.compressobj(9, wbits=31)
BOMB_BYTES = BOMB.compress(bytes(300 << 20)) + BOMB.flush()

PLAIN_FAULTS = {
    "overloaded": (file_server.status(503), "503 Service Unavailable"),
    "asked to wait": (file_server.status(503, Retry_After="0"), "503 Service Unavailable"),
    "too many": (file_server.status(429), "429 Too Many Requests"),
    "cut": (file_server.cut_connection(0.5), "the connection"),
    "cut without a length": (file_server.cut_without_length(0.5), "gzip stream"),
    "dripping": (file_server.drip_body, "no whole answer in time"),
    "dripping headers": (file_server.drip_headers, "no whole answer in time"),
    "silent": (file_server.say_nothing, "no whole answer in time"),
    "a page": (
        file_server.page("<html><head><title>Site down</title></head></html>"),
        "no FITS file but text/html: Site down",
    ),
    "nothing": (file_server.page(""), "no FITS file"),
    "damaged": (file_server.other_content(lambda c: c[:2000] + b"!!!!" + c[2004:]), "gzip stream"),
    "a bomb": (file_server.other_content(lambda c: BOMB_BYTES), "expands to more than"),
    "a lie about its length": (file_server.huge_length, "more than ingest allows"),
    "endless": (file_server.endless, "more than ingest allows"),
    "led astray": (file_server.redirect("file:///etc/passwd"), "not http(s)"),
    "led around": (file_server.redirect("/files/around"), "redirects"),
}


@pytest.mark.parametrize("name", PLAIN_FAULTS)
def test_plain_files(
    name: str, server: FileServer, folder: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    fault, said = PLAIN_FAULTS[name]
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, folder, server)
    hit = rows["detection_id"].iloc[[2, 7]].tolist()
    for uri in rows["pha_uri"].iloc[[2, 7]]:
        server.fail(fault, uri.rsplit("/", 1)[1])
    if name == "led around":
        server.fail(fault, "around")
    config = _config(server, max_file_mb=4)
    assert _ingest(workspace, config).retryable == 2
    rejects = _rejects(workspace)
    assert set(rejects.index) == set(hit)
    assert rejects.reason.str.contains(said, regex=False).all(), rejects.reason.tolist()
    server.faults.clear()
    server.log.clear()
    _expect_unbroken(workspace, config, unbroken)
    assert len(server.log) == 3 * len(hit), "what was published is not fetched again"


def test_a_storm_that_passes_is_waited_out(
    server: FileServer, folder: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, folder, server)
    server.fail(file_server.status(503), times=2)
    outcome = _ingest(workspace, _config(server, retries=2))
    assert (outcome.spectra, outcome.rejects) == (DETECTIONS, 0)
    assert outcome.requests == len(server.log) == 3 * 3 * DETECTIONS
    assert outcome.retries == 2 * 3 * DETECTIONS
    assert _spectra(workspace).drop_columns("source_uri").equals(unbroken)


def test_a_server_is_asked_again_when_it_said(
    server: FileServer, folder: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, folder, server)
    name = rows["pha_uri"][0].rsplit("/", 1)[1]
    server.fail(file_server.status(429, Retry_After="1"), name, times=1)
    assert _ingest(workspace, QUICK).rejects == 0
    asked = zip(server.moments, server.log, strict=True)
    first, second = (moment for moment, path in asked if name in path)
    assert second - first > 1
    quiet = [moment for moment in server.moments if first + 0.5 < moment < first + 1]
    assert not quiet, "the host is left alone, not the file"


def test_proxies_are_used_and_watched(
    server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    name = next(folder.glob("*pha3*")).name
    fetcher = Fetcher(QUICK)
    assert fetcher.fetch(f"http://archive.example/files/{name}") == (folder / name).read_bytes()
    assert server.log == [f"http://archive.example/files/{name}"]
    server.fail(file_server.drip_body)
    with pytest.raises(FetchError, match="no whole answer in time"):
        fetcher.fetch(f"http://archive.example/files/{name}")


def test_files_the_server_does_not_have_are_not_asked_for_again(
    server: FileServer, folder: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, folder, server)
    server.fail(file_server.status(404), rows["arf_uri"][3].rsplit("/", 1)[1])
    server.fail(file_server.status(503), rows["arf_uri"][4].rsplit("/", 1)[1])
    outcome = _ingest(workspace, QUICK)
    assert (outcome.rejects, outcome.retryable, outcome.retries) == (2, 1, 1)
    gone = _rejects(workspace).loc[rows["detection_id"][3]]
    assert gone.reason == f"{rows['arf_uri'][3]}: the server answered 404 Not Found"
    server.faults.clear()
    server.log.clear()
    assert _ingest(workspace, QUICK).rejects == 1
    assert len(server.log) == 3
    mended = QUICK.model_copy(update={"retry_rejects": "all"})
    assert not is_done(workspace, RELEASE, 0, mended)
    _expect_unbroken(workspace, mended, unbroken)


def test_packages_bring_what_plain_files_bring(
    server: FileServer, folder: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, folder, server, packages=True)
    outcome = _ingest(workspace, _config(server))
    assert (outcome.spectra, outcome.requests) == (DETECTIONS, 3)
    assert _spectra(workspace).drop_columns("source_uri").equals(unbroken)
    assert _spectra(workspace)["source_uri"][0].as_py().startswith("csc:csc2.1/")


def _with_neighbors(members: Members) -> Members:
    return [
        member("package/", kind=tarfile.DIRTYPE),
        member("package/README", b"hello"),
        member("package/acisf99999_000N001_r0001_pha3.fits.gz", b"of another detection"),
        *members,
        member("package/" + "long/" * 40 + "name", b"x"),
    ]


def _newer_version_later(members: Members) -> Members:
    stale = [member(info.name.replace("N001", "N000"), b"stale") for info, _ in members]
    return [*stale[:1], *members, *stale[1:]]


@pytest.mark.parametrize("change", [_with_neighbors, _newer_version_later])
def test_members_of_no_row_are_ignored(
    change: object, server: FileServer, folder: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, folder, server, packages=True)
    server.change_members = change  # type: ignore[assignment]
    _expect_unbroken(workspace, _config(server), unbroken)


VOTABLE_ERROR = """<?xml version="1.0"?>
<VOTABLE xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE type="results">
<INFO name="QUERY_STATUS" value="ERROR">Too many connections</INFO></RESOURCE></VOTABLE>"""

PACKAGE_FAULTS = {
    "overloaded": (file_server.status(503), "503 Service Unavailable"),
    "cut": (file_server.cut_connection(0.05), "the connection"),
    "cut without a length": (file_server.cut_without_length(0.05), "cut short"),
    "dripping": (file_server.drip_body, "no whole answer in time"),
    "a page": (
        file_server.page("<html>\n<style>p {}</style><h1>Down for <b>maintenance</b></h1></html>"),
        "no tar but text/html: Down for",
    ),
    "a VOTable": (
        file_server.page(VOTABLE_ERROR, "application/x-votable+xml"),
        "no tar but application/x-votable+xml: Too many connections",
    ),
    "nothing": (file_server.page(""), "no tar but text/html: empty"),
    "damaged": (
        file_server.other_content(file_server.damage_second_header),
        "damaged: a member's header",
    ),
    "a lie about its length": (file_server.huge_length, "more than ingest allows"),
    "led astray": (file_server.redirect("ftp://127.0.0.1/x"), "not http(s)"),
}


@pytest.mark.parametrize("name", PACKAGE_FAULTS)
def test_packages(
    name: str, server: FileServer, folder: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    fault, said = PACKAGE_FAULTS[name]
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, folder, server, packages=True)
    server.fail(fault, rows["detection_id"][7].removeprefix(f"{RELEASE}:"))
    config = _config(server)
    outcome = _ingest(workspace, config)
    assert 1 <= outcome.retryable <= 5
    rejects = _rejects(workspace)
    assert rejects.reason.str.contains(said, regex=False).all(), rejects.reason.tolist()
    assert rejects.retryable.all()
    server.faults.clear()
    server.log.clear()
    _expect_unbroken(workspace, config, unbroken)
    asked = sum(path.count("/spectrum/b") for path in server.log)
    assert asked == outcome.retryable, "what was published is not fetched again"


def test_a_tar_cut_short_gives_what_came_whole(
    server: FileServer, folder: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, folder, server, packages=True)
    server.fail(file_server.cut_without_length(0.5), "/package", times=3)
    config = _config(server, retries=6)
    outcome = _ingest(workspace, config)
    assert outcome.rejects == 0
    assert outcome.retries == 3
    entries = [path.count("/b") for path in server.log]
    assert sum(entries) < 2 * 3 * DETECTIONS, "only what did not come is asked for again"


@pytest.mark.parametrize(
    ("disguise", "said"),
    [
        (lambda info: ("package/../../" + info.name, tarfile.REGTYPE), "leads out of the package"),
        (lambda info: ("/" + info.name, tarfile.REGTYPE), "leads out of the package"),
        (lambda info: (info.name, tarfile.SYMTYPE), "a link"),
        (lambda info: (info.name, tarfile.LNKTYPE), "a link"),
        (lambda info: (info.name, tarfile.CHRTYPE), "a device"),
        (lambda info: (info.name, tarfile.FIFOTYPE), "a pipe"),
        (lambda info: (info.name, b"Z"), "unknown kind"),
    ],
)
def test_members_that_may_do_harm_are_refused(
    disguise: object,
    said: str,
    server: FileServer,
    folder: Path,
    tmp_path: Path,
    unbroken: pa.Table,
) -> None:
    def change(members: Members) -> Members:
        out = []
        for info, content in members:
            if "pha3" in info.name and number(info.name) == victim:
                info.name, info.type = disguise(info)  # type: ignore[operator]
                if info.type not in (tarfile.REGTYPE, b"Z"):
                    info.size, info.linkname, content = 0, "/etc/passwd", b""
            out.append((info, content))
        return out

    def number(name: str) -> int:
        return int(name.rsplit("acisf", 1)[1][:5])

    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, folder, server, packages=True)
    victim = int(rows["obsid"][4])
    server.change_members = change
    config = _config(server)
    assert _ingest(workspace, config).rejects == 1
    rejects = _rejects(workspace)
    assert list(rejects.index) == [rows["detection_id"][4]]
    assert said in rejects.reason.iloc[0]
    assert "refused" in rejects.reason.iloc[0]
    server.change_members = lambda members: members
    _expect_unbroken(workspace, config, unbroken)


def test_what_the_archive_does_not_have_is_not_worth_a_retry(
    server: FileServer, folder: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, folder, server, packages=True)
    gone = f"acisf{rows['obsid'][6]:05d}"
    server.change_members = lambda members: [
        m for m in members if not (gone in m[0].name and "arf3" in m[0].name)
    ]
    outcome = _ingest(workspace, _config(server))
    assert (outcome.rejects, outcome.retryable, outcome.retries) == (1, 0, 0)
    key = rows["detection_id"][6].removeprefix("csc2.1:")
    assert f"the archive has no arf3 of {key}" in _rejects(workspace).reason.iloc[0]


def test_one_detection_the_service_stumbles_over_costs_no_other(
    server: FileServer, folder: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, folder, server, packages=True)
    server.fail(file_server.status(400), rows["detection_id"][7].removeprefix("csc2.1:"))
    outcome = _ingest(workspace, _config(server))
    assert (outcome.rejects, outcome.retryable) == (1, 0)
    assert list(_rejects(workspace).index) == [rows["detection_id"][7]]


def test_a_refusal_of_everything_is_asked_for_once(
    server: FileServer, folder: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, folder, server, packages=True)
    server.fail(file_server.status(403))
    outcome = _ingest(workspace, _config(server))
    assert (outcome.rejects, outcome.retryable, outcome.requests) == (DETECTIONS, 0, 3)


def test_no_server_at_all(server: FileServer, folder: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, folder, server)
    server.shutdown()
    server.server_close()
    outcome = _ingest(workspace, QUICK)
    assert outcome.retryable == DETECTIONS
    assert outcome.requests < 2 * 3 * DETECTIONS, "a host that is down is not asked thrice each"
    assert _rejects(workspace).reason.str.contains("Connection refused").all()


def test_duplicates_are_rejects(server: FileServer, folder: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, folder, server, limit=4)
    name = part_name(f"manifest/{RELEASE}", 0)
    table = workspace.read_table(name)
    workspace.write_table(name, pa.concat_tables([table, table.take([1])]))
    outcome = ingest_part(workspace, RELEASE, 0, QUICK)
    assert (outcome.spectra, outcome.rejects, outcome.retryable) == (4, 1, 0)
    assert is_done(workspace, RELEASE, 0, QUICK)
    twice = rows["detection_id"][1]
    assert f"duplicate of {twice}" in _rejects(workspace).loc[twice].reason
    assert len(server.log) == 12


def test_credentials_stay_out_of_what_is_stored(
    server: FileServer, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, folder, server, limit=4)
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
        [_spectra(workspace)["source_uri"].to_pylist(), _rejects(workspace).to_dict("list")]
    )
    for secret in "hunter2", "s3cr3t", "me:":
        assert secret not in stored
        assert secret not in caplog.text


def test_a_cache_saves_the_network_and_keeps_no_damage(
    server: FileServer, folder: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    config = _config(server, cache_dir=str(tmp_path / "cache"))
    for number, packages in enumerate((False, True, False, True)):
        workspace = Workspace(tmp_path / str(number))
        rows = write_remote_manifest(workspace, folder, server, packages=packages)
        if number == 0:
            broken = rows["pha_uri"][5].rsplit("/", 1)[1]
            server.fail(file_server.other_content(lambda c: c[:-9] + b"?" * 9), broken)
            assert _ingest(workspace, config).rejects == 1
            server.faults.clear()
        server.log.clear()
        _expect_unbroken(workspace, config, unbroken)
        assert len(server.log) == {0: 3, 1: 3, 2: 0, 3: 0}[number]


def test_requests_to_a_host_are_bounded_and_connections_reused(
    folder: Path, tmp_path: Path
) -> None:
    with serve(folder, latency_s=0.02) as server:
        workspace = Workspace(tmp_path)
        write_remote_manifest(workspace, folder, server)
        _ingest(workspace, QUICK.model_copy(update={"host_concurrency": 3}))
        assert server.most_at_once == 3
        assert server.connections <= 2 * 3


def test_names_with_odd_characters(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a b%20#?é"
    odd.mkdir()
    for path in sorted(folder.glob("*.gz"))[:12]:
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
    assert "internal error" not in _rejects(workspace).reason.iloc[0]


def test_a_rerun_killed_between_rejects_and_spectra_loses_nothing(
    server: FileServer, folder: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, folder, server)
    server.fail(file_server.status(503), "acisf00003_")
    assert _ingest(workspace, QUICK).retryable == 1
    name = part_name(spectra_folder(RELEASE), 0)
    spectra_of_first_run = workspace.read_bytes(name)
    server.faults.clear()
    assert _ingest(workspace, QUICK).kept == DETECTIONS - 1
    workspace.write_bytes(name, spectra_of_first_run)
    assert not is_done(workspace, RELEASE, 0, QUICK)
    _expect_unbroken(workspace, QUICK, unbroken)


def test_only_new_rows_of_a_manifest_are_fetched(
    server: FileServer, folder: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, folder, server, limit=DETECTIONS - 2)
    ingest_part(workspace, RELEASE, 0, QUICK)
    rows = write_remote_manifest(workspace, folder, server)
    server.log.clear()
    assert not is_done(workspace, RELEASE, 0, QUICK)
    assert _ingest(workspace, QUICK).kept == DETECTIONS - 2
    assert sorted(server.log) == sorted(
        f"/files/{uri.rsplit('/', 1)[1]}"
        for uri in rows[["pha_uri", "arf_uri", "rmf_uri"]].iloc[-2:].to_numpy().ravel()
    )
    assert _spectra(workspace).drop_columns("source_uri").equals(unbroken)
