"""Stores on S3, spoken to over the network that it has: a server of moto on this machine."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from probe.runs.store import mirror


@contextmanager
def s3_server() -> Iterator[tuple[str, int]]:
    """Start a server; gives its host and port."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = ThreadedMotoServer("127.0.0.1", port=0)
    made.start()
    yield made.get_host_and_port()
    made.stop()


@contextmanager
def empty_bucket(address: str, cache: Path) -> Iterator[None]:
    """Make an empty bucket `s3://bucket` on a server, with credentials for it in the environment, and a cache."""
    import boto3
    import s3fs

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "user",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "PROBE_CACHE": str(cache),
        }.items():
            patch.setenv(name, value)
        held = boto3.resource("s3").Bucket("bucket")
        held.create()
        mirror.mirror.cache_clear()
        s3fs.S3FileSystem.clear_instance_cache()
        yield
        held.objects.delete()
        s3fs.S3FileSystem.clear_instance_cache()
