"""What became of each trial, in the workspace: written as it happens, read after a death."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from raypipe.workspace import Workspace, tuning_folder

Value = int | float | str
Values = dict[str, Value]
"""A value for each `section.key` that is searched."""

RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped early", "failed"

CASH = "best_validation_cash"
"""What trials are compared by, as a training's standing has it."""


@dataclass
class Record:
    """A trial; `course` has epochs, Cash per bin and seconds at each report.

    `began_here` says that the model had no checkpoints before the tuning.
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
        """Whether nothing more is to come."""
        return self.status != RUNNING

    @property
    def epochs(self) -> int:
        """Epochs taken."""
        return int(self.course[-1]["epochs"]) if self.course else 0

    @property
    def cash(self) -> float | None:
        """Cash per bin of the weights that it would publish."""
        return self.course[-1][CASH] if self.course else None

    @property
    def seconds(self) -> float:
        """Time that its epochs took, s."""
        return self.course[-1]["seconds_of_epochs"] if self.course else 0.0

    def add(self, standing: dict[str, Any]) -> bool:
        """Take note of where it stands; whether that was news."""
        if standing["epochs"] <= self.epochs:
            return False
        self.course.append({name: standing[name] for name in ("epochs", CASH, "seconds_of_epochs")})
        return True


@dataclass(frozen=True)
class Records:
    """The records of a tuning, in a folder of the workspace, by model."""

    workspace: Workspace
    folder: str

    def folder_of(self, model_id: str) -> str:
        """Folder of a trial: its record, and its events for TensorBoard."""
        return f"{self.folder}/{model_id}"

    def read(self, model_id: str) -> Record | None:
        """The record of the trial that trains a model, None where there is none."""
        name = f"{self.folder_of(model_id)}/trial.json"
        return Record(**self.workspace.read_json(name)) if self.workspace.exists(name) else None

    def write(self, record: Record) -> None:
        """Publish a record, replacing the trial's last one."""
        self.workspace.write_json(f"{self.folder_of(record.model_id)}/trial.json", asdict(record))

    def all(self) -> list[Record]:
        """All records in order of number."""
        found = (self.read(model_id) for model_id in self.workspace.folders(self.folder))
        return sorted(filter(None, found), key=lambda record: record.number)


def records_of(workspace: Workspace, tune_id: str) -> Records:
    """The records of a tuning of a workspace."""
    return Records(workspace, f"{tuning_folder(tune_id)}/trials")


def best_of(records: list[Record]) -> Record | None:
    """The trial of the lowest Cash among those that came to their end, else among the others."""
    for status in DONE, STOPPED:
        measured = [r for r in records if r.status == status and r.cash is not None]
        if measured:
            return min(measured, key=lambda record: (record.cash, record.number))
    return None
