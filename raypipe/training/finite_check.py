"""Detect losses and gradients that are not finite, and name the spectra that cause them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from raypipe.errors import RaypipeError

STEPS_BETWEEN_LOOKS = 16
"""Number of training steps between two checks of the recorded losses."""

_MOST_NAMED = 10


class NotFiniteError(RaypipeError):
    """Report a loss or gradient that is not finite. All workers raise it; a restart won't help."""


class _Step(NamedTuple):
    step: int
    places: Tensor
    loss: Tensor
    norm: Tensor | None


class _Finding(NamedTuple):
    """Hold a worker's first faulty step: the faulty quantity, and the number of faulty rows."""

    step: int
    what: str
    spectra: int
    detection_ids: Sequence[str]


class FiniteCheck:
    """Record the losses of several steps and check them together.

    A check has to wait for the device and is therefore done every `STEPS_BETWEEN_LOOKS` steps only.
    Steps after a fault may spoil the weights, but the run ends at the next check, and its last
    checkpoint is older. `names` returns the detection_ids of this worker's rows.
    """

    def __init__(
        self,
        names: Callable[[Tensor], Sequence[str]],
        device: torch.device,
        world: int = 1,
    ) -> None:
        self.names = names
        self.device, self.world = device, world
        self._kept: list[_Step] = []

    def keep(self, step: int, places: Tensor, loss: Tensor, norm: Tensor | None = None) -> None:
        """Record a step: its rows (n,), their losses (n,), and the gradient norm, if any."""
        self._kept.append(_Step(step, places, loss, norm))

    def look(self, when: str) -> None:
        """Raise NotFiniteError if a recorded value of any worker is not finite.

        `when` names the epoch in the error. All workers must call this together. The recorded steps
        are discarded.
        """
        kept, self._kept = self._kept, []
        # A sum is finite only if all its terms are: one number per check crosses from the device.
        sums = [each.loss.sum() + (0.0 if each.norm is None else each.norm) for each in kept]
        total = torch.stack(sums).sum() if sums else torch.zeros((), device=self.device)
        bad = total.isfinite().logical_not().float()
        if self.world > 1:
            dist.all_reduce(bad)
        if bad == 0:
            return
        mine = self._first_bad(kept)
        findings: list[_Finding | None] = [mine]
        if self.world > 1:
            findings = [None] * self.world
            dist.all_gather_object(findings, mine)
        raise NotFiniteError(_explain(when, findings))

    def _first_bad(self, kept: list[_Step]) -> _Finding | None:
        """Find the first step with a loss or a gradient that is not finite."""
        for each in kept:
            rows = each.loss.isfinite().logical_not().nonzero()[:, 0]
            if len(rows):
                return _Finding(each.step, "loss", len(rows), self._named(each.places, rows))
            if each.norm is not None and not torch.isfinite(each.norm):
                worst = each.loss.argsort(descending=True)
                return _Finding(each.step, "gradient", 0, self._named(each.places, worst))
        return None

    def _named(self, places: Tensor, rows: Tensor) -> list[str]:
        return list(self.names(places[rows[:_MOST_NAMED].to(places.device)]))


def _explain(when: str, findings: list[_Finding | None]) -> str:
    """Describe the first fault.

    A loss that is not finite makes the gradient of that step faulty on every worker, so that losses
    are named before gradients.
    """
    seen = [(each, rank) for rank, each in enumerate(findings) if each is not None]
    first = min(each.step for each, _ in seen)
    guilty = [(each, rank) for each, rank in seen if each.step == first and each.what == "loss"]
    if guilty:
        count = sum(each.spectra for each, _ in guilty)
        what = f"the loss of {count} spectra is not finite"
    else:
        guilty = [(each, rank) for each, rank in seen if each.step == first]
        what = "the gradient is not finite; the largest losses are those of"
    named = "; ".join(
        f"worker {rank}: {', '.join(each.detection_ids[:_MOST_NAMED])}"
        + (", ..." if each.spectra > _MOST_NAMED else "")
        for each, rank in guilty
    )
    return (
        f"{when}, step {first}: {what} ({named}); lower train.learning_rate or, if these spectra "
        "are at fault, remove them from the release. The last checkpoint is kept"
    )
