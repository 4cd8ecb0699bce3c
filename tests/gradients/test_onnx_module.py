"""An ONNX model in torch: the same values and gradients as the network it was made from."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch.autograd.functional import jacobian

from ibisa_onnx.errors import GradientError, ModelError, OptionError, UnsupportedOperatorError
from ibisa_onnx.gradients import onnx_module
from ibisa_onnx.gradients.onnx_module import OnnxModule
from ibisa_onnx.models.session_options import open_graph


@pytest.fixture
def module(small_onnx):
    return OnnxModule(small_onnx().SerializeToString(), threads=1)


def pulled(function, images):
    images = images.clone().requires_grad_()
    loss = (torch.log_softmax(function(2 * images), 1)[:, 3] ** 2).sum()
    return torch.autograd.grad(loss, images)[0]


def test_values_and_gradients_are_torchs(module, network, images):
    values = torch.from_numpy(images)
    torch.testing.assert_close(module(values), network(values), rtol=1e-5, atol=1e-5)
    for some in (values, values[:1], values[:, :, :, :].flip(3)):
        torch.testing.assert_close(
            pulled(module, some), pulled(network, some), rtol=1e-4, atol=1e-5
        )


def test_it_is_a_module_among_others(module, network, images):
    head = torch.nn.Linear(5, 2)
    slopes = [
        torch.autograd.grad(
            torch.nn.Sequential(body, head)(torch.from_numpy(images)).sum(), head.weight
        )
        for body in (module, network)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-5)
    assert not any(each.requires_grad or each.numel() for each in module.parameters())


def test_an_earlier_gradient_outlives_a_later_forward(module, images):
    values = torch.from_numpy(images)
    leaf = values.clone().requires_grad_()
    scores = module(leaf)
    module(100 * values)
    (late,) = torch.autograd.grad(scores.sum(), leaf)
    (early,) = torch.autograd.grad(module(leaf).sum(), leaf)
    torch.testing.assert_close(late, early, rtol=0, atol=0)


def test_half_precision_takes_and_gives_its_own_type(small_onnx, images):
    module = OnnxModule(small_onnx(half=True).SerializeToString())
    leaf = torch.from_numpy(images).half().requires_grad_()
    module(leaf).sum().backward()
    assert leaf.grad.dtype == torch.float16


def test_a_path_with_external_weights(small_onnx, network, images, tmp_path):
    path = tmp_path / "m.onnx"
    options = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
    onnx.save(small_onnx(), path, **options)
    values = torch.from_numpy(images)
    torch.testing.assert_close(
        pulled(OnnxModule(path), values), pulled(network, values), rtol=1e-4, atol=1e-5
    )


def test_refusals_are_one_line(small_onnx, module, images):
    with pytest.raises(UnsupportedOperatorError, match="Floor"):
        OnnxModule(small_onnx(last=("Floor",)).SerializeToString())
    model = small_onnx()
    model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.INT64, [1]))
    with pytest.raises(ModelError, match="several inputs: image, k; choose one with input="):
        OnnxModule(model.SerializeToString())
    with pytest.raises(ModelError, match="failed to run") as caught:
        module(torch.from_numpy(images[:, :2]))
    assert "\n" not in str(caught.value)


# -- which part


ENDS = [
    ((), "m"),
    (("Softmax",), "m"),
    (("LogSoftmax",), "m"),
    (("Sigmoid",), "m"),
    (("Relu", "Softmax"), "last0"),
    (("Softmax", "Log"), "m"),
]


@pytest.mark.parametrize(("last", "name"), ENDS)
def test_logits_are_what_goes_into_the_softmax_or_sigmoid(small_onnx, network, images, last, name):
    data = small_onnx(last=last).SerializeToString()
    module = OnnxModule(data, logits=True, threads=1)
    values = torch.from_numpy(images)
    expected = network(values)
    expected = torch.relu(expected) if name != "m" else expected
    torch.testing.assert_close(module(values), expected, rtol=1e-5, atol=1e-5)
    if name != "m" or last[:1] in (("Softmax",), ("Sigmoid",)):
        assert not torch.allclose(OnnxModule(data, threads=1)(values), expected)


def averaged(model: onnx.ModelProto) -> onnx.ModelProto:
    """Its scores the mean of a softmax and a sigmoid."""
    del model.graph.node[-1]
    model.graph.node.extend(
        [
            helper.make_node("Softmax", ["m"], ["p1"]),
            helper.make_node("Sigmoid", ["m"], ["p2"]),
            helper.make_node("Mean", ["p1", "p2"], ["scores"]),
        ]
    )
    return model


def test_probabilities_that_were_mixed_have_no_logits(small_onnx):
    data = averaged(small_onnx()).SerializeToString()
    with pytest.raises(ModelError, match=r"logits of 'scores'.*'p[12]'.*output="):
        OnnxModule(data, logits=True)
    OnnxModule(data, output="p1", logits=True)


def test_an_inner_tensor_by_its_name(small_onnx, network, images):
    hidden = OnnxModule(small_onnx().SerializeToString(), output="s", threads=1)
    values = torch.from_numpy(images).requires_grad_()
    expected = F.softplus(F.conv2d(values, network.kernel, network.bias, padding=1))
    torch.testing.assert_close(hidden(values), expected, rtol=1e-5, atol=1e-5)
    slopes = [torch.autograd.grad((h**2).sum(), values)[0] for h in (hidden(values), expected)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4)


def test_a_head_and_its_tail_are_the_model(small_onnx, module, images):
    data = small_onnx().SerializeToString()
    head, tail = OnnxModule(data, output="p", threads=1), OnnxModule(data, input="p", threads=1)
    both, values = torch.nn.Sequential(head, tail), torch.from_numpy(images)
    torch.testing.assert_close(both(values), module(values))
    torch.testing.assert_close(pulled(both, values), pulled(module, values))
    features = head(values).detach()
    assert features.shape[1:] == (4, 3, 3)
    assert pulled(tail, features).shape == features.shape


def around(model: onnx.ModelProto) -> onnx.ModelProto:
    """With a path around `p`: the image's mean is added to the scores."""
    del model.graph.node[-1]
    model.graph.node.extend(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["g"]),
            helper.make_node("Flatten", ["g"], ["mean"]),
            helper.make_node("ReduceMean", ["mean"], ["bias"], axes=[1]),
            helper.make_node("Add", ["m", "bias"], ["scores"]),
        ]
    )
    return model


def test_of_two_inputs_the_one_that_counts(small_onnx, images):
    data = small_onnx(extra=True).SerializeToString()
    module = OnnxModule(data, input="image", output="m", threads=1)
    assert module(torch.from_numpy(images)).shape == (2, 5)
    with pytest.raises(ModelError, match="'scores' depends on gain as well as 'image'"):
        OnnxModule(data, input="image")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "nowhere"}, "no tensor 'nowhere'; its inputs are: image"),
        ({"output": "nowhere"}, "does not compute 'nowhere'; choose one of: scores"),
        ({"input": "p", "output": "p"}, "input and output are both 'p'"),
        (
            {"input": "p"},
            "'scores' depends on image as well as 'p'; choose a tensor that all paths",
        ),
        ({"input": "m", "output": "p"}, "'p' depends on image as well as 'm'"),
    ],
)
def test_parts_that_are_not_there_are_refused(small_onnx, options, message):
    with pytest.raises(ModelError, match=message) as caught:
        OnnxModule(around(small_onnx()).SerializeToString(), **options)
    assert "\n" not in str(caught.value)


# -- dtypes and devices


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_any_precision_get_gradients_of_their_own(module, images, dtype):
    leaf = torch.from_numpy(images).to(dtype).requires_grad_()
    scores = module(leaf)
    assert scores.dtype == torch.promote_types(dtype, torch.float32)  # never narrower
    scores.sum().backward()
    assert leaf.grad.dtype == dtype
    single = leaf.detach().float().requires_grad_()
    module(single).sum().backward()
    torch.testing.assert_close(leaf.grad, single.grad.to(dtype), rtol=0, atol=0)


def test_a_model_of_halves_takes_single_precision(small_onnx, images):
    module = OnnxModule(small_onnx(half=True).SerializeToString(), threads=1)
    leaf = torch.from_numpy(images).requires_grad_()
    scores = module(leaf)
    scores.sum().backward()
    assert scores.dtype == leaf.grad.dtype == torch.float32
    assert module(leaf.half()).dtype == torch.float16


def of_bytes() -> bytes:
    """A model of bytes: scores are (image - 7) * 0.5 @ ones, quantised with a scale of 2."""
    nodes = [
        helper.make_node("DequantizeLinear", ["image", "half", "seven"], ["x"]),
        helper.make_node("MatMul", ["x", "ones"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "two", "zero"], ["scores"]),
    ]
    constants = {
        "half": np.float32(0.5),
        "two": np.float32(2),
        "seven": np.uint8(7),
        "zero": np.uint8(0),
        "ones": np.ones((4, 2), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "bytes",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.UINT8, ["n", 2])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_a_model_of_bytes_takes_floats_and_rounds_them():
    module = OnnxModule(of_bytes(), threads=1)
    leaf = torch.tensor([[19.4, 8.6, 300.0, -3.0]], requires_grad=True)
    scores = module(leaf)
    bytes_ = module(torch.tensor([[19, 9, 255, 0]], dtype=torch.uint8))
    assert bytes_.dtype == torch.uint8
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, bytes_.float())
    scores.sum().backward()  # two scores, each 0.5 / 2 a step
    torch.testing.assert_close(leaf.grad, torch.full((1, 4), 0.5))


@pytest.mark.parametrize("elem", [TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32])
def test_wider_integers_are_not_cut_to_bytes(elem):
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "x"], ["scores"]),
    ]
    image = helper.make_tensor_value_info("image", elem, ["n", 1])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1])
    graph = helper.make_graph(nodes, "integers", [image], [scores])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    leaf = torch.tensor([[3000.4]], requires_grad=True)
    squared = OnnxModule(model.SerializeToString(), threads=1)(leaf)
    squared.backward()
    assert (squared.item(), leaf.grad.item()) == (3000**2, 6000)


def test_a_graph_that_onnx_runtime_refuses_is_one_line(small_onnx):
    model = small_onnx()
    model.ir_version = 99
    with pytest.raises(ModelError, match="ONNX Runtime cannot open a graph made from") as caught:
        OnnxModule(model.SerializeToString())
    assert "\n" not in str(caught.value)


def test_what_is_no_tensor_is_refused(module, images):
    with pytest.raises(OptionError, match="ndarray; pass a torch tensor"):
        module(images)
    with pytest.raises(OptionError, match="model is ModelProto; pass a path"):
        OnnxModule(onnx.ModelProto())


# -- pickled, copied, forked


@pytest.fixture
def opened(small_onnx, tmp_path, monkeypatch):
    """A module of a file that is named relatively, with options."""
    monkeypatch.chdir(tmp_path)
    onnx.save(small_onnx(last=("Softmax",)), "m.onnx")
    return OnnxModule("m.onnx", logits=True, threads=1)


def through_torch(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), through_torch]
)
def test_a_copy_computes_the_same(opened, images, tmp_path, monkeypatch, copied):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        twin = copied(opened)
    values = torch.from_numpy(images)
    torch.testing.assert_close(pulled(twin, values), pulled(opened, values), rtol=0, atol=0)


@pytest.mark.cpu_provider("gradients are not bit for bit the same")
def test_another_process_gets_a_module_of_its_own(module, images):
    values = torch.from_numpy(images)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        there = pool.submit(jacobian, module, values).result()
    torch.testing.assert_close(there, jacobian(module, values), rtol=0, atol=0)


def test_a_file_that_changed_since_is_not_taken_for_the_one_that_was_pickled(opened, small_onnx):
    pickled = pickle.dumps(opened)
    onnx.save(small_onnx(last=("Sigmoid",)), "m.onnx")
    with pytest.raises(ModelError, match=r"m\.onnx is not the file that was pickled"):
        pickle.loads(pickled)


def test_a_forked_process_opens_its_own_sessions(module, images, monkeypatch):
    """Those of the parent wait for threads that are not there."""
    opened = []

    def counted(*arguments):
        opened.append(arguments)
        return open_graph(*arguments)

    monkeypatch.setattr(onnx_module, "open_graph", counted)
    values = torch.from_numpy(images)
    before = pulled(module, values)
    assert not opened
    monkeypatch.setattr(onnx_module.os, "getpid", lambda: -1)
    torch.testing.assert_close(pulled(module, values), before, rtol=0, atol=0)
    assert len(opened) == 2


# -- torch.func


@pytest.mark.cpu_provider("the axes of a reduction cannot be dynamic")
def test_forward_mode_is_torchs(module, network, images):
    values, tangent = torch.from_numpy(images), torch.from_numpy(images[::-1].copy())
    ours, theirs = (torch.func.jvp(f, (values,), (tangent,)) for f in (module, network))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    ours, theirs = (
        torch.func.jacfwd(lambda x, f=f: f(x * values))(torch.ones(1)) for f in (module, network)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_image_by_image_are_torchs(module, network, images):
    def score(function):
        return lambda image: torch.log_softmax(function(image[None]), 1)[0, 2]

    values = torch.from_numpy(images)
    ours, theirs = (torch.func.vmap(torch.func.grad(score(f)))(values) for f in (module, network))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    ours, theirs = (torch.func.jacrev(f)(values) for f in (module, network))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_where_forward_mode_has_no_rule_reverse_mode_is_advised(module, images, monkeypatch):
    def refuse(*_):
        raise UnsupportedOperatorError("no rule")

    monkeypatch.setattr(onnx_module, "differentiate", refuse)
    # The derivative is built anew, too; only the transpose of it may fail.
    monkeypatch.setattr(type(module._part), "_derivative", lambda self: self._names)
    values = torch.from_numpy(images)
    with pytest.raises(GradientError, match=r"no forward-mode derivative .*use reverse mode"):
        torch.func.jvp(module, (values,), (values,))
