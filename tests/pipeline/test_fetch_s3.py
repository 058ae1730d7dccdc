from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from raypipe.config import IngestConfig
from raypipe.discovery.discover import discover
from raypipe.http.errors import FetchError
from raypipe.ingestion import fetch
from raypipe.ingestion.fetch import Fetcher
from raypipe.ingestion.part import ingest_part
from raypipe.store.workspace import Workspace


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fetch._s3.cache_clear()
    boto3.client("s3").create_bucket(Bucket="survey")
    yield "survey"
    fetch._s3.cache_clear()
    server.stop()


def test_a_bucket_is_ingested_as_a_folder_is(survey: Path, bucket: str, tmp_path: Path) -> None:
    client = boto3.client("s3")
    names = [path.name for path in sorted(survey.glob("acisf*"))[:30]]
    for name in [*names, "survey.json"]:
        client.upload_file(str(survey / name), bucket, f"a b/é?#/{name}")
    workspace = Workspace(tmp_path)
    discover(workspace, source=f"s3://{bucket}/a b/é?#")
    config = IngestConfig(cache_dir=str(tmp_path / "cache"))
    outcome = ingest_part(workspace, "sim", 0, config)
    assert (outcome.spectra, outcome.rejects, outcome.requests) == (10, 0, 30)
    workspace.delete("spectra/sim/part-00000.parquet")
    assert ingest_part(workspace, "sim", 0, config).requests == 0


def test_what_is_not_in_the_bucket(bucket: str) -> None:
    fetcher = Fetcher(IngestConfig())
    for uri in f"s3://{bucket}/none.fits", "s3://nowhere/none.fits":
        with pytest.raises(FetchError, match="no such file") as caught:
            fetcher.fetch(uri)
        assert not caught.value.retryable
