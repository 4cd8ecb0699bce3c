from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from ibisa_onnx.autodiff import differentiate
from ibisa_onnx.errors import UnsupportedOperatorError

T, N, INPUTS, HIDDEN = 4, 2, 3, 5
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
DIRECTIONS = ["forward", "reverse", "bidirectional"]


def _inputs(op_type, direction):
    """Every input that the operator may have, by the name used in these tests."""
    rng, d, g = np.random.default_rng(0), 1 + (direction == "bidirectional"), GATES[op_type]
    shapes = {
        "X": (T, N, INPUTS),
        "W": (d, g * HIDDEN, INPUTS),
        "R": (d, g * HIDDEN, HIDDEN),
        "B": (d, 2 * g * HIDDEN),
        "lengths": None,
        "initial_h": (d, N, HIDDEN),
    }
    if op_type == "LSTM":
        shapes |= {"initial_c": (d, N, HIDDEN), "P": (d, 3 * HIDDEN)}
    return {name: shape and rng.normal(size=shape) * 0.7 for name, shape in shapes.items()}


def _case(
    op_type, direction="forward", wanted="X", without=("lengths",), lengths=None, **attributes
):
    """A node from `x`, its input `wanted`, to all of its outputs in one, `y`; and its constants."""
    values = _inputs(op_type, direction)
    if lengths is not None:
        values["lengths"] = np.array(lengths, np.int32)
        without = set(without) - {"lengths"}
    names = ["" if n in without else "x" if n == wanted else n for n in values]
    parts = ["Y", "Y_h", "Y_c"][: 3 if op_type == "LSTM" else 2]
    layer = helper.make_node(
        op_type, names, parts, hidden_size=HIDDEN, direction=direction, **attributes
    )
    flat = [helper.make_node("Reshape", [part, "vector"], [f"{part}_flat"]) for part in parts]
    joined = helper.make_node("Concat", [f"{part}_flat" for part in parts], ["y"], axis=0)
    constants = {n: v for n, v in values.items() if n not in {*without, wanted}}
    return [layer, *flat, joined], values[wanted], constants | {"vector": np.array([-1])}


@pytest.fixture
def check_layer(check):
    """`check`, but in float32 for what ONNX Runtime computes in nothing else."""

    def compare(nodes, x, constants, **options):
        check(nodes, x, constants, double=nodes[0].op_type == "RNN", **options)

    return compare


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("op_type", GATES)
def test_sequence_with_all_inputs_and_outputs(check_layer, op_type, direction):
    check_layer(*_case(op_type, direction))


@pytest.mark.parametrize("op_type", GATES)
def test_open_batch_and_length(check_layer, op_type):
    nodes, x, constants = _case(op_type, "bidirectional")
    check_layer(nodes, x, constants, dims=["T", "N", INPUTS])


@pytest.mark.parametrize("dims", [None, ["T", None, INPUTS]])
@pytest.mark.parametrize("op_type", GATES)
def test_bare(check_layer, op_type, dims):
    without = ("B", "lengths", "initial_h", "initial_c", "P")
    nodes, x, constants = _case(op_type, without=without)
    check_layer(nodes, x, constants, opset=7, dims=dims)


@pytest.mark.parametrize(
    ("op_type", "wanted"),
    [(op, name) for op in GATES for name in _inputs(op, "forward") if name not in ("X", "lengths")],
)
def test_every_other_input(check_layer, op_type, wanted):
    check_layer(*_case(op_type, "bidirectional", wanted))


@pytest.mark.parametrize("wanted", ["X", "R", "B", "initial_h"])
def test_gru_that_resets_after_the_product(check_layer, wanted):
    check_layer(*_case("GRU", "bidirectional", wanted, linear_before_reset=1))


@pytest.mark.parametrize(
    ("op_type", "output"), [*((op, i) for op in GATES for i in (0, 1)), ("LSTM", 2)]
)
def test_single_outputs(check_layer, op_type, output):
    (layer, *_), x, constants = _case(op_type, "bidirectional")
    layer.output[:] = ["y" if place == output else "" for place in range(output + 1)]
    check_layer([layer], x, constants)


@pytest.mark.parametrize("lengths", [[4, 4], [2, 4], [3, 1]])
@pytest.mark.parametrize("op_type", GATES)
def test_sequences_of_their_own_lengths(check_layer, op_type, lengths):
    check_layer(*_case(op_type, "bidirectional", lengths=lengths))


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("RNN", {"activations": ["Softsign"]}),
        ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.3]}),
        ("GRU", {"activations": ["sigmoid", "elu"]}),
        ("RNN", {"activations": ["Softplus"]}),
        ("RNN", {"activations": ["ThresholdedRelu"], "activation_alpha": [0.2]}),
        ("GRU", {"activations": ["HardSigmoid", "Tanh"]}),
        (
            "LSTM",
            {
                "activations": ["HardSigmoid", "LeakyRelu", "Tanh"],
                "activation_alpha": [0.15, 0.4],
                "activation_beta": [0.45],
            },
        ),
    ],
)
def test_other_activations(check_layer, op_type, attributes):
    check_layer(*_case(op_type, **attributes))


def test_each_direction_has_its_activations(check_layer):
    activations = ["Sigmoid", "Softsign", "Sigmoid", "Elu"]
    check_layer(*_case("GRU", "bidirectional", activations=activations))


def _gradient(build, nodes, x, constants, dy):
    derivative = differentiate(build(nodes, x, constants, 17, None), "x", "y")
    session = ort.InferenceSession(derivative.backward.SerializeToString())
    given = {derivative.cotangent: dy, **dict.fromkeys(derivative.saved, x)}
    return session.run(None, given)[0]


@pytest.mark.parametrize("op_type", GATES)
def test_batch_before_time(build, op_type):
    """ONNX Runtime has no kernel for layout 1, so the backward graph is asked alone."""
    (layer, *_), x, constants = _case(
        op_type, "bidirectional", without=["lengths", "initial_c", "P"]
    )
    layer.output[:] = ["y"]
    x = x.astype(np.float32)
    dy = np.random.default_rng(1).normal(size=(T, 2, N, HIDDEN)).astype(np.float32)
    expected = _gradient(build, [layer], x, constants, dy)
    layer.attribute.append(helper.make_attribute("layout", 1))
    turned = constants | {"initial_h": constants["initial_h"].transpose(1, 0, 2)}
    dx = _gradient(build, [layer], x.transpose(1, 0, 2).copy(), turned, dy.transpose(2, 0, 1, 3))
    np.testing.assert_allclose(dx.transpose(1, 0, 2), expected, atol=1e-6)


def test_the_deployed_layer_stays(build):
    nodes, x, constants = _case("LSTM")
    derivative = differentiate(build(nodes, x, constants, 17, None), "x", "y")
    assert "LSTM" in {node.op_type for node in derivative.forward.graph.node}


def test_the_graph_does_not_grow_with_the_sequence(build):
    nodes, _, constants = _case("LSTM", without=("lengths", "initial_h", "initial_c"))
    sizes = set()
    for steps in (2, 2000):
        x = np.zeros((steps, N, INPUTS), np.float32)
        sizes.add(
            len(differentiate(build(nodes, x, constants, 17, None), "x", "y").backward.graph.node)
        )
    assert len(sizes) == 1


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"clip": 1.0}, "clip"),
        ({"input_forget": 1}, "input_forget"),
        ({"activations": ["Sigmoid", "Affine", "Tanh"]}, "Affine"),
    ],
)
def test_refusals(build, attributes, words):
    nodes, x, constants = _case("LSTM", **attributes)
    with pytest.raises(UnsupportedOperatorError, match=rf"LSTM.*{words}"):
        differentiate(build(nodes, x, constants, 17, None), "x", "y")
