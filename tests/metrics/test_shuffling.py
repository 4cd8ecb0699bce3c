"""Weights are shuffled wherever a model may hold them, and nothing else is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from ibisa_onnx import Explainer
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.errors import ModelError
from ibisa_onnx.io.images import read_image
from ibisa_onnx.metrics import randomisation, shuffled


def graph_with(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def moved(before: onnx.ModelProto, seed: int = 0) -> set[str]:
    """Names of the initializers whose order changed; all must have kept values and shapes."""
    was, now = weights_of(before), weights_of(shuffled(before, np.random.default_rng(seed)))
    assert was.keys() == now.keys()
    for name, values in was.items():
        assert values.dtype == now[name].dtype
        assert values.shape == now[name].shape
        assert sorted(values.ravel().tolist()) == sorted(now[name].ravel().tolist())
    return {name for name, values in was.items() if not np.array_equal(values, now[name])}


def test_weights_move_and_shapes_stay() -> None:
    model = graph_with(
        """g (float[1,2,4,4] x) => (float y) {
            c = Conv(x, w, b)
            r = Resize(c, , scales)
            i = Gather(r, index)
            y = Reshape(i, shape)
        }""",
        w=np.arange(54, dtype=np.float32).reshape(3, 2, 3, 3),
        b=np.arange(3, dtype=np.float32),
        scales=np.array([1, 1, 2, 3], np.float32),
        index=np.array([0, 1, 0], np.int32),
        shape=np.array([1, -1, 2], np.int64),
    )
    before = model.SerializeToString()
    assert moved(model) == {"w", "b"}
    assert model.SerializeToString() == before  # it is a copy that is shuffled


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_of_any_width_move(kind: type) -> None:
    model = graph_with("g (float[4] x) => (float y) { y = Add(x, w) }", w=np.arange(4, dtype=kind))
    assert moved(model) == {"w"}


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.INT4, TensorProto.UINT4])
def test_rare_types_move_too(kind: int) -> None:
    model = graph_with("g (float[5] x) => (float y) { y = Cast<to=1>(w) }")
    model.graph.initializer.append(helper.make_tensor("w", kind, [5], [1, 2, 3, 4, 5]))
    assert moved(model) == {"w"}


def test_of_a_quantised_layer_only_weights_and_biases_move() -> None:
    channels = np.arange(1, 5)
    model = graph_with(
        """g (uint8[1,2,4,4] x) => (uint8 y) {
            y = QLinearConv(x, xs, xz, w, ws, wz, ys, yz, b)
        }""",
        xs=np.float32(0.1), xz=np.uint8(3),
        w=np.arange(72, dtype=np.int8).reshape(4, 2, 3, 3),
        ws=channels.astype(np.float32), wz=channels.astype(np.int8),
        ys=np.float32(0.2), yz=np.uint8(4), b=channels.astype(np.int32),
    )  # fmt: skip
    assert moved(model) == {"w", "b"}


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32])
def test_of_a_dequantised_weight_only_itself_moves(kind: type) -> None:
    model = graph_with(
        """g (float[1,4] x) => (float y) {
            same = Identity(scale)
            wide = Cast<to=1>(same)
            d = DequantizeLinear<axis=0>(w, wide, zero)
            y = MatMul(x, d)
        }""",
        w=np.arange(12, dtype=kind).reshape(4, 3),
        scale=np.arange(1, 5).astype(np.float16),
        zero=np.arange(4).astype(kind),
    )
    assert moved(model) == {"w"}


def test_constants_move_and_so_do_those_of_subgraphs_and_functions() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
        g (float[4] x, bool c) => (float[4] y) {
            top = Constant<value = float[4] {1.0, 2.0, 3.0, 4.0}>()
            list = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>()
            length = Constant<value = int64[2] {1, 4}>()
            a = Add(x, top)
            b = Add(a, list)
            d = If (c) <
                then_branch = t () => (float[4] then) <float[4] inner = {5.0, 6.0, 7.0, 8.0}>
                    { then = Mul(b, inner) },
                else_branch = e () => (float[4] other) {
                    held = Constant<value = float[4] {5.0, 6.0, 7.0, 8.0}>()
                    other = Mul(b, held)
                }
            >
            y = own.scale(d)
        }
        <opset_import: ["" : 21], domain: "own">
        scale (z) => (w) {
            kept = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>()
            w = Mul(z, kept)
        }
    """
    before = parser.parse_model(text)
    after = shuffled(before, np.random.default_rng(1))
    onnx.checker.check_model(after)

    def parts(model: onnx.ModelProto) -> dict[str, bytes]:
        nodes = {node.output[0]: node for node in model.graph.node}
        branches = {each.name: each.g for each in nodes["d"].attribute}
        found = {name: nodes[name] for name in ("top", "list", "length")}
        found["inner"] = branches["then_branch"].initializer[0]
        found["held"] = branches["else_branch"].node[0]
        found["kept"] = model.functions[0].node[0]
        return {name: part.SerializeToString() for name, part in found.items()}

    was, now = parts(before), parts(after)
    assert {name for name in was if was[name] != now[name]} == {
        "top", "list", "inner", "held", "kept",
    }  # fmt: skip
    for name in ("list", "kept"):
        assert len(was[name]) == len(now[name])


def test_two_values_are_exchanged_whatever_the_seed() -> None:
    pair = np.array([1, 2], np.float32)
    model = graph_with("g (float[2] x) => (float y) { y = Add(x, w) }", w=pair)
    for seed in range(10):
        assert moved(model, seed) == {"w"}


def test_seeds_differ_and_repeat() -> None:
    values = np.arange(50, dtype=np.float32)
    model = graph_with("g (float[50] x) => (float y) { y = Add(x, w) }", w=values)
    one, two, again = (shuffled(model, np.random.default_rng(seed)) for seed in (0, 1, 0))
    assert one == again
    assert one != two


def test_a_model_without_weights_is_refused() -> None:
    model = graph_with(
        "g (float[4] x) => (float y) { a = Mul(x, w)\n b = Add(a, flat)\n y = Reshape(b, s) }",
        w=np.float32(2), flat=np.ones(4, np.float32), s=np.array([2, 2]),
    )  # fmt: skip
    with pytest.raises(ModelError, match="no weights to shuffle"):
        shuffled(model, np.random.default_rng(0))


def test_weights_that_are_elsewhere_are_refused() -> None:
    model = graph_with("g (float[4] x) => (float y) { y = Mul(x, w) }", w=np.ones(4, np.float32))
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="'w' is stored as external data"):
        shuffled(model, np.random.default_rng(0))


def test_the_map_of_a_shuffled_model_differs() -> None:
    picture = read_image(scene_path())
    mine = Explainer(model_path())
    model = shuffled(onnx.load(model_path()), np.random.default_rng(0))
    other = Explainer(model.SerializeToString())
    first, second = (mine.explain(picture, "ring", seed=seed).map for seed in (0, 1))
    assert randomisation(first, other.explain(picture, "ring").map) < 0.5
    assert randomisation(first, second) > 0.7
