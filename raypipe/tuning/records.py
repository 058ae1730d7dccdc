"""Keep a record of each trial in the workspace, updated while it runs and read after a crash."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from raypipe.store.layout import tuning_folder
from raypipe.store.workspace import Workspace

Value = int | float | str
Values = dict[str, Value]
"""Values of the searched settings, by `section.key`."""

RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped early", "failed"

CASH = "best_validation_cash"
"""The metric by which trials are compared, under the name that training reports."""


@dataclass
class Record:
    """Hold a trial's record; `course` has epochs, Cash per bin and seconds of each report.

    `began_here` says that the model had no checkpoints before this tuning.
    """

    number: int
    values: Values
    model_id: str
    trial_id: str
    began_here: bool = True
    status: str = RUNNING
    reason: str = ""
    course: list[dict[str, float]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Return whether the trial has ended."""
        return self.status != RUNNING

    @property
    def epochs(self) -> int:
        """Return the number of completed epochs."""
        return int(self.course[-1]["epochs"]) if self.course else 0

    @property
    def cash(self) -> float | None:
        """Return the Cash per bin of the weights to publish, or None before the first report."""
        return self.course[-1][CASH] if self.course else None

    @property
    def seconds(self) -> float:
        """Return the duration of its epochs, s."""
        return self.course[-1]["seconds_of_epochs"] if self.course else 0.0

    def add(self, report: dict[str, Any]) -> bool:
        """Append a report of the trial; returns False if its epoch was recorded before."""
        if report["epochs"] <= self.epochs:
            return False
        self.course.append({name: report[name] for name in ("epochs", CASH, "seconds_of_epochs")})
        return True


@dataclass(frozen=True)
class Records:
    """Read and write the records of a tuning, by model id, in a folder of the workspace."""

    workspace: Workspace
    folder: str

    def folder_of(self, model_id: str) -> str:
        """Return the folder of a trial, which holds its record and its TensorBoard events."""
        return f"{self.folder}/{model_id}"

    def read(self, model_id: str) -> Record | None:
        """Read the record of the trial that trains a model; None if there is none."""
        name = f"{self.folder_of(model_id)}/trial.json"
        if not self.workspace.exists(name):
            return None
        try:
            return Record(**self.workspace.read_object(name, {}))
        except TypeError as error:
            raise self.workspace.unexpected(name, "not the record of a trial") from error

    def write(self, record: Record) -> None:
        """Publish a record in place of the trial's previous one."""
        self.workspace.write_json(f"{self.folder_of(record.model_id)}/trial.json", asdict(record))

    def all(self) -> list[Record]:
        """Read all records, ordered by number."""
        found = (self.read(model_id) for model_id in self.workspace.folders(self.folder))
        return sorted(filter(None, found), key=lambda record: record.number)


def records_of(workspace: Workspace, tune_id: str) -> Records:
    """Return the records of a tuning in a workspace."""
    return Records(workspace, f"{tuning_folder(tune_id)}/trials")


def best_of(records: list[Record]) -> Record | None:
    """Return the trial with the lowest Cash, a finished one if there is any; None without Cash."""
    for status in DONE, STOPPED:
        measured = [r for r in records if r.status == status and r.cash is not None]
        if measured:
            return min(measured, key=lambda record: (record.cash, record.number))
    return None
