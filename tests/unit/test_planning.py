"""What plan makes of a measurement and of cluster.yaml, and how it draws a sample."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import yaml

from raypipe.config import Config, IngestConfig
from raypipe.config_toml import load_config
from raypipe.discovery.manifest import write_manifest
from raypipe.errors import UsageError
from raypipe.planning.cluster_file import Cluster, read_cluster
from raypipe.planning.measurement import ChipChoice, Measurement
from raypipe.planning.plan_text import assumptions, not_included, plan_lines
from raypipe.planning.prediction import predict, price
from raypipe.planning.sample import draw_sample
from raypipe.store.workspace import Workspace

CLUSTER_FILE = Path(__file__).resolve().parents[2] / "cluster.yaml"

MEASURED = Measurement(
    detections=200,
    spectra=190,
    reject_reasons={"[SPECTRUM] no counts": 10},
    bytes_read=200 * (40_000 + 1_000_000),
    requests=600,
    retries=0,
    packaged=0,
    packages=0,
    rmfs=200,
    rmf_bytes=200 * 1_000_000,
    rmf_requests=200,
    distinct_rmfs=190,
    rmfs_seen_once=190,
    choice=ChipChoice(),
    cpu_s=0.005,
    connected_s=0.16,
    connections=8,
    embed_cpu_s=None,
    start_cpu_s=20.0,
    spectrum_bytes=3000.0,
    part_bytes=20_000.0,
    stored_rmf_bytes=400_000.0,
    task_bytes=400_000_000,
    ray_bytes=700_000_000,
    tasks=2,
    slots=2,
)
NODES = Cluster(
    path="cluster.yaml",
    node_type="cpu",
    cpus=16,
    memory_gib=32,
    nodes=5,
    idle_minutes=6,
    usd_per_hour=0.7,
    head_usd_per_hour=0.1,
    prices_as_of="2026-06-17",
)


def _launcher(**changes: Any) -> dict[str, Any]:
    return yaml.safe_load(CLUSTER_FILE.read_text()) | changes


def _write(folder: Path, launcher: object) -> Path:
    path = folder / "nodes.yaml"
    path.write_text(yaml.safe_dump(launcher))
    return path


def test_the_nodes_of_the_cluster_file() -> None:
    cluster = read_cluster(CLUSTER_FILE)
    assert (cluster.node_type, cluster.cpus, cluster.nodes) == ("cpu", 16, 5)
    assert cluster.head_usd_per_hour < cluster.usd_per_hour


def test_the_cheapest_cpu_nodes_are_planned_for(tmp_path: Path) -> None:
    launcher = _launcher()
    launcher["available_node_types"]["small"] = {"resources": {"CPU": 2}, "node_config": {}}
    prices = launcher["metadata"]["raypipe"]["node_types"]
    prices["small"] = {"usd_per_hour": 0.01, "memory_gib": 4}
    cluster = read_cluster(_write(tmp_path, launcher))
    assert (cluster.node_type, cluster.cpus, cluster.nodes) == ("small", 2, launcher["max_workers"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file; give --cluster"),
        ("a: [", "not YAML"),
        ("[]", "see cluster.yaml"),
        ("head_node_type: head", "available_node_types: Field required"),
    ],
)
def test_what_is_no_cluster_file_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "nodes.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=said) as refused:
        read_cluster(path)
    assert str(path) in str(refused.value)


def test_clusters_without_cpu_nodes_or_prices_are_refused(tmp_path: Path) -> None:
    launcher = _launcher()
    del launcher["available_node_types"]["cpu"]
    with pytest.raises(UsageError, match=r"no node type can ingest; .* max_workers above 0"):
        read_cluster(_write(tmp_path, launcher))
    launcher = _launcher()
    del launcher["metadata"]["raypipe"]["node_types"]["cpu"]
    with pytest.raises(UsageError, match=r"add metadata.raypipe.node_types.cpu"):
        read_cluster(_write(tmp_path, launcher))
    launcher["metadata"]["raypipe"]["node_types"]["cpu"] = {"usd_per_hour": -1, "memory_gib": 1}
    with pytest.raises(UsageError, match=r"usd_per_hour: .* greater than or equal to 0"):
        read_cluster(_write(tmp_path, launcher))


def test_everything_grows_with_the_detections() -> None:
    predicted = predict(MEASURED, 1_300_000, 4096, IngestConfig())
    assert predicted.bytes_read == 1_300_000 * 1_040_000
    assert predicted.rmf_bytes_read == 1_300_000 * 1_000_000
    assert predicted.requests == 3 * 1_300_000
    assert (predicted.spectra, predicted.rejects) == (1_235_000, 65_000)
    assert predicted.ingest_core_hours == pytest.approx((1_300_000 * 0.005 + 20) / 3600)
    assert predicted.memory_bytes == 1_500_000_000
    assert predicted.embed_core_hours is None


def test_rmfs_are_stored_once_each() -> None:
    every_one = predict(MEASURED, 2000, 8, IngestConfig())
    assert every_one.rmfs_stored == every_one.spectra == 1900
    few = replace(MEASURED, distinct_rmfs=9, rmfs_seen_once=0)
    shared = predict(few, 2000, 8, IngestConfig())
    assert shared.rmfs_stored == 9
    assert shared.bytes_written == 1900 * 3000 + 8 * 20_000 + 9 * 400_000


def test_each_part_asks_for_its_own_packages() -> None:
    packed = replace(MEASURED, requests=6, rmf_requests=0, packaged=200, packages=6)
    predicted = predict(packed, 10_000, 32, IngestConfig(package_batch=50))
    assert predicted.requests == 32 * 7


def test_a_few_candidates_are_fetched_for_each_zone() -> None:
    zones = ChipChoice(
        looked_at=200,
        look_bytes=200 * 20_000,
        look_requests=200,
        zones=30,
        zones_seen_once=1,
        rmfs=40,
        rmf_bytes=40_000_000,
        rmf_requests=40,
        cpu_s=1.0,
    )
    own = {"bytes_read": 200 * 40_000 + 2e6, "requests": 402, "rmfs": 2, "rmf_bytes": 2e6}
    own |= {"rmf_requests": 2, "distinct_rmfs": 1, "rmfs_seen_once": 0}
    measured = replace(MEASURED, choice=zones, **own)  # type: ignore[arg-type]
    predicted = predict(measured, 100_000, 256, IngestConfig(chip_sample=1000))
    zones_found = 30 + 800 // 200
    fetched = 3 * zones_found
    assert predicted.rmfs_fetched == 1000 + fetched
    assert predicted.rmf_bytes_read == (1000 + fetched) * 1_000_000
    assert predicted.bytes_read == 100_000 * 40_000 + 1000 * 20_000 + (1000 + fetched) * 1_000_000
    assert predicted.requests == 200_000 + 1000 + 1000 + fetched
    assert predicted.rmfs_stored == zones_found + 1


def _price(measured: Measurement, config: Config, cluster: Cluster = NODES) -> Any:
    predicted = predict(measured, 100_000, 4096, config.ingest)
    return price(measured, predicted, 4096, cluster, config)


def test_the_slower_of_processors_and_network_sets_the_pace() -> None:
    network = _price(MEASURED, Config())
    assert network.limit == "network"
    assert network.hours == pytest.approx(100_000 * 0.16 / 8 / 80 / 3600)
    assert network.connections == 5 * 16 * 8
    busy = _price(replace(MEASURED, cpu_s=0.5), Config())
    assert (busy.limit, busy.hours) == ("cpu", pytest.approx(100_000 * 0.5 / 80 / 3600))
    slow = _price(MEASURED, load_config(overrides=["plan.source_mb_per_s=100"]))
    assert (slow.limit, slow.mb_per_s) == ("source", pytest.approx(100))


def test_one_task_chooses_the_rmfs_of_zones_before_all_others() -> None:
    zones = ChipChoice(looked_at=200, zones=30, rmfs=30, cpu_s=1, connected_s=80)
    without = _price(MEASURED, Config()).hours
    chosen = _price(replace(MEASURED, choice=zones), Config())
    assert chosen.hours == pytest.approx(without + 1024 / 200 * 80 / 8 / 3600)


def test_money_is_for_nodes_and_head_from_start_to_idle() -> None:
    cost = _price(replace(MEASURED, cpu_s=36.0, embed_cpu_s=36.0), Config())
    assert cost.hours == pytest.approx(2 * 100_000 * 36 / 3600 / 80)
    assert cost.node_hours == pytest.approx(5 * (cost.hours + 0.1))
    assert cost.usd == pytest.approx((5 * 0.7 + 0.1) * (cost.hours + 0.1))


def test_tasks_with_more_cpus_each_fit_where_one_a_cpu_does_not() -> None:
    assert _price(MEASURED, Config()).fits_in_memory
    small = replace(NODES, memory_gib=4)
    assert not _price(MEASURED, Config(), small).fits_in_memory
    wide = load_config(overrides=["ingest.cpus_per_task=4"])
    assert _price(MEASURED, wide, small).fits_in_memory


def test_the_table_tells_what_matters() -> None:
    config = Config()
    predicted = predict(MEASURED, 100_000, 4096, config.ingest)
    cost = price(MEASURED, predicted, 4096, NODES, config)
    answer = {
        "release": "csc2.1",
        "measured": asdict(MEASURED),
        "prediction": vars(predicted),
        "cluster": vars(NODES),
        "cost": vars(cost),
        "not_included": not_included(predicted, cost, config),
        "assumptions": assumptions(MEASURED, predicted, NODES, cost, config),
    }
    text = "\n".join(plan_lines(answer))
    for said in "no counts", "104 GB", "300,000", "as of 2026-06-17", "640", f"${cost.usd:.2f}":
        assert said in text
    for line in (
        r"pace set by +the connections to the source",
        r"time, at least +25 s with all nodes busy",
        r"without start-up +a new node boots",
        r"without embedding +measured if you give --model",
        r"without training +a sample cannot predict it",
        r"node hours paid +0.535: each of 5 nodes works 25 s and then idles 6 min before",
        r"cost, at least +\$",
    ):
        assert re.search(rf"(?m)^ +{line}", text), line


def test_a_plan_states_what_it_leaves_out() -> None:
    """Files on a local disk take no connections: the plan says how to include a network."""
    local = replace(MEASURED, connected_s=0.0, embed_cpu_s=0.01)

    def left_out(measured: Measurement, *overrides: str) -> dict[str, str]:
        config = load_config(overrides=overrides)
        predicted = predict(measured, 1_300_000, 4096, config.ingest)
        return not_included(predicted, price(measured, predicted, 4096, NODES, config), config)

    assert list(left_out(local)) == ["network", "start-up", "training"]
    assert "1.35 TB at 100 MB/s take 3.76 h" in left_out(local)["network"]
    assert "plan.source_mb_per_s" in left_out(local)["network"]
    assert "network" not in left_out(local, "plan.source_mb_per_s=50")
    assert list(left_out(MEASURED)) == ["start-up", "embedding", "training"]


def _manifest(folder: Path, rows: int, part_rows: int) -> Workspace:
    workspace = Workspace(folder)
    table = pd.DataFrame({"detection_id": [f"sim:{i}.0.1" for i in range(rows)]})
    for name in "pha_uri", "arf_uri", "rmf_uri", "background_uri":
        table[name] = table["detection_id"]
    rows_table = pa.Table.from_pandas(table, preserve_index=False)
    write_manifest(workspace, "sim", [rows_table], part_rows, "nowhere")
    return workspace


@pytest.mark.parametrize("part_rows", [1, 7, 1000])
def test_a_sample_is_drawn_by_its_seed_without_repetition(tmp_path: Path, part_rows: int) -> None:
    workspace = _manifest(tmp_path, 100, part_rows)

    def draw(size: int, seed: int) -> list[str]:
        return draw_sample(workspace, "sim", size, seed)["detection_id"].to_pylist()

    assert draw(40, 1) == draw(40, 1)
    assert draw(40, 1) != draw(40, 2)
    assert len(set(draw(40, 1))) == len(draw(40, 1))
    assert set(draw(1000, 3)) == {f"sim:{i}.0.1" for i in range(100)}


def test_every_detection_is_as_likely_to_be_drawn(tmp_path: Path) -> None:
    workspace = _manifest(tmp_path, 40, 10)
    drawn = [
        number
        for seed in range(100)
        for number in draw_sample(workspace, "sim", 10, seed)["detection_id"].to_pylist()
    ]
    times = pd.Series(drawn).value_counts()
    assert len(times) == 40
    assert ((times - 25) ** 2 / (25 * 0.75)).sum() < 80  # chi-square of 39: 80 has p = 1e-4
