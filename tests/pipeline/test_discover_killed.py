"""discover from the archive, killed or interrupted: nothing is lost, nothing asked again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raypipe.discovery.discover import discover
from tests.pipeline.archive_manifest import assert_true, manifest, settings
from tests.pipeline.tap_server import Archive, TapServer


@pytest.fixture(scope="module")
def archive() -> Archive:
    return Archive()


@pytest.fixture
def server(archive: Archive) -> Iterator[TapServer]:
    with TapServer(archive) as service:
        yield service


def start(server: TapServer, workspace: Path, **fields: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "raypipe.cli", "discover", "--source", "csc2.1"]
    for key, value in settings(server, **fields)["discover"].items():
        command += ["--set", f"discover.{key}={value}"]
    return subprocess.Popen([*command, "--workspace", str(workspace)])


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def published(workspace: Path) -> list[Path]:
    return list((workspace / "manifest" / "csc2.1").glob("part-*.parquet"))


def test_a_killed_command_goes_on_where_it_was(
    archive: Archive, server: TapServer, tmp_path: Path
) -> None:
    server.page_pause_s = 0.1
    process = start(server, tmp_path)
    wait_until(lambda: len(server.pages) >= 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    asked = len(server.pages)
    assert asked >= 3
    assert not list((tmp_path / "manifest" / "csc2.1").glob("*.json"))
    server.page_pause_s = 0
    discover(tmp_path, source="csc2.1", config=settings(server))
    assert_true(manifest(tmp_path), archive.truth)
    assert len(server.pages) <= len(set(server.pages)) + 1, "at most the page at hand again"


@pytest.mark.parametrize("parts", [1, 300])
def test_a_command_killed_while_it_publishes_asks_nothing_again(
    parts: int, archive: Archive, server: TapServer, tmp_path: Path
) -> None:
    whole = discover(tmp_path / "whole", source="csc2.1", config=settings(server, part_rows=1))
    asked = len(server.pages)
    process = start(server, tmp_path / "w", part_rows=1)
    wait_until(lambda: len(published(tmp_path / "w")) >= parts)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(server.pages) == 2 * asked
    again = discover(tmp_path / "w", source="csc2.1", config=settings(server, part_rows=1))
    assert again == whole
    assert len(server.pages) == 2 * asked
    names = sorted(path.name for path in published(tmp_path / "whole"))
    assert names == sorted(path.name for path in published(tmp_path / "w"))
    assert manifest(tmp_path / "w").equals(manifest(tmp_path / "whole"))


def test_an_interrupt_is_heeded_while_the_archive_keeps_silent(
    server: TapServer, tmp_path: Path
) -> None:
    server.page_pause_s = 30
    process = start(server, tmp_path, sync_rows=2_000_000)
    wait_until(lambda: ("GET", "/capabilities") in server.requests)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130


def test_an_interrupt_is_heeded_while_publishing(server: TapServer, tmp_path: Path) -> None:
    process = start(server, tmp_path, part_rows=1, page_rows=10_000, sync_rows=2_000_000)
    wait_until(lambda: published(tmp_path))
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert not (tmp_path / "manifest" / "csc2.1" / "manifest.json").exists()
