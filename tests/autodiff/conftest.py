"""Small models, and the comparison of their backward graph with central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from ibisa_onnx.autodiff import differentiate

Array = np.ndarray[Any, Any]
CONTRIB = "ai.onnx.contrib"
"""The domain of operators written in Python, with onnxruntime-extensions."""


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if any(each.domain == CONTRIB for each in model.opset_import):
        extensions = pytest.importorskip("onnxruntime_extensions")
        options.register_custom_ops_library(extensions.get_library_path())
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def _build(
    nodes: Sequence[onnx.NodeProto],
    x: Array,
    constants: dict[str, Array],
    opset: int,
    dims: Sequence[int | str | None] | None,
    domains: Sequence[onnx.OperatorSetIdProto] = (),
) -> onnx.ModelProto:
    elem = helper.np_dtype_to_tensor_dtype(x.dtype)
    custom = [name for node in nodes if node.domain == CONTRIB for name in node.output]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", elem, x.shape if dims is None else dims)],
        [helper.make_empty_tensor_value_info("y")],
        [
            numpy_helper.from_array(v.astype(x.dtype) if v.dtype.kind == "f" else v, k)
            for k, v in constants.items()
        ],
        # ONNX infers no types for custom operators; those of the tests keep their input's.
        value_info=[helper.make_tensor_value_info(n, elem, x.shape) for n in custom],
    )
    imports = [helper.make_opsetid("", opset), *domains]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _numeric(run: Callable[[Array], Array], x: Array, dy: Array, step: float) -> Array:
    """The vector-Jacobian product by central differences, element by element."""
    gradient = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[index] += step
        behind[index] -= step
        change = run(ahead).astype(np.float64) - run(behind)
        gradient[index] = np.sum(dy * change) / float(ahead[index] - behind[index])
    return gradient


def _compare(model: onnx.ModelProto, x: Array, step: float, tolerance: float) -> None:
    derivative = differentiate(model, "x", "y")
    forward, backward = _session(derivative.forward), _session(derivative.backward)
    plain = _session(model)
    y, *saved = forward.run(None, {"x": x})
    np.testing.assert_array_equal(y, plain.run(["y"], {"x": x})[0])
    dy = np.random.default_rng(1).normal(size=y.shape).astype(y.dtype)
    feeds = dict(zip(derivative.saved, saved, strict=True))
    (dx,) = backward.run([derivative.gradient], {derivative.cotangent: dy, **feeds})
    assert dx.shape == x.shape
    assert dx.dtype == x.dtype
    expected = _numeric(lambda v: plain.run(["y"], {"x": v})[0], x, dy, step)
    scale = max(float(np.abs(expected).max()), 1e-3)
    np.testing.assert_allclose(dx / scale, expected / scale, atol=tolerance)


def _has_double(model: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime has float64 kernels for the model and for its gradient."""
    errors = ort.capi.onnxruntime_pybind11_state
    try:
        derivative = differentiate(model, "x", "y")
        for part in (derivative.forward, derivative.backward):
            _session(part)
    except (errors.NotImplemented, errors.InvalidGraph):
        return False
    return True


@pytest.fixture
def spread() -> Callable[..., Array]:
    """Values of a shape that keep at least 0.05 from each other and 0.02 from 0, shuffled."""

    def values(*shape: int, low: float = -2.0, high: float = 2.0) -> Array:
        count = int(np.prod(shape))
        grid = np.linspace(low, high, count + 1)[:-1] + (high - low) / count * 0.37
        return np.random.default_rng(0).permutation(grid).reshape(shape)

    return values


@pytest.fixture
def build() -> Callable[..., onnx.ModelProto]:
    """`build(nodes, x, constants, opset, dims, domains)`: from `x` to `y`, all in x's dtype."""
    return _build


@pytest.fixture
def check() -> Callable[..., None]:
    """Compare with central differences: in float64 if ONNX Runtime can, else in float32.

    `check(nodes, x, constants, opset=17, dims=None, step=...)`; `dims` declares `x`'s shape, with
    open sides where the gradient has to find out at run time.
    """

    def compare(
        nodes: onnx.NodeProto | Sequence[onnx.NodeProto],
        x: Array,
        constants: dict[str, Array] | None = None,
        opset: int = 17,
        dims: Sequence[int | str | None] | None = None,
        step: float = 1e-2,
        double: bool = True,
        domains: Sequence[onnx.OperatorSetIdProto] = (),
    ) -> None:
        listed = [nodes] if isinstance(nodes, onnx.NodeProto) else list(nodes)
        model = _build(listed, x.astype(np.float64), constants or {}, opset, dims, domains)
        if double and _has_double(model):
            _compare(model, x.astype(np.float64), 1e-6, 1e-6)
        else:
            single = x.astype(np.float32)
            _compare(
                _build(listed, single, constants or {}, opset, dims, domains), single, step, 3e-3
            )

    return compare


@pytest.fixture
def run_gradient() -> Callable[..., Array]:
    """`run_gradient(model, x)`: dx for a cotangent of ones."""

    def run(model: onnx.ModelProto, x: Array) -> Array:
        derivative = differentiate(model, "x", "y")
        y, *saved = _session(derivative.forward).run(None, {"x": x})
        feeds = dict(zip(derivative.saved, saved, strict=True))
        feeds[derivative.cotangent] = np.ones_like(y)
        backward = _session(derivative.backward)
        known = {each.name for each in backward.get_inputs()}
        found = backward.run(None, {k: v for k, v in feeds.items() if k in known})
        return np.asarray(found[0])

    return run
