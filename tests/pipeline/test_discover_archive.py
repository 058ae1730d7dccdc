"""discover from the archive's TAP service, against a real one on loopback."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from raypipe.archive.pages import cut_into_pages
from raypipe.archive.products import package_url, parse_product_uri, product_uri
from raypipe.archive.query import check_condition
from raypipe.cli import main
from raypipe.discovery.discover import discover
from raypipe.errors import RaypipeError, ServiceError, UsageError
from tests.pipeline.archive_manifest import assert_true, manifest, settings
from tests.pipeline.tap_server import Archive, Faults, TapServer


@pytest.fixture(scope="module")
def archive() -> Archive:
    return Archive()


@pytest.fixture
def server(archive: Archive) -> Iterator[TapServer]:
    with TapServer(archive) as service:
        yield service


def test_a_release_comes_whole(archive: Archive, server: TapServer, tmp_path: Path) -> None:
    summary = discover(tmp_path, source="csc2.1", config=settings(server))
    rows = manifest(tmp_path)
    assert_true(rows, archive.truth)
    assert summary["rows"] == len(archive.truth) > 300
    assert len(server.pages) > 5
    assert server.jobs_made > 5
    assert server.jobs == {}, "every job is deleted"
    assert all(agent.startswith("raypipe/") for agent in server.agents)
    one = rows.iloc[0]
    assert one["detection_id"] == f"csc2.1:{one['obsid']}.{one['obi']}.{one['region_id']}"
    assert parse_product_uri(one["rmf_uri"]).product == "rmf3"
    assert pd.api.types.is_float_dtype(rows["powlaw_gamma"])
    assert pd.api.types.is_bool_dtype(rows["var_flag"])


def test_the_same_command_asks_nothing_again(server: TapServer, tmp_path: Path) -> None:
    first = discover(tmp_path, source="csc2.1", config=settings(server))
    asked = len(server.requests)
    assert discover(tmp_path, source="csc2.1", config=settings(server)) == first
    assert len(server.requests) == asked
    discover(tmp_path, source="csc2.1", config=settings(server, part_rows=50))
    assert len(server.requests) > asked, "another manifest of the same question"


def test_pages_go_when_the_manifest_is_there(server: TapServer, tmp_path: Path) -> None:
    home = tmp_path / "w" / "manifest" / "csc2.1"
    server.faults.dies_after_pages = 3
    with pytest.raises(ServiceError):
        discover(tmp_path / "w", source="csc2.1", config=settings(server))
    assert len(list(home.glob(".pages/*/*.parquet"))) == 3
    shutil.copytree(home / ".pages", tmp_path / "pages")
    server.faults.dies_after_pages = None
    summary = discover(tmp_path / "w", source="csc2.1", config=settings(server))
    assert not list(home.glob(".*"))
    shutil.copytree(tmp_path / "pages", home / ".pages")
    asked = len(server.requests)
    assert discover(tmp_path / "w", source="csc2.1", config=settings(server)) == summary
    assert not list(home.glob(".*")), "those that a death left go too"
    assert len(server.requests) == asked


def test_conditions_choose(archive: Archive, server: TapServer, tmp_path: Path) -> None:
    where = "o.instrument = 'ACIS' AND (o.theta < 5 OR m.significance > 30) -- the good ones"
    discover(tmp_path, source="csc2.1", where=where, config=settings(server))
    chosen = {
        key: row
        for key, row in archive.truth.items()
        if row["instrument"] == "ACIS" and (row["theta"] < 5 or row["significance"] > 30)
    }
    assert 0 < len(chosen) < len(archive.truth)
    assert_true(manifest(tmp_path), chosen)
    discover(tmp_path, source="csc2.1", config=settings(server))
    assert_true(manifest(tmp_path), archive.truth)


def test_small_answers_come_synchronously(server: TapServer, tmp_path: Path) -> None:
    discover(tmp_path, source="csc2.1", config=settings(server, page_rows=25, sync_rows=2_000_000))
    assert server.jobs_made == 0


def test_sexagesimal_positions_become_degrees(tmp_path: Path) -> None:
    with TapServer(Archive(stacks=3, sexagesimal=True)) as server:
        discover(tmp_path, source="csc2.1", config=settings(server))
    rows = manifest(tmp_path)
    assert rows["ra"].to_numpy() == pytest.approx(9.39 / 240)
    assert rows["dec"].to_numpy() == pytest.approx(13 + 56 / 60 + 18.58 / 3600)


@pytest.mark.parametrize("limit", [1, 7, 50])
def test_overflow_loses_nothing(limit: int, tmp_path: Path) -> None:
    archive = Archive(stacks=6)
    with TapServer(archive, limit=limit) as server:
        discover(tmp_path, source="csc2.1", config=settings(server))
    assert_true(manifest(tmp_path), archive.truth)


def test_rows_left_out_without_a_word_are_noticed(tmp_path: Path) -> None:
    archive = Archive(stacks=12)
    with TapServer(archive, faults=Faults(silent_limit=40)) as server:
        discover(tmp_path, source="csc2.1", config=settings(server))
        assert_true(manifest(tmp_path), archive.truth)
        server.faults.silent_limit = 2
        with pytest.raises(ServiceError, match="leaves rows out"):
            discover(tmp_path / "b", source="csc2.1", config=settings(server))


@pytest.mark.parametrize(
    "faults",
    [
        Faults(busy=2),
        Faults(busy=2, busy_status=429),
        Faults(busy=1, busy_status=500),
        Faults(busy=1, retry_after="1"),
        Faults(resets=2),
        Faults(cut_with_length=2),
        Faults(cut_without_length=2),
        Faults(web_pages=1),
        Faults(lost_start=1),
    ],
    ids=lambda faults: ",".join(
        f"{name}={value}" for name, value in vars(faults).items() if value != vars(Faults())[name]
    ),
)
def test_passing_faults_do_not_show(faults: Faults, tmp_path: Path) -> None:
    archive = Archive(stacks=6)
    started = time.monotonic()
    with TapServer(archive, faults=faults) as server:
        discover(tmp_path, source="csc2.1", config=settings(server))
        assert server.jobs == {}
    assert_true(manifest(tmp_path), archive.truth)
    if faults.retry_after:
        assert time.monotonic() - started > float(faults.retry_after)


@pytest.mark.parametrize("every", [2, 3, 5])
def test_a_storm_passes(every: int, archive: Archive, tmp_path: Path) -> None:
    """Resets, 503s and web pages in turn, one at every few requests of whatever kind."""
    with TapServer(archive, fault_every=every) as server:
        config = settings(server, attempts=12, backoff_s=0.001, page_rows=120)
        discover(tmp_path, source="csc2.1", config=config)
    assert_true(manifest(tmp_path), archive.truth)


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (Faults(dead=True), "after 3 attempts"),
        (Faults(busy=99), "503"),
        (Faults(busy=99, retry_after="86400"), "asks to come back at"),
        (Faults(web_pages=99), "not a complete VOTable.*Maintenance"),
        (Faults(busy=99, busy_status=404), "404"),
    ],
)
def test_lasting_faults_end_in_an_error_that_says_so(
    faults: Faults, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TapServer(Archive(stacks=2), faults=faults) as server:
        overrides = [
            word
            for key, value in settings(server)["discover"].items()
            for word in ("--set", f"discover.{key}={value}")
        ]
        started = time.monotonic()
        code = main(["discover", "--workspace", str(tmp_path), "--source", "csc2.1", *overrides])
        assert time.monotonic() - started < 10
    error = capsys.readouterr().err.splitlines()[-1]
    assert code == 1
    assert pd.Series([error]).str.contains(said).all(), error
    assert "Traceback" not in error


def test_slow_services_are_left(tmp_path: Path) -> None:
    with TapServer(Archive(stacks=2), faults=Faults(drip_s=0.01)) as server:
        config = settings(server, attempts=1, answer_s=0.3, silence_s=5)
        with pytest.raises(ServiceError, match=r"incomplete after 0\.3 s"):
            discover(tmp_path, source="csc2.1", config=config)
        server.faults = Faults(stuck_jobs=True)
        with pytest.raises(ServiceError, match=r"still EXECUTING.*discover\.page_rows"):
            discover(tmp_path, source="csc2.1", config=settings(server, job_s=0.2))
        assert server.jobs == {}


def test_a_failed_job_says_why(tmp_path: Path) -> None:
    faults = Faults(failing_jobs="out of temporary space")
    with TapServer(Archive(stacks=2), faults=faults) as server:
        with pytest.raises(RaypipeError, match="out of temporary space") as raised:
            discover(tmp_path, source="csc2.1", config=settings(server))
        assert not isinstance(raised.value, UsageError)
        assert server.jobs == {}


@pytest.mark.parametrize("status", [200, 400, 500])
def test_bad_conditions_are_usage_errors(status: int, tmp_path: Path) -> None:
    with TapServer(Archive(stacks=2), faults=Faults(error_status=status)) as server:
        for where in "o.theta <", "o.no_such_column = 1", "m.name LIKE":
            with pytest.raises(UsageError, match=r"--where.*is refused by.*ADQL"):
                discover(tmp_path, source="csc2.1", where=where, config=settings(server))
        asked = len(server.requests)
        for where in "", "1=1) OR (1=1", "(o.theta < 1", "1=1; DROP TABLE x", "m.name = 'a":
            with pytest.raises(UsageError, match="not one ADQL condition"):
                discover(tmp_path, source="csc2.1", where=where, config=settings(server))
        assert len(server.requests) == asked
        with pytest.raises(UsageError, match=r"no detections with o\.theta > 99"):
            discover(tmp_path, source="csc2.1", where="o.theta > 99", config=settings(server))


def test_a_service_that_refuses_everything_is_no_usage_error(tmp_path: Path) -> None:
    archive = Archive(stacks=2)
    archive.drop("stack_source")
    with TapServer(archive) as server, pytest.raises(RaypipeError, match="stack_source") as raised:
        discover(tmp_path, source="csc2.1", where="o.theta < 5", config=settings(server))
    assert not isinstance(raised.value, UsageError)


def test_another_catalog_is_told(tmp_path: Path) -> None:
    archive = Archive(stacks=2)
    archive.forget_column("ra")
    with TapServer(archive) as server, pytest.raises(ServiceError, match=r"has no ra;.*tap_url"):
        discover(tmp_path, source="csc2.1", config=settings(server))


def test_repeated_rows_are_left_out(tmp_path: Path) -> None:
    archive = Archive(stacks=3)
    key = next(iter(archive.truth))
    archive.insert("stack_observation_assoc", "acisfJ0000000p000000_001", key[2], key[0], key[1])
    with TapServer(archive) as server:
        discover(tmp_path, source="csc2.1", config=settings(server))
    assert_true(manifest(tmp_path), archive.truth)


def test_a_death_of_the_service_costs_only_the_page_at_hand(
    archive: Archive, server: TapServer, tmp_path: Path
) -> None:
    server.faults.dies_after_pages = 3
    with pytest.raises(ServiceError, match="run the same command again"):
        discover(tmp_path, source="csc2.1", config=settings(server))
    with pytest.raises(RaypipeError, match="no Parquet files"):
        manifest(tmp_path)
    server.faults.dies_after_pages = None
    discover(tmp_path, source="csc2.1", config=settings(server, page_rows=7))
    assert_true(manifest(tmp_path), archive.truth)
    assert len(server.pages) == len(set(server.pages)), "no page was asked for twice"
    counted = [path for _, path in server.requests if path == "/capabilities"]
    assert len(counted) == 1, "the plan was made once"


def test_labels_join_and_status_reads(archive: Archive, server: TapServer, tmp_path: Path) -> None:
    keys = list(archive.truth)[:20]
    labels = pd.DataFrame(keys, columns=["obsid", "obi", "region_id"]).assign(true_class="AGN")
    labels.to_parquet(tmp_path / "labels.parquet")
    discover(
        tmp_path / "w",
        source="csc2.1",
        catalog=tmp_path / "labels.parquet",
        config=settings(server),
    )
    rows = manifest(tmp_path / "w")
    assert (rows["class"] == "AGN").sum() == 20
    assert rows["name"].notna().all()
    assert main(["status", "--workspace", str(tmp_path / "w")]) == 0


def test_unknown_releases_and_misplaced_conditions(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"csc9\.9.*known are csc2\.0, csc2\.1"):
        discover(tmp_path, source="csc9.9")
    with pytest.raises(UsageError, match="--where chooses from a release"):
        discover(tmp_path, source=str(tmp_path), where="o.theta < 5")


def test_product_uris_and_the_request_they_become() -> None:
    uris = [product_uri("csc2.1", 1575, 1, 85, product) for product in ("pha3", "arf3")]
    assert uris[0] == "csc:csc2.1/1575.1.85/pha3"
    assert package_url("http://h/retrieve", "cur", map(parse_product_uri, uris)) == (
        "http://h/retrieve?version=cur&packageset=1575.1.85/spectrum/b,1575.1.85/arf/b"
    )
    for bad in "csc:csc2.1/1575.1/pha3", "csc:csc2.1/1575.1.85/evt3", "/a/csc:csc2.1/1.1.1/pha3":
        with pytest.raises(UsageError, match="not of the form"):
            parse_product_uri(bad)


def test_pages_hold_whole_obsids() -> None:
    counts = [(1, 3), (2, 3), (5, 9), (6, 1), (7, 1)]
    assert cut_into_pages(counts, 6) == [[(1, 3), (2, 3)], [(5, 9)], [(6, 1), (7, 1)]]
    assert cut_into_pages([], 6) == []


def test_conditions_are_one_condition() -> None:
    assert check_condition(" m.name = 'a) b''(' ") == "m.name = 'a) b''('"
