from __future__ import annotations

from pathlib import Path

from raypipe.config import Config
from raypipe.store.run_record import record_run
from raypipe.store.workspace import Workspace


def _run_in(folder: Path) -> Path:
    with record_run(Workspace(folder), "ingest", Config()):
        pass
    return folder / ".gitignore"


def test_a_workspace_in_a_repository_ignores_itself(tmp_path: Path) -> None:
    assert not _run_in(tmp_path / "elsewhere").exists()
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    assert _run_in(tmp_path / "repository" / "data" / "w").read_text() == "*\n"


def test_what_a_repository_or_its_user_ignores_stays(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert not _run_in(tmp_path).exists(), "this would ignore the repository"
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / ".gitignore").write_text("mine\n")
    assert _run_in(tmp_path / "w").read_text() == "mine\n"
