"""Write the progress of a training as TensorBoard events.

This uses tensorboardX's file writer directly, because its SummaryWriter passes events to a thread
and its flush does not wait for that thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from raypipe.store.workspace import Workspace

_TAGS = {
    "train_loss": "loss/train",
    "validation_loss": "loss/validation",
    "learning_rate": "learning_rate",
    "spectra_per_s": "spectra_per_s",
}


class EventLog:
    """Write the events of a training, one point per epoch."""

    def __init__(
        self, writer: EventsWriter, local: Path, workspace: Workspace, folder: str
    ) -> None:
        self._writer, self._local = writer, local
        self._workspace, self._folder = workspace, folder
        self._written = -1

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add the metrics of an epoch, unless the epoch was written before a restart.

        Objects in a bucket cannot be appended to; there, the complete file is uploaded again.
        """
        epoch = int(metrics["epoch"])
        if epoch <= self._written:
            return
        self._written = epoch
        for name, tag in _TAGS.items():
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=metrics[name])])
            self._writer.write_event(Event(wall_time=time.time(), step=epoch, summary=summary))
        self._writer.flush()
        if not self._workspace.is_local:
            for file in self._local.iterdir():
                self._workspace.write_bytes(f"{self._folder}/{file.name}", file.read_bytes())


@contextmanager
def event_log(workspace: Workspace, folder: str) -> Iterator[EventLog]:
    """Write events to a folder of the workspace while the block runs."""
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(workspace.path(folder) if workspace.is_local else temporary)
        writer = EventsWriter(str(local / "events"))
        try:
            yield EventLog(writer, local, workspace, folder)
        finally:
            writer.close()
