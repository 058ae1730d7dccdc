"""Open file systems by URI, and provide S3 operations that pyarrow lacks.

These are conditional writes and uploads of whole files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import boto3
import pyarrow.fs as pafs
from boto3.exceptions import Boto3Error
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from raypipe.errors import UsageError
from raypipe.redaction import redact, redact_text

S3_ERRORS = (BotoCoreError, ClientError, Boto3Error)
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict"}
_LOST_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:/(?!/)")


def open_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of `uri` (a local path or s3://...), and the path in it.

    Credentials and region for S3 come from the usual AWS places, the endpoint from
    `AWS_ENDPOINT_URL` if it is set. Raises UsageError for other schemes.
    """
    if uri.startswith("s3://"):
        if "@" in uri.removeprefix("s3://").partition("/")[0]:
            raise UsageError(
                f"{redact(uri)}: a URI must not contain credentials; provide them in the usual AWS "
                "places (environment, profile, role)"
            )
        wanted = {"endpoint_override": _endpoint(), "region": _region()}
        options: dict[str, Any] = {name: value for name, value in wanted.items() if value}
        return pafs.S3FileSystem(**options), uri.removeprefix("s3://").rstrip("/")
    if _LOST_SLASH.match(uri):
        raise UsageError(f"{redact_text(uri)}: an address has two slashes after its colon")
    if "://" in uri and not uri.startswith("file://"):
        raise UsageError(f"{redact(uri)}: only local paths and s3:// are supported")
    return pafs.LocalFileSystem(), str(Path(uri.removeprefix("file://")).expanduser().absolute())


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL")


def _region() -> str | None:
    return os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION"))


def s3_client() -> Any:
    """Return a client with the endpoint and region of `open_filesystem`."""
    session = boto3.Session(region_name=_region())
    settings = Config(
        s3={"addressing_style": "path" if _endpoint() else "auto"},
        signature_version=None if session.get_credentials() else UNSIGNED,
        retries={"mode": "standard", "max_attempts": 5},
    )
    return session.client("s3", config=settings)


def put_if_absent(path: str, data: bytes) -> bool:
    """Write an object "bucket/key" unless it exists; returns whether it was written.

    Raises one of S3_ERRORS if the store fails.
    """
    bucket, _, key = path.partition("/")
    try:
        s3_client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        if error.response["Error"]["Code"] in _TAKEN:
            return False
        raise
    return True


def upload(file: str, path: str) -> None:
    """Upload a local file as object "bucket/key"; a failed upload leaves the old object in place.

    Raises one of S3_ERRORS if the store fails.
    """
    bucket, _, key = path.partition("/")
    s3_client().upload_file(file, bucket, key)
