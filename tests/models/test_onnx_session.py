"""The deployed model: every dtype, layout and batch kind, and every way a file can be bad."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ibisa_onnx.errors import ModelError, OutputError, PreprocessingError, ProviderError
from ibisa_onnx.models.onnx_session import DeployedModel

DTYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
}


def _open(source, **options):
    if isinstance(source, onnx.ModelProto):
        source = source.SerializeToString()
    return DeployedModel.open(source, providers=["cpu"], threads=1, **options)


@pytest.mark.parametrize("batch", ["n", None, 1, 4])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_layout_and_batch_gives_the_known_answer(mean_model, rng, dtype, layout, batch):
    sides = (3, 5, 6) if layout == "NCHW" else (5, 6, 3)
    model = _open(mean_model((batch, *sides), DTYPES[dtype], layout))
    images = rng.integers(-100 if dtype != "uint8" else 0, 127, (5, 3, 5, 6)).astype(np.float32)

    result = model.run(images)["y"]

    np.testing.assert_allclose(result, images.mean(axis=(2, 3)), rtol=1e-5, atol=1e-4)
    assert model.image.layout == layout
    assert model.image.dtype == dtype
    assert (model.image.height, model.image.width) == (5, 6)


@pytest.mark.parametrize(
    ("batch", "options", "forward", "calls"),
    [("n", {}, 9, 2), ("n", {"max_batch": 3}, 9, 3), (1, {}, 9, 9), (4, {}, 12, 3)],
)
def test_passes_are_counted_with_the_padding(mean_model, rng, batch, options, forward, calls):
    model = _open(mean_model((batch, 3, 5, 6)), **options)
    model.run(rng.random((9, 3, 5, 6), dtype=np.float32))
    assert (model.passes.forward, model.passes.forward_calls) == (forward, calls)
    assert (model.passes.backward, model.passes.backward_calls) == (0, 0)


def test_a_scope_tells_what_one_run_cost(mean_model, rng):
    model = _open(mean_model())
    images = rng.random((2, 3, 5, 6), dtype=np.float32)
    model.run(images)
    spent = model.passes.scope()
    model.run(images, passes=spent)
    spent.count_backward(2)
    assert (spent.forward, spent.backward, spent.backward_calls) == (2, 2, 1)
    assert (model.passes.forward, model.passes.backward) == (4, 2)


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [("uint8", [-3.0, 1.6, 300.0], [0, 2, 255]), ("int8", [-200.0, -1.6, 200.0], [-128, -2, 127])],
)
def test_integer_inputs_are_rounded_and_clipped(mean_model, dtype, values, expected):
    model = _open(mean_model((1, 3, 5, 6), DTYPES[dtype]))
    images = np.broadcast_to(np.float32(values)[None, :, None, None], (1, 3, 5, 6))
    np.testing.assert_array_equal(model.run(images)["y"][0], expected)


def test_a_batch_declared_open_that_is_not_falls_back_and_says_so(linear_model, rng):
    model = _open(linear_model(rows=1))  # a constant Reshape to one row
    good = _open(linear_model())
    images = rng.random((3, 3, 4, 4), dtype=np.float32)
    np.testing.assert_allclose(model.run(images)["y"], good.run(images)["y"], rtol=1e-6)
    assert model.max_batch == 1
    assert len(model.warnings) == 1
    assert "one by one" in model.warnings[0]
    assert good.warnings == []
    model.run(images)
    assert len(model.warnings) == 1


def test_a_batch_folded_into_another_axis_is_noticed(rng):
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        "fold",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor("s", TensorProto.INT64, [2], [1, -1])],
    )
    model = _open(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    )
    images = rng.random((2, 3, 2, 2), dtype=np.float32)
    np.testing.assert_array_equal(model.run(images)["y"], images.reshape(2, 12))
    assert model.max_batch == 1
    assert model.warnings


def test_answers_of_another_number_of_axes_are_refused():
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["count"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["count", "first"], ["length"]),
        helper.make_node("Expand", ["one", "length"], ["sides"]),
        helper.make_node("Concat", ["one", "sides", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    values = {"first": [0], "one": [1], "rest": [-1]}
    graph = helper.make_graph(
        nodes,
        "axes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor(name, TensorProto.INT64, [1], each) for name, each in values.items()],
    )
    model = _open(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    )
    images = np.stack([np.full((3, 2, 2), level, np.float32) for level in (1, 2)])
    assert model.run(images[1:])["y"].shape == (1, 1, 1, 12)
    with pytest.raises(OutputError, match=r"of the same size: \[1, 1, 1, 12\] and \[1, 1, 12\]"):
        model.run(images)


def test_outputs_by_the_thousand_are_refused(mean_model):
    model = mean_model()
    for number in range(1000):
        model.graph.node.append(helper.make_node("Neg", ["y"], [f"y{number}"]))
        model.graph.output.add().CopyFrom(model.graph.output[0])
        model.graph.output[-1].name = f"y{number}"
    with pytest.raises(ModelError, match="has 1,001 outputs, more than 1,000"):
        _open(model)


def test_a_model_that_always_fails_is_an_error_and_leaves_the_batch_alone(rng):
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        "broken",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor("s", TensorProto.INT64, [2], [-1, 7])],
    )
    model = _open(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    )
    with pytest.raises(ModelError, match="failed to run") as error:
        model.run(rng.random((2, 3, 2, 2), dtype=np.float32))
    assert "\n" not in str(error.value)
    assert model.max_batch == 8
    assert model.warnings == []


def test_an_output_without_a_batch_axis_is_refused(rng):
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0),
            helper.make_node("Identity", ["x"], ["same"]),
        ],
        "scalar",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 2, 2])],
        [
            helper.make_tensor_value_info("m", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("same", TensorProto.FLOAT, [1, 3, 2, 2]),
        ],
    )
    model = _open(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    )
    image = rng.random((1, 3, 2, 2), dtype=np.float32)
    with pytest.raises(OutputError, match="no leading batch axis"):
        model.run(image)
    np.testing.assert_array_equal(model.run(image, ["same"])["same"], image)
    with pytest.raises(ModelError, match="its outputs are: m, same"):
        model.run(image, ["nothing"])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 4, 6), np.float32),
        np.zeros((1, 1, 4, 6), np.float32),
        np.zeros((0, 3, 5, 6), np.float32),
        np.zeros((3, 5, 6), np.float32),
        np.zeros((1, 3, 5, 6), np.float64),
    ],
)
def test_images_of_the_wrong_shape_or_dtype_are_refused(mean_model, images):
    with pytest.raises(PreprocessingError):
        _open(mean_model()).run(images)


class TestSources:
    def test_path_bytes_and_live_session_agree(self, linear_model, rng, tmp_path):
        path = tmp_path / "linear.onnx"
        onnx.save(linear_model(), path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        models = [_open(path), _open(str(path)), _open(path.read_bytes()), _open(session)]
        images = rng.random((2, 3, 4, 4), dtype=np.float32)
        answers = [model.run(images)["y"] for model in models]
        for answer in answers[1:]:
            np.testing.assert_array_equal(answer, answers[0])
        assert [model.name for model in models] == ["linear.onnx", "linear.onnx", None, path.name]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert {model.sha256 for model in models} == {digest}
        assert all(len(model.proto().graph.node) == 2 for model in models)

    def test_metadata_and_providers_are_told(self, mean_model):
        model = _open(mean_model(metadata={"author": "me"}))
        assert model.metadata == {"author": "me"}
        assert model.providers == ("CPUExecutionProvider",)

    def test_external_weights_are_found_hashed_and_never_parsed(self, linear_model, rng, tmp_path):
        path = tmp_path / "big.onnx"
        onnx.save(
            linear_model(),
            path,
            save_as_external_data=True,
            location="big.weights",
            size_threshold=0,
        )
        model, plain = _open(path), _open(linear_model())
        images = rng.random((2, 3, 4, 4), dtype=np.float32)
        np.testing.assert_array_equal(model.run(images)["y"], plain.run(images)["y"])
        weights = tmp_path / "big.weights"
        whole = hashlib.sha256(path.read_bytes() + weights.read_bytes())
        assert model.sha256 == whole.hexdigest()
        assert all(not tensor.raw_data for tensor in model.proto().graph.initializer)
        assert model.folder == tmp_path

    def test_what_a_model_says_of_itself_is_not_in_the_graphs_hash(self, linear_model, tmp_path):
        path, weights = tmp_path / "m.onnx", tmp_path / "w"
        onnx.save(linear_model(), path, save_as_external_data=True, location="w", size_threshold=0)
        before, file = _open(path).graph_sha256, _open(path).sha256
        assert before is not None
        proto = onnx.load(path, load_external_data=False)
        proto.metadata_props.add(key="author", value="me")
        proto.doc_string = "mine"
        onnx.save(proto, path)
        assert _open(path).sha256 != file
        assert _open(path).graph_sha256 == before
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        assert _open(path).graph_sha256 != before

    def test_a_weight_in_the_file_is_in_the_graphs_hash(self, linear_model):
        proto, other = linear_model(), linear_model()
        weights = other.graph.initializer[1]
        weights.raw_data = weights.raw_data[::-1]
        assert _open(proto).graph_sha256 != _open(other).graph_sha256

    def test_a_derived_graph_runs_on_the_same_weights(self, linear_model, rng, tmp_path):
        path = tmp_path / "big.onnx"
        onnx.save(linear_model(), path, save_as_external_data=True, location="w", size_threshold=0)
        model = _open(path)
        derived = model.proto()
        derived.graph.node.append(helper.make_node("Neg", ["y"], ["minus"]))
        derived.graph.output.append(
            helper.make_tensor_value_info("minus", TensorProto.FLOAT, ["n", 5])
        )
        session = model.new_session(derived)
        images = rng.random((2, 3, 4, 4), dtype=np.float32)
        y, minus = session.run(["y", "minus"], {"image": images})
        np.testing.assert_array_equal(minus, -y)
        np.testing.assert_array_equal(y, model.run(images)["y"])
        assert tuple(session.get_providers()) == model.providers

    def test_a_broken_derived_graph_is_one_line(self, linear_model):
        model = _open(linear_model())
        derived = model.proto()
        derived.graph.node[0].op_type = "NoSuchOperator"
        with pytest.raises(ModelError, match="NoSuchOperator") as error:
            model.new_session(derived)
        assert "\n" not in str(error.value)


class TestInitializersListedAsInputs:
    @pytest.fixture
    def listed(self, linear_model):
        model = linear_model()
        for tensor in model.graph.initializer:
            model.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        model.ir_version = 4
        return model

    @pytest.mark.parametrize("external", [False, True])
    def test_they_become_constants_without_a_word(
        self, listed, linear_model, rng, tmp_path, capfd, external
    ):
        path = tmp_path / "old.onnx"
        onnx.save(listed, path, save_as_external_data=external, location="w", size_threshold=0)
        model = _open(path)
        assert [each.name for each in model.signature.inputs] == ["image"]
        assert model.session.get_overridable_initializers() == []
        assert [value.name for value in model.proto().graph.input] == ["image"]
        images = rng.random((2, 3, 4, 4), dtype=np.float32)
        np.testing.assert_array_equal(
            model.run(images)["y"], _open(linear_model()).run(images)["y"]
        )
        assert capfd.readouterr() == ("", "")


class TestBadFiles:
    def _refused(self, source, match):
        with pytest.raises(ModelError, match=match) as error:
            _open(source)
        assert "\n" not in str(error.value)

    def test_missing(self, tmp_path):
        self._refused(tmp_path / "no.onnx", "does not exist")
        self._refused(tmp_path / ("n" * 5000), "does not exist")  # no name of any file

    def test_folder(self, tmp_path):
        self._refused(tmp_path, "is a folder")

    def test_empty(self, tmp_path):
        path = tmp_path / "empty.onnx"
        path.write_bytes(b"")
        self._refused(path, "is empty")
        self._refused(b"", "is empty")

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("héllo\n".encode() * 100, "a text file, not an ONNX model"),  # ends within a letter
            (b"\x89PNG\r\n\x1a\n" + bytes(50), "a PNG image, not an ONNX model; pass the model f"),
            (b"\xff\xd8\xff\xe0" + bytes(50), "a JPEG image, not an ONNX model"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
            (b"PK\x03\x04" + bytes(50), "a ZIP archive, such as a PyTorch checkpoint, not an"),
            (bytes(range(256)), "not an ONNX model, or is truncated"),
        ],
    )
    def test_not_onnx(self, tmp_path, content, said, capfd):
        path = tmp_path / "photo.onnx"
        path.write_bytes(content)
        self._refused(path, f"photo.onnx is {said}" if "git" not in said else said)
        self._refused(content, said)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("part", [0.05, 0.5, 0.99])
    def test_truncated(self, linear_model, tmp_path, part, capfd):
        whole = linear_model(side=16).SerializeToString()
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[: int(len(whole) * part)])
        self._refused(path, "truncated")
        assert capfd.readouterr() == ("", "")

    def test_weights_missing_or_truncated_or_unnameable(self, linear_model, tmp_path):
        path = tmp_path / "big.onnx"
        onnx.save(
            linear_model(), path, save_as_external_data=True, location="big.w", size_threshold=0
        )
        self._refused(path.read_bytes(), r"\(big.w\), which cannot be found from bytes")
        weights = tmp_path / "big.w"
        weights.write_bytes(weights.read_bytes()[:100])
        self._refused(path, "big.w is truncated")
        weights.unlink()
        self._refused(path, "big.w is missing; put it beside the model")

    def test_unknown_operator_keeps_what_the_runtime_says(self, linear_model):
        model = linear_model()
        model.graph.node[0].op_type = "NoSuchOperator"
        self._refused(model, "NoSuchOperator")


class TestInputs:
    def _model(self, *inputs):
        """A model with these inputs, all unused but the first."""
        infos = [helper.make_tensor_value_info(*each) for each in inputs]
        node = helper.make_node("Identity", [inputs[0][0]], ["y"])
        output = helper.make_tensor_value_info("y", inputs[0][1], inputs[0][2])
        graph = helper.make_graph([node], "inputs", infos, [output])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    @pytest.mark.parametrize(
        ("dtype", "shape"),
        [
            (TensorProto.INT64, ["n", "sequence"]),
            (TensorProto.FLOAT, ["n", 30]),
            (TensorProto.FLOAT, ["n", 17, 30, 30]),
            (TensorProto.BOOL, ["n", 3, 30, 30]),
            (TensorProto.FLOAT, ["n", 3, 16, 30, 30]),
        ],
    )
    def test_no_picture(self, dtype, shape):
        with pytest.raises(ModelError, match=r"has no image input.*its inputs are: x "):
            _open(self._model(("x", dtype, shape)))

    @pytest.mark.parametrize("shape", [[3, 5, 7], [3, "high", 7], [5, 7, 3]])
    def test_a_picture_without_a_batch_axis_gets_one(self, rng, shape):
        opened = _open(self._model(("x", TensorProto.FLOAT, shape)))
        assert opened.image.batch == 1
        image = rng.random((1, 3, 5, 7), dtype=np.float32)
        (found,) = opened.run_raw(image, ["y"]).values()
        wanted = image[0] if shape[0] == 3 else image[0].transpose(1, 2, 0)
        np.testing.assert_array_equal(np.squeeze(found), wanted)

    def test_layout_that_shape_does_not_tell(self, rng):
        model = self._model(("x", TensorProto.FLOAT, ["n", "a", "b", "c"]))
        with pytest.raises(ModelError, match="'NCHW'} or overrides="):
            _open(model)
        opened = _open(model, layout="nhwc")
        image = rng.random((1, 3, 5, 7), dtype=np.float32)
        assert opened.run(image)["y"].shape == (1, 5, 7, 3)
        with pytest.raises(ModelError, match="use NCHW or NHWC"):
            _open(model, layout="CHWN")

    def test_tiny_square_pictures_are_told_apart(self):
        assert _open(self._model(("x", 1, ["n", 3, 4, 4]))).image.layout == "NCHW"
        assert _open(self._model(("x", 1, ["n", 4, 4, 3]))).image.layout == "NHWC"
        with pytest.raises(ModelError, match="'layout'"):
            _open(self._model(("x", 1, ["n", 3, 3, 3])))

    def test_an_axis_that_is_called_channels_tells_the_layout(self):
        """As in exports of Hugging Face's models, which leave every side open."""
        sides = ["batch_size", "num_channels", "height", "width"]
        image = _open(self._model(("x", 1, sides))).image
        assert (image.layout, image.channels, image.height) == ("NCHW", 3, None)
        assert _open(self._model(("x", 1, ["b", "h", "w", "channels"]))).image.layout == "NHWC"

    def test_layout_against_the_channels_is_refused(self):
        with pytest.raises(ModelError, match="as NHWC"):
            _open(self._model(("x", TensorProto.FLOAT, ["n", 3, 30, 30])), layout="NHWC")

    def test_several_images_need_a_name(self):
        model = self._model(
            ("left", TensorProto.FLOAT, ["n", 3, 5, 5]),
            ("right", TensorProto.FLOAT, ["n", 3, 6, 6]),
        )
        with pytest.raises(ModelError, match=r"left float32 .*right float32 .*input="):
            _open(model)
        with pytest.raises(ModelError, match="requires a value for 'left'"):
            _open(model, input="right")
        left = np.ones((1, 3, 5, 5))
        opened = _open(model, input="right", extra_inputs={"left": left})
        assert opened.image.name == "right"
        answer = opened.run(np.zeros((3, 3, 6, 6), np.float32))["y"]
        np.testing.assert_array_equal(answer, np.ones((3, 3, 5, 5)))

    @pytest.mark.parametrize(
        ("declared", "value", "shape"),
        [
            (["n", 4], [0.5, 1, 0, 2], (1, 4)),
            (["n", 4], np.ones((3, 4)), (3, 4)),
            (["n", 1], 0.5, (1, 1)),
            ([1], 0.5, (1,)),
            ([], [0.5], ()),
            ([None, 2, 2], [1, 2, 3, 4], (1, 2, 2)),
            (["m"], [1, 2, 3], (3,)),
            ([1, "m", 2], np.ones((3, 2)), (1, 3, 2)),
            ([-1, 3], [1, 2, 3], (1, 3)),
        ],
    )
    def test_a_value_is_brought_to_the_declared_rank(self, declared, value, shape):
        model = self._model(("image", 1, ["n", 3, 5, 5]), ("meta", 1, declared))
        fed = _open(model, input="image", extra_inputs={"meta": value}).extra_feed(1)["meta"]
        assert (fed.shape, fed.dtype) == (shape, np.float32)
        np.testing.assert_array_equal(fed.ravel(), np.ravel(value))

    @pytest.mark.parametrize("value", [[1, 2, 3], 1, np.ones((2, 2)), np.ones((1, 1, 4))])
    def test_a_value_that_cannot_fit_is_told_the_declared_shape(self, value):
        model = self._model(("image", 1, ["n", 3, 5, 5]), ("meta", 1, ["n", 4]))
        with pytest.raises(
            ModelError, match=r"shape \[.*\] does not fit .*'meta' float32 \[n, 4\]"
        ):
            _open(model, extra_inputs={"meta": value})

    @pytest.mark.parametrize("value", [0.5, "much", 2**70, [[1], [2, 3]]])
    def test_a_value_of_another_type_is_refused(self, value):
        model = self._model(("image", 1, ["n", 3, 5, 5]), ("count", TensorProto.INT64, [1]))
        with pytest.raises(ModelError, match=r"does not fit input 'count' int64 \[1\]"):
            _open(model, extra_inputs={"count": value})

    def test_wrong_names_and_inputs_that_are_no_picture(self):
        model = self._model(
            ("image", TensorProto.FLOAT, ["n", 3, 5, 5]), ("count", TensorProto.INT64, [1])
        )
        assert _open(model, extra_inputs={"count": [3]}).image.name == "image"
        with pytest.raises(ModelError, match="no input 'nothing'; its inputs are: image"):
            _open(model, input="nothing")
        with pytest.raises(ModelError, match=r"'count' int64 \[1\] is not an image input"):
            _open(model, input="count")
        with pytest.raises(ModelError, match="no additional input 'cuont'"):
            _open(model, extra_inputs={"cuont": [3]})


class TestProviders:
    def test_one_that_this_build_lacks_is_an_error(self, mean_model, monkeypatch):
        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"]
        )
        data = mean_model().SerializeToString()
        for name in ("cuda", "CUDAExecutionProvider", "CUDA"):
            with pytest.raises(
                ProviderError,
                match=r"has: cpu; if this machine has a CUDA GPU: pip uninstall onnxruntime, then",
            ):
                DeployedModel.open(data, providers=[name])

    @pytest.mark.skipif(
        "OpenVINOExecutionProvider" in onnxruntime.get_available_providers(),
        reason="this build of ONNX Runtime has OpenVINO",
    )
    def test_a_missing_openvino_names_its_build(self, mean_model):
        with pytest.raises(ProviderError, match="then pip install onnxruntime-openvino"):
            DeployedModel.open(mean_model().SerializeToString(), providers=["openvino"])

    def test_options_of_a_live_session_that_it_reports_are_an_error(self, mean_model, monkeypatch):
        session = onnxruntime.InferenceSession(
            mean_model().SerializeToString(), providers=["CPUExecutionProvider"]
        )
        with pytest.raises(ProviderError, match="options of cuda, but the open session does not"):
            DeployedModel.open(session, providers=["cpu", ("cuda", {"device_id": 1})])
        reported = {"CPUExecutionProvider": {"arena": "1"}}
        monkeypatch.setattr(session, "get_provider_options", lambda: reported)
        with pytest.raises(ProviderError, match="the open session reports its options; leave them"):
            DeployedModel.open(session, providers=[("cpu", {"arena": 2})])

    def test_unknown_names_list_the_known(self, mean_model):
        with pytest.raises(
            ProviderError, match=r"unknown execution provider 'cdua'; choose from: .*cuda.*openvino"
        ):
            DeployedModel.open(mean_model().SerializeToString(), providers=["cdua"])

    @pytest.mark.cpu_provider("this build has others")
    def test_one_that_did_not_come_up_is_an_error(self, mean_model, monkeypatch):
        # As a GPU build without a device: CUDA is listed, the session comes up on the CPU.
        create = onnxruntime.InferenceSession
        monkeypatch.setattr(
            onnxruntime,
            "get_available_providers",
            lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        )
        monkeypatch.setattr(
            onnxruntime,
            "InferenceSession",
            lambda *args, **kwargs: create(
                *args, **{**kwargs, "providers": ["CPUExecutionProvider"]}
            ),
        )
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
        data = mean_model().SerializeToString()
        with pytest.raises(ProviderError, match="requested provider cuda did not start"):
            DeployedModel.open(data, providers=["cuda"])
        fallen_back = DeployedModel.open(data)
        assert fallen_back.providers == ("CPUExecutionProvider",)
        assert "has CUDA, but CUDA does not work here" in fallen_back.warnings[0]

    def test_a_live_session_on_another_provider_is_an_error(self, mean_model):
        session = onnxruntime.InferenceSession(
            mean_model().SerializeToString(), providers=["CPUExecutionProvider"]
        )
        with pytest.raises(ProviderError, match="did not start"):
            DeployedModel.open(session, providers=["cuda"])


@pytest.mark.real
def test_the_face_detector_is_quiet(assets, capfd):
    model = _open(assets / "models" / "face_rfb320.onnx")
    outputs = model.run(np.zeros((2, 3, 240, 320), np.float32))
    assert outputs["scores"].shape == (2, 4420, 2)
    assert outputs["boxes"].shape == (2, 4420, 4)
    assert model.passes.forward_calls == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.real
@pytest.mark.parametrize("name", ["squeezenet", "mobilenetv2"])
def test_a_batch_is_as_good_as_one_by_one(assets, name, rng):
    model = _open(assets / "models" / f"{name}.onnx", max_batch=3)
    images = rng.normal(size=(4, 3, 224, 224)).astype(np.float32)
    output = model.signature.outputs[0].name
    together = model.run(images)[output]
    apart = np.concatenate([model.run(image[None])[output] for image in images])
    np.testing.assert_allclose(together, apart, rtol=1e-3, atol=1e-4)
    assert model.warnings == []
