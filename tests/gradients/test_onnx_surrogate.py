"""An ONNX file as another model's surrogate: its exact gradient, under the model's own names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from ibisa_onnx import Explainer, InputSpec
from ibisa_onnx.errors import GradientError
from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.gradients.onnx_surrogate import OnnxSurrogate
from ibisa_onnx.gradients.selection import GradientSelection
from ibisa_onnx.gradients.surrogate import SurrogateGradient
from ibisa_onnx.gradients.surrogate_file import FACTS
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.passes import PassCounter

Maker = Callable[..., onnx.ModelProto]
NAME = "logits"
"""Of the deployed model's output: not the surrogate's own, `scores`."""


@pytest.fixture
def masked(images: np.ndarray) -> MaskedImages:
    return MaskedImages(images, images[::-1].copy())


@pytest.fixture
def masks() -> np.ndarray:
    """A mask for each image, float32 [2, 1, 4, 6]."""
    return np.random.default_rng(0).random((2, 1, 4, 6), np.float32)


@pytest.fixture
def written(small_onnx: Maker, tmp_path: Path) -> Callable[..., Path]:
    """Write a surrogate: `written(batch=1, nhwc=True, ...)`."""

    def write(change: Callable[[onnx.ModelProto], object] = lambda _: None, **form: object) -> Path:
        proto = small_onnx(**form)
        change(proto)
        path = tmp_path / "s.onnx"
        path.write_bytes(proto.SerializeToString())
        return path

    return write


def opened(path: Path) -> OnnxSurrogate:
    return OnnxSurrogate(path, NAME, providers=["cpu"], threads=1)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"batch": 1},
        {"batch": 3},
        {"nhwc": True},
        {"listed": True},
        {"last": ("Unsqueeze",)},
    ],
    ids=lambda form: " ".join(map(str, form.items())) or "plain",
)
def test_it_gives_what_the_network_gives_in_torch(
    written: Callable[..., Path],
    network: torch.nn.Module,
    masked: MaskedImages,
    masks: np.ndarray,
    form: dict[str, object],
) -> None:
    def with_axes(proto: onnx.ModelProto) -> None:  # scores [N, K, 1, 1]
        if "last" in form:
            axes = onnx.numpy_helper.from_array(np.array([2, 3]), "axes")
            proto.graph.initializer.append(axes)
            next(n for n in proto.graph.node if n.op_type == "Unsqueeze").input.append("axes")
            proto.graph.output[0].type.tensor_type.ClearField("shape")

    cotangent = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    answers = []
    for source in (SurrogateGradient(network, NAME), opened(written(with_axes, **form))):
        function = source(masked, PassCounter())
        raw, saved = function.forward(masks)
        assert (raw[NAME].shape, raw[NAME].dtype) == ((2, 5), np.float32)
        answers.append((raw[NAME], function.backward(saved, {NAME: cotangent})))
        again, saved = function.take([1]).forward(masks[1:])
        np.testing.assert_allclose(again[NAME], raw[NAME][1:], rtol=1e-4, atol=1e-5)
        slope = function.take([1]).backward(saved, {NAME: cotangent[1:]})
        np.testing.assert_allclose(slope, answers[-1][1][1:], rtol=1e-4, atol=1e-5)
        assert function.class_activation(saved) is None
    for expected, found in zip(*answers, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_comes_back_as_float32(
    written: Callable[..., Path], masked: MaskedImages, masks: np.ndarray
) -> None:
    function = opened(written(half=True))(masked, PassCounter())
    raw, saved = function.forward(masks)
    assert raw[NAME].dtype == np.float32
    assert function.backward(saved, {NAME: np.ones_like(raw[NAME])}).dtype == np.float32


def test_several_masks_of_one_image_in_a_fixed_batch(
    written: Callable[..., Path], masked: MaskedImages
) -> None:
    masks = np.random.default_rng(0).random((5, 1, 4, 6), np.float32)
    answers = []
    for batch in ("n", 2):
        function = opened(written(batch=batch))(masked.take([0]), PassCounter())
        raw, saved = function.forward(masks)
        answers.append(function.backward(saved, {NAME: np.ones_like(raw[NAME])}))
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-5)


def test_passes_are_counted(
    written: Callable[..., Path], masked: MaskedImages, masks: np.ndarray
) -> None:
    passes = PassCounter()
    function = opened(written())(masked, passes)
    raw, saved = function.forward(masks)
    assert (passes.forward, passes.backward) == (2, 0)
    function.backward(saved, {NAME: np.ones_like(raw[NAME])})
    assert (passes.forward, passes.backward) == (2, 2)


def two_outputs(proto: onnx.ModelProto) -> None:
    proto.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, ["n", 36]))


def test_of_several_outputs_the_one_that_is_called_alike(written: Callable[..., Path]) -> None:
    path = written(two_outputs)
    with pytest.raises(
        GradientError,
        match=r"none of its outputs \(scores, f\) has the name of the model's output logits",
    ):
        opened(path)
    OnnxSurrogate(path, "f", providers=["cpu"])


def rounded(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Cast", ["scores"], ["whole"], to=TensorProto.INT32))
    proto.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("whole", TensorProto.INT32, ["n", 5])
    )


def bytes_in(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    proto.graph.node.insert(0, helper.make_node("Cast", ["image"], ["reals"], to=TensorProto.FLOAT))
    proto.graph.node[1].input[0] = "reals"


@pytest.mark.parametrize(
    ("change", "form", "says"),
    [
        (rounded, {}, "whole.*int32; a float dtype is required"),
        (bytes_in, {}, "int32, for which there is no gradient"),
        (lambda _: None, {"last": ("Floor",)}, "Floor"),
        (lambda _: None, {"extra": True}, "also requires a value for 'gain'"),
    ],
)
def test_what_can_be_no_surrogate_says_why(
    written: Callable[..., Path],
    change: Callable[[onnx.ModelProto], object],
    form: dict[str, object],
    says: str,
) -> None:
    with pytest.raises(
        GradientError, match=rf"s\.onnx cannot be used as a surrogate: .*{says}"
    ) as caught:
        opened(written(change, **form))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"this is no model", b"PK\x05\x06" + bytes(18)])
def test_nonsense_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.onnx"
    path.write_bytes(content)
    with pytest.raises(GradientError, match=r"s\.onnx cannot be used as a surrogate") as caught:
        opened(path)
    assert "\n" not in str(caught.value)


def test_images_of_another_size_are_refused(written: Callable[..., Path]) -> None:
    images = np.zeros((1, 3, 7, 9), np.float32)
    with pytest.raises(
        GradientError, match=r"requires images \[3, 9, 9\], but the model's are \[3, 7, 9\]"
    ):
        opened(written())(MaskedImages(images, images), PassCounter())


def test_it_says_of_which_model_it_is(written: Callable[..., Path]) -> None:
    facts = {"model": "m.onnx", "model_sha256": "abc", "certified": False}

    def say(proto: onnx.ModelProto) -> None:
        proto.metadata_props.add(key=FACTS, value=json.dumps(facts))

    surrogate = opened(written(say))
    (poor,) = surrogate.warnings(SimpleNamespace(sha256="abc"))
    assert "not certified" in poor
    other, _ = surrogate.warnings(SimpleNamespace(sha256="def"))
    assert "another model, m.onnx" in other
    assert opened(written()).warnings(SimpleNamespace(sha256="def")) == ()


def test_its_backward_graph_is_kept(
    written: Callable[..., Path], deployed: Callable[..., DeployedModel], tmp_path: Path
) -> None:
    model, kept = deployed(last=("Floor",)), tmp_path / "kept"
    for _ in range(2):
        path = GradientSelection("surrogate", written(), kept).open(model, ("scores",))
        assert path.name == "surrogate"
    assert len(list(kept.iterdir())) == 1


def test_it_lends_an_opaque_function_its_gradient_as_a_module_does(
    written: Callable[..., Path], network: torch.nn.Module
) -> None:
    session = DeployedModel.open(written().read_bytes(), providers=["cpu"], threads=1)
    picture = np.random.default_rng(3).integers(0, 256, (9, 9, 3), np.uint8)
    found = []
    for surrogate in (network, written(), written(batch=1)):
        explainer = Explainer(
            lambda images: session.run(images, ["scores"])["scores"],
            InputSpec((None, 3, 9, 9)),
            preprocessing="imagenet",
            surrogate=surrogate,
        )
        found.append(explainer.explain(picture, 1))
        assert found[-1].certificate.gradient == "surrogate"
        assert found[-1].certificate.difference < 1e-5
        assert found[-1].passes.forward == found[0].passes.forward
        assert found[-1].passes.backward == found[0].passes.backward == 10
        np.testing.assert_allclose(found[-1].map, found[0].map, rtol=1e-3, atol=1e-3)


def test_no_torch_is_needed(written: Callable[..., Path]) -> None:
    path = written()
    code = (
        "import sys; sys.modules['torch'] = None; import numpy as np; import ibisa_onnx\n"
        f"explainer = ibisa_onnx.Explainer({str(path)!r}, surrogate={str(path)!r},"
        " preprocessing='imagenet', providers=['cpu'], cache=False)\n"
        "found = explainer.explain(np.full((9, 9, 3), 200, np.uint8), 1)\n"
        "print(found.certificate.gradient)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "surrogate\n", done.stderr
