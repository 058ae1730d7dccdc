"""Jobs on a running cluster with a token: submitted, followed, measured, cancelled, run again."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import tomli_w
from ray.job_submission import JobStatus, JobSubmissionClient

import raypipe
from raypipe.store.workspace import Workspace
from raypipe.telemetry import COUNTERS, GAUGES
from tests.alone import choose_rmfs_alone, ingest_alone
from tests.pipeline.file_server import serve, status, write_remote_manifest
from tests.pipeline.training import SETTINGS, load
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[2]
DASHBOARD = CHECKOUT / "deploy" / "grafana-raypipe.json"
RAY = str(Path(sys.executable).parent / "ray")
OWN = re.compile(r"\bray_[a-z_]+\b")


class Head:
    """A head as `ray start --head` makes it, with a token, and what its metrics were called."""

    def __init__(self, folder: Path) -> None:
        self.temporary = folder
        dashboard, agent = _free_port(), _free_port()
        self.address = f"http://127.0.0.1:{dashboard}"
        subprocess.run([RAY, "get-auth-token", "--generate"], check=True, capture_output=True)
        self.token = (Path(os.environ["HOME"]) / ".ray" / "auth_token").read_text()
        self._process = subprocess.Popen(
            [
                *(RAY, "start", "--head", "--block", "--port=0", "--num-cpus=2"),
                *("--include-dashboard=true", f"--dashboard-port={dashboard}"),
                *(f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder}"),
                '--system-config={"metrics_report_interval_ms": 500}',
            ],
            env=os.environ | {"RAY_AUTH_MODE": "token"},
            stdout=(folder / "head.log").open("w"),
            stderr=subprocess.STDOUT,
        )
        self.samples: set[str] = set()
        self._over = threading.Event()
        self._scraping = threading.Thread(target=self._scrape, daemon=True)
        self._scraping.start()

    def get(self, path: str) -> Any:
        """What the dashboard answers, asked with the token."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return requests.get(f"{self.address}{path}", headers=headers, timeout=30)

    def is_ready(self) -> bool:
        """Whether jobs can be submitted."""
        assert self._process.poll() is None, (self.temporary / "head.log").read_text()
        with suppress(requests.ConnectionError):
            return bool(self.get("/api/jobs/").ok and self._targets())
        return False

    def close(self) -> None:
        self._over.set()
        self._scraping.join()
        with suppress(psutil.Error):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                process.kill()
        self._process.kill()
        self._process.wait()

    def _targets(self) -> list[str]:
        """Prometheus endpoints, from the file that Ray writes for its service discovery."""
        file = self.temporary / "session_latest" / "prom_metrics_service_discovery.json"
        if not file.exists():
            return []
        return [target for group in json.loads(file.read_text()) for target in group["targets"]]

    def _scrape(self) -> None:
        while not self._over.wait(1.0):
            for target in self._targets():
                with suppress(requests.RequestException):
                    text = requests.get(f"http://{target}/metrics", timeout=5).text
                    more = {line for line in text.splitlines() if line[:4] == "ray_"}
                    # Not in place: tests go through the samples meanwhile.
                    self.samples = self.samples | more


@pytest.fixture(scope="module")
def head(isolated_home: Path) -> Iterator[Head]:
    """In a folder of a short name: those of Ray's sockets are bounded."""
    with tempfile.TemporaryDirectory() as folder:
        head = Head(Path(folder))
        try:
            wait_until(head.is_ready)
            yield head
        finally:
            head.close()


@pytest.fixture
def client(head: Head) -> JobSubmissionClient:
    return JobSubmissionClient(head.address, headers={"Authorization": f"Bearer {head.token}"})


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def _submit(head: Head, *entrypoint: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` as the README has it; agents take some seconds to be there."""
    environment = json.dumps({"env_vars": {"OMP_NUM_THREADS": "1"}})
    command = [RAY, "job", "submit", "--address", head.address, "--working-dir", "."]
    command += ["--runtime-env-json", environment, "--", sys.executable, *entrypoint]
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env=os.environ | {"RAY_AUTH_MODE": "token"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done


def _names(samples: set[str]) -> set[str]:
    return {sample.split("{")[0].split(" ")[0] for sample in samples}


def test_without_the_token_nothing_is_run(head: Head) -> None:
    job = {"entrypoint": "true"}
    for headers in {}, {"Authorization": "Bearer of-nothing"}:
        answer = requests.post(f"{head.address}/api/jobs/", json=job, headers=headers, timeout=30)
        assert answer.status_code in (401, 403)


@pytest.fixture(scope="module")
def workspace_of_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("job") / "w"


@pytest.fixture(scope="module")
def lines(head: Head, survey: Path, workspace_of_job: Path) -> list[dict[str, Any]]:
    """What a job that went the whole road logged."""
    config = workspace_of_job.with_name("raypipe.toml")
    elastic = {**SETTINGS["train"], "num_workers": [1, 2]}
    changes = {"train": elastic, "evaluate": {"folds": 2, "baseline_presets": []}}
    config.write_text(tomli_w.dumps({**SETTINGS, **changes}))
    truth = str(survey / "truth.parquet")
    job = ["jobs/run.py", "--config", str(config), "--workspace", str(workspace_of_job)]
    job += ["--source", str(survey), "--catalog", truth, "--labels", truth, "--train"]
    done = _submit(head, *job, "--log-format", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"time"')]


def test_the_whole_road_as_a_job(lines: list[dict[str, Any]], workspace_of_job: Path) -> None:
    assert len(raypipe.open_catalog(workspace_of_job)) == 160
    (model_id,) = Workspace(workspace_of_job).folders("models")
    assert load(Workspace(workspace_of_job), model_id).metrics["workers"] in (1, 2)
    stages = {line["stage"]: line for line in lines if "stage" in line}
    assert list(stages) == ["discover", "ingest", "train", "embed"]
    assert all(line["outcome"] == "done" and line["rows_per_s"] > 0 for line in stages.values())
    assert (stages["ingest"]["rows"], stages["embed"]["rows"]) == (160, 160)
    assert stages["ingest"]["bytes_read"] > 1_000_000


def test_the_dashboard_names_the_stages(head: Head, lines: list[dict[str, Any]]) -> None:
    tasks = head.get("/api/v0/tasks?limit=10000").json()["data"]["result"]["result"]
    names = {task["name"] for task in tasks}
    assert {"MapBatches(choose RMFs)", "MapBatches(ingest)"} <= names
    assert any("MapBatches(embed)" in name for name in names)


def test_metrics_are_exported_under_the_names_grafana_asks_for(
    head: Head, lines: list[dict[str, Any]]
) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for t in panel["targets"] for name in OWN.findall(t["expr"])}
    counters = {f"ray_raypipe_{name}_total" for name in COUNTERS}
    assert asked >= counters | {f"ray_raypipe_{name}" for name in GAUGES}
    wait_until(lambda: asked - counters <= _names(head.samples))
    done = {f"ray_raypipe_{name}_total" for name in ("rows", "bytes_read", "rmfs", "rmf_bytes")}
    assert done <= _names(head.samples)
    (ingested,) = (
        sample
        for sample in head.samples
        if sample.startswith("ray_raypipe_rows_total")
        and 'stage="ingest"' in sample
        and sample.endswith(" 160.0")
    )
    assert 'subject="sim"' in ingested


def test_a_cancelled_job_is_completed_by_the_next(
    head: Head, client: JobSubmissionClient, survey: Path, tmp_path: Path
) -> None:
    workspace, unbroken = Workspace(tmp_path / "w"), Workspace(tmp_path / "unbroken")
    job = f"{sys.executable} jobs/ingest.py --workspace {workspace.root}"
    job += " --set ingest.fetch_threads=1 --set ingest.backoff_s=0.01"
    environment = {"working_dir": str(CHECKOUT)}

    def parts() -> int:
        return len(workspace.files("spectra/csc2.1"))

    with serve(survey) as server:
        for each in workspace, unbroken:
            write_remote_manifest(each, survey, server, part_rows=10)
        choose_rmfs_alone(workspace, "csc2.1")
        server.latency_s = 0.2
        server.fail(status(503), times=1)
        server.fail(status(404), part=sorted(survey.rglob("*_pha3.fits*"))[5].name)
        name = client.submit_job(entrypoint=job, runtime_env=environment)
        wait_until(parts)
        assert client.stop_job(name)
        wait_until(lambda: client.get_job_status(name).is_terminal())
        assert client.get_job_status(name) == JobStatus.STOPPED
        assert 0 < parts() < 16

        server.latency_s = 0.02
        again = client.submit_job(entrypoint=job, runtime_env=environment)
        wait_until(lambda: client.get_job_status(again).is_terminal())
        assert client.get_job_status(again) == JobStatus.SUCCEEDED, client.get_job_logs(again)
        ingest_alone(unbroken, "csc2.1")
    assert workspace.read_folder("spectra/csc2.1").equals(unbroken.read_folder("spectra/csc2.1"))
    assert workspace.read_folder("rejects/csc2.1").num_rows == 1
    faults = {f"ray_raypipe_{name}_total" for name in ("requests", "retries", "rejects")}
    wait_until(lambda: faults <= _names(head.samples))
