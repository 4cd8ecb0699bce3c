"""A model behind a network: any server of the Open Inference Protocol v2, such as Triton.

The server is asked for names, dtypes and shapes once, on opening. `endpoint` reads addresses,
`remote_http` and `remote_grpc` make the calls. Outputs are validated as a function's are.
"""

from __future__ import annotations

import math
import numbers
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy.typing as npt

from ibisa_onnx.checks import check_type
from ibisa_onnx.errors import ModelError, OutputError, RemoteError
from ibisa_onnx.io.files import is_regular
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.base import ImageModel, Values
from ibisa_onnx.models.batch_axis import lone_picture
from ibisa_onnx.models.endpoint import Endpoint, request_headers
from ibisa_onnx.models.extra_inputs import check_extra_inputs, extra_feed
from ibisa_onnx.models.function import OUTPUT, InputSpec
from ibisa_onnx.models.memory import check_answer
from ibisa_onnx.models.onnx_session import DeployedModel, counterpart_of
from ibisa_onnx.models.remote_errors import Reporter
from ibisa_onnx.models.returned import DeclaredOutputs
from ibisa_onnx.models.running import endable
from ibisa_onnx.models.signature import Signature, TensorInfo, find_image, read_layout

_DTYPES = {
    **{
        f"{kind}{bits}": f"{kind.lower()}{bits}"
        for kind in ("INT", "UINT")
        for bits in (8, 16, 32, 64)
    },
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BF16": "bfloat16",
    "BOOL": "bool",
    "BYTES": "string",
}
"""NumPy's names of the protocol's datatypes."""
_CONFIGURATION, _BINARY = "model_configuration", "binary_tensor_data"  # extensions
_KSERVE_SINCE = [0, 14]  # accepts binary tensors, which it does not list
_MOST_TENSORS = 1000
_POLL = 0.05  # seconds between two checks for the end of a wait for a free request
_UNHASHED = "behind a network: identified by URL and version, not by its content"


class Server(Protocol):
    """A model on a server, by either protocol."""

    protocol: str
    binary: bool

    def facts(self) -> Mapping[str, Any]:
        """Return name, version and extensions of the server; empty if it does not tell."""

    def is_ready(self) -> bool:
        """Return whether the model is ready."""

    def model(self) -> Mapping[str, Any]:
        """Return the model's metadata."""

    def config(self) -> Mapping[str, Any]:
        """Return the model's configuration; empty if there is none."""

    def infer(
        self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None
    ) -> dict[str, npt.NDArray[Any]]:
        """Run the model once; `outputs` None: all."""


class RemoteModel(ImageModel):
    """A model on a server of the Open Inference Protocol v2: Triton, KServe, MLServer and others.

    `Explainer(url)` creates one with the defaults. Explained by forward passes alone, or by the
    gradient of the ONNX file that the server runs (`gradient_from`). No request is repeated; only a
    refused connection is retried. Thread-safe. Requires the extra `remote`.

    Parameters
    ----------
    url
        `http://HOST:PORT/v2/models/NAME`, optionally with `/versions/VERSION`, or
        `grpc://HOST:PORT/NAME`, optionally with `/VERSION`; `https` and `grpcs` for TLS. A user and
        password in it are sent as Basic authorisation.
    input_spec
        Shape, dtype and outputs, if the server does not declare them, or declares others. With
        `outputs` None, the model's only output holds class scores.
    input
        Name of the image input; None: the only input that can hold images.
    layout
        "NCHW" or "NHWC"; None: inferred from the input's shape.
    extra_inputs
        Values of all other inputs, by name.
    headers
        Headers of each request, such as {"Authorization": "Bearer ..."}. Neither logged nor stored.
        Without Authorization, the environment variable IBISA_ONNX_AUTHORIZATION is sent.
    certificates
        File of the certificate authorities to trust, PEM; None: the system's (gRPC: its own).
    timeout
        Seconds until a call must have returned; an earlier deadline applies too.
    connect_timeout
        Seconds for each attempt to connect.
    max_batch
        Maximum images per request if the batch axis is dynamic; the server's own maximum applies
        too, if it declares one.
    max_concurrency
        Maximum concurrent requests, of all threads together.
    binary
        Whether tensors are sent as binary data over HTTP rather than as JSON, which takes ten times
        as long; None: if the server lists that extension of the protocol, or is a version of KServe
        that supports it without listing it. gRPC always does.
    gradient_from
        The ONNX file that the server runs, or a `DeployedModel` of it. Its gradient is used,
        checked against the server on each image; its metadata, and files beside it, supply
        preprocessing and labels.
    limits
        Limits on images and responses; None: from the environment.

    Raises
    ------
    RemoteError
        The server cannot be reached, does not answer in time, reports an error, or does not know
        the model.
    ModelError
        The URL is invalid, the model is not an image model, or its inputs are not declared.
    MissingDependencyError
        The extra `remote` is not installed.

    Examples
    --------
    ```python
    model = ibisa_onnx.RemoteModel("http://localhost:8000/v2/models/resnet", timeout=10)
    explanation = ibisa_onnx.Explainer(model, preprocessing="imagenet").explain("dog.jpg")
    ```
    """

    def __init__(
        self,
        url: str,
        input_spec: InputSpec | None = None,
        *,
        input: str | None = None,
        layout: str | None = None,
        extra_inputs: Mapping[str, npt.NDArray[Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        certificates: str | os.PathLike[str] | None = None,
        timeout: float = 60.0,
        connect_timeout: float = 5.0,
        max_batch: int = 8,
        max_concurrency: int = 4,
        binary: bool | None = None,
        gradient_from: str | os.PathLike[str] | DeployedModel | None = None,
        limits: Limits | None = None,
    ) -> None:
        check_type("the model's address", url, str, "a URL", ModelError)
        if input_spec is not None:
            check_type("input_spec", input_spec, InputSpec, "an InputSpec", ModelError)
        self._endpoint = Endpoint.parse(url)
        self._limits = limits
        self._server = _connected(
            self._endpoint, headers, certificates, (connect_timeout, timeout), limits
        )
        self._server_facts = self._server.facts()
        if self._endpoint.is_http:
            self._server.binary = _takes_binary(self._server_facts) if binary is None else binary
        found = self._metadata(self._server.model())
        if not self._server.is_ready():
            raise RemoteError(f"{self._endpoint.url}: the model is not ready", "try again later")
        tensors = _Tensors(self._endpoint.url, found, input_spec)
        signature, self._alone = tensors.signature(input, layout)
        super().__init__(signature, self._largest(max_batch), max_concurrency)
        self._versions = tuple(map(str, found.get("versions") or ()))
        self._extra = check_extra_inputs(signature, extra_inputs or {}, self.label)
        self._named = tensors.has_outputs
        self._declared = DeclaredOutputs(self.label, signature.outputs)
        self._requests = threading.BoundedSemaphore(max_concurrency)
        self.counterpart = counterpart_of(gradient_from, limits)

    def _metadata(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        for what in ("inputs", "outputs"):
            each = found.get(what) or []
            if not isinstance(each, list) or len(each) > _MOST_TENSORS:
                raise ModelError(f"{self._endpoint.url} declares no valid list of {what}")
        return found

    def _largest(self, most: int) -> int:
        """Return the largest number of images per request: `most`, or what Triton declares."""
        if _CONFIGURATION not in (self._server_facts.get("extensions") or ()):
            return most
        declared = self._server.config().get("max_batch_size")
        return min(most, declared) if isinstance(declared, int) and declared > 0 else most

    @property
    def limits(self) -> Limits | None:
        """Limits on images and responses; None: from the environment."""
        return self._limits

    @property
    def url(self) -> str:
        """The model's URL, without credentials."""
        return self._endpoint.url

    @property
    def name(self) -> str:
        """The model's URL, without credentials."""
        return self._endpoint.url

    @property
    def identity(self) -> str:
        """The model's URL, without credentials, with the versions that the server declares."""
        return f"{self._endpoint.url}@{','.join(self._versions)}"

    @property
    def origin(self) -> dict[str, str]:
        """The server, its protocol and the model's versions, for records."""
        facts = self._server_facts
        server = " ".join(str(facts[each]) for each in ("name", "version") if facts.get(each))
        tensors = "binary tensors" if self._server.binary else "JSON"
        return {
            "server": server or "unknown",
            "protocol": f"{self._server.protocol}, {tensors}",
            "version": self._endpoint.version or ", ".join(self._versions) or "unknown",
            "note": _UNHASHED,
        }

    @property
    def what(self) -> str:
        """What the model is, in messages about what it lacks."""
        return "a model behind a network"

    def extra_feed(self, batch: int) -> dict[str, npt.NDArray[Any]]:
        """Return the values of all inputs but the image, by name, for `batch` images."""
        return extra_feed(self.signature, self._extra, batch)

    def infer(self, feeds: Values, outputs: Sequence[str]) -> Values:
        """Send one request.

        Raises
        ------
        RemoteError
            The server cannot be reached, does not answer in time, or reports an error.
        OutputError
            It returned something other than it declares.
        DeadlineError
            A time limit ended the request.
        """
        images = len(feeds[self.image.name])
        given = dict(feeds)
        if self._alone:
            given[self.image.name] = feeds[self.image.name][0]
        with self._turn():
            found = self._server.infer(given, list(outputs) if self._named else None)
        check_answer(found, self.label, self.limits)
        if not self._named:
            found = self._only(found)
        if self._alone:
            found = {name: value[None] for name, value in found.items()}
        return self._read(found, outputs, images)

    def _read(self, found: Values, outputs: Sequence[str], images: int) -> Values:
        """Validate the requested outputs; floats become float32, integers keep their dtype."""
        infos = {each.name: each for each in self.signature.outputs}
        values = self._declared.read(found, images, self._advice(images), outputs)
        return {
            name: each if infos[name].dtype == "float32" else each.astype(infos[name].dtype)
            for name, each in values.items()
        }

    def _only(self, found: Values) -> dict[str, npt.NDArray[Any]]:
        """Return the only output of a model that declares none."""
        if len(found) != 1:
            names = ", ".join(f"{name} {list(each.shape)}" for name, each in found.items())
            raise OutputError(
                f"{self.label} returned {names or 'no outputs'}, of which it declares none",
                "pass their names and shapes with input_spec=",
            )
        return {OUTPUT: next(iter(found.values()))}

    def _advice(self, images: int) -> str:
        several = images > 1 and self.image.batch is None
        return (
            "; if the server accepts only one image per request, pass max_batch=1"
            if several
            else ""
        )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until fewer than `max_concurrency` requests are running."""
        if not self._requests.acquire(blocking=False):
            with endable(self.label) as check:
                while not self._requests.acquire(timeout=_POLL):
                    check()
        try:
            yield
        finally:
            self._requests.release()


def _connected(
    endpoint: Endpoint,
    headers: Mapping[str, str] | None,
    certificates: str | os.PathLike[str] | None,
    seconds: tuple[float, float],
    limits: Limits | None,
) -> Server:
    """Return the server of an endpoint."""
    from ibisa_onnx.models.remote_http import HttpServer, Waiting

    waiting = Waiting(
        *(_seconds(*each) for each in zip(("connect_timeout", "timeout"), seconds, strict=True))
    )
    trusted = None if certificates is None else os.fspath(certificates)
    if trusted is not None and not is_regular(trusted):
        raise ModelError(f"certificates is {trusted!r}, which is not a file")
    sent = request_headers(endpoint, headers)
    reporter = Reporter(endpoint.url, sent)
    if endpoint.is_http:
        return HttpServer(endpoint, sent, reporter, waiting, trusted, limits)
    from ibisa_onnx.models.remote_grpc import GrpcServer

    return GrpcServer(endpoint, sent, reporter, waiting, trusted)


def _takes_binary(facts: Mapping[str, Any]) -> bool:
    """Return whether a server accepts binary tensors over HTTP."""
    if _BINARY in (facts.get("extensions") or ()):
        return True
    version = [int(each) for each in re.findall(r"\d+", str(facts.get("version", "")))[:2]]
    return facts.get("name") == "kserve" and version >= _KSERVE_SINCE


def _seconds(name: str, value: Any) -> float:
    """Return a validated number of seconds."""
    valid = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not valid or not 0 < value < math.inf:
        raise ModelError(f"{name} is {value!r}; pass a number of seconds above 0")
    return float(value)


class _Tensors:
    """The inputs and outputs of a model, from the server's metadata and the caller's spec."""

    def __init__(self, label: str, metadata: Mapping[str, Any], spec: InputSpec | None) -> None:
        self._label, self._spec = label, spec
        self._inputs = [self._info(each) for each in metadata.get("inputs") or ()]
        self._outputs = [self._info(each) for each in metadata.get("outputs") or ()]

    @property
    def has_outputs(self) -> bool:
        """Whether the names of the outputs are known."""
        return bool(self._spec.outputs if self._spec else None) or bool(self._outputs)

    def signature(self, input: str | None, layout: str | None) -> tuple[Signature, bool]:
        """Return the signature, and whether the image input has no batch axis."""
        inputs = self._specified(input)
        if not inputs:
            raise ModelError(
                f"{self._label} declares no inputs",
                "pass its name as input= and its shape as input_spec=",
            )
        lone = lone_picture(inputs, input)
        if lone is not None:
            inputs = [
                replace(each, shape=(1, *each.shape)) if each.name == lone else each
                for each in inputs
            ]
        wanted = read_layout(layout)
        if self._spec is not None and wanted is None:
            wanted = read_layout(self._spec.layout)
        image = find_image(inputs, name=input, layout=wanted, model=self._label)
        outputs = tuple(self._output(each, image.tensor.shape[0], lone) for each in self._told())
        return Signature(tuple(inputs), outputs, image), lone is not None

    def _specified(self, input: str | None) -> list[TensorInfo]:
        """Return the inputs, the image's as the caller's spec describes it."""
        spec = self._spec
        if spec is None:
            return self._inputs
        name = input
        if name is None and len(self._inputs) == 1:
            name = self._inputs[0].name
        if name is None:
            there = ", ".join(map(str, self._inputs)) or "none"
            raise ModelError(
                f"the name of {self._label}'s image input is not known: it declares {there}",
                "pass input=NAME",
            )
        image = TensorInfo(name, str(spec.dtype), tuple(spec.shape))
        others = [each for each in self._inputs if each.name != name]
        return [image, *others]

    def _told(self) -> list[TensorInfo]:
        """Return the numeric outputs, as specified or declared; else one of class scores."""
        if self._spec is not None and self._spec.outputs is not None:
            known = {each.name: each.dtype for each in self._outputs}
            return [
                TensorInfo(name, known.get(name, "float32"), tuple(shape))
                for name, shape in dict(self._spec.outputs).items()
            ]
        if not self._outputs:
            if self._spec is None:
                raise ModelError(
                    f"{self._label} declares no outputs",
                    "pass input_spec=, with the names and shapes of its outputs unless there is "
                    "only one, of class scores",
                )
            return [TensorInfo(OUTPUT, "float32", (None, None))]
        numeric = [each for each in self._outputs if each.dtype not in ("string", "bfloat16")]
        if not numeric:
            listed = ", ".join(map(str, self._outputs))
            raise OutputError(f"{self._label} has no numeric output: {listed}")
        return numeric

    def _output(self, info: TensorInfo, batch: int | str | None, lone: str | None) -> TensorInfo:
        """Return an output with its batch axis, and the dtype in which it is returned."""
        dtype = info.dtype if info.dtype.startswith(("int", "uint")) else "float32"
        first = info.shape[0] if info.shape else None
        absent = isinstance(first, int) and first > 1 and not isinstance(batch, int)
        if lone is not None or absent:  # declared for one image
            return TensorInfo(info.name, dtype, (1 if lone else batch, *info.shape))
        return TensorInfo(info.name, dtype, info.shape)

    def _info(self, found: Any) -> TensorInfo:
        """Read a tensor's metadata."""
        try:
            name, datatype = found["name"], found["datatype"]
            sides = [int(side) for side in found.get("shape") or ()]
            if not isinstance(name, str) or not isinstance(datatype, str) or len(sides) > 32:
                raise TypeError
        except (TypeError, ValueError, KeyError, AttributeError):
            raise ModelError(
                f"{self._label} declares an invalid tensor: {str(found)[:200]}"
            ) from None
        shape = tuple(side if side > 0 else None for side in sides)
        return TensorInfo(name, _DTYPES.get(datatype, datatype.lower()), shape)
