"""Trainings: where spectra and checkpoints are, what a run leaves, what ends it."""

from __future__ import annotations

import logging
import shutil
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from moto.server import ThreadedMotoServer
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from raypipe.config_toml import load_config
from raypipe.errors import RaypipeError
from raypipe.store.workspace import Workspace
from raypipe.training.data import read_roster
from raypipe.training.train import train
from tests.pipeline.processes import training_in_processes
from tests.pipeline.training import course, load, settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


@pytest.fixture
def workspace(ingested_survey: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(ingested_survey, tmp_path / "w"))


def _masked_crc(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _events(data: bytes) -> Iterator[Event]:
    """The records of an event file, their checksums compared."""
    while data:
        header, (length,) = data[:8], struct.unpack("<Q", data[:8])
        body, end = data[12 : 12 + length], 16 + length
        assert struct.unpack("<I", data[8:12])[0] == _masked_crc(header)
        assert struct.unpack("<I", data[12 + length : end])[0] == _masked_crc(body)
        yield Event.FromString(body)
        data = data[end:]


def _scalars(workspace: Workspace) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag of the one training that the workspace has seen."""
    (run,) = [name for name in workspace.folders("runs") if name.endswith("-train")]
    (name,) = [name for name in workspace.files(f"runs/{run}") if "tfevents" in name]
    found = defaultdict(list)
    for event in _events(workspace.read_bytes(name)):
        for value in event.summary.value:
            found[value.tag].append((event.step, value.simple_value))
    return found


def _check_events(workspace: Workspace, history: list[dict[str, float]]) -> None:
    scalars = _scalars(workspace)
    tags = {
        "loss/train": "train_loss",
        "loss/validation": "validation_loss",
        "learning_rate": "learning_rate",
        "spectra_per_s": "spectra_per_s",
    }
    assert set(scalars) == set(tags)
    for tag, name in tags.items():
        assert [step for step, _ in scalars[tag]] == [entry["epoch"] for entry in history]
        values = [value for _, value in scalars[tag]]
        assert values == pytest.approx([entry[name] for entry in history], rel=1e-6)


def test_spectra_that_are_read_anew_train_as_well(
    ingested_survey: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = {}
    for data in "resident", "stream":
        workspace = Workspace(shutil.copytree(ingested_survey, tmp_path / data))
        with caplog.at_level(logging.INFO, "raypipe"), training_in_processes():
            model_id = train(workspace, config=settings(data=data, stream_rows=20, epochs=3))
        metrics[data] = load(workspace, model_id).metrics
        assert metrics[data]["data"] == data
        history = metrics[data]["history"]
        assert history[-1]["train_loss"] < history[0]["train_loss"]
    resident, stream = metrics.values()
    assert resident["model_id"] == stream["model_id"]
    assert resident["optimizer_steps"] == stream["optimizer_steps"] > 0
    assert course(resident) != course(stream)
    assert "spectra are kept in memory" in caplog.text
    assert "spectra are read again in each epoch" in caplog.text
    _check_events(workspace, history)


def test_elastic_workers_take_the_steps_of_a_fixed_number(
    ingested_survey: Path, tmp_path: Path
) -> None:
    """Three begin, all die, one ends what they began; another trains alone from the start."""
    metrics = []
    for number, groups, deaths in ([1, 3], (3, 1), (0,)), (1, (1,), ()):
        workspace = Workspace(shutil.copytree(ingested_survey, tmp_path / f"{number}"))
        with training_in_processes(*groups, deaths=deaths) as plan:
            model_id = train(workspace, config=settings(num_workers=number, epochs=2))
        assert plan.groups == list(groups)
        metrics.append(load(workspace, model_id).metrics)
    elastic, alone = metrics
    assert elastic["resumed_after_epochs"] == [1]
    assert elastic["workers"] == alone["workers"] == 1
    for name in "model_id", "steps_per_epoch", "batch_size", "optimizer_steps":
        assert elastic[name] == alone[name]


def test_workers_that_die_again_and_again_end_training(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    """The course up to then is kept: the same command takes it on to the same end."""
    config = settings(max_failures=1)
    unbroken = Workspace(shutil.copytree(workspace.root, f"{workspace.root}-unbroken"))
    with training_in_processes(deaths=(0, 2)) as plan, pytest.raises(RuntimeError, match="ended"):
        train(workspace, config=config)
    assert plan.groups == [2, 2]
    assert workspace.folders("models") == []
    with training_in_processes(), caplog.at_level(logging.INFO, "raypipe"):
        model_id = train(workspace, config=config)
        assert "starting 2 workers (about 20 s)" in caplog.text
        assert f"{model_id} resuming after epoch 3" in caplog.text
        assert train(unbroken, config=config) == model_id
    metrics, whole = load(workspace, model_id).metrics, load(unbroken, model_id).metrics
    assert metrics["resumed_after_epochs"] == [1, 3]
    assert course(metrics) == course(whole)
    assert metrics["optimizer_steps"] == whole["optimizer_steps"] == 4 * whole["steps_per_epoch"]


def test_a_loss_that_is_not_finite_ends_training_once_and_by_name(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(seed=4)
    roster = read_roster(workspace, "sim", load_config(settings=config).train)
    row = roster.rows("train")[7]
    name = roster.files[roster.part[row]]
    table = workspace.read_table(name)
    place = table["detection_id"].to_pylist().index(roster.detection_ids[row])
    exposure = table["exposure_s"].to_pylist()
    exposure[place] = 1e38
    column = table.column_names.index("exposure_s")
    field = table.schema.field("exposure_s")
    workspace.write_table(name, table.set_column(column, field, pa.array(exposure, field.type)))
    with (
        caplog.at_level(logging.INFO, "raypipe"),
        training_in_processes() as plan,
        pytest.raises(RaypipeError) as error,
    ):
        train(workspace, config=config)
    assert plan.groups == [2], "the next workers would meet it again"
    assert "epoch 0, step " in str(error.value)
    assert str(roster.detection_ids[row]) in str(error.value)
    assert caplog.text.count("workers on cpu") == 1


def test_training_in_a_bucket(ingested_survey: Path, tmp_path: Path) -> None:
    """Spectra from it, checkpoints and events into it, the last checkpoint alone kept.

    Ray Train trains, on a Ray whose processes have the credentials in their environment.
    """
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    aws = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in aws.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="trainings")
        workspace = Workspace("s3://trainings/w")
        pafs.copy_files(
            str(ingested_survey),
            workspace.root,
            source_filesystem=pafs.LocalFileSystem(),
            destination_filesystem=workspace.fs,
        )
        for name in workspace.folders("runs"):
            workspace.delete_folder(f"runs/{name}")
        config = tmp_path / "config.toml"
        config.write_text(load_config(settings=settings(epochs=3, num_workers=1)).to_toml())
        command = "import sys; from raypipe.cli import main; sys.exit(main())"
        options = ["--workspace", "s3://trainings/w", "--config", str(config)]
        options += ["--set", "ray.num_cpus=2"]
        ran = subprocess.run([sys.executable, "-c", command, "train", *options], timeout=300)
        assert ran.returncode == 0
        (model_id,) = workspace.folders("models")
        metrics = workspace.read_json(f"models/{model_id}/metrics.json")
        assert metrics["optimizer_steps"] == 3 * metrics["steps_per_epoch"]
        kept = [name for name in workspace.folders(f"checkpoints/{model_id}") if "epoch" in name]
        assert kept == ["epoch-00002"]
        assert workspace.files(f"checkpoints/{model_id}/epoch-00002") == [
            f"checkpoints/{model_id}/epoch-00002/checkpoint.pt"
        ]
        _check_events(workspace, metrics["history"])
    server.stop()
