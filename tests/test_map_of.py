"""Maps at the size of the model's input, of the picture and of others in its place."""

from __future__ import annotations

import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.io.images import read_image
from ibisa_onnx.metrics import spearman
from ibisa_onnx.preprocessing.spec import prepare, unprepare


@pytest.fixture(scope="module")
def explainer() -> ibisa.Explainer:
    return ibisa.Explainer(model_path(), threads=1)


@pytest.fixture(scope="module")
def seen(explainer):
    """The scene as the model sees it, as a picture."""
    spec = explainer.preprocessing.spec
    return unprepare(prepare(read_image(scene_path()), spec).tensor, spec)


@pytest.mark.parametrize("method", [None, "gradcam", "occlusion"])
def test_it_is_the_map_of_what_the_model_sees(explainer, seen, method):
    expected = explainer.explain(seen, "star", method=method).map
    problem = explainer.problem(scene_path(), "star")
    found = explainer.map_of(problem, method=method)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    again = explainer.map_of(problem, problem.image[0], method=method)
    np.testing.assert_array_equal(again, found)


def test_another_image_is_asked_the_same(explainer, seen):
    problem = explainer.problem(seen, "star")
    flipped = np.ascontiguousarray(problem.image[0, :, :, ::-1])
    map, mirrored = explainer.map_of(problem), explainer.map_of(problem, flipped)
    alone = explainer.explain(np.ascontiguousarray(seen[:, ::-1]), "star").map
    np.testing.assert_allclose(mirrored, alone, atol=1e-6)
    back = mirrored[:, ::-1]
    middle, other = (np.average(np.arange(128), weights=each.sum(0)) for each in (map, back))
    assert abs(middle - other) < 6
    assert spearman(map, back) > 0.9


def test_other_images_have_answers_of_their_own_for_a_pass_each(explainer, seen):
    problem = explainer.problem(seen, "star")
    before = problem.passes.forward
    grey = np.zeros_like(problem.image)
    other = problem.with_images(MaskedImages(grey, grey))
    assert problem.passes.forward == before + 1
    assert other.row.probability == pytest.approx(float(problem.score(grey)[0]), abs=1e-6)
    assert other.row.probability != pytest.approx(problem.row.probability, abs=0.1)
    assert other.row.objective == problem.row.objective
