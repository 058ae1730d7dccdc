"""The Ray cluster a verb runs on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from raypipe.config import RayConfig

log = logging.getLogger(__name__)

_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
}


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Have Ray running inside the block.

    Joins the cluster of `config.address` or RAY_ADDRESS, else starts a local one and shuts it down
    at the end. A Ray that runs already in this process is used and left running.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    ray.init(
        address=address,
        num_cpus=config.num_cpus if local else None,
        include_dashboard=False if local else None,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    quiet_ray_data()
    log.info("ray: %s, %s", "local cluster" if local else address, _resources())
    try:
        yield
    finally:
        ray.shutdown()


def quiet_ray_data() -> None:
    """Leave progress to raypipe's own lines."""
    for name in "ray.data", "ray.train":
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(
                handler, logging.FileHandler
            ):
                handler.setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _resources() -> str:
    total = ray.cluster_resources()
    return f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
