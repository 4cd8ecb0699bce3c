"""A function as a model: what it is given, what it may return, and what is said where it fails."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ibisa_onnx.errors import ModelError, OutputError, PreprocessingError
from ibisa_onnx.models.function import FunctionModel, InputSpec

SIDES = (3, 5, 6)
OPEN = InputSpec((None, *SIDES))


def mean(images: np.ndarray) -> np.ndarray:
    """The mean of each channel of images [N, C, H, W]: three scores."""
    return images.mean((2, 3))


def ones(count: int = 1) -> np.ndarray:
    return np.ones((count, *SIDES), np.float32)


def returning(value: Any, spec: InputSpec = OPEN) -> FunctionModel:
    return FunctionModel(lambda images: value, spec)


class Recorder:
    """Keeps what it was given, and gives the mean of each channel."""

    def __init__(self, channels_last: bool = False) -> None:
        self.given: list[np.ndarray] = []
        self.axes = (1, 2) if channels_last else (2, 3)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.given.append(images.copy())
        return images.mean(self.axes)


@pytest.mark.parametrize("batch", [None, "n", 1, 4])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8", "int8"])
def test_every_dtype_layout_and_batch_is_given_as_the_spec_says(rng, dtype, layout, batch):
    record = Recorder(layout == "NHWC")
    sides = SIDES if layout == "NCHW" else (5, 6, 3)
    model = FunctionModel(record, InputSpec((batch, *sides), dtype))
    images = rng.integers(0, 127, (5, *SIDES)).astype(np.float32)

    result = model.run(images)["scores"]

    np.testing.assert_allclose(
        result, images.mean((2, 3)), rtol=1e-2 if dtype == "float16" else 1e-5
    )
    assert {each.dtype.name for each in record.given} == {dtype}
    assert [each.shape[1:] for each in record.given] == [sides] * len(record.given)
    assert [len(each) for each in record.given] == {1: [1] * 5, 4: [4, 4]}.get(batch, [5])
    seen = np.concatenate(record.given)[:5]
    seen = seen if layout == "NCHW" else seen.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(seen, images)
    assert model.warnings == []


@pytest.mark.parametrize(
    ("batch", "most", "forward", "calls"), [(None, 8, 9, 2), (None, 3, 9, 3), (4, 8, 12, 3)]
)
def test_it_is_called_as_often_as_is_counted(batch, most, forward, calls):
    record = Recorder()
    model = FunctionModel(record, InputSpec((batch, *SIDES)), max_batch=most)
    model.run(ones(9))
    assert (model.passes.forward, model.passes.forward_calls) == (forward, calls)
    assert (sum(map(len, record.given)), len(record.given)) == (forward, calls)


@pytest.mark.parametrize("spec", [OPEN, InputSpec((1, *SIDES)), InputSpec((None, 5, 6, 3))])
def test_it_may_change_its_images_in_place(rng, spec):
    def scores(images: np.ndarray) -> np.ndarray:
        assert images.flags.c_contiguous
        result = images.mean((2, 3) if images.shape[1] == 3 else (1, 2))
        images[:] = np.nan
        return result

    images = rng.random((2, *SIDES), dtype=np.float32)
    before = images.copy()
    np.testing.assert_allclose(
        FunctionModel(scores, spec).run(images)["scores"], before.mean((2, 3)), rtol=1e-5
    )
    np.testing.assert_array_equal(images, before)


def test_it_may_return_the_same_buffer_every_time(rng):
    buffer = np.empty((2, 3), np.float32)

    def scores(images: np.ndarray) -> np.ndarray:
        return images.mean((2, 3), out=buffer)

    images = rng.random((6, *SIDES), dtype=np.float32)
    found = FunctionModel(scores, OPEN, max_batch=2).run(images)["scores"]
    np.testing.assert_allclose(found, images.mean((2, 3)), rtol=1e-5)


class OfArrays:
    """Another framework's array, as NumPy sees it."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return self.values


@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        list,
        torch.from_numpy,
        OfArrays,
        lambda values: values[:, :, None, None],
        lambda values: values.astype(np.float16),
        lambda values: values.astype(np.float64),
    ],
    ids=["lists", "rows", "torch", "__array__", "[N, K, 1, 1]", "float16", "float64"],
)
def test_scores_come_back_in_many_guises(convert: Callable[[np.ndarray], Any], rng):
    images = rng.random((2, *SIDES), dtype=np.float32)
    found = FunctionModel(lambda x: convert(mean(x)), OPEN).run(images)["scores"]
    np.testing.assert_allclose(found, mean(images), rtol=1e-3)
    assert found.shape == (2, 3)


def test_one_image_may_have_its_row_alone_and_one_score_no_axis(rng):
    images = rng.random((3, *SIDES), dtype=np.float32)
    one = FunctionModel(lambda x: mean(x)[0], InputSpec((1, *SIDES)))
    np.testing.assert_array_equal(one.run(images)["scores"], mean(images))
    squeezed = FunctionModel(lambda x: np.squeeze(mean(x)), OPEN)
    np.testing.assert_array_equal(squeezed.run(images[:1])["scores"], mean(images[:1]))
    np.testing.assert_array_equal(squeezed.run(images)["scores"], mean(images))
    single = FunctionModel(lambda x: mean(x)[:, 0], OPEN)
    np.testing.assert_array_equal(single.run(images)["scores"], mean(images)[:, :1])
    np.testing.assert_array_equal(single.run(images[:1])["scores"], mean(images)[:1, :1])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "returned None for 2 image(s); return one score per class, floats [N, K]"),
        ({"scores": [1.0]}, "returned dict for 2 image(s)"),
        (0.5, "returned float float64 [] for 2 image(s)"),
        ("cat", "returned str for 2 image(s)"),
        ([["0.1"], ["0.2"]], "returned list for 2 image(s)"),
        (np.zeros((2, 0)), "returned ndarray float64 [2, 0] for 2 image(s)"),
        (np.zeros((2, 3, 4)), "returned ndarray float64 [2, 3, 4] for 2 image(s)"),
        (np.zeros((2, 3), complex), "returned ndarray complex128 [2, 3] for 2 image(s)"),
        (np.zeros((2, 3), bool), "returned ndarray bool [2, 3] for 2 image(s)"),
        ([[0.1, 0.9], [0.2]], "returned a list that NumPy cannot convert"),
        (torch.zeros(2, 3, requires_grad=True), "detach()"),
        (np.array([3, 1]), "int64 [2] for 2 image(s), which may be class indices"),
        ([[3, 1, 2], [1, 2, 3]], "[2, 3] for 2 image(s), which may be class indices"),
        (np.zeros((1, 3)), "[1, 3] for 2 image(s)"),
        (np.zeros((3, 3)), "[3, 3] for 2 image(s)"),
        (np.zeros(3), "[3] for 2 image(s)"),
        (np.array([[1, 2], [np.nan, 1]]), "[2, 2] for 2 image(s) with NaN or infinite values"),
        (np.array([[1, 2], [-np.inf, 1]]), "with NaN or infinite values"),
    ],
)
def test_what_is_no_scores_is_said_in_one_line(value: Any, said: str):
    model = returning(value)
    with pytest.raises(OutputError) as caught:
        model.run(ones(2))
    message = str(caught.value)
    assert message.startswith("<lambda> returned")
    assert said in message
    assert "\n" not in message
    assert model.passes.forward_calls == 1  # it was called, and not a second time


def test_too_few_rows_are_told_how_to_come_one_by_one():
    with pytest.raises(OutputError, match="pass InputSpec a batch of 1"):
        returning(np.zeros((1, 3))).run(ones(2))
    with pytest.raises(OutputError) as caught:
        returning(np.zeros((1, 3)), InputSpec((2, *SIDES))).run(ones(2))
    assert "batch of 1" not in str(caught.value)


def test_another_number_of_classes_than_before_is_refused():
    model = FunctionModel(lambda images: np.zeros((len(images), 2 + len(images))), OPEN)
    model.run(ones(2))
    with pytest.raises(
        OutputError, match=r"\[1, 3\] for 1 image\(s\), but 4 scores per image before"
    ):
        model.run(ones(1))


class TestACallThatFails:
    def test_names_the_function_and_keeps_the_cause(self):
        cause = ConnectionError("the endpoint\nis down")

        def ask(images: np.ndarray) -> np.ndarray:
            raise cause

        model = FunctionModel(ask, InputSpec((1, *SIDES)))
        with pytest.raises(ModelError) as caught:
            model.run(ones())
        assert str(caught.value) == (
            "ask failed on a batch of 1: ConnectionError: the endpoint is down"
        )
        assert caught.value.__cause__ is cause

    def test_without_a_message_is_named_all_the_same(self):
        def ask(images: np.ndarray) -> np.ndarray:
            raise TimeoutError

        with pytest.raises(ModelError, match=r"ask failed on a batch of 1: TimeoutError$"):
            FunctionModel(ask, OPEN).run(ones())

    def test_is_not_made_again_and_not_counted(self):
        calls = []

        def ask(images: np.ndarray) -> np.ndarray:
            calls.append(len(images))
            if len(calls) == 2:
                raise OSError("busy")
            return mean(images)

        model = FunctionModel(ask, OPEN, max_batch=2)
        with pytest.raises(ModelError, match=r"batch of 2: OSError: busy; .* a batch of 1$"):
            model.run(ones(6))
        assert calls == [2, 2]
        assert (model.passes.forward, model.passes.forward_calls) == (2, 1)
        assert model.max_batch == 2
        assert model.warnings == []
        np.testing.assert_array_equal(model.run(ones(2))["scores"], np.ones((2, 3)))

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_on_purpose_is_let_through(self, kind: type[BaseException]):
        def ask(images: np.ndarray) -> np.ndarray:
            raise kind

        with pytest.raises(kind):
            FunctionModel(ask, OPEN).run(ones())


class TestNames:
    def answer(self, images: np.ndarray) -> np.ndarray:
        return mean(images)

    def test_are_those_of_the_definition(self):
        def local(images: np.ndarray) -> np.ndarray:
            return mean(images)

        named = {
            "mean": mean,
            "local": local,
            "<lambda>": lambda images: images,
            "Recorder": Recorder(),
            "TestNames.answer": self.answer,
        }
        for name, function in named.items():
            assert FunctionModel(function, OPEN).name == name
            partial = functools.partial(functools.partial(function))
            assert FunctionModel(partial, OPEN).name == name

    def test_there_is_nothing_else_to_record(self):
        model = FunctionModel(mean, OPEN)
        assert (model.sha256, model.providers, dict(model.metadata)) == (None, (), {})
        assert model.proto() is None


def test_images_that_the_spec_does_not_describe_are_refused():
    model = FunctionModel(mean, OPEN)
    for images in (ones()[:, :, :4], ones()[0], ones().astype(np.float64), ones(0)):
        with pytest.raises(PreprocessingError):
            model.run(images)
    assert model.passes.forward_calls == 0
    with pytest.raises(ModelError, match="mean has no output 'y'; its outputs are: scores"):
        model.run(ones(), ["y"])


async def later(images: np.ndarray) -> np.ndarray:
    await asyncio.sleep(0)
    return mean(images)


class Later:
    async def __call__(self, images: np.ndarray) -> np.ndarray:
        return await later(images)


@pytest.mark.parametrize("function", [later, Later(), functools.partial(later)])
def test_an_asynchronous_function_is_refused_before_it_is_called(function: Any):
    with pytest.raises(ModelError, match=r"(later|Later) is asynchronous"):
        FunctionModel(function, OPEN)
    waits = FunctionModel(lambda images: asyncio.run(later(images)), OPEN)
    np.testing.assert_array_equal(waits.run(ones(2))["scores"], np.ones((2, 3)))


def test_threads_count_their_own_calls():
    """Two threads meet inside the function, so both are in it at once."""
    meet = threading.Barrier(2, timeout=10)

    def scores(images: np.ndarray) -> np.ndarray:
        meet.wait()
        return mean(images)

    model = FunctionModel(scores, OPEN)
    spent: list[int] = []

    def work(images: np.ndarray) -> None:
        passes = model.passes.scope()
        model.run(images, passes=passes)
        spent.append(passes.forward)

    workers = [threading.Thread(target=work, args=(ones(count),)) for count in (1, 2)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert sorted(spent) == [1, 2]
    assert model.passes.forward == 3


REFUSED = [
    ({"shape": (3, 224, 224)}, r"\[3, 224, 224\] has 3 axes; pass four"),
    ({"shape": 224}, "^shape is 224"),
    ({"shape": "n3hw"}, "^shape is 'n3hw'"),
    ({"shape": (-1, 3, 224, 224)}, "has an axis of -1; pass an integer, 1 or more, or None"),
    ({"shape": (True, 3, 224, 224)}, "has an axis of True"),
    ({"shape": (1, 3, 224.0, 224)}, r"has an axis of 224\.0"),
    ({"shape": (1, 3, 8, 8), "dtype": "flaot32"}, "dtype is 'flaot32'; choose from: float16"),
    ({"shape": (1, 3, 8, 8), "dtype": None}, "dtype is None"),
    ({"shape": (1, 3, 8, 8), "dtype": bool}, "dtype is <class 'bool'>"),
    ({"shape": (1, 3, 8, 8), "layout": "CHWN"}, "unknown layout 'CHWN'; use NCHW or NHWC"),
    ({"shape": (1, 3, 8, 8), "layout": 3}, "unknown layout 3; use NCHW or NHWC"),
]


class TestInputSpec:
    def test_reads_what_an_onnx_file_would_say(self):
        image = FunctionModel(mean, InputSpec(["n", 224, None, 3], np.uint8)).image
        assert (image.dtype, image.layout, image.channels) == ("uint8", "NHWC", 3)
        assert (image.batch, image.height, image.width) == (None, 224, None)
        said = FunctionModel(mean, InputSpec((np.int64(2), 3, 3, 3), layout="nhwc")).image
        assert (said.layout, said.batch, said.height, said.channels) == ("NHWC", 2, 3, 3)

    def test_is_a_value(self):
        assert InputSpec((1, 3, 8, 8)) == InputSpec([1, 3, 8, 8], np.float32)
        assert len({InputSpec((1, 3, 8, 8)), InputSpec([1, 3, 8, 8], "float32")}) == 1

    @pytest.mark.parametrize(("values", "said"), REFUSED)
    def test_refuses_what_is_none(self, values: dict[str, Any], said: str):
        with pytest.raises(ModelError, match=said):
            InputSpec(**values)

    @pytest.mark.parametrize(
        ("spec", "said"),
        [
            (InputSpec((None, None, 8, None)), "mean: ambiguous layout of input 'images' float32"),
            (InputSpec((None, 17, 18, 18)), "mean has no image input"),
            (InputSpec((None, 3, 24, 24), layout="NHWC"), "would have 24 channels as NHWC"),
            ((None, 3, 8, 8), r"input_spec is a tuple; pass InputSpec\("),
        ],
    )
    def test_must_be_of_an_image(self, spec: Any, said: str):
        with pytest.raises(ModelError, match=said):
            FunctionModel(mean, spec)

    def test_goes_with_a_function(self):
        with pytest.raises(ModelError, match="the model is a str, which is not callable"):
            FunctionModel("model.onnx", OPEN)  # type: ignore[arg-type]
        with pytest.raises(ModelError, match="max_batch is 0"):
            FunctionModel(mean, OPEN, max_batch=0)
