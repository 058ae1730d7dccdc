"""The Ray cluster a verb runs on."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.util.state import list_nodes

from raypipe.config import RayConfig
from raypipe.errors import RaypipeError, UsageError

log = logging.getLogger(__name__)

TASKS_A_SLOT = 8

_API_SERVER = "RAY_API_SERVER_ADDRESS"

_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
}


@contextmanager
def ray_session(config: RayConfig, dashboard: bool = False) -> Iterator[None]:
    """Have Ray running inside the block.

    Joins the cluster of `config.address` or RAY_ADDRESS, else starts a local one and shuts it down
    at the end, with its `dashboard` where that is wanted. A Ray that runs already in this process
    is used and left running.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = _address(config)
    local = address == "local"
    with _dashboard_port() if local and dashboard else nullcontext() as port:
        ray.init(
            address=address,
            num_cpus=config.num_cpus if local else None,
            include_dashboard=dashboard if local else None,
            dashboard_port=port,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        if local:
            _keep_token_private()
        quiet_ray_data()
        log.info("ray: %s, %s", "local cluster" if local else address, _resources())
        try:
            yield
        finally:
            _stop_executions()
            ray.shutdown()


@contextmanager
def _dashboard_port() -> Iterator[int]:
    """A free port for a local Ray's dashboard, which its processes look for there.

    Left to themselves they look among all Rays on the machine, and give up where there is another:
    workers of a training that Ray Tune stops then keep their CPUs.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    before = os.environ.get(_API_SERVER)
    os.environ[_API_SERVER] = f"http://127.0.0.1:{port}"
    try:
        yield port
    finally:
        os.environ.pop(_API_SERVER)
        if before is not None:
            os.environ[_API_SERVER] = before


def _keep_token_private() -> None:
    """Let no other user of the machine read the token that Ray has written for the local cluster.

    Who has the token runs programs as its owner.
    """
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file() and token.stat().st_mode & 0o077:
        token.chmod(0o600)


def _stop_executions() -> None:
    """End what Ray Data still executes after an exception, Ctrl-C among them.

    Its threads outlive the iteration they serve, and without Ray they would start another one.
    """
    for thread in threading.enumerate():
        if isinstance(thread, StreamingExecutor):
            thread.shutdown(force=True)


def _address(config: RayConfig) -> str:
    return config.address or os.environ.get("RAY_ADDRESS") or "local"


def joins_cluster(config: RayConfig) -> bool:
    """Whether verbs join a cluster, which may grow when asked, instead of starting a local one."""
    return _address(config) != "local"


def tasks_for(parts: int, cpus: float, config: RayConfig) -> int:
    """Among how many tasks that ask for so many CPUs to share the parts.

    Between two tasks of Ray Data a CPU is idle for some 0.2 s. On a local cluster a task has
    several parts, therefore, and each CPU several tasks, so that all end at about the same time. A
    cluster that was joined may grow: there each part is a task.
    """
    if joins_cluster(config):
        return parts
    slots = max(1, int(ray.cluster_resources().get("CPU", 1) / cpus))
    return min(parts, TASKS_A_SLOT * slots)


def map_parts(
    name: str,
    parts: Sequence[int],
    work: Callable[[int], dict[str, Any]] | type,
    tasks: int | None = None,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Run `work` on each part number in tasks of Ray Data; yield its answers as they come.

    `name` is what Ray's dashboard calls the dataset and its tasks. `work` is a function of a part,
    or, for a pool of actors, a class whose instances are one; `tasks` is the number of tasks, by
    default one a part; `options` are those of `Dataset.map_batches`. A RaypipeError of a worker is
    raised here as itself: Ray would hand on its text alone, inside its own error.
    """
    if isinstance(work, type):

        class Answering(work):  # type: ignore[misc, valid-type]
            def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
                return _answer(super().__call__, batch)

        task: Any = Answering
    else:

        def task(batch: dict[str, Any]) -> dict[str, list[str]]:
            return _answer(work, batch)

    task.__name__ = task.__qualname__ = name
    dataset = ray.data.from_items(
        [{"part": part} for part in parts], override_num_blocks=tasks or len(parts)
    ).map_batches(task, batch_size=1, **options)
    dataset.set_name(name)
    for row in dataset.iter_rows():
        answer = json.loads(row["answer"])
        if "error" in answer:
            raise RaypipeError(answer["error"])
        yield answer


def _answer(work: Callable[[int], dict[str, Any]], batch: dict[str, Any]) -> dict[str, list[str]]:
    try:
        answers: list[dict[str, Any]] = [work(int(part)) for part in batch["part"]]
    except RaypipeError as error:
        answers = [{"error": str(error)}]
    return {"answer": [json.dumps(answer) for answer in answers]}


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise a RaypipeError of a training worker as itself, without Ray Train's around it."""
    try:
        yield
    except RaypipeError:
        raise
    except Exception as error:
        if (ours := _find_own(error)) is not None:
            raise ours from error
        raise


def _find_own(error: BaseException) -> RaypipeError | None:
    """The first RaypipeError among an exception and all that caused it."""
    waiting, seen = [error], set()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, RaypipeError):
            return current
        linked = [current.__cause__, current.__context__, getattr(current, "cause", None)]
        linked += list(getattr(current, "worker_failures", {}).values())
        waiting += [each for each in linked if isinstance(each, BaseException)]
    return None


def require_resources(what: str, cpus: float, gpus: float, config: RayConfig) -> None:
    """Raise UsageError where the running Ray will never have so many CPUs and GPUs.

    A cluster that was joined, or has no CPUs yet, is taken at its word: it may grow when asked.
    """
    if joins_cluster(config) or ray.cluster_resources().get("CPU", 0) == 0:
        return
    have = ray.cluster_resources()
    for name, wanted in ("CPU", cpus), ("GPU", gpus):
        if wanted > have.get(name, 0) + 1e-6:
            raise UsageError(
                f"{what} asks for {wanted:g} {name}s and Ray has {have.get(name, 0):g}: lower "
                "train.num_workers or train.cpus_per_worker, or raise ray.num_cpus"
            )


def tell_device(what: str, use_gpu: bool, asked: bool | None) -> None:
    """Log where the work goes and, where nobody said so, how to change that.

    `asked` is the setting, None where the GPUs that Ray has decided it: a cluster that starts GPU
    nodes when they are asked for has none before.
    """
    if asked is not None:
        reason = f"train.use_gpu={str(asked).lower()}"
    elif use_gpu:
        reason = "Ray has GPUs; train.use_gpu=false changes that"
    else:
        reason = (
            f"Ray has {ray.cluster_resources().get('GPU', 0):g} GPUs now; "
            "train.use_gpu=true waits for a cluster that starts GPU nodes when asked"
        )
    log.info("%s: on %s (%s)", what, "GPUs" if use_gpu else "CPUs", reason)


def require_dashboard() -> None:
    """Raise UsageError where Ray runs without its dashboard, whose State API Ray Tune waits for."""
    try:
        list_nodes(address=ray.get_runtime_context().gcs_address, limit=1, timeout=10)
    except Exception as error:
        raise UsageError(
            f"Ray runs without its dashboard, which tuning needs ({error}): start it with "
            "include_dashboard=True and with ray[default] installed, or leave it to raypipe"
        ) from error


def quiet_ray_data() -> None:
    """Leave progress to raypipe's own lines, which answers make as they come."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1
    for name in "ray.data", "ray.train", "ray.tune":
        for handler in logging.getLogger(name).handlers:
            if type(handler).__module__.startswith("ray."):
                handler.setLevel(logging.ERROR)


def _resources() -> str:
    total = ray.cluster_resources()
    return f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
