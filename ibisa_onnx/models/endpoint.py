"""The address of a model on a server of the Open Inference Protocol v2, and its credentials.

Nothing here connects. Addresses are

    http(s)://HOST[:PORT][/PREFIX]/v2/models/NAME[/versions/VERSION]
    grpc(s)://HOST:PORT/NAME[/VERSION]
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard
from urllib.parse import SplitResult, quote, unquote, urlsplit

from ibisa_onnx.errors import ModelError

VARIABLE = "IBISA_ONNX_AUTHORIZATION"
"""Environment variable with the value of the Authorization header."""
EXAMPLES = "http://HOST:PORT/v2/models/NAME or grpc://HOST:PORT/NAME"
_SERVER = re.compile(r"(?:https?|grpcs?)://", re.IGNORECASE)
_HTTP_PATH = re.compile(
    r"(?P<base>.*?)/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/infer)?/?"
)
_GRPC_PATH = re.compile(r"(?P<base>)/(?P<name>[^/]+)(?:/(?P<version>[^/]+))?/?")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_AUTHORIZATION = "authorization"


@dataclass(frozen=True)
class Endpoint:
    """The address of a model on a server.

    Attributes
    ----------
    scheme
        "http", "https", "grpc" or "grpcs".
    host, port
        The server; port None: the scheme's default.
    base
        Path before /v2; empty for gRPC.
    name, version
        Name and version of the model; an empty version leaves the choice to the server.
    credentials
        Value of the Authorization header, from the user and password in the URL; None: none.
    """

    scheme: str
    host: str
    port: int | None
    base: str
    name: str
    version: str
    credentials: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Read a URL.

        Raises
        ------
        ModelError
            It is not the address of a model on a server. The message quotes no credentials.
        """
        parts, port = _split(url)
        shown = without_credentials(url)
        if not parts.hostname:
            raise ModelError(f"{shown} names no host; pass {EXAMPLES}")
        if parts.query or parts.fragment:
            raise ModelError(
                f"{shown} has a query or fragment, which the protocol does not use; pass {EXAMPLES}"
            )
        is_http = parts.scheme.startswith("http")
        found = (_HTTP_PATH if is_http else _GRPC_PATH).fullmatch(parts.path)
        if found is None:
            if is_http and "/v2/" not in parts.path + "/":
                raise ModelError(
                    f"{shown}: URLs are not read; download the file, or pass the address of a "
                    f"model on a server: {EXAMPLES}"
                )
            raise ModelError(f"{shown} is not the address of a model on a server; pass {EXAMPLES}")
        if not is_http and port is None:
            raise ModelError(f"{shown} has no port; pass grpc://HOST:PORT/NAME")
        name, version = (unquote(found[each] or "") for each in ("name", "version"))
        return cls(parts.scheme, parts.hostname, port, found["base"], name, version, _basic(parts))

    @property
    def is_http(self) -> bool:
        """Whether the protocol is HTTP; otherwise gRPC."""
        return self.scheme.startswith("http")

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return self.scheme.endswith("s")

    @property
    def server(self) -> str:
        """URL of the server."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.base}"

    @property
    def url(self) -> str:
        """URL of the model, without credentials."""
        version = quote(self.version, safe="")
        if self.is_http:
            return f"{self.server}{self.model_path}"
        return f"{self.server}/{quote(self.name, safe='')}{version and f'/{version}'}"

    @property
    def model_path(self) -> str:
        """Path of the model after `base`, for HTTP."""
        version = f"/versions/{quote(self.version, safe='')}" if self.version else ""
        return f"/v2/models/{quote(self.name, safe='')}{version}"


def is_server_url(model: Any) -> TypeGuard[str]:
    """Return whether a model is given by a URL of a scheme that servers use."""
    return isinstance(model, str) and _SERVER.match(model) is not None


def without_credentials(url: str) -> str:
    """Return a URL as it may be shown and stored: without user, password and query."""
    scheme, mark, rest = url.partition("://")
    server, slash, path = rest.partition("/")
    path = path.partition("?")[0].partition("#")[0]
    return f"{scheme}{mark}{server.rpartition('@')[2]}{slash}{path}"[:200]


def request_headers(endpoint: Endpoint, given: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers of each request, lower-case names: the caller's and Authorization.

    Authorization is the caller's header, else the URL's user and password, else the environment
    variable `IBISA_ONNX_AUTHORIZATION`.

    Raises
    ------
    ModelError
        A name or value is not that of a header. The message quotes no value.
    """
    headers = {}
    if given is not None and not isinstance(given, Mapping):
        raise ModelError(f"headers is a {type(given).__name__}; pass values by name in a dict")
    for name, value in (given or {}).items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ModelError(f"headers has the name {name!r}, which no header can have")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise ModelError(f"the value of header {name} is not printable ASCII text")
        headers[name.lower()] = value
    usual = endpoint.credentials or os.environ.get(VARIABLE, "").strip()
    if usual and not (usual.isascii() and usual.isprintable()):
        raise ModelError(f"{VARIABLE} is not printable ASCII text")
    return {_AUTHORIZATION: usual, **headers} if usual else headers


def _split(url: str) -> tuple[SplitResult, int | None]:
    """Return the parts of a URL, and its port."""
    shown = without_credentials(url)
    if not url.isprintable() or " " in url:
        raise ModelError(f"{shown} has a space or a control character; remove it")
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError:
        raise ModelError(f"{shown} is not a URL; pass {EXAMPLES}") from None


def _basic(parts: SplitResult) -> str | None:
    """Return the Authorization header for the user and password of a URL."""
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
