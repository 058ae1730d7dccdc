"""Provide S3 operations that pyarrow lacks: conditional writes and all-or-nothing uploads."""

from __future__ import annotations

import os
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

S3_ERRORS = (BotoCoreError, ClientError, Boto3Error)
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict"}


def s3_client() -> Any:
    """Return a client with the settings of `raypipe.store.workspace.open_filesystem`."""
    session = boto3.Session(
        region_name=os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION"))
    )
    settings = Config(
        s3={"addressing_style": "path" if os.environ.get("AWS_ENDPOINT_URL") else "auto"},
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
