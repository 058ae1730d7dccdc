"""A Ray that raypipe starts asks for a token, which only its owner can read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

JOIN = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print('joined')"

pytestmark = pytest.mark.usefixtures("local_ray")


def test_the_token_is_for_its_owner_alone(isolated_home: Path) -> None:
    token = isolated_home / ".ray" / "auth_token"
    assert len(token.read_text()) == 64
    assert token.stat().st_mode & 0o777 == 0o600


STRANGERS = {"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "a guess"}


@pytest.mark.slow
def test_no_one_joins_without_it(tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", JOIN, address]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Each tries for 20 seconds; they do so at the same time.
    runs = [subprocess.Popen(command, env=environment | each, **pipes) for each in STRANGERS]
    try:
        for run in runs:
            said, complained = run.communicate(timeout=120)
            assert "joined" not in said
            assert "AuthenticationError" in complained
    finally:
        for run in runs:
            run.kill()
