"""Nothing is lost, and everything comes in the end, whatever the package service does."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from raypipe.store.workspace import Workspace
from tests.pipeline import file_server
from tests.pipeline.fetching import (
    DETECTIONS,
    RELEASE,
    config_of,
    expect_unbroken,
    ingest_all,
    rejects_of,
    spectra_of,
)
from tests.pipeline.file_server import FileServer, Members, member, write_remote_manifest


def test_packages_bring_what_plain_files_bring(
    server: FileServer, served: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server, packages=True)
    outcome = ingest_all(workspace, config_of(server))
    assert (outcome.spectra, outcome.requests) == (DETECTIONS, 3)
    assert spectra_of(workspace).drop_columns("source_uri").equals(unbroken)
    assert spectra_of(workspace)["source_uri"][0].as_py().startswith("csc:csc2.1/")


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
    change: object, server: FileServer, served: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server, packages=True)
    server.change_members = change  # type: ignore[assignment]
    expect_unbroken(workspace, config_of(server), unbroken)


VOTABLE_ERROR = """<?xml version="1.0"?>
<VOTABLE xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE type="results">
<INFO name="QUERY_STATUS" value="ERROR">Too many connections</INFO></RESOURCE></VOTABLE>"""

PACKAGE_FAULTS = {
    "overloaded": (file_server.status(503), "503 Service Unavailable"),
    "cut": (file_server.cut_connection(0.05), "the connection"),
    "cut without a length": (file_server.cut_without_length(0.05), "cut short"),
    "dripping": (file_server.drip_body, "incomplete after 1 s"),
    "a page": (
        file_server.page("<html>\n<style>p {}</style><h1>Down for <b>maintenance</b></h1></html>"),
        "not a tar but text/html: Down for",
    ),
    "a VOTable": (
        file_server.page(VOTABLE_ERROR, "application/x-votable+xml"),
        "not a tar but application/x-votable+xml: Too many connections",
    ),
    "nothing": (file_server.page(""), "not a tar but text/html: empty"),
    "damaged": (
        file_server.other_content(file_server.damage_second_header),
        "damaged: the checksum of a member",
    ),
    "a lie about its length": (file_server.huge_length, "larger than 512 MiB"),
    "led astray": (file_server.redirect("ftp://127.0.0.1/x"), "which is not http(s)"),
}


@pytest.mark.parametrize("name", PACKAGE_FAULTS)
def test_packages(
    name: str, server: FileServer, served: Path, tmp_path: Path, unbroken: pa.Table
) -> None:
    fault, said = PACKAGE_FAULTS[name]
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, served, server, packages=True)
    server.fail(fault, rows["detection_id"][7].removeprefix(f"{RELEASE}:"))
    config = config_of(server)
    outcome = ingest_all(workspace, config)
    assert 1 <= outcome.retryable <= 5
    rejects = rejects_of(workspace)
    assert rejects.reason.str.contains(said, regex=False).all(), rejects.reason.tolist()
    assert rejects.retryable.all()
    server.faults.clear()
    server.log.clear()
    expect_unbroken(workspace, config, unbroken)
    asked = sum(path.count("/spectrum/b") for path in server.log)
    assert asked == outcome.retryable, "what was published is not fetched again"


def test_a_tar_cut_short_gives_what_came_whole(
    server: FileServer, served: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server, packages=True)
    server.fail(file_server.cut_without_length(0.5), "/package", times=3)
    config = config_of(server, attempts=7)
    outcome = ingest_all(workspace, config)
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
        (lambda info: (info.name, b"Z"), "unknown type"),
    ],
)
def test_members_that_may_do_harm_are_refused(
    disguise: object,
    said: str,
    server: FileServer,
    served: Path,
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
    rows = write_remote_manifest(workspace, served, server, packages=True)
    victim = int(rows["obsid"][4])
    server.change_members = change
    config = config_of(server)
    assert ingest_all(workspace, config).rejects == 1
    rejects = rejects_of(workspace)
    assert list(rejects.index) == [rows["detection_id"][4]]
    assert said in rejects.reason.iloc[0]
    assert "refused" in rejects.reason.iloc[0]
    server.change_members = lambda members: members
    expect_unbroken(workspace, config, unbroken)


def test_what_the_archive_does_not_have_is_not_worth_a_retry(
    server: FileServer, served: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, served, server, packages=True)
    gone = f"acisf{rows['obsid'][6]:05d}"
    server.change_members = lambda members: [
        m for m in members if not (gone in m[0].name and "arf3" in m[0].name)
    ]
    outcome = ingest_all(workspace, config_of(server))
    assert (outcome.rejects, outcome.retryable, outcome.retries) == (1, 0, 0)
    key = rows["detection_id"][6].removeprefix("csc2.1:")
    assert f"the archive has no arf3 of {key}" in rejects_of(workspace).reason.iloc[0]


def test_one_detection_the_service_stumbles_over_costs_no_other(
    server: FileServer, served: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    rows = write_remote_manifest(workspace, served, server, packages=True)
    server.fail(file_server.status(400), rows["detection_id"][7].removeprefix("csc2.1:"))
    outcome = ingest_all(workspace, config_of(server))
    assert (outcome.rejects, outcome.retryable) == (1, 0)
    assert list(rejects_of(workspace).index) == [rows["detection_id"][7]]


def test_a_refusal_of_everything_is_asked_for_once(
    server: FileServer, served: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    write_remote_manifest(workspace, served, server, packages=True)
    server.fail(file_server.status(403))
    outcome = ingest_all(workspace, config_of(server))
    assert (outcome.rejects, outcome.retryable, outcome.requests) == (DETECTIONS, 0, 3)
