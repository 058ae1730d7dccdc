"""How the training spectra are shared among workers: the same steps however many there are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepPlan:
    """What the worker `rank` of `world` contributes to each step of an epoch.

    A step is always of `batch` spectra, an epoch of `steps` steps. The workers' shares of a step
    differ by one spectrum at most, and each holds enough spectra for all of its shares.
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
        """Spectra of a step, all workers together."""
        return min(self.batch_size, self.total)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.total // self.batch

    @property
    def share(self) -> int:
        """Spectra of a step that are this worker's."""
        return self._first(self.rank + 1) - self._first(self.rank)

    @property
    def weight(self) -> float:
        """What a sum over this worker's share counts in a mean over workers of such sums.

        With it the mean over workers of their gradients, which DDP takes, is the gradient of the
        mean over the step's spectra, also where shares differ.
        """
        return self.world / self.batch

    @property
    def held(self) -> slice:
        """Which of the training spectra are this worker's, one stretch of them."""
        return slice(
            self.total * self._first(self.rank) // self.batch,
            self.total * self._first(self.rank + 1) // self.batch,
        )

    def held_of(self, rows: int) -> slice:
        """This worker's stretch of so many other spectra, those of validation."""
        return slice(rows * self.rank // self.world, rows * (self.rank + 1) // self.world)

    def _first(self, rank: int) -> int:
        return self.batch * rank // self.world
