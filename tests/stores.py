"""Object stores for tests: memory, S3 (moto's server) and Azure (Azurite, where it is installed)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

fsspec = pytest.importorskip("fsspec")

S3_KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
}
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, the same for everybody."""


@pytest.fixture
def memory():
    store = fsspec.filesystem("memory")
    yield SimpleNamespace(url="memory://clips", store=store, uploads=list)
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@contextmanager
def run_s3() -> Iterator[dict[str, str]]:
    """A server of S3 on this machine, as the environment that leads to it."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {**S3_KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    server.stop()


@pytest.fixture(scope="module")
def s3_server():
    with run_s3() as environment:
        yield environment


@pytest.fixture
def s3(s3_server, monkeypatch):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    store = fsspec.filesystem("s3", skip_instance_cache=True)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"clips-{os.urandom(4).hex()}"
    store.mkdir(bucket)
    yield SimpleNamespace(url=f"s3://{bucket}", store=store, uploads=lambda: store.list_multipart_uploads(bucket))
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def azurite(tmp_path_factory):
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azurite is not installed: npm install -g azurite")
    pytest.importorskip("adlfs")
    command = [program, "--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort", "0", "--skipApiVersionCheck"]
    command += ["--silent", "--disableTelemetry"]
    with subprocess.Popen(command, cwd=tmp_path_factory.mktemp("azurite"), stdout=subprocess.PIPE, text=True) as server:
        for line in server.stdout:
            if found := re.search(r"listens? (?:at|on) (http://127\.0\.0\.1:\d+)", line):
                break
        yield found[1]
        server.kill()


@pytest.fixture
def azure(azurite, monkeypatch):
    import adlfs

    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURITE_KEY};"
        f"BlobEndpoint={azurite}/devstoreaccount1;",
    )
    adlfs.AzureBlobFileSystem.clear_instance_cache()
    store = fsspec.filesystem("az")
    container = f"clips-{os.urandom(4).hex()}"
    store.mkdir(container)
    yield SimpleNamespace(url=f"az://{container}", store=store, uploads=list)
    adlfs.AzureBlobFileSystem.clear_instance_cache()


@pytest.fixture(params=["memory", "s3", "azure"])
def place(request):
    return request.getfixturevalue(request.param)


def read(place, name):
    place.store.invalidate_cache()
    return place.store.cat_file(f"{place.url}/{name}")


def names(place):
    place.store.invalidate_cache()
    return sorted(path.rpartition("/")[2] for path in place.store.find(place.url))
