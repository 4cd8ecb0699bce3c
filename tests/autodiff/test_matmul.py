from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.extra import numpy as hnp
from onnx import helper

from ibisa_onnx.autodiff import differentiate
from ibisa_onnx.errors import UnsupportedOperatorError


@pytest.mark.parametrize("turn_a", [0, 1])
@pytest.mark.parametrize("turn_b", [0, 1])
@pytest.mark.parametrize("which", ["a", "b"])
def test_gemm(check, spread, turn_a, turn_b, which):
    shapes = {"a": (4, 3) if turn_a else (3, 4), "b": (5, 4) if turn_b else (4, 5), "c": (5,)}
    constants = {name: spread(*shape) for name, shape in shapes.items()}
    x = constants.pop(which)
    inputs = ["x" if name == which else name for name in "abc"]
    attributes = {"transA": turn_a, "transB": turn_b, "alpha": 0.5, "beta": 2.0}
    check(helper.make_node("Gemm", inputs, ["y"], **attributes), x, constants)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 1), (1, 5), (3, 5)])
def test_gemm_with_respect_to_the_bias(check, spread, shape):
    node = helper.make_node("Gemm", ["a", "b", "x"], ["y"], beta=0.5)
    check(node, spread(*shape), {"a": spread(3, 4), "b": spread(4, 5)})


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("which", ["left", "right"])
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shapes=hnp.mutually_broadcastable_shapes(
        signature="(i?,j),(j,k?)->(i?,k?)", max_side=3, max_dims=3
    )
)
def test_matmul_broadcasts_and_takes_vectors(check, spread, which, is_open, shapes):
    left, right = (spread(*shape) for shape in shapes.input_shapes)
    dims = [None] * (left if which == "left" else right).ndim if is_open else None
    if which == "left":
        check(helper.make_node("MatMul", ["x", "c"], ["y"]), left, {"c": right}, dims=dims)
    else:
        check(helper.make_node("MatMul", ["c", "x"], ["y"]), right, {"c": left}, dims=dims)


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("ij,jk->ik", (2, 3), (3, 4)),
        ("bhid,bhjd->bhij", (2, 2, 3, 4), (2, 2, 2, 4)),
        ("bij,j->bi", (2, 3, 4), (4,)),
        ("ij,jk", (2, 3), (3, 4)),
        ("i,i", (3,), (3,)),
        ("ij,k->ik", (2, 3), (4,)),
        ("...ij,...jk->...ik", (2, 1, 2, 3), (1, 5, 3, 2)),
        ("i...,...", (2, 3), (3,)),
    ],
)
def test_einsum(check, spread, equation, left, right):
    a, b = spread(*left), spread(*right)
    check(helper.make_node("Einsum", ["x", "c"], ["y"], equation=equation), a, {"c": b})
    check(helper.make_node("Einsum", ["c", "x"], ["y"], equation=equation), b, {"c": a})


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    ("equation", "shape"),
    [
        ("ii->i", (3, 3)),
        ("ii", (3, 3)),
        ("...ii->...i", (2, 3, 3)),
        ("iji->j", (3, 2, 3)),
        ("iiij->ji", (3, 3, 3, 2)),
        ("iijj->", (2, 2, 3, 3)),
    ],
)
def test_einsum_of_a_diagonal(check, spread, equation, shape, is_open):
    node = helper.make_node("Einsum", ["x"], ["y"], equation=equation)
    check(node, spread(*shape), dims=[None] * len(shape) if is_open else None)


def test_einsum_of_a_diagonal_of_halves(build, run_gradient):
    node = helper.make_node("Einsum", ["x"], ["y"], equation="ii->i")
    x = np.ones((2, 2), np.float16)
    np.testing.assert_array_equal(run_gradient(build([node], x, {}, 17, None), x), np.eye(2))


@pytest.mark.parametrize("wanted", [0, 1])
def test_einsum_of_a_diagonal_with_another(check, spread, wanted):
    values = [spread(3, 3, 2), spread(3, 4)]
    names = ["x" if place == wanted else "c" for place in (0, 1)]
    node = helper.make_node("Einsum", names, ["y"], equation="iij,ik->jk")
    check(node, values[wanted], {"c": values[1 - wanted]})


@pytest.mark.parametrize("shape", [(2, 2), (2, 3, 3), (4, 4)])
def test_determinant(check, spread, shape):
    check(helper.make_node("Det", ["x"], ["y"]), spread(*shape))


def test_determinant_of_a_singular_matrix(check):
    """Its inverse does not exist, its gradient does."""
    check(helper.make_node("Det", ["x"], ["y"]), np.array([[1.0, 2, 3], [2, 4, 6], [0, 1, 1]]))


@pytest.mark.parametrize("length", [None, 3, 4, 7])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("options", [{}, {"onesided": 1}, {"inverse": 1}])
@pytest.mark.parametrize("opset", [17, 20])
def test_fourier_transform(check, spread, opset, options, channels, length):
    if options == {"onesided": 1} and channels == 2:
        pytest.skip("a one-sided transform is one of real numbers")
    inputs = ["x", "n" if length else ""]
    constants = {"n": np.array(length)} if length else {}
    if opset >= 20:
        inputs, constants = [*inputs, "axis"], {**constants, "axis": np.array(1)}
    options = options | ({} if opset >= 20 else {"axis": 1})
    node = helper.make_node("DFT", inputs, ["y"], **options)
    check(node, spread(2, 4, 3, channels), constants, opset=opset, dims=[None, 4, "W", channels])


def _half_inverse(opset, length):
    """Of 4 frequencies."""
    inputs, constants = ["x", "n" if length else ""], {"n": np.array(length)} if length else {}
    if opset >= 20:
        inputs, constants = [*inputs, "axis"], {**constants, "axis": np.array(1)}
    options = {"inverse": 1, "onesided": 1} | ({} if opset >= 20 else {"axis": 1})
    return helper.make_node("DFT", inputs, ["y"], **options), constants


@pytest.mark.parametrize("length", [None, 6, 7])
@pytest.mark.parametrize("opset", [17, 20])
def test_inverse_fourier_transform_of_a_half(check, spread, opset, length):
    node, constants = _half_inverse(opset, length)
    check(node, spread(2, 4, 3, 2), constants, opset=opset, dims=[None, 4, "W", 2])


@pytest.mark.parametrize("length", [5, 8])
def test_inverse_of_a_half_of_another_length_is_refused(build, spread, length):
    node, constants = _half_inverse(20, length)
    model = build([node], spread(2, 4, 3, 2), constants, 20, None)
    with pytest.raises(UnsupportedOperatorError, match="one-sided inverse"):
        differentiate(model, "x", "y")


def test_product_with_itself(check, spread):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    check(nodes, spread(3, 4))
