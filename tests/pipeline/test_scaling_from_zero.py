"""On a cluster that starts with nothing, work is asked for, waits, and spreads to what comes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.cluster_utils import Cluster

import raypipe
from raypipe.config import EmbedConfig
from raypipe.embedding.embed import _pool
from raypipe.store.workspace import Workspace
from tests.alone import ingest_alone

MODEL = str(Path(__file__).resolve().parents[1] / "data" / "bundle-format-2")
LONGEST_S = 120.0


@pytest.mark.usefixtures("local_ray")
def test_pools_fit_the_machine_or_grow_with_the_cluster() -> None:
    here = _pool(EmbedConfig(), parts=100, joined=False)
    assert (here.min_size, here.max_size) == (2, 2)
    there = _pool(EmbedConfig(), parts=100, joined=True)
    assert (there.min_size, there.initial_size, there.max_size) == (1, 2, 100)
    few = _pool(EmbedConfig(), parts=1, joined=True)
    assert (few.min_size, few.initial_size, few.max_size) == (1, 1, 1)
    bounded = _pool(EmbedConfig(actors=5), parts=100, joined=True)
    assert (bounded.min_size, bounded.max_size) == (1, 5)
    without_gpus = _pool(EmbedConfig(gpus_per_actor=1), parts=100, joined=True)
    assert (without_gpus.initial_size, without_gpus.max_size) == (1, 100)


@pytest.fixture
def cluster(isolated_home: Path) -> Iterator[Cluster]:
    """A head without CPUs; nodes are the test's to add."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    cluster.shutdown()


def asked_for(cluster: Cluster) -> list[dict[str, float]]:
    """What tasks and actors wait for, as an autoscaler is told."""
    demands = get_cluster_status(cluster.address).resource_demands.ray_task_actor_demand
    return [dict(each.bundle) for demand in demands for each in demand.bundles_by_count]


def busy_nodes(cluster: Cluster) -> int:
    status = get_cluster_status(cluster.address)
    usage = [node.resource_usage.usage for node in status.active_nodes + status.idle_nodes]
    return sum(
        any(each.resource_name == "CPU" and each.used > 0 for each in node) for node in usage
    )


def encoders(cluster: Cluster) -> list[psutil.Process]:
    """Processes on the nodes that encode."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes]
    below = [each for pid in raylets for each in psutil.Process(pid).children(recursive=True)]
    return [each for each in below if "MapBatches(embed)" in " ".join(each.cmdline())]


def wait_for(process: subprocess.Popen[bytes], what: Callable[[], bool]) -> None:
    """Wait until `what()` is true; fail where the command ends first or it takes too long."""
    end = time.monotonic() + LONGEST_S
    while not what():
        assert process.poll() is None, "the command ended before that"
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.3)


@pytest.mark.slow
def test_embedding_waits_for_nodes_and_spreads(
    survey: Path, cluster: Cluster, tmp_path: Path
) -> None:
    workspace = tmp_path / "w"
    config = {"discover": {"part_rows": 2}}
    raypipe.discover(workspace, source=str(survey), config=config)
    ingest_alone(Workspace(workspace), "sim")
    slowly = {"embed": {"batch_size": 1, "refine_steps": 1000}}
    work = f"import raypipe; raypipe.embed({str(workspace)!r}, model={MODEL!r}, config={slowly})"
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(raypipe.__file__).parents[1])
    process = subprocess.Popen([sys.executable, "-c", work], env=environment)
    try:
        wait_for(process, lambda: {"CPU": 1.0} in asked_for(cluster))
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        wait_for(process, lambda: any((workspace / "catalog").rglob("*.parquet")))
        first, *_ = encoders(cluster)
        first.suspend()
        wait_for(process, lambda: busy_nodes(cluster) == 2)
        first.resume()
    finally:
        process.kill()
        process.wait()
