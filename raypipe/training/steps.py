"""Share the training spectra among workers so that the steps do not depend on their number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepPlan:
    """Plan the contribution of worker `rank` of `world` to each step of an epoch.

    A step has `batch` spectra and an epoch has `steps` steps, whatever the number of workers. The
    workers' shares of a step differ by at most one spectrum, and each worker holds enough spectra
    for all of its shares.
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
        """Return the number of spectra per step, summed over all workers."""
        return min(self.batch_size, self.total)

    @property
    def steps(self) -> int:
        """Return the number of steps per epoch; at most batch - 1 spectra are left out of it."""
        return self.total // self.batch

    @property
    def share(self) -> int:
        """Return the number of spectra per step that this worker contributes."""
        return self._first(self.rank + 1) - self._first(self.rank)

    @property
    def weight(self) -> float:
        """Return the factor on this worker's sum of losses before DDP averages gradients.

        It makes the average over workers the gradient of the mean loss of the step's spectra, even
        if the workers' shares differ.
        """
        # DDP averages over workers: (1 / world) sum_r weight * g_r, where g_r is the gradient of
        # the sum over worker r's share. It shall be sum_r g_r / batch.
        return self.world / self.batch

    @property
    def held(self) -> slice:
        """Return the contiguous range of training spectra that this worker holds."""
        # total = steps * batch + rest, so that a range has steps * share spectra, which an epoch
        # needs, and some of the rest.
        return slice(
            self.total * self._first(self.rank) // self.batch,
            self.total * self._first(self.rank + 1) // self.batch,
        )

    def held_of(self, rows: int) -> slice:
        """Return this worker's range of `rows` validation spectra, nearly equal among workers."""
        return slice(rows * self.rank // self.world, rows * (self.rank + 1) // self.world)

    def _first(self, rank: int) -> int:
        """Return the position in a step at which the share of a worker begins."""
        return self.batch * rank // self.world
