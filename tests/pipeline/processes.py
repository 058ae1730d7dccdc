"""Training workers as two processes of gloo, where what Ray Train does is not what is tested.

Ray Train starts eight processes for a training of seconds. Here `raypipe.training.train` runs as it
is, with its lock, news, events and errors; only Ray Train's trainer is replaced: the training
function runs in processes forked from one that has imported it.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pyarrow.fs import FileSelector, FileSystem
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.v2._internal.execution.train_fn_utils import (
    LocalTrainFnUtils,
    set_train_fn_utils,
)

from raypipe.training import train as train_verb

_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["raypipe.training.loop", "raypipe.training.quality", "torch._dynamo", __name__]
)
"""Imported once, not by each worker: an optimizer's first step imports torch._dynamo, for 3 s."""
_LONGEST_S = 300.0


@dataclass
class Plan:
    """The workers of a training, and the epochs after which all of them die.

    The first group has `workers[0]` processes, the group after the first death `workers[1]`, and
    so on; the last number serves the groups that follow. `groups` lists the groups that ran.
    """

    workers: list[int]
    deaths: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)


@contextmanager
def training_in_processes(*workers: int, deaths: tuple[int, ...] = ()) -> Iterator[Plan]:
    """Have `raypipe.training.train` start processes of its own inside the block."""
    plan = Plan(list(workers) or [2], list(deaths))

    def trainer(*arguments: Any, **options: Any) -> _Trainer:
        return _Trainer(plan, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_verb, "TorchTrainer", trainer)
        yield plan


class _Trainer:
    """Takes the place of Ray Train's TorchTrainer."""

    def __init__(
        self,
        plan: Plan,
        function: Callable[[dict[str, Any]], None],
        *,
        train_loop_config: dict[str, Any],
        scaling_config: ScalingConfig,
        run_config: RunConfig,
    ) -> None:
        self.plan, self.function, self.config = plan, function, train_loop_config
        allowed = scaling_config.num_workers
        self.allowed = allowed if isinstance(allowed, tuple) else (allowed, allowed)
        self.failures = run_config.failure_config.max_failures
        self.files = run_config.storage_filesystem
        self.folder = f"{run_config.storage_path}/{run_config.name}"

    def fit(self) -> None:
        """Run groups of workers until one succeeds; after `max_failures` raise a worker's error.

        A worker that dies and one that raises are failures alike, as for Ray Train.
        """
        deaths = list(self.plan.deaths)
        while True:
            world = self.plan.workers[min(len(self.plan.groups), len(self.plan.workers) - 1)]
            fewest, most = self.allowed
            assert fewest <= world <= most, "raypipe asks Ray Train for another number"
            self.plan.groups.append(world)
            error = self._run_group(world, deaths.pop(0) if deaths else None)
            if error is None:
                return
            if len(self.plan.groups) > self.failures:
                raise error

    def _run_group(self, world: int, dies_after: int | None) -> Exception | None:
        reports, errors = _FORKS.SimpleQueue(), _FORKS.SimpleQueue()
        follower = threading.Thread(target=self._follow, args=(reports,))
        follower.start()
        with tempfile.TemporaryDirectory() as folder:
            group = [
                _FORKS.Process(
                    target=_work,
                    args=(
                        *(rank, world, folder, self.function),
                        {**self.config, "reports": reports},
                        *(self.files, self.folder, dies_after, errors),
                    ),
                )
                for rank in range(world)
            ]
            for process in group:
                process.start()
            for process in group:
                process.join(_LONGEST_S)
            hanging = [process for process in group if process.is_alive()]
            for process in hanging:
                process.kill()
                process.join()
            assert not hanging, "workers wait for each other"
        reports.put(None)
        follower.join()
        if not errors.empty():
            return errors.get()
        codes = {process.exitcode for process in group}
        return None if codes == {0} else RuntimeError(f"workers ended with {codes}")

    def _follow(self, reports: SimpleQueue[Any]) -> None:
        while (news := reports.get()) is not None:
            self.config["reports"].put(news)


class _Functions(LocalTrainFnUtils):
    """Ray Train's functions for a worker: checkpoints are published, one is kept."""

    def __init__(
        self, rank: int, world: int, files: FileSystem, folder: str, dies_after: int | None
    ) -> None:
        super().__init__("a test", None, world, rank, rank, world)
        self._files, self._folder, self._dies_after = files, folder, dies_after
        self._last_checkpoint = self._newest()
        self._context.get_storage = lambda: SimpleNamespace(storage_filesystem=files)

    def report(
        self,
        metrics: dict[str, Any],
        checkpoint: Checkpoint | None = None,
        checkpoint_upload_fn: Callable[[Checkpoint, str], Checkpoint] | None = None,
        **_: Any,
    ) -> None:
        """Publish a checkpoint and register it; die where this is the epoch to die after."""
        if checkpoint is not None:
            assert checkpoint_upload_fn is not None
            before, self._last_checkpoint = (
                self._last_checkpoint,
                checkpoint_upload_fn(checkpoint, ""),
            )
            if before is not None and before.path != checkpoint.path:
                self._files.delete_dir(before.path)
        if dist.is_initialized():
            dist.barrier()
        if metrics.get("epoch") == self._dies_after and self._dies_after is not None:
            os.kill(os.getpid(), signal.SIGKILL)

    def _newest(self) -> Checkpoint | None:
        found = self._files.get_file_info(
            FileSelector(self._folder, recursive=True, allow_not_found=True)
        )
        names = [info.path for info in found if Path(info.path).suffix == ".pt"]
        return Checkpoint(str(Path(max(names)).parent), self._files) if names else None


def _work(
    rank: int,
    world: int,
    folder: str,
    function: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    files: FileSystem,
    checkpoints: str,
    dies_after: int | None,
    errors: SimpleQueue[Exception],
) -> None:
    """Be one of the workers."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    set_train_fn_utils(_Functions(rank, world, files, checkpoints, dies_after))
    try:
        function(config)
        dist.barrier()
    except Exception as error:
        errors.put(error)
        raise
    dist.destroy_process_group()
