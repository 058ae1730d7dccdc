from __future__ import annotations

from pathlib import Path

import pytest

from raypipe.config_toml import load_config
from raypipe.errors import UsageError
from raypipe.pipeline.run import _simulated_survey, run
from raypipe.pipeline.status import status
from raypipe.store.workspace import Workspace


def test_a_survey_is_simulated_once_for_the_same_settings(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    def times(seed: int) -> dict[str, int]:
        settings = load_config(settings={"simulate": {"detections": 5, "seed": seed}})
        folder = Path(_simulated_survey(workspace, settings))
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("*_pha3.fits.gz")}

    first = times(seed=1)
    assert len(first) == 5
    assert times(seed=1) == first
    assert times(seed=2) != first


def test_a_survey_needs_a_local_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with pytest.raises(UsageError, match="local --workspace"):
        _simulated_survey(Workspace("s3://bucket/prefix"), load_config())


@pytest.mark.parametrize(
    ("given", "named"),
    [({"model": "folded-absent"}, "folded-absent"), ({"labels": "absent.csv"}, "absent.csv")],
)
def test_what_a_run_will_need_is_looked_for_first(
    tmp_path: Path, given: dict[str, str], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        run(tmp_path / "workspace", source="simulated", **given)
    assert not (tmp_path / "workspace").exists()


def test_status_of_a_misspelled_workspace_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for name in "absent", "notes":
        with pytest.raises(UsageError, match="no raypipe workspace there"):
            status(tmp_path / name)
