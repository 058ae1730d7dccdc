"""JSON of a workspace that is whole but not what raypipe writes: an error that names the mend."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from raypipe import cli
from raypipe.errors import RaypipeError
from raypipe.ingestion.chip_rmfs import load_chip_rmfs
from raypipe.spectra.responses import chip_rmfs_name
from raypipe.store.lease import exclusive
from raypipe.store.publication import find_publication, read_detections
from raypipe.store.workspace import Workspace
from raypipe.tuning.records import records_of
from tests.unit.synthetic_workspace import RELEASE, Synthetic, make_workspace

VERBS = {
    "status": [],
    "search": ["--detection", "sim:3.0.1"],
    "export": ["--format", "fits"],
}
OTHER_VALUES: tuple[Any, ...] = (None, [], {}, "x", -1, True, float("nan"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return make_workspace(tmp_path_factory.mktemp("shapes"), detections=24)


def _changed(content: bytes) -> Iterator[bytes]:
    """The file as other JSON, and with each of its fields missing or of another type."""
    yield from (json.dumps(value).encode() for value in (None, [], {}, 3, "x", [1]))
    whole = json.loads(content)
    for field in whole:
        yield json.dumps({name: value for name, value in whole.items() if name != field}).encode()
        yield from (json.dumps(whole | {field: value}).encode() for value in OTHER_VALUES)


def _run(workspace: Workspace, verb: str) -> str:
    """What a verb says on its standard error; it must not end in another kind of error."""
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        code = cli.main([verb, "--workspace", workspace.uri, *VERBS[verb]])
    assert code in (0, 1, 2)
    return said.getvalue() if code else ""


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("pattern", ["catalog/*/*/*.json", "manifest/*/manifest.json"])
def test_no_verb_ends_in_a_traceback(made: Synthetic, pattern: str, verb: str) -> None:
    root = Path(made.workspace.root)
    (file,) = root.glob(pattern)
    content = file.read_bytes()
    said = []
    try:
        for changed in _changed(content):
            file.write_bytes(changed)
            said.append(_run(made.workspace, verb))
    finally:
        file.write_bytes(content)
    assert all(str(file) in each for each in said if "has the wrong type" in each)
    assert _run(made.workspace, verb) == ""


@pytest.mark.parametrize("parts", [0, 3, -1, 10**30])
def test_a_number_of_parts_that_no_manifest_has_is_no_empty_release(
    made: Synthetic, parts: int
) -> None:
    name = f"manifest/{RELEASE}/manifest.json"
    content = made.workspace.read_bytes(name)
    made.workspace.write_json(name, json.loads(content) | {"parts": parts})
    try:
        status = io.StringIO()
        with redirect_stdout(status):
            cli.main(["status", "--workspace", made.workspace.uri])
        assert f"{parts} parts, expected a power of two" in status.getvalue()
        assert "run raypipe discover again" in status.getvalue()
    finally:
        made.workspace.write_bytes(name, content)


def test_a_list_that_lost_a_part_is_noticed(made: Synthetic) -> None:
    published = find_publication(made.workspace, RELEASE, made.models[0])
    assert published is not None
    content = made.workspace.read_json(published.name)
    made.workspace.write_json(published.name, content | {"rows": published.rows + 1})
    try:
        with pytest.raises(
            RaypipeError, match=r"states 25 rows, but 24 were read; .*raypipe embed again"
        ):
            read_detections(made.workspace, RELEASE, made.models[0])
    finally:
        made.workspace.write_json(published.name, content)


@pytest.mark.parametrize("content", [[], {}, {"beat": "x"}, {"beat": 3}, {"beat": 3, "pid": "1"}])
def test_a_lock_of_another_shape_names_its_mend(content: Any, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_json("locks/ingest-r/00001.json", content)
    with (
        pytest.raises(RaypipeError, match=r"00001\.json: .*delete it if no other run is at work"),
        exclusive(workspace, "ingest-r", []),
    ):
        pass


@pytest.mark.parametrize("zones", [[], {"0": 3}, {"0": {}}, None])
def test_a_choice_of_rmfs_of_another_shape_is_named(zones: Any, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_json(chip_rmfs_name("r"), {"zones": zones})
    with pytest.raises(RaypipeError, match=r"r\.json: "):
        load_chip_rmfs(workspace, "r")


@pytest.mark.parametrize("record", [[], {}, {"number": 1}, {"surplus": 1}])
def test_a_trial_of_another_shape_is_named(record: Any, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_json("tuning/t/trials/m/trial.json", record)
    with pytest.raises(RaypipeError, match=r"trial\.json: .*run raypipe tune again"):
        records_of(workspace, "t").all()
