"""The installed Ray still has the parts beyond its public API that raypipe uses.

Ray itself is not started here. Where that is needed to see what a part does, the test named in the
comment starts it.
"""

from __future__ import annotations

import ast
import inspect
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
from pyarrow.fs import LocalFileSystem
from ray._private import internal_api, ray_constants
from ray._private.accelerators import accelerator
from ray.core.generated import node_manager_pb2
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.train import CheckpointUploadMode, TrainContext
from ray.train.v2._internal import constants
from ray.train.v2._internal.execution.storage import StorageContext

import raypipe
from raypipe import private_apis


def test_environment_variables_have_these_names() -> None:
    assert {
        accelerator.RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO_ENV_VAR,
        constants.HEALTH_CHECK_INTERVAL_S_ENV_VAR,
    } == set(private_apis.ENVIRONMENT)
    interval = float(private_apis.ENVIRONMENT[constants.HEALTH_CHECK_INTERVAL_S_ENV_VAR])
    assert interval < constants.DEFAULT_HEALTH_CHECK_INTERVAL_S
    name = ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE
    assert name == private_apis.API_SERVER_VARIABLE


def test_executions_of_ray_data_are_threads_that_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """tests/pipeline/test_ingest_killed.py interrupts real ones."""
    assert issubclass(StreamingExecutor, threading.Thread)
    assert inspect.signature(StreamingExecutor.shutdown).parameters["force"].annotation is bool
    forced = []
    monkeypatch.setattr(StreamingExecutor, "shutdown", lambda self, force: forced.append(force))
    over = threading.Event()
    execution = StreamingExecutor.__new__(StreamingExecutor)
    threading.Thread.__init__(execution, target=over.wait)
    monkeypatch.setattr(StreamingExecutor, "run", threading.Thread.run)
    execution.start()
    private_apis.stop_ray_data_executions()
    over.set()
    execution.join()
    assert forced == [True]
    private_apis.stop_ray_data_executions()
    assert forced == [True], "an execution that has ended is left alone"


def test_a_training_hands_out_its_filesystem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/pipeline/test_train_runs.py writes checkpoints there."""
    assert "get_storage" in TrainContext.__abstractmethods__
    files = LocalFileSystem()
    storage = StorageContext(tmp_path, "experiment", files)
    context = SimpleNamespace(get_storage=lambda: storage)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    assert private_apis.training_filesystem() is files
    assert CheckpointUploadMode.ASYNC


def test_a_node_states_the_bytes_of_its_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m benchmarks.scale` asks a real one."""
    names = list(inspect.signature(internal_api.node_stats).parameters)
    assert names == ["node_manager_address", "node_manager_port", "include_memory_info"]
    reply = node_manager_pb2.GetNodeStatsReply()
    reply.store_stats.object_store_bytes_used = 7
    monkeypatch.setattr(internal_api, "node_stats", lambda *node: reply)
    assert private_apis.object_store_bytes("10.0.0.1", 6380) == 7


def _private_modules(file: Path) -> set[str]:
    """Modules that a file imports and that a library keeps to itself: a name begins with `_`."""
    modules = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    return {
        module
        for module in modules
        if not module.startswith(("raypipe.", "__future__"))
        and any(name.startswith("_") or name == "v2" for name in module.split("."))
    }


def test_no_other_file_uses_private_modules() -> None:
    package = Path(raypipe.__file__).parent
    found = {file: _private_modules(file) for file in package.rglob("*.py")}
    assert [file.name for file, modules in found.items() if modules] == ["private_apis.py"]


def test_no_file_uses_private_attributes_of_requests() -> None:
    names = {name for name in vars(__import__("requests").Response()) if name.startswith("_")}
    assert "_content" in names
    for file in Path(raypipe.__file__).parent.rglob("*.py"):
        used = {
            node.attr
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Attribute)
            and not (isinstance(node.value, ast.Name) and node.value.id == "self")
        }
        assert not used & names, file.name
