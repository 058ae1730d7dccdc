"""cluster.yaml: taken by Ray's own validator, as bare at rest as it says, and without secrets."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import hash_runtime_conf, prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster.yaml"
Launcher = dict[str, Any]

SECRETS = [
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    r"(?i)aws_(secret_access_key|session_token)",
    r"(?i)\b(password|ssh_private_key|KeyName)\b\s*:",
    r"(?i)RAY_AUTH_TOKEN\b(?!_PATH)",
    r"\b[0-9a-f]{32,}\b",
]
"""What keys and tokens look like; Ray's own are 64 hexadecimal digits."""


def launcher() -> Launcher:
    loaded: Launcher = yaml.safe_load(CLUSTER.read_text())
    return loaded


def prepared(config: Launcher) -> Launcher:
    ready: Launcher = prepare_config(config)
    validate_config(ready)
    return ready


def workers(config: Launcher) -> list[Launcher]:
    types = config["available_node_types"]
    return [node for name, node in types.items() if name != config["head_node_type"]]


def test_ray_takes_it() -> None:
    config = prepared(launcher())
    assert set(config["available_node_types"]) == {"head", "cpu", "gpu"}


BREAKS: dict[str, Callable[[Launcher], object]] = {
    "max_worker": lambda c: c.update(max_worker=5),
    "'5'": lambda c: c.update(max_workers="5"),
    "idle_timeout": lambda c: c.update(idle_timeout_minutes="five"),
    "spot": lambda c: c["available_node_types"]["cpu"].update(spot=True),
    "many": lambda c: c["available_node_types"]["cpu"]["resources"].update(CPU="many"),
    "run_option": lambda c: c["docker"].update(run_option=[]),
}


@pytest.mark.parametrize("said", BREAKS)
def test_ray_refuses_broken_copies(said: str) -> None:
    config = launcher()
    BREAKS[said](config)
    with pytest.raises(ValidationError, match=said):
        prepared(config)


def test_the_head_has_no_work_and_workers_come_from_nothing() -> None:
    config = prepared(launcher())
    assert config["available_node_types"][config["head_node_type"]]["resources"]["CPU"] == 0
    assert 0 < config["idle_timeout_minutes"] <= 15
    for node in workers(config):
        assert node["min_workers"] == 0 < node["max_workers"] <= config["max_workers"]
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    gpus = [node["resources"].get("GPU", 0) for node in workers(config)]
    assert sorted(gpus) == [0, 1]


def test_every_node_has_a_role_of_its_kind_and_guards_its_credentials() -> None:
    config = launcher()
    head = config["available_node_types"][config["head_node_type"]]["node_config"]
    roles = {node["node_config"]["IamInstanceProfile"]["Name"] for node in workers(config)}
    assert roles == {"raypipe-node"}
    assert head["IamInstanceProfile"]["Name"] not in roles, "workers may not start instances"
    for node in config["available_node_types"].values():
        assert node["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


def test_nothing_in_it_looks_like_a_secret() -> None:
    text = CLUSTER.read_text()
    assert [found for pattern in SECRETS for found in re.findall(pattern, text)] == []


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN RSA PRIVATE KEY-----",
        "aws_secret_access_key = x",
        "  ssh_private_key: ~/.ssh/id",
        "--env RAY_AUTH_TOKEN=abc",
        "0123456789abcdef" * 4,
    ],
)
def test_secrets_would_be_seen(secret: str) -> None:
    assert any(re.search(pattern, secret) for pattern in SECRETS)


def test_ray_asks_everyone_for_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = prepared(launcher())
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    place = "/home/ray/.ray/auth_token"
    assert config["file_mounts"][place] == "~/.ray/auth_token"
    assert f"chmod 600 {place}" in config["setup_commands"]
    monkeypatch.setenv("HOME", str(tmp_path))
    token = {place: str(Path(config["file_mounts"][place]).expanduser())}
    with pytest.raises(FileNotFoundError):  # how `ray up` ends where there is no token
        hash_runtime_conf(token, None, config)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t")
    hash_runtime_conf(token, None, config)


def test_what_is_to_change_is_marked() -> None:
    """A mark is on the line of what changes, or in the comment above it."""
    lines = CLUSTER.read_text().splitlines()
    marked = set[str]()
    for number, line in enumerate(lines):
        if "CHANGE" in line and "marked CHANGE" not in line:
            below = [each for each in lines[number:] if not each.lstrip().startswith("#")]
            marked.add(below[0].split(":")[0].strip())
    assert marked == {"region", "IamInstanceProfile", "prices_as_of"}


def test_image_and_constraints_are_of_one_ray() -> None:
    config = launcher()
    pinned = re.search(r"(?m)^ray==(\S+)$", (ROOT / "constraints.txt").read_text())
    assert pinned
    images = {config["docker"]["image"]} | {
        node["docker"]["worker_image"] for node in workers(config) if "docker" in node
    }
    assert images == {f"rayproject/ray:{pinned[1]}-py311-{kind}" for kind in ("cpu", "gpu")}


def test_the_checkout_goes_to_nodes_without_what_is_private_or_large() -> None:
    config = launcher()
    assert config["file_mounts"]["/home/ray/raypipe"] == "."
    (install,) = (step for step in config["setup_commands"] if step.startswith("pip"))
    assert install == "pip install -c /home/ray/raypipe/constraints.txt /home/ray/raypipe"
    assert {".git", ".venv", ".env", "*.pem", "*.parquet"} <= set(config["rsync_exclude"])
