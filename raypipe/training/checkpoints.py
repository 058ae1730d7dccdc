"""Write and read checkpoints of training in the workspace."""

from __future__ import annotations

import io
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode

from raypipe.private_apis import training_filesystem
from raypipe.store.workspace import Workspace

_FILE = "checkpoint.pt"


def report_checkpoint(
    metrics: dict[str, Any], state: dict[str, Any] | None, workspace: Workspace, folder: str
) -> None:
    """Register metrics with Ray Train and, if a state is given, publish it as a checkpoint.

    Ray Train requires every worker to call this equally often; one of them passes a state. The
    state is copied at once. While training continues, it is written to `folder` of the workspace in
    one atomic step and then registered. No file is created outside the workspace, so that a crash
    leaves none behind.
    """
    if state is None:
        ray.train.report(metrics, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
        return
    copy = io.BytesIO()
    torch.save(state, copy)
    target = Checkpoint(workspace.path(folder), training_filesystem())

    def publish(checkpoint: Checkpoint, _: str) -> Checkpoint:
        workspace.write_bytes(f"{folder}/{_FILE}", copy.getvalue())
        return checkpoint

    ray.train.report(
        metrics,
        checkpoint=target,
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=False,
        checkpoint_upload_fn=publish,
    )


def read_checkpoint(checkpoint: Checkpoint | None, device: torch.device) -> dict[str, Any] | None:
    """Read the state in a checkpoint; return None without a checkpoint."""
    if checkpoint is None:
        return None
    with checkpoint.filesystem.open_input_stream(f"{checkpoint.path}/{_FILE}") as stream:
        copy = io.BytesIO(stream.read())
    state: dict[str, Any] = torch.load(copy, map_location=device, weights_only=True)
    return state
