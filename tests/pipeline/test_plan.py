"""plan: what a sample predicts, against what ingesting all of it takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from raypipe.discovery.discover import discover
from raypipe.errors import RaypipeError, UsageError
from raypipe.ingestion.ingest import ingest
from raypipe.planning.plan import plan
from raypipe.store.workspace import Workspace
from tests.pipeline.file_server import serve, status, write_remote_manifest

pytestmark = pytest.mark.usefixtures("local_ray")

CLUSTER_FILE = Path(__file__).resolve().parents[2] / "cluster.yaml"
WITHIN = 0.25


def _figures(workspace: Workspace, verb: str) -> dict[str, Any]:
    run = next(name for name in reversed(workspace.folders("runs")) if name.endswith(verb))
    figures: dict[str, Any] = workspace.read_json(f"runs/{run}/run.json")["figures"]
    return figures


def _written(workspace: Workspace) -> int:
    root = Path(workspace.root)
    folders = "spectra", "rejects", "responses"
    return sum(
        path.stat().st_size for folder in folders for path in (root / folder).rglob("*.parquet")
    )


def _compare(workspace: Workspace, answer: dict[str, Any]) -> None:
    """Compare with an ingestion that was just done."""
    figures, predicted = _figures(workspace, "ingest"), answer["prediction"]
    assert predicted["spectra"] == pytest.approx(figures["spectra"], rel=WITHIN)
    assert predicted["rejects"] == figures["manifest"] - predicted["spectra"]
    assert predicted["bytes_read"] == pytest.approx(figures["work"]["bytes_read"], rel=WITHIN)
    assert predicted["rmf_bytes_read"] == pytest.approx(figures["work"]["rmf_bytes"], rel=WITHIN)
    assert predicted["requests"] == pytest.approx(figures["work"]["requests"], rel=WITHIN)
    assert predicted["rmfs_fetched"] == pytest.approx(figures["work"]["rmfs"], rel=WITHIN)
    assert predicted["rmfs_stored"] == len(workspace.files("responses"))
    assert predicted["bytes_written"] == pytest.approx(_written(workspace), rel=WITHIN)


@pytest.mark.parametrize(("packages", "rmf"), [(False, "chip"), (False, "exact"), (True, "chip")])
def test_a_sample_tells_what_a_release_on_a_server_takes(
    survey: Path, tmp_path: Path, packages: bool, rmf: str
) -> None:
    workspace = Workspace(tmp_path)
    with serve(survey) as server:
        write_remote_manifest(workspace, survey, server, packages=packages, part_rows=80)
        ingesting = {"rmf": rmf, "package_url": server.package_url, "package_batch": 20}
        settings = {"ingest": ingesting}
        answer = plan(workspace, sample=50, cluster=CLUSTER_FILE, config=settings)
        choice = answer["measured"]["choice"]
        chosen = choice["look_requests"] + choice["rmf_requests"]
        assert answer["measured"]["requests"] + chosen == len(server.log)
        ingest(workspace, config=settings)
    _compare(workspace, answer)
    assert answer["cost"]["connections"] > 0


def test_a_sample_of_files_with_faults_publishes_nothing(survey: Path, tmp_path: Path) -> None:
    broken, workspace = tmp_path / "survey", Workspace(tmp_path / "w")
    shutil.copytree(survey, broken)
    for path in sorted(broken.glob("*_arf3.fits.gz"))[::2]:
        path.unlink()
    discover(workspace, source=str(broken), config={"discover": {"part_rows": 80}})
    answer = plan(workspace, sample=100, cluster=CLUSTER_FILE)
    assert sorted(workspace.folders("")) == ["locks", "manifest", "runs"]
    assert _figures(workspace, "plan") == json.loads(json.dumps(answer))
    assert answer["measured"]["reject_reasons"].keys() == {
        "no ARF with it: put the file ANCRFILE names beside it"
    }
    ingest(workspace)
    _compare(workspace, answer)
    assert answer["cost"]["connections"] == 0


def test_samples_larger_than_the_release_are_all_of_it(served: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    discover(workspace, source=str(served))
    answer = plan(workspace, sample=1000, cluster=CLUSTER_FILE)
    assert answer["measured"]["detections"] == answer["prediction"]["detections"]
    many = plan(workspace, sample=1000, detections=10**7, cluster=CLUSTER_FILE)["prediction"]
    assert (many["detections"], many["parts"]) == (10**7, 32768)
    assert many["files_written"] >= 2 * 32768
    assert many["part_bytes"] * 32768 == pytest.approx(many["bytes_written"], rel=0.1)
    most = plan(workspace, sample=1000, detections=10**9, cluster=CLUSTER_FILE)["prediction"]
    assert most["parts"] == 65536
    with pytest.raises(UsageError, match="--detections 1"):
        plan(workspace, detections=0, cluster=CLUSTER_FILE)
    one = plan(workspace, sample=1, cluster=CLUSTER_FILE)
    assert one["measured"]["spectra"] == 1


def test_what_cannot_be_planned_is_said(survey: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(UsageError, match="run raypipe discover first"):
        plan(workspace, cluster=CLUSTER_FILE)
    with serve(survey) as server:
        server.fail(status(404), "pha3")
        write_remote_manifest(workspace, survey, server)
        with pytest.raises(UsageError, match="cannot plan from 0 detections: give --sample 1"):
            plan(workspace, sample=0, cluster=CLUSTER_FILE)
        with pytest.raises(UsageError, match="no such file; give --cluster"):
            plan(workspace, cluster=tmp_path / "nodes.yaml")
        with pytest.raises(RaypipeError, match=r"all 10 .* rejected, 10 of them .* 404 Not Found"):
            plan(workspace, sample=10, cluster=CLUSTER_FILE)
