"""Similarities: planted embedders, the cosine's derivative and nodes, references, and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.targets.embedding import (
    EmbedderKind,
    SimilarityObjective,
    SimilarityTarget,
    find,
    find_told,
)
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.retention import Share

SIDE, NUMBERS = 32, 16
SQUARES = ((4, 4), (20, 18))  # of 8 pixels a side
UNIT = ibisa.Preprocessing((SIDE, SIDE), resize="stretch", scale=1 / 255)


def embedder(
    name: str = "embedding",
    *,
    numbers: int = NUMBERS,
    ending: str = "",
    spatial: bool = False,
    more: dict[str, str] | None = None,
) -> bytes:
    """A vector [n, D]: how bright each square is, and a constant.

    `ending` makes its length 1 by an operator of that name, or ends it in another; `more` are
    further outputs [n, 4], and the operators that make them.
    """
    weights = np.zeros((numbers, 3, SIDE, SIDE), np.float32)
    for row, (y, x) in zip(weights, SQUARES, strict=False):
        row[:, y : y + 8, x : x + 8] = 4 / 192
    bias = np.zeros(numbers, np.float32)
    bias[-1] = -1
    constants = {
        "w": weights.reshape(numbers, -1),
        "b": bias,
        "four": weights[:4].reshape(4, -1),
        "map": np.array([0, numbers, 1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["vector"], transB=1),
    ]
    if ending == "Div":
        nodes.append(helper.make_node("ReduceL2", ["vector"], ["length"], axes=[1]))
        nodes.append(helper.make_node("Div", ["vector", "length"], ["ended"]))
    elif ending:
        nodes.append(helper.make_node(ending, ["vector"], ["ended"]))
    last = "ended" if ending else "vector"
    reshaped = ["Reshape", [last, "map"]] if spatial else ["Identity", [last]]
    nodes.append(helper.make_node(*reshaped, [name]))
    outputs = {name: ["n", numbers, 1, 1] if spatial else ["n", numbers]}
    for other, operator in (more or {}).items():
        nodes.append(helper.make_node("Gemm", ["flat", "four"], [f"{other}_s"], transB=1))
        nodes.append(helper.make_node(operator, [f"{other}_s"], [other]))
        outputs[other] = ["n", 4]
    graph = helper.make_graph(
        nodes,
        "embedder",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(each, TensorProto.FLOAT, s) for each, s in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", 11)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


def explainer_of(model: bytes, **options: Any) -> ibisa.Explainer:
    return ibisa.Explainer(model, preprocessing=UNIT, threads=1, cache=False, **options)


@pytest.fixture(scope="module")
def explainer() -> ibisa.Explainer:
    return explainer_of(embedder())


def picture(*levels: int) -> np.ndarray:
    """A dark picture with squares of those levels."""
    pixels = np.full((SIDE, SIDE, 3), 20, np.uint8)
    for (y, x), level in zip(SQUARES, levels, strict=True):
        pixels[y : y + 8, x : x + 8] = level
    return pixels


def vector(*levels: int) -> np.ndarray:
    """What the planted embedder gives for squares of those levels."""
    found = np.zeros(NUMBERS)
    found[:2] = np.array(levels) / 255 * 4
    found[-1] = -1
    return found


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def share(found: ibisa.Explanation, square: int) -> float:
    y, x = SQUARES[square]
    return float(found.map[y : y + 8, x : x + 8].sum() / found.map.sum())


@pytest.fixture
def files(tmp_path: Path) -> Callable[[str, int, int], Path]:
    """Writes pictures."""

    def write(name: str, *levels: int) -> Path:
        cv2.imwrite(str(tmp_path / name), picture(*levels))
        return tmp_path / name

    return write


# -- maps on planted pictures


@pytest.mark.parametrize("square", [0, 1])
def test_what_makes_it_like_a_picture_is_found(
    explainer: ibisa.Explainer, files: Callable[..., Path], square: int
):
    levels = (250, 20) if square == 0 else (20, 250)
    reference = files("reference.png", *levels)
    found = explainer.explain(picture(230, 230), SimilarityTarget(reference))
    assert found.target.kind == "similarity"
    assert found.target.caption == "similarity to reference.png"
    expected = cosine(vector(230, 230), vector(*levels))
    assert found.target.details == {"value": pytest.approx(expected, abs=1e-6)}
    assert found.target.probability == pytest.approx(1)  # calibrated: all of it is kept
    assert found.certificate.gradient == "exact"
    assert share(found, square) > 0.65
    assert share(found, 1 - square) < 0.05
    assert found.sufficiency is not None
    hidden, *shown = found.sufficiency.probabilities
    assert hidden < 0.5
    assert max(shown) > 0.9


@pytest.mark.parametrize("ending", ["", "Div", "LpNormalization"])
def test_without_a_reference_all_that_makes_the_embedding_is_found(ending: str):
    found = explainer_of(embedder(ending=ending)).explain(picture(230, 230))
    assert found.target.caption == "similarity to itself"
    assert found.target.details["value"] == pytest.approx(1)
    assert min(share(found, 0), share(found, 1)) > 0.25


def test_what_separates_two_pictures_is_found(explainer: ibisa.Explainer):
    first, second = picture(250, 20), picture(20, 250)
    target = SimilarityTarget(first, second)
    found = explainer.explain(picture(240, 180), target)
    assert found.target.caption == "similarity to a reference rather than another reference"
    both = [cosine(vector(240, 180), vector(*each)) for each in ((250, 20), (20, 250))]
    assert found.target.details["value"] == pytest.approx(both[0] - both[1], abs=1e-6)
    assert share(found, 0) > 0.65
    itself = explainer.explain(picture(240, 180), SimilarityTarget(unlike=second))
    assert share(itself, 0) > 0.7


def test_of_a_picture_that_is_less_like_it_what_would_make_it_alike_is_shown(
    explainer: ibisa.Explainer,
):
    """The second square is brighter, and all in all the picture is more like the other one."""
    target = SimilarityTarget(picture(250, 20), picture(20, 250))
    found = explainer.explain(picture(150, 250), target)
    assert found.target.details["value"] < 0
    assert share(found, 0) > 0.65


def test_vectors_are_references_as_arrays_and_as_files(explainer: ibisa.Explainer, tmp_path: Path):
    np.save(tmp_path / "text.npy", (3 * vector(250, 20)).astype(np.float32)[None])
    shown = picture(230, 200)
    expected = cosine(vector(230, 200), vector(250, 20))
    for reference, name in (
        (vector(250, 20), "a reference"),
        (tmp_path / "text.npy", "text.npy"),
        (str(tmp_path / "text.npy"), "text.npy"),
    ):
        row = explainer.problem(shown, SimilarityTarget(reference)).row
        assert row.objective.describe()["caption"] == f"similarity to {name}"
        assert row.objective.describe()["value"] == pytest.approx(expected, abs=1e-6)
    by_word = explainer.problem(shown, str(tmp_path / "text.npy")).row
    assert by_word.objective.describe()["value"] == pytest.approx(expected, abs=1e-6)


def test_a_picture_saved_as_an_array_is_a_picture(explainer: ibisa.Explainer, tmp_path: Path):
    np.save(tmp_path / "reference.npy", picture(250, 20))
    target = SimilarityTarget(tmp_path / "reference.npy")
    row = explainer.problem(picture(230, 200), target).row
    expected = cosine(vector(230, 200), vector(250, 20))
    assert row.objective.describe()["value"] == pytest.approx(expected, abs=1e-6)


def test_an_embedding_with_further_axes_is_one(files: Callable[..., Path]):
    explainer = explainer_of(embedder(spatial=True))
    assert explainer.kind.name == "embedder"
    found = explainer.explain(picture(230, 230), SimilarityTarget(files("a.png", 250, 20)))
    assert share(found, 0) > 0.65


def test_any_vector_inside_a_model_is_an_embedding():
    model = embedder("logits", ending="Tanh")
    explainer = explainer_of(model)
    assert explainer.kind.name == "classifier"
    target = SimilarityTarget(vector(250, 20), output="vector")
    assert share(explainer.explain(picture(230, 230), target), 0) > 0.65
    with pytest.raises(ibisa.TargetError, match="kind is classifier, and no output is known"):
        explainer.explain(picture(230, 230), SimilarityTarget())


def test_the_record_comes_back_from_disk(explainer: ibisa.Explainer, tmp_path: Path):
    found = explainer.explain(picture(230, 230), SimilarityTarget(vector(250, 20)))
    found.save(tmp_path)
    assert ibisa.Explanation.load(tmp_path).target == found.target


def test_several_references_are_explained_together(explainer: ibisa.Explainer):
    targets = [SimilarityTarget(vector(250, 20)), SimilarityTarget(vector(20, 250))]
    first, second = explainer.explain_all(picture(230, 230), targets)
    assert share(first, 0) > 0.65
    assert share(second, 1) > 0.65


def test_the_embedding_is_the_answer(explainer: ibisa.Explainer):
    (answer,) = explainer.answers(picture(230, 230))
    length = float(np.linalg.norm(vector(230, 230)))
    assert answer.details == {"unit": "value", "numbers": NUMBERS}
    assert answer.score == pytest.approx(length, rel=1e-5)


@pytest.mark.real
def test_real_features_show_the_dog_that_a_picture_is_like(assets: Path, tmp_path: Path):
    """MobileNetV2's pooled features: the picture is like its right half for the dog there."""
    model = onnx.load(assets / "models" / "mobilenetv2.onnx")
    pooled = next(node for node in model.graph.node if node.op_type == "GlobalAveragePool")
    pets = assets / "detection" / "pets.jpg"
    explainer = ibisa.Explainer(
        assets / "models" / "mobilenetv2.onnx",
        preprocessing="tf",
        overrides={"resize": "stretch"},
    )
    pixels = cv2.cvtColor(cv2.imread(str(pets)), cv2.COLOR_BGR2RGB)
    middle = pixels.shape[1] // 2
    left, right = (np.ascontiguousarray(each) for each in np.split(pixels, [middle], axis=1))
    output = pooled.output[0]
    found = explainer.explain(pets, SimilarityTarget(right, output=output))
    assert found.map[:, middle:].sum() > 0.75 * found.map.sum()
    apart = explainer.explain(pets, SimilarityTarget(left, right, output=output))
    assert apart.map[:, :middle].sum() > 0.6 * apart.map.sum()


# -- the objective


def objective_of(*, apart: bool) -> SimilarityObjective:
    random = np.random.default_rng(2)
    first, second = (each / np.linalg.norm(each) for each in random.normal(size=(2, 5)))
    axis = first - second if apart else first
    return SimilarityObjective("e", tuple(axis.tolist()), "s", 0.9, Share(-0.1, 0.9))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1, 1)])
def test_its_derivative_is_the_numeric_one(shape: tuple[int, ...], *, apart: bool):
    objective = objective_of(apart=apart)
    values = np.random.default_rng(4).normal(size=shape) * 3
    values[0] = np.reshape(objective.axis, shape[1:]) * 0.7 + 0.2 * values[0]
    values[1] *= -1  # below the reference
    found = objective.vjp({"e": values})["e"]
    assert (found.dtype, found.shape) == (np.float32, shape)
    for place in np.ndindex(shape):
        step = np.zeros(shape)
        step[place] = 1e-6
        above, below = (objective.score({"e": values + sign * step}) for sign in (1, -1))
        slope = (above - below)[place[0]] / 2e-6
        assert found[place] == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_a_vector_of_no_length_has_a_finite_score_and_no_derivative():
    raw = {"e": np.zeros((2, 5), np.float32)}
    objective = objective_of(apart=False)
    assert np.isfinite(objective.score(raw)).all()
    assert not objective.vjp(raw)["e"].any()


def test_the_length_of_the_embedding_does_not_matter():
    objective = objective_of(apart=False)
    values = np.random.default_rng(1).normal(size=(3, 5))
    np.testing.assert_allclose(
        objective.score({"e": values}), objective.score({"e": 1000 * values})
    )


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1, 1)])
@pytest.mark.parametrize("opset", [7, 21])
def test_it_writes_its_score_as_onnx_nodes(shape: tuple[int, ...], opset: int, *, apart: bool):
    objective = objective_of(apart=apart)
    values = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    values[0] = np.reshape(objective.axis, shape[1:])
    values[1] = 0
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, shape)],
    )
    name = objective.to_onnx(graph)
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]))
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    written = session.run([name], {"x": values})[0]
    expected = objective.score({"e": values})
    np.testing.assert_allclose(written[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_the_least_similar_baseline_is_nothing():
    objective = SimilarityObjective("e", (1.0, 0.0), "similarity to a.jpg", 0.8, Share(-1, 1))
    raw = {"e": np.array([[0.8, 0.6]])}
    hidden = {"e": np.array([[0.6, 0.8], [0.0, 2.0], [np.nan, 1]])}
    found = objective.calibrated(raw, hidden)
    assert found.share == Share(0, 0.8)
    np.testing.assert_allclose(found.probability({"e": np.array([[0.8, 0.6]])}), 1)
    np.testing.assert_allclose(
        found.probability({"e": np.array([[3, np.sqrt(84) - 0]])}), 0.39, atol=0.01
    )
    assert found.warnings(raw) == ()
    assert found.family == objective.family
    alike = objective.calibrated(raw, {"e": np.array([[0.9, 0.1], [1.0, 0.0]])})
    assert alike.warnings(raw) == (
        "the similarity to a.jpg is 0.800, and 0.994 to 1 for the baselines: the whole image "
        "is not similar to the reference; the map shows which parts are",
    )


# -- errors


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            SimilarityTarget(np.zeros(16)),
            "the embedding of a reference is zero and has no direction",
        ),
        (SimilarityTarget(np.full(16, np.nan)), "of a reference is NaN or infinite"),
        (SimilarityTarget(np.ones(8)), "a reference has 8 values, but the embedding embedding ha"),
        (SimilarityTarget(vector(9, 9), unlike=2 * vector(9, 9)), "a reference and another refere"),
        (
            SimilarityTarget(unlike=picture(230, 230)),
            "the image and another reference have the same embedding",
        ),
        ("cat", "target 'cat' is not supported: an embedder has no classes"),
        (3, "target 3 is not supported: an embedder has no classes"),
    ],
)
def test_a_reference_that_is_none_is_refused_in_one_line(
    explainer: ibisa.Explainer, target: Any, said: str
):
    with pytest.raises(ibisa.TargetError) as caught:
        explainer.explain(picture(230, 230), target)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reference_that_cannot_be_read_is_told_by_its_path(
    explainer: ibisa.Explainer, tmp_path: Path
):
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    for name in ("nowhere.png", "nowhere.npy", "broken.npy"):
        with pytest.raises(ibisa.ImageError, match=name):
            explainer.explain(picture(230, 230), SimilarityTarget(tmp_path / name))


def test_an_output_that_is_no_vector_is_refused():
    with pytest.raises(ibisa.TargetError, match=r"output flat is \[1, 3, 2\], not one vector"):
        _bind("flat", np.ones((1, 3, 2)))
    with pytest.raises(ibisa.OutputError, match="output y is zero for this image"):
        _bind("y", np.zeros((1, 16)))
    with pytest.raises(ibisa.OutputError, match="output y is NaN or infinite for this image"):
        _bind("y", np.full((1, 16), np.nan))


def _bind(output: str, values: np.ndarray) -> None:
    context: Any = SimpleNamespace(reader=None)
    SimilarityTarget(output=output).bind({output: values}, context)


# -- the kind


def facts_of(model: bytes) -> ModelFacts:
    return ModelFacts(explainer_of(model).model, UNIT)


@pytest.mark.parametrize(
    ("model", "output", "why"),
    [
        (embedder(), "embedding", "by its name"),
        (embedder("image_features"), "image_features", "by its name"),
        (embedder("y", ending="Div"), "y", "it is L2-normalised"),
        (embedder("feat", more={"landmarks": "Identity"}), "feat", "by its name"),
        (embedder("text_embeds", more={"image_embeds": "Identity"}), None, ""),
        (embedder("image_embeds", more={"logits_per_image": "Identity"}), "image_embeds", "by"),
    ],
)
def test_an_embedder_is_told_by_name_or_graph(model: bytes, output: str | None, why: str):
    kind = find(facts_of(model))
    assert (kind.outputs() if kind else None) == (None if output is None else (output,))
    assert why in (kind.reason if kind else "")


def test_an_embedder_is_told_by_the_length_of_its_vector_on_noise():
    """A length that no pattern of nodes shows: the vector over the square root of its product."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["v"]),
        helper.make_node("Unsqueeze", ["v"], ["row"], axes=[1]),
        helper.make_node("Unsqueeze", ["v"], ["column"], axes=[2]),
        helper.make_node("MatMul", ["row", "column"], ["product"]),
        helper.make_node("Sqrt", ["product"], ["length"]),
        helper.make_node("Div", ["row", "length"], ["unit"]),
        helper.make_node("Squeeze", ["unit"], ["y"], axes=[1]),
    ]
    weights = np.random.default_rng(0).normal(size=(3 * SIDE * SIDE, 32)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])],
        [numpy_helper.from_array(weights, "w")],
    )
    imports = [helper.make_opsetid("", 11)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
    kind = find(facts_of(model))
    assert kind is not None
    assert "its length is 1" in kind.reason


@pytest.mark.parametrize(
    "model",
    [
        embedder("logits"),
        embedder("y", ending="Tanh"),
        embedder("features", ending="Softmax"),
        embedder("embedding", ending="Sigmoid"),
        embedder("embedding", numbers=8),
        embedder("embedding", more={"logits": "Identity"}),
        embedder("embedding", more={"prob": "Softmax"}),
    ],
    ids=[
        "logits",
        "tanh",
        "softmax",
        "sigmoid",
        "few numbers",
        "logits besides",
        "classes besides",
    ],
)
def test_what_may_be_a_classifier_is_none(model: bytes):
    assert find(facts_of(model)) is None
    assert explainer_of(model).kind.name == "classifier"


def test_a_classifier_of_logits_costs_no_pass_on_noise():
    facts = facts_of(embedder("logits"))
    assert find(facts) is None
    assert facts.model.passes.forward == 0


def test_who_says_that_it_is_an_embedder_gets_its_first_vector():
    kind = find_told(facts_of(embedder("logits")))
    assert isinstance(kind, EmbedderKind)
    assert kind.outputs() == ("logits",)
