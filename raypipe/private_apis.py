"""Hold everything that raypipe uses of Ray beyond its documented public API.

These parts may change with any version of Ray. `tests/unit/test_private_apis.py` fails if the
installed version no longer has them, or if they no longer do what is said here. Ray is imported
inside the functions, since importing raypipe must stay cheap.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

API_SERVER_VARIABLE = "RAY_API_SERVER_ADDRESS"
"""Environment variable with the address of the dashboard.

Ray documents it for its command line only. Its processes read it, too, when they look for the State
API, and no option of `ray.init` gives them the address.
"""

ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
}
"""Environment variables of Ray for which its Python API has no option.

The first leaves CUDA_VISIBLE_DEVICES unchanged in tasks that request no GPU; without it Ray warns
that this will become the default. The second is the time, in s, between two polls of the training
workers: with the default of 2 s each report of an epoch may wait that long.
"""


def stop_ray_data_executions() -> None:
    """Stop executions of Ray Data that continue after an exception, including Ctrl-C.

    Their threads outlive the iteration that they serve, and would start another Ray once this one
    is shut down. Ray Data has no public call that ends an execution whose iterator was abandoned.
    """
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    for thread in threading.enumerate():
        if isinstance(thread, StreamingExecutor):
            thread.shutdown(force=True)


def training_filesystem() -> FileSystem:
    """Return the filesystem to which the running training of Ray Train writes its checkpoints.

    A checkpoint that is there already is registered as a path on this filesystem. Ray Train hands
    it out through `TrainContext.get_storage` only, a developer API that may change.
    """
    import ray.train

    return ray.train.get_context().get_storage().storage_filesystem


def object_store_bytes(address: str, port: int) -> int:
    """Return the memory that the object store of a node uses now, in bytes.

    `address` and `port` are those of its node manager in `ray.nodes()`. The public metrics of Ray
    are updated every few seconds only.
    """
    from ray._private.internal_api import node_stats

    return int(node_stats(address, port, False).store_stats.object_store_bytes_used)
