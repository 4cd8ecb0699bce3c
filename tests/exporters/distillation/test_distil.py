"""A student learns what a model answers to masked pictures, and says how well it does."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from ibisa_exporters.distillation import Agreement, Settings, distil
from ibisa_exporters.distillation.settings import RATES
from onnx.reference import ReferenceEvaluator

from ibisa_onnx import Explainer, InputSpec
from ibisa_onnx.errors import GradientError, ImageError, OptionError, UnsupportedOperatorError
from ibisa_onnx.methods.ibisa.options import Options
from ibisa_onnx.metrics.agreement import spearman

pytestmark = pytest.mark.slow  # each trains networks
SIDE, CLASSES = 12, 3
# Of soft pictures a blur hides nothing, and what a student learns of 12 pixels is smooth.
MEAN = Options(baseline="mean", activation=0, evidence_smoothing=1.0)
SHORT = Settings(student="small", masks=48, epochs=8, held_out=0)
"""A fit of a few seconds."""
_OF_ONE = {"Identity": "sigmoid-logit"}


def explainer(model, **options) -> Explainer:
    return Explainer(model, preprocessing="unit", threads=1, options=MEAN, **options)


@pytest.fixture(scope="module")
def learned(planted_onnx, pictures):
    """A small student of the model as an opaque function."""
    session = ReferenceEvaluator(planted_onnx())
    opaque = Explainer(
        lambda images: session.run(None, {"image": images})[0],
        InputSpec((None, 3, SIDE, SIDE)),
        preprocessing="unit",
        options=MEAN,
    )
    torch.set_num_threads(1)
    return distil(opaque, pictures, SHORT)


def test_a_small_student_of_a_function_gives_the_exact_gradients_map(
    learned, planted, pictures, tmp_path
) -> None:
    assert learned.kind == "small"
    assert learned.certified
    assert learned.sha256 is None
    file = tmp_path / "surrogate.onnx"
    file.write_bytes(learned.to_bytes())
    by_student = explainer(planted, gradient="surrogate", surrogate=file)
    exact = explainer(planted, gradient="exact")
    agreement = [
        spearman(by_student.explain(each).map, exact.explain(each).map) for each in pictures[:4]
    ]
    assert np.mean(agreement) > 0.85


def test_both_formats_say_the_same(learned, planted, pictures, tmp_path) -> None:
    maps = []
    for name in ("s.onnx", "s.pt2"):
        learned.save(tmp_path / name)
        by_student = explainer(planted, gradient="surrogate", surrogate=tmp_path / name, trust=True)
        maps.append(by_student.explain(pictures[0]).map)
    np.testing.assert_allclose(*maps, rtol=1e-3, atol=1e-3)


def test_the_file_tells_nothing_of_where_the_code_lay(learned) -> None:
    assert b".py" not in learned.to_bytes()


def test_queries_are_counted(learned, pictures) -> None:
    """The whole picture, 24 masks to judge by, 48 and a quarter more for the fit; 2 for the batch.

    A quarter of these once more, on policy: the 20 masks of two explanations each time.
    """
    training = len(pictures) * (48 + 12)
    on_policy = 20 * math.ceil(training / 4 / 20)
    assert learned.queries == len(pictures) * (1 + 24) + training + on_policy + 2
    assert learned.facts["queries"] == learned.queries


def test_the_models_own_graph_needs_no_fit(planted, pictures) -> None:
    found = distil(explainer(planted), pictures[:3], Settings(held_out=0))
    assert (found.kind, found.steps) == ("own", 0)
    assert found.seen.pearson > 0.999
    assert found.seen.top1 == 1
    assert found.certified
    digest = hashlib.sha256(planted.read_bytes()).hexdigest()
    assert found.facts["model_sha256"] == digest


def test_the_own_graph_of_a_model_of_bytes_channels_last(bytes_onnx, pictures) -> None:
    model = Explainer(bytes_onnx.SerializeToString(), preprocessing="raw", options=MEAN)
    found = distil(model, pictures[:4], Settings(student="own", held_out=0))
    assert found.shape == (3, SIDE, SIDE)
    assert found.student(torch.zeros(1, 3, SIDE, SIDE)).sum().item() == pytest.approx(1)  # reals
    assert found.seen.top1 == 1


def test_weights_in_external_files_are_found(planted_onnx, pictures, tmp_path) -> None:
    path = tmp_path / "big" / "model.onnx"
    path.parent.mkdir()
    options = {"save_as_external_data": True, "location": "model.data", "size_threshold": 0}
    onnx.save(planted_onnx(), path, **options)
    found = distil(explainer(path), pictures[:3], Settings(student="own", held_out=0))
    assert found.seen.pearson > 0.999


@pytest.mark.parametrize("last", ["Softmax", "Sigmoid"])
def test_every_kind_of_output_can_be_learned(planted_onnx, pictures, last) -> None:
    model = explainer(planted_onnx(last).SerializeToString())
    found = distil(model, pictures[:12], replace(SHORT, epochs=4))
    assert found.seen.pearson > 0.75


@pytest.mark.parametrize("student", ["own", "small"])
@pytest.mark.parametrize("last", ["Identity", "Sigmoid"])
def test_one_score_of_two_classes_can_be_learned(planted_onnx, pictures, last, student) -> None:
    proto = planted_onnx(last)
    for tensor in proto.graph.initializer:  # only the first class is left
        value = onnx.numpy_helper.to_array(tensor)[..., :1]
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    model = explainer(proto.SerializeToString(), activation=_OF_ONE.get(last))
    found = distil(model, pictures[:12], replace(SHORT, epochs=4, student=student))
    assert found.seen.pearson > (0.999 if student == "own" else 0.75)


def test_a_graph_with_an_unknown_operator_gets_a_small_student(planted_onnx, pictures) -> None:
    model = explainer(planted_onnx("Softplus").SerializeToString())
    found = distil(model, pictures[:3], Settings(epochs=1, masks=1, held_out=0))
    assert found.kind == "small"
    assert "Softplus" in found.reason
    with pytest.raises(OptionError, match="epochs is 0, but a small network must be trained"):
        distil(model, pictures[:3], Settings(epochs=0, held_out=0))
    with pytest.raises(UnsupportedOperatorError, match="Softplus"):
        distil(model, pictures[:3], Settings(student="own"))


def test_a_graph_that_mixes_images_in_torch_is_not_taken(planted_onnx, pictures) -> None:
    """Without its axis of one image, what goes over the classes would go over images."""
    proto = planted_onnx()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    proto.graph.node[-1].output[0] = "row"
    axes = onnx.numpy_helper.from_array(np.array([0]), "axes")
    proto.graph.initializer.append(axes)
    for op_type, inputs, output, kept in [
        ("Squeeze", ["row", "axes"], "values", {}),
        ("Softmax", ["values"], "shares", {"axis": 0}),
        ("Unsqueeze", ["shares", "axes"], "scores", {}),
    ]:
        proto.graph.node.append(onnx.helper.make_node(op_type, inputs, [output], **kept))
    with pytest.raises(UnsupportedOperatorError, match="images of a batch interact"):
        distil(explainer(proto.SerializeToString()), pictures[:3], Settings(student="own"))


def test_a_student_that_learned_nothing_is_refused(planted, pictures) -> None:
    little = Settings(student="small", epochs=1, masks=1)
    found = distil(explainer(planted), pictures[:12], little)
    assert not found.certified
    assert found.unseen.pictures == 2
    assert found.seen.pictures == 10
    with pytest.raises(
        GradientError, match=r"surrogate rejected: agreement with planted\.onnx is below.*Pearson"
    ) as no:
        found.check()
    assert "\n" not in str(no.value)


def test_a_student_that_knows_its_pictures_alone_is_refused(planted, pictures) -> None:
    """Where pictures are held out, they count."""
    good = Agreement(8, 24, 1.0, 0.99, 0.99)
    poor = Agreement(2, 24, 0.9, 0.3, 0.3)
    found = distil(explainer(planted), pictures[:3], Settings(held_out=0))
    assert type(found)(**{**vars(found), "seen": good, "unseen": None}).certified
    assert not type(found)(**{**vars(found), "seen": good, "unseen": poor}).certified


def test_a_fit_that_diverges_is_told(planted, pictures, monkeypatch) -> None:
    monkeypatch.setitem(RATES, "small", 1e30)
    with pytest.raises(GradientError, match="its loss is NaN"):
        distil(explainer(planted), pictures[:3], replace(SHORT, masks=8))


def test_answers_that_no_mask_changes_are_no_agreement(pictures) -> None:
    still = Explainer(
        lambda images: np.tile(np.float32([3, 0, 0]), (len(images), 1)),
        InputSpec((None, 3, SIDE, SIDE)),
        preprocessing="unit",
    )
    found = distil(still, pictures[:3], Settings(epochs=1, masks=8, held_out=0))
    assert np.isnan(found.seen.pearson)
    assert found.facts["seen"]["pearson"] is None
    with pytest.raises(GradientError, match="the same under every mask of the images") as no:
        found.check()
    assert "masks=" not in str(no.value)


def test_the_process_is_left_as_it_was(planted, pictures) -> None:
    def state() -> list[object]:
        flags = torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
        ours, numpys = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
        return [*flags, torch.get_num_threads(), torch.get_default_dtype(), ours, numpys]

    before = state()
    settings = Settings(student="small", masks=8, epochs=2, held_out=0)
    distil(explainer(planted), pictures[:3], settings).to_bytes()
    assert state() == before


def test_the_same_seed_gives_the_same_file(planted, pictures) -> None:
    def made(seed: int) -> bytes:
        settings = Settings(student="small", masks=8, epochs=2, seed=seed)
        return distil(explainer(planted), pictures[:4], settings).to_bytes()

    first = made(0)
    assert made(0) == first
    assert made(1) != first


def test_time_ends_a_fit(planted, pictures) -> None:
    settings = Settings(student="small", masks=8, epochs=10_000, minutes=1e-4, held_out=0)
    assert distil(explainer(planted), pictures[:3], settings).steps < 1000


def test_progress_counts_to_the_end(planted, pictures) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    settings = Settings(student="small", masks=8, epochs=2, held_out=0)
    distil(
        explainer(planted),
        pictures[:3],
        settings,
        progress=lambda what, done, total: told.setdefault(what, []).append((done, total)),
    )
    parts = [
        "reading",
        "querying",
        "fitting",
        "explaining with the student",
        "querying again",
        "fitting again",
    ]
    parts += ["evaluating"]
    assert list(told) == parts
    for counts in told.values():
        assert counts == sorted(counts)
        assert counts[-1][0] == counts[-1][1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"student": "large"}, "student is 'large'"),
        ({"masks": 0}, "masks is 0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"student": "small", "epochs": 0}, "epochs is 0"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"minutes": 0}, "minutes is 0"),
    ],
)
def test_settings_out_of_range(settings, says) -> None:
    with pytest.raises(OptionError, match=says):
        Settings(**settings)


def test_too_few_pictures(planted, pictures) -> None:
    with pytest.raises(OptionError, match="no images"):
        distil(explainer(planted), [])
    with pytest.raises(OptionError, match="too few to hold out 1"):
        distil(explainer(planted), pictures[:1])
    with pytest.raises(ImageError):
        distil(explainer(planted), [Path("nowhere.png")])


def test_scores_are_as_many_as_the_models(learned) -> None:
    assert learned.student(torch.zeros(2, 3, SIDE, SIDE)).shape == (2, CLASSES)
