"""Folders and object stores (``gs://…``, ``s3://…``) as keys and values, through TensorStore."""

from __future__ import annotations

import os
import re
from pathlib import Path

import tensorstore as ts

from mlm_jax.common.addresses import is_local
from mlm_jax.common.errors import UserError, one_line

FAILURES = (ValueError, OSError, RuntimeError)  # exceptions of TensorStore when storage fails
S3 = re.compile(r"s3://([^/]+)/?(.*)")
S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # variables of AWS's own tools, for S3-compatible stores


def open_keys(path: str | Path) -> ts.KvStore:
    """Open a folder or an address as keys and values, without reading a key.

    ``AWS_ENDPOINT_URL`` names an S3-compatible store other than Amazon's (MinIO, Ceph, R2); TensorStore alone ignores this
    variable. ``TENSORSTORE_GCS_HTTP_URL`` is TensorStore's own variable, for Google's API at another address.

    Raises:
      UserError: the address has an unknown scheme.
    """
    address = Path(path).absolute().as_uri() if is_local(path) else str(path)
    address = address.rstrip("/") + "/"
    try:
        return ts.KvStore.open(_s3(address) or address).result()
    except FAILURES as error:
        raise UserError(f"cannot open this address: {one_line(error)}", file=path) from error


def _s3(address: str) -> dict[str, str]:
    """Return the specification of an S3 address at the endpoint in the environment; {} if there is none or for other addresses."""
    found = S3.fullmatch(address)
    endpoint = next((os.environ[name] for name in S3_ENDPOINTS if os.environ.get(name)), "")
    if not found or not endpoint:
        return {}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return {"driver": "s3", "bucket": found[1], "path": found[2], "endpoint": endpoint, "aws_region": region}
