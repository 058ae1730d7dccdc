"""The verb align with workers of Ray Train, and on a workspace in a bucket."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

import raypipe
from raypipe.alignment.bundle import load_alignment
from raypipe.cli import main
from raypipe.store.workspace import Workspace
from tests.unit.synthetic_workspace import Synthetic, make_workspace
from tests.unit.test_aligning_verb import write_view

BUCKET = "aligned"
SETTINGS: dict[str, Any] = {
    "width": 16,
    "dimensions": 4,
    "epochs": 6,
    "batch_size": 32,
    "dropout": 0.0,
    "permutations": 0,
}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return make_workspace(tmp_path_factory.mktemp("w"), detections=160)


@pytest.fixture(scope="module")
def view(synthetic: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_view(synthetic.workspace, tmp_path_factory.mktemp("view") / "view.parquet")


@pytest.mark.usefixtures("local_ray")
def test_two_workers_make_the_alignment_that_one_makes(
    synthetic: Synthetic, view: Path, tmp_path: Path
) -> None:
    made = []
    for workers in (1, 2):
        store = Workspace(shutil.copytree(synthetic.workspace.uri, tmp_path / f"w{workers}"))
        config = {"align": SETTINGS | {"num_workers": workers, "cpus_per_worker": 0.4}}
        found = raypipe.align(store, with_=view, columns="seen,other", key="name", config=config)
        made.append(load_alignment(store.absolute_uri(f"alignments/{found['alignment_id']}")))
        assert not store.exists(f"checkpoints/{found['alignment_id']}")
    one, two = made
    assert one.about == two.about
    losses = [[entry["validation_loss"] for entry in each.metrics["history"]] for each in made]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    weights = [each.network.state_dict() for each in made]
    assert weights[0]["spectrum.project.weight"].numpy() == pytest.approx(
        weights[1]["spectrum.project.weight"].numpy(), abs=0.02
    )


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    server.stop()


def test_a_catalog_in_a_bucket_is_aligned_and_searched(
    bucket: Any, synthetic: Synthetic, view: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(synthetic.workspace.uri)
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        bucket.upload_file(str(file), BUCKET, f"w/{file.relative_to(root)}")
    bucket.upload_file(str(view), BUCKET, "view.parquet")
    settings = [word for k, v in SETTINGS.items() for word in ("--set", f"align.{k}={v}")]
    workspace = f"s3://{BUCKET}/w"
    arguments = ["align", "--workspace", workspace, "--with", f"s3://{BUCKET}/view.parquet"]
    assert main([*arguments, "--columns", "seen,other", *settings, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    keys = [each["Key"] for each in bucket.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert f"w/alignments/{made['alignment_id']}/align.safetensors" in keys
    assert "shared_3" in raypipe.open_catalog(workspace)
    assert main([*arguments, "--columns", "seen,other", *settings, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == made
    assert main(["search", "--workspace", workspace, "--like-view", "#2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 10
