"""URLs, endpoints and secrets; no network. What the services themselves do is tested on S3 alone."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from ffr_dist.config import from_data
from ffr_dist.errors import ConfigError, InputError, StoreError
from ffr_dist.store import StoreConfig, open_store

FAST = {"timeout_s": 1.0, "connect_timeout_s": 1.0, "retry_s": 0.2}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    import os

    for name in os.environ:
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")):
            monkeypatch.delenv(name)


def backend(url, **config):
    return open_store(url, config=StoreConfig(**config))._backend


def test_a_url_is_a_bucket_and_a_folder_in_it():
    for url in ("s3://bucket/a/b", "s3://bucket/a/b/"):
        store = open_store(url)
        assert (store.url, store._prefix, store._backend.name) == ("s3://bucket/a/b", "a/b", "bucket")
    assert open_store("gs://bucket").url == "gs://bucket"
    assert open_store("az://container/x").below("y").url == "az://container/x/y"


def test_s3_takes_endpoint_and_region_of_the_config_before_those_of_the_environment(monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1/plain",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "SECRET",
    }.items():
        monkeypatch.setenv(name, value)

    def asked(**config):
        with pytest.raises(StoreError) as caught:
            open_store("s3://bucket/x", config=StoreConfig(**config, **FAST)).get("k")
        assert "SECRET" not in str(caught.value)
        return str(caught.value)

    assert "http://127.0.0.1:1/plain/bucket/x/k" in asked()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1/s3")
    assert "http://127.0.0.1:1/s3/bucket/x/k" in asked()
    assert "http://127.0.0.1:1/mine/bucket/x/k" in asked(endpoint="http://127.0.0.1:1/mine")
    assert backend("s3://bucket", region="ap-south-1")._build().config["region"] == "ap-south-1"


def test_google_and_azure_map_their_settings(monkeypatch):
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    google = backend("gs://bucket/x", endpoint="http://127.0.0.1:1")._build().config
    assert (google["bucket"], google["base_url"]) == ("bucket", "http://127.0.0.1:1")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    azure = backend("az://container/x", endpoint="https://mine.example/account")._build().config
    assert (azure["container_name"], azure["endpoint"]) == ("container", "https://mine.example/account")
    assert backend("az://container/x")._build() is not None


def test_azure_without_an_account_says_so():
    with pytest.raises(InputError, match=r"az://container cannot be opened: .*[Aa]ccount"):
        open_store("az://container/x").get("k")


def test_plain_http_is_meant_or_refused(monkeypatch):
    assert backend("s3://bucket", endpoint="http://127.0.0.1:1").allow_http
    assert not backend("s3://bucket", endpoint="https://host").allow_http
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(InputError, match="AWS_ALLOW_HTTP=true"):
        open_store("s3://bucket")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    assert backend("s3://bucket").allow_http
    assert not backend("s3://bucket", endpoint="https://host").allow_http


@pytest.mark.parametrize(
    "url",
    [
        "s3://user:SECRET@bucket/x", "gs://SECRET@bucket", "az://container/x?sig=SECRET", "ftp://user:SECRET@host/x",
        "s3://bucket/x#SECRET", "memory://x?SECRET", "https://account.blob.core.windows.net/c?sig=SECRET",
    ],
)  # fmt: skip
def test_a_secret_in_a_url_is_refused_and_not_repeated(url):
    with pytest.raises(InputError, match="credentials in the environment") as caught:
        open_store(url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["https://user:SECRET@host", "https://host?sig=SECRET", "https://host#SECRET"])
def test_a_secret_in_an_endpoint_is_refused_and_not_repeated(endpoint):
    for make in (
        lambda: StoreConfig(endpoint=endpoint),
        lambda: from_data(StoreConfig, {"endpoint": endpoint}, "x.yaml"),
    ):
        with pytest.raises(ConfigError, match=r"storage\.endpoint holds a user") as caught:
            make()
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["host:9000", "ftp://host", "https://", ""])
def test_an_endpoint_is_a_url(endpoint):
    with pytest.raises(ConfigError, match="https://"):
        StoreConfig(endpoint=endpoint)


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///x", "s3://b/../x", "s3://b//x", "gs://bu cket/x", "az://-/x", "ftp://host/x"]
)
def test_what_is_no_store_is_refused(url):
    with pytest.raises(InputError):
        open_store(url)


def test_a_signature_is_in_no_error(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_SAS_KEY", "sv=2024&sig=SECRET")
    store = open_store("az://container/x", config=StoreConfig(endpoint="http://127.0.0.1:1", **FAST))
    for call in (store.get, lambda key: store.put_if_absent(key, b""), lambda key: list(store.list(key))):
        with pytest.raises(StoreError, match="az://container/x") as caught:
            call("k")
        error = caught.value
        while error is not None:
            assert "SECRET" not in str(error)
            error = error.__cause__


def test_opening_builds_nothing_and_loads_no_client():
    code = (
        "import sys, ffr_dist.store as s; s.StoreConfig(); s.open_store('/tmp').exists('x'); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"obstore", "fsspec", "s3fs", "botocore", "numpy"} & set(loaded)


def test_a_config_travels_to_other_processes():
    config = StoreConfig(endpoint="https://host", retry_s=3)
    assert pickle.loads(pickle.dumps(config)) == config == open_store("/tmp", config=config).config
