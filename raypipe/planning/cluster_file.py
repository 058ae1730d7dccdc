"""Read cluster.yaml, Ray's launcher file: the nodes of a cluster and their prices."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raypipe.errors import UsageError


class NodePrice(BaseModel):
    """Hold the price and memory of a node type, from `metadata.raypipe.node_types`."""

    model_config = ConfigDict(extra="forbid")

    usd_per_hour: float = Field(ge=0, description="price of a node, US dollars per hour")
    memory_gib: float = Field(gt=0, description="memory of a node, GiB")


class PriceList(BaseModel):
    """Hold `metadata.raypipe` of cluster.yaml, for which Ray's own schema has no place."""

    model_config = ConfigDict(extra="forbid")

    prices_as_of: date = Field(description="day the prices were looked up")
    node_types: dict[str, NodePrice] = Field(
        description="prices by node type, named as in available_node_types"
    )


class _NodeType(BaseModel):
    resources: dict[str, float] = {}
    max_workers: int | None = None


class _Metadata(BaseModel):
    raypipe: PriceList


class _Launcher(BaseModel):
    """Hold the fields of Ray's launcher file that planning reads."""

    max_workers: int = 2
    idle_timeout_minutes: float = 5
    head_node_type: str
    available_node_types: dict[str, _NodeType]
    metadata: _Metadata


@dataclass(frozen=True)
class Cluster:
    """Describe the worker nodes that process a release on CPUs, the head node, and their prices.

    `cpus` and `memory_gib` describe one worker node; there are at most `nodes` of them. Prices are
    in US dollars per hour.
    """

    path: str
    node_type: str
    cpus: int
    memory_gib: float
    nodes: int
    idle_minutes: float
    usd_per_hour: float
    head_usd_per_hour: float
    prices_as_of: str


def read_cluster(path: str | Path) -> Cluster:
    """Read the nodes and prices of a launcher file.

    The work runs on a node type that is not the head's and has CPUs but no GPU; if several qualify,
    on the one with the lowest price per CPU. Raises UsageError if the file is missing, is no
    launcher file, has no such node type, or lists no price for it.
    """
    launcher = _read(path)
    prices = launcher.metadata.raypipe
    workers = {
        name: node
        for name, node in launcher.available_node_types.items()
        if name != launcher.head_node_type
        and node.resources.get("CPU", 0) >= 1
        and not node.resources.get("GPU", 0)
        and node.max_workers != 0
    }
    if not workers:
        raise UsageError(
            f"{path}: no node type can ingest; add one that is not the head's, with "
            "resources: {CPU: n}, no GPU, and max_workers above 0"
        )
    for name in *workers, launcher.head_node_type:
        if name not in prices.node_types:
            raise UsageError(
                f"{path}: node type {name} has no price; "
                f"add metadata.raypipe.node_types.{name}: {{usd_per_hour: ..., memory_gib: ...}}"
            )
    name = min(
        workers, key=lambda each: prices.node_types[each].usd_per_hour / _cpus(workers[each])
    )
    most = workers[name].max_workers
    return Cluster(
        path=str(path),
        node_type=name,
        cpus=_cpus(workers[name]),
        memory_gib=prices.node_types[name].memory_gib,
        nodes=launcher.max_workers if most is None else min(most, launcher.max_workers),
        idle_minutes=launcher.idle_timeout_minutes,
        usd_per_hour=prices.node_types[name].usd_per_hour,
        head_usd_per_hour=prices.node_types[launcher.head_node_type].usd_per_hour,
        prices_as_of=prices.prices_as_of.isoformat(),
    )


def _cpus(node: _NodeType) -> int:
    return int(node.resources["CPU"])


def _read(path: str | Path) -> _Launcher:
    try:
        content: Any = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError as error:
        raise UsageError(
            f"{path}: no such file; give --cluster FILE, a Ray launcher file with prices "
            "such as cluster.yaml in raypipe's repository"
        ) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    try:
        return _Launcher.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise UsageError(
            f"{path}: {where}: {first['msg']}; see cluster.yaml in raypipe's repository"
        ) from error
