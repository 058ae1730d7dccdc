"""Share the training spectra among workers so that the steps do not depend on their number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepPlan:
    """The contribution of worker `rank` of `world` to each step of an epoch.

    A step always has `batch` spectra, an epoch `steps` steps. The workers' shares of a step differ
    by at most one spectrum, and each worker holds enough spectra for all of its shares.
    """

    total: int
    batch_size: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.world > self.batch:
            raise ValueError(f"{self.world} workers cannot share a step of {self.batch} spectra")

    @property
    def batch(self) -> int:
        """Spectra per step, over all workers."""
        return min(self.batch_size, self.total)

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.total // self.batch

    @property
    def share(self) -> int:
        """Spectra per step of this worker."""
        return self._first(self.rank + 1) - self._first(self.rank)

    @property
    def weight(self) -> float:
        """Factor on the sum over this worker's share before DDP averages over workers.

        With it, the mean of the workers' gradients, which DDP takes, is the gradient of the mean
        over the step's spectra, even if the shares differ.
        """
        return self.world / self.batch

    @property
    def held(self) -> slice:
        """The contiguous range of training spectra that this worker holds."""
        return slice(
            self.total * self._first(self.rank) // self.batch,
            self.total * self._first(self.rank + 1) // self.batch,
        )

    def held_of(self, rows: int) -> slice:
        """This worker's range of `rows` other spectra, those of validation."""
        return slice(rows * self.rank // self.world, rows * (self.rank + 1) // self.world)

    def _first(self, rank: int) -> int:
        return self.batch * rank // self.world
