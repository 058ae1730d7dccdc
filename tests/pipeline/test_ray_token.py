"""A Ray that raypipe starts asks for a token, which only its owner can read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

JOIN = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print('joined')"

pytestmark = pytest.mark.usefixtures("local_ray")


def test_the_token_is_for_its_owner_alone(isolated_home: Path) -> None:
    token = isolated_home / ".ray" / "auth_token"
    assert len(token.read_text()) == 64
    assert token.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
@pytest.mark.parametrize("stranger", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "a guess"}])
def test_no_one_joins_without_it(stranger: dict[str, str], tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "HOME": str(tmp_path), **stranger}
    run = subprocess.run(
        [sys.executable, "-c", JOIN, address],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "joined" not in run.stdout
    assert "AuthenticationError" in run.stderr
