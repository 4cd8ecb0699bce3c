"""Bodies of the Open Inference Protocol (v2) and of KServe's v1, to requests and back.

On KServe's types. Its own reader of REST bodies decodes every BYTES tensor as UTF-8, which fails
for image files; here binary tensors stay as they are.
"""

from __future__ import annotations

import base64
import math
import struct
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import (
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    RequestedOutput,
    deserialize_bytes_tensor,
)
from kserve.utils.numpy_codec import from_np_dtype, to_np_dtype

from ibisa_onnx.checks import shown
from ibisa_onnx.errors import OptionError
from ibisa_onnx.io.literals import is_integer
from ibisa_onnx.serving.inference import (
    EXPLAIN_INPUTS,
    EXPLANATION,
    IMAGE,
    MAP,
    OVERLAY,
    PREDICT_INPUTS,
    PREDICTIONS,
    PROBABILITIES,
    TARGET,
    Request,
    Tensors,
)

LENGTH_HEADER = "inference-header-content-length"
BASE64 = {"content_type": "base64"}
"""Parameter of a BYTES output that JSON cannot hold as text."""
_MOST_VALUES = 3_000_000  # of a JSON body: each costs up to 64 bytes, a million pixels are enough
_JSON_BYTES = (EXPLANATION, PREDICTIONS)


# --- v2 over HTTP ---------------------------------------------------------------------------------


def read_body(body: bytes, header: str | None, model: str) -> InferRequest:
    """Parse the body of a v2 request: JSON, and behind it the binary tensors.

    Parameters
    ----------
    body
        The body.
    header
        Value of `Inference-Header-Content-Length`, the length of the JSON part; None: all of it.
    model
        Name of the model.

    Raises
    ------
    kserve.errors.InvalidInput
        The body is malformed.
    """
    length = len(body) if header is None else _length(header, len(body))
    data = parse_object(body[:length])
    rest = memoryview(body)[length:]
    inputs = []
    for each in _list(data, "inputs"):
        tensor, rest = _input(each, rest)
        inputs.append(tensor)
    if len(rest):
        raise InvalidInput(f"{len(rest)} bytes follow the last binary tensor; correct their sizes")
    parameters = _object(data.get("parameters") or {}, "parameters")
    binary = parameters.get("binary_data_output", False)
    outputs = [
        RequestedOutput(
            _name(each, "an output"),
            {"binary_data": binary, **_object(each.get("parameters") or {}, "parameters")},
        )
        for each in _list(data, "outputs", optional=True)
    ]
    identifier = data.get("id")
    return InferRequest(
        model,
        inputs,
        None if identifier is None else str(identifier),
        parameters=parameters,
        request_outputs=outputs or None,
    )


def write_body(response: InferResponse) -> tuple[bytes, dict[str, str]]:
    """Return the body of a v2 response, and its headers."""
    content, length = response.to_rest()
    if length is None:
        return orjson.dumps(content), {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", LENGTH_HEADER: str(length)}
    return content, headers


def parse_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object; `InvalidInput` if it is none, or has too many values."""
    if text.count(b",") > _MOST_VALUES:
        raise InvalidInput(
            f"the body has more than {_MOST_VALUES:,} JSON values; send a binary tensor, or the "
            "base64 text of an image file"
        )
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not valid JSON: {error}") from None
    return _object(data, "the body")


def _length(header: str, most: int) -> int:
    if not (header.isascii() and header.isdigit() and len(header) < 19 and int(header) <= most):
        raise InvalidInput(
            f"Inference-Header-Content-Length is {shown(header)}; pass the length of the JSON part"
        )
    return int(header)


def _input(data: Any, rest: memoryview) -> tuple[InferInput, memoryview]:
    """Return one input, and the binary data that is left."""
    name = _name(data, "an input")
    shape, datatype = data.get("shape"), data.get("datatype")
    if not isinstance(shape, list) or not all(is_integer(side) and side >= 0 for side in shape):
        raise InvalidInput(f"input {shown(name)}: shape is {shown(shape)}; pass a list of sizes")
    if not isinstance(datatype, str):
        raise InvalidInput(f"input {shown(name)}: datatype is {shown(datatype)}; pass a name")
    parameters = _object(data.get("parameters") or {}, "parameters")
    found = InferInput(name, shape, datatype, data.get("data"), parameters)
    size = parameters.get("binary_data_size")
    if size is None and not isinstance(found.data, list):
        raise InvalidInput(f"input {shown(name)} has no data; pass a list, or binary_data_size")
    if size is None:
        return found, rest
    if not is_integer(size) or not 0 <= size <= len(rest):
        raise InvalidInput(
            f"input {shown(name)}: binary_data_size is {shown(size)}, but {len(rest)} bytes follow"
        )
    found._raw_data = bytes(rest[:size])
    return found, rest[size:]


def _list(data: Mapping[str, Any], name: str, *, optional: bool = False) -> list[Any]:
    found = data.get(name)
    if found is None and optional:
        return []
    if not isinstance(found, list):
        raise InvalidInput(f"{name} is {shown(found)}; pass a list")
    return found


def _object(data: Any, name: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise InvalidInput(f"{name} is {shown(data)}; pass an object")
    return data


def _name(data: Any, what: str) -> str:
    name = _object(data, what).get("name")
    if not isinstance(name, str):
        raise InvalidInput(f"{what} has no name; pass one")
    return name


# --- v2: requests and responses -------------------------------------------------------------------


def request_of(given: InferRequest, *, explains: bool, received: float | None) -> Request:
    """Return the request that a model's inputs and parameters describe.

    Raises
    ------
    IbisaError
        As `Request.of`, or there is no such input.
    """
    known = tuple(each.name for each in (EXPLAIN_INPUTS if explains else PREDICT_INPUTS))
    values: dict[str, Any] = {}
    for each in given.inputs:
        if each.name not in known:
            raise OptionError(f"there is no input {shown(each.name)}; known: {', '.join(known)}")
        if each.name in values:
            raise OptionError(f"input {each.name!r} is there twice; pass it once")
        values[each.name] = _value(each)
    outputs = [each.name for each in given.request_outputs or ()]
    return Request.of(
        values.get(IMAGE), values.get(TARGET), _parameters(given.parameters), outputs, received
    )


def response_of(tensors: Tensors, given: InferRequest, model: str) -> InferResponse:
    """Return the response with these outputs: raw, or as JSON where the request wants that."""
    wanted = {each.name: each.binary_data for each in given.request_outputs or ()}
    outputs = []
    for name, value in tensors.items():
        binary = given.from_grpc or wanted.get(name, given.use_binary_outputs)
        output = InferOutput(name, list(value.shape), from_np_dtype(value.dtype), value)
        if given.from_grpc:
            output.set_data_from_numpy(value, binary_data=True)
        elif not binary and value.dtype == object and name not in _JSON_BYTES:
            output.data = np.array([base64.b64encode(value[0]).decode()], object)
            output.parameters = dict(BASE64)
        outputs.append(output)
    return InferResponse(
        given.id or str(uuid.uuid4()),
        model,
        outputs,
        use_binary_outputs=given.from_grpc or given.use_binary_outputs,
        requested_outputs=given.request_outputs,
        from_grpc=given.from_grpc,
    )


def _value(tensor: InferInput) -> npt.NDArray[Any]:
    """Return the values of an input in its shape."""
    name, shape, raw = tensor.name, tuple(tensor.shape), tensor._raw_data
    dtype = to_np_dtype(tensor.datatype)
    if dtype is None:
        raise InvalidInput(f"input {name!r}: there is no datatype {shown(tensor.datatype)}")
    if tensor.datatype == "BYTES":
        elements = list(tensor.data) if raw is None else _elements(raw, name)
        values = np.empty(len(elements), object)
        values[:] = elements
    elif raw is not None:
        if len(raw) % np.dtype(dtype).itemsize:
            raise InvalidInput(f"input {name!r}: {len(raw)} bytes are no {tensor.datatype} values")
        values = np.frombuffer(raw, dtype)
    else:
        values = _numbers(tensor.data, name)
    if math.prod(shape) != values.size:
        raise InvalidInput(
            f"input {name!r}: shape {list(shape)} has {math.prod(shape)} elements, its data "
            f"{values.size}"
        )
    return values.reshape(shape)


def _elements(raw: bytes, name: str) -> Sequence[bytes]:
    """Return the elements of a binary BYTES tensor, each behind its length."""
    try:
        return list(deserialize_bytes_tensor(raw))
    except struct.error:
        raise InvalidInput(
            f"input {name!r}: its binary data is damaged; 4 bytes of length precede each element"
        ) from None


def _numbers(data: Any, name: str) -> npt.NDArray[Any]:
    """Return numbers of a JSON list, flat or nested."""
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError):
        values = np.empty(0, object)
    if values.dtype.kind not in "iuf":
        raise InvalidInput(f"input {name!r}: its data is not a regular list of numbers")
    return values


def _parameters(given: Any) -> dict[str, Any]:
    """Return parameters as Python values; those of gRPC are messages."""
    found = {}
    for name, value in (given or {}).items():
        if hasattr(value, "WhichOneof"):
            kind = value.WhichOneof("parameter_choice")
            if kind is None:
                raise OptionError(
                    f"parameter {name!r} has a type that the protocol lacks; pass an integer, a "
                    "string or a boolean"
                )
            value = getattr(value, kind)
        found[name] = value
    return found


# --- v1 -------------------------------------------------------------------------------------------

_V1_DEFAULT = (MAP, EXPLANATION)


def v1_requests(
    payload: Any, *, explains: bool, received: float | None
) -> tuple[list[Request], tuple[str, ...]]:
    """Return the requests of a v1 body, and the names of the outputs.

    `{"instances": [...], "parameters": {...}, "outputs": [...]}`; an instance is an image, or an
    object with `image` and `target`. An image is base64 text, `{"b64": ...}`, or nested lists.
    """
    data = _object(payload, "the body")
    instances = _list(data, "instances")
    if not instances:
        raise InvalidInput("instances is empty; pass one image or more")
    parameters = _object(data.get("parameters") or {}, "parameters")
    default = _V1_DEFAULT if explains else ()
    outputs = tuple(map(str, _list(data, "outputs", optional=True))) or default
    return [_instance(each, parameters, outputs, received) for each in instances], outputs


def _instance(
    given: Any, parameters: Mapping[str, Any], outputs: Sequence[str], received: float | None
) -> Request:
    image, target = given, None
    if isinstance(given, dict) and "b64" not in given:
        unknown = next((key for key in given if key not in (IMAGE, TARGET)), None)
        if unknown is not None:
            raise OptionError(f"an instance has no {shown(unknown)}; known: {IMAGE}, {TARGET}")
        image, target = given.get(IMAGE), given.get(TARGET)
    if isinstance(image, dict):
        image = image.get("b64")
    return Request.of(image, target, parameters, outputs, received)


def v1_body(key: str, results: Sequence[Tensors]) -> bytes:
    """Return the body of a v1 response: one object per instance."""
    plain = [{name: _plain(name, value) for name, value in each.items()} for each in results]
    return bytes(orjson.dumps({key: plain}, option=orjson.OPT_SERIALIZE_NUMPY))


def _plain(name: str, value: npt.NDArray[Any]) -> Any:
    if name in (MAP, PROBABILITIES):
        return np.ascontiguousarray(value)
    data: bytes = value[0]
    return base64.b64encode(data).decode() if name == OVERLAY else orjson.Fragment(data)
