"""Connect to a Ray cluster, or start a local one, and run work on it."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray.util.state import list_nodes

from raypipe.config import RayConfig
from raypipe.errors import RaypipeError, UsageError
from raypipe.logs import hide_lines
from raypipe.private_apis import (
    API_SERVER_VARIABLE,
    ENVIRONMENT,
    stop_ray_data_executions,
)

log = logging.getLogger(__name__)

TASKS_A_SLOT = 8
"""Tasks per task slot of a local cluster, so that all slots finish at about the same time."""

_RESTART_WARNING = re.compile(
    rb"core_worker\.cc.*has constructor arguments in the object store and max_restarts > 0"
)
"""Line that Ray prints as an error for each actor of a pool of Ray Data.

It warns that a lost actor cannot be restarted once its arguments are gone (ray-project/ray#53727).
Here they cannot be gone: Ray Data keeps them as long as the pool exists.
"""


@contextmanager
def ray_session(config: RayConfig, dashboard: bool = False) -> Iterator[None]:
    """Keep Ray running inside the block.

    Joins the cluster of `config.address` or RAY_ADDRESS; otherwise starts a local Ray, with its
    `dashboard` if requested, and shuts it down at the end. If this process runs Ray already, that
    is used and left running.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = _address(config)
    local = address == "local"
    log.info("ray: %s", "starting it here (about 5 s)" if local else f"connecting to {address}")
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
            stop_ray_data_executions()
            ray.shutdown()


@contextmanager
def _dashboard_port() -> Iterator[int]:
    """Choose a free port for the dashboard of a local Ray, and tell Ray's processes about it.

    Without it they search for a dashboard among all Rays on the machine and give up if there is
    more than one; workers of a training that Ray Tune stops then keep their CPUs.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    before = os.environ.get(API_SERVER_VARIABLE)
    os.environ[API_SERVER_VARIABLE] = f"http://127.0.0.1:{port}"
    try:
        yield port
    finally:
        os.environ.pop(API_SERVER_VARIABLE)
        if before is not None:
            os.environ[API_SERVER_VARIABLE] = before


def _keep_token_private() -> None:
    """Forbid other users to read the token that Ray has written for the local cluster.

    Whoever has the token can run programs as its owner.
    """
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file() and token.stat().st_mode & 0o077:
        token.chmod(0o600)


def _address(config: RayConfig) -> str:
    return config.address or os.environ.get("RAY_ADDRESS") or "local"


def joins_cluster(config: RayConfig) -> bool:
    """Tell whether verbs join a cluster, which may grow on demand, or start a local one."""
    return _address(config) != "local"


def tasks_for(parts: int, cpus: float, config: RayConfig) -> int:
    """Return the number of tasks, each with `cpus` CPUs, among which to divide the parts.

    Ray Data leaves a CPU idle for about 0.2 s between two tasks. On a local cluster a task
    therefore has several parts, and each CPU several tasks, so that all end at about the same time.
    A cluster that was joined may grow: there each part is a task.
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
    """Run `work` on each part number in tasks of Ray Data; yields the answers as they arrive.

    `name` labels the dataset and its tasks in Ray's dashboard. `work` is a function of a part
    number, or, for a pool of actors, a class whose instances are such functions. `tasks` is the
    number of tasks, by default one per part; `options` are those of `Dataset.map_batches`. A
    RaypipeError of a worker is raised here as itself; Ray would wrap its text in an error of Ray.
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


def without_restart_warning() -> AbstractContextManager[None]:
    """Keep Ray's warning about actors of a pool, which does not apply here, off the terminal."""
    return hide_lines(_RESTART_WARNING)


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise a RaypipeError of a training worker as itself, not inside an error of Ray Train."""
    try:
        yield
    except RaypipeError:
        raise
    except Exception as error:
        if (ours := _find_own(error)) is not None:
            raise ours from error
        raise


def _find_own(error: BaseException) -> RaypipeError | None:
    """Return the first RaypipeError among an exception and its causes."""
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
    """Raise UsageError if the running Ray can never provide the requested CPUs and GPUs.

    A cluster that was joined, or has no CPUs yet, is not checked: it may grow on demand.
    """
    if joins_cluster(config) or ray.cluster_resources().get("CPU", 0) == 0:
        return
    have = ray.cluster_resources()
    for name, wanted in ("CPU", cpus), ("GPU", gpus):
        if wanted > have.get(name, 0) + 1e-6:
            raise UsageError(
                f"{what} needs {wanted:g} {name}s and Ray has {have.get(name, 0):g}: lower "
                "train.num_workers or train.cpus_per_worker, or raise ray.num_cpus"
            )


def tell_device(what: str, use_gpu: bool, asked: bool | None) -> None:
    """Log the device that the work runs on and, unless it is configured, how to change it.

    `asked` is the setting; if it is None, the decision depends on the GPUs that Ray has now. A
    cluster that starts GPU nodes on demand has none at first.
    """
    if asked is not None:
        reason = f"train.use_gpu={str(asked).lower()}"
    elif use_gpu:
        reason = "Ray has GPUs; set train.use_gpu=false to use CPUs"
    else:
        reason = (
            f"Ray has {ray.cluster_resources().get('GPU', 0):g} GPUs now; "
            "set train.use_gpu=true on a cluster that starts GPU nodes on demand"
        )
    log.info("%s: on %s (%s)", what, "GPUs" if use_gpu else "CPUs", reason)


def require_dashboard() -> None:
    """Raise UsageError if Ray runs without its dashboard, whose State API Ray Tune needs."""
    try:
        list_nodes(address=ray.get_runtime_context().gcs_address, limit=1, timeout=10)
    except Exception as error:
        raise UsageError(
            f"Ray runs without its dashboard, which tuning needs ({error}): start it with "
            "include_dashboard=True and with ray[default] installed, or let raypipe start it"
        ) from error


def quiet_ray_data() -> None:
    """Silence Ray's progress output, and let Ray Data deliver each answer as it is made."""
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
