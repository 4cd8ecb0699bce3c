"""Addresses of models on servers, and the credentials that come with them."""

from __future__ import annotations

from pathlib import Path

import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.errors import ModelError
from ibisa_onnx.models.endpoint import Endpoint, is_server_url, request_headers
from ibisa_onnx.models.onnx_file import beside

HTTP = "http://h:8000/v2/models/net"


@pytest.mark.parametrize(
    ("url", "name", "version", "shown"),
    [
        (HTTP, "net", "", HTTP),
        (f"{HTTP}/", "net", "", HTTP),
        (f"{HTTP}/infer", "net", "", HTTP),
        (f"{HTTP}/versions/3", "net", "3", f"{HTTP}/versions/3"),
        (f"{HTTP}/versions/3/infer", "net", "3", f"{HTTP}/versions/3"),
        ("https://h/a/b/v2/models/net", "net", "", "https://h/a/b/v2/models/net"),
        ("HTTP://H:8000/v2/models/a%20b", "a b", "", "http://h:8000/v2/models/a%20b"),
        ("http://[::1]:80/v2/models/net", "net", "", "http://[::1]:80/v2/models/net"),
        ("http://me:pass@h:8000/v2/models/net", "net", "", HTTP),
        ("grpc://h:8001/net", "net", "", "grpc://h:8001/net"),
        ("grpcs://me:pass@h:8001/net/7/", "net", "7", "grpcs://h:8001/net/7"),
    ],
)
def test_an_address_is_read(url: str, name: str, version: str, shown: str):
    endpoint = Endpoint.parse(url)
    assert (endpoint.name, endpoint.version, endpoint.url) == (name, version, shown)
    assert "pass" not in repr(endpoint)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://hub/net.onnx", "URLs are not read; download the file, or pass the address of"),
        ("http://h/v2/model/net", "is not the address of a model on a server"),
        ("http://h/v2/models/", "is not the address of a model on a server"),
        ("grpc://h/net", "has no port; pass grpc://HOST:PORT/NAME"),
        ("grpc://h:1/a/b/c", "is not the address of a model on a server"),
        ("http:///v2/models/net", "names no host"),
        ("http://h:99999/v2/models/net", "is not a URL"),
        (f"{HTTP}?token=secret", "has a query or fragment"),
        ("http://me:secret@h/v2/models/a b", "has a space or a control character"),
        (f"{HTTP}\r\nX: secret", "has a space or a control character"),
        ("http://me:secret@h/net.onnx", "URLs are not read"),
    ],
)
def test_another_address_is_told_apart(url: str, said: str):
    with pytest.raises(ModelError, match=said) as caught:
        ibisa.Explainer(url)
    assert "\n" not in str(caught.value)
    if not url.startswith(HTTP + "\r"):  # there it is part of the path
        assert "secret" not in str(caught.value)


def test_only_the_schemes_of_servers_are_addresses(tmp_path: Path):
    for model in (
        "s3://bucket/net.onnx",
        "C:/net.onnx",
        "net.onnx",
        Path("http://h/x"),
        b"http://",
    ):
        assert not is_server_url(model)
    with pytest.raises(ModelError, match=r"s3://bucket/net.onnx: URLs are not read; download"):
        ibisa.Explainer("s3://bucket/net.onnx")


def test_results_of_a_model_on_a_server_are_in_the_working_folder():
    assert beside(f"{HTTP}/versions/3", ".bench") == Path("net.bench")
    assert beside("grpc://h:8001/net", ".bench") == Path("net.bench")


@pytest.mark.parametrize(
    ("url", "given", "variable", "sent"),
    [
        (HTTP, None, "", {}),
        (HTTP, None, "Bearer v", {"authorization": "Bearer v"}),
        (HTTP, {"AUTHORIZATION": "Bearer g"}, "Bearer v", {"authorization": "Bearer g"}),
        ("http://a:b%3A@h/v2/models/n", None, "Bearer v", {"authorization": "Basic YTpiOg=="}),
        (HTTP, {"X-Tenant": "7"}, "Bearer v", {"authorization": "Bearer v", "x-tenant": "7"}),
    ],
    ids=["none", "variable", "header", "URL", "another header"],
)
def test_authorisation_is_the_nearest_one(
    url: str,
    given: dict[str, str] | None,
    variable: str,
    sent: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("IBISA_ONNX_AUTHORIZATION", variable)
    assert request_headers(Endpoint.parse(url), given) == sent
