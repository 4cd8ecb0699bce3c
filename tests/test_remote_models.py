"""Functions that return more than class scores: boxes that come and go, regions, text, vectors.

Each function is planted: what it returns is read off a square of the picture, so the right map is
known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import ibisa_onnx as ibisa
from ibisa_onnx.benchmark.evaluation import evaluate, subject_of
from ibisa_onnx.errors import OptionError, OutputError, TargetError
from ibisa_onnx.methods import Occlusion, Rise
from ibisa_onnx.methods.drise import DRise
from ibisa_onnx.metrics import BOX_METRICS, ENERGY
from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.onnx_nodes import OnnxObjective

SIDE = 64
SQUARES = {"red": (32, 8, 48, 24), "green": (4, 40, 20, 56), "blue": (40, 40, 56, 56)}
"""Left, top, right, bottom in pixels; a channel and a class each."""
LABELS, BOXES = tuple(SQUARES), tuple(SQUARES.values())
LEVELS = {"red": 230, "green": 180}
FOUND = 0.2
"""The score below which the planted detector returns no row."""
ROWS = {"boxes": (None, None, 4), "scores": (None, None), "labels": (None, None)}


def scene(levels: Mapping[str, int] = LEVELS) -> np.ndarray:
    """Squares on black."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for channel, (name, (left, top, right, bottom)) in enumerate(SQUARES.items()):
        pixels[top:bottom, left:right, channel] = levels.get(name, 0)
    return pixels


def brightness(images: np.ndarray) -> np.ndarray:
    """The mean of each square in its own channel, [N, 3] in 0..1."""
    return np.stack(
        [
            images[:, channel, top:bottom, left:right].mean((1, 2))
            for channel, (left, top, right, bottom) in enumerate(SQUARES.values())
        ],
        1,
    )


class Detector:
    """Two-stage: a row for each square that is bright, moved by a pixel or two, in falling order.

    Rows come and go, and it counts how often it is asked.
    """

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, images: np.ndarray) -> dict[str, list[np.ndarray]]:
        self.calls.append(len(images))
        rows: dict[str, list[np.ndarray]] = {"boxes": [], "scores": [], "labels": []}
        for scores in brightness(images):
            order = [each for each in np.argsort(-scores) if scores[each] >= FOUND]
            boxes = [np.add(BOXES[each], place) for place, each in enumerate(order)]
            rows["boxes"].append(np.array(boxes, np.float64).reshape(-1, 4))
            rows["scores"].append(scores[order])
            rows["labels"].append(np.array(order, np.int64))
        return rows


def padded(images: np.ndarray) -> dict[str, np.ndarray]:
    """The same as tables of five rows."""
    found = Detector()(images)
    tables = {name: np.zeros((len(images), 5, *rows[0].shape[1:])) for name, rows in found.items()}
    for name, rows in found.items():
        for table, each in zip(tables[name], rows, strict=True):
            table[: len(each)] = each
    return tables


def by_picture(images: np.ndarray) -> list[dict[str, np.ndarray]]:
    """The same as torchvision says it: a dictionary for each picture."""
    found = Detector()(images)
    return [{name: rows[n] for name, rows in found.items()} for n in range(len(images))]


def one(images: np.ndarray) -> dict[str, Any]:
    """The same for one image, as a service that answers in JSON says it."""
    (found,) = by_picture(images)
    return {name: rows.tolist() for name, rows in found.items()}


def explainer_of(
    function: Any,
    outputs: Mapping[str, Any] | None = ROWS,
    *,
    batch: int | None = None,
    size: tuple[int, int] = (SIDE, SIDE),
    **options: Any,
) -> ibisa.Explainer:
    spec = ibisa.InputSpec((batch, 3, *size), outputs=outputs)
    usual = {
        "preprocessing": "unit",
        "overrides": {"resize": "stretch"},
        "labels": LABELS,
        "budget": 120,
        "options": ibisa.Options(baseline="mean"),
    }
    return ibisa.Explainer(function, spec, **(usual | options))


def inside(map: np.ndarray, name: str) -> float:
    """The share of a map that lies in a square."""
    left, top, right, bottom = SQUARES[name]
    return float(map[top:bottom, left:right].sum() / map.sum())


def peak_is_in(map: np.ndarray, name: str) -> bool:
    left, top, right, bottom = SQUARES[name]
    row, column = np.unravel_index(map.argmax(), map.shape)
    return bool(top <= row < bottom and left <= column < right)


class TestADetector:
    @pytest.mark.parametrize(
        ("function", "batch"),
        [(Detector(), None), (padded, None), (by_picture, None), (one, 1), (Detector(), 4)],
        ids=["lists", "tables", "by picture", "one by one", "a fixed batch"],
    )
    def test_whose_rows_come_and_go_is_explained(self, function: Any, batch: int | None):
        explainer = explainer_of(function, batch=batch)
        assert explainer.kind.name == "detector"
        answers = explainer.answers(scene())
        assert [(each.label, each.box) for each in answers] == [
            ("red", pytest.approx(SQUARES["red"])),
            ("green", pytest.approx(np.add(SQUARES["green"], 1))),
        ]
        for number, (name, level) in enumerate(LEVELS.items(), 1):
            found = explainer.explain(scene(), ibisa.BoxTarget(number))
            assert found.target.label == name
            assert found.target.probability == pytest.approx(level / 255, abs=1e-3)
            assert found.certificate.gradient == "forward-only"
            assert peak_is_in(found.map, name)
            assert inside(found.map, name) > 0.6

    def test_is_asked_no_more_often_than_is_counted(self):
        detector = Detector()
        first = explainer_of(detector).explain(scene())
        assert sum(detector.calls) == first.passes.forward <= 120
        assert len(detector.calls) == first.passes.forward_calls

    def test_is_asked_once_about_a_picture_and_its_boxes(self):
        detector = Detector()
        explainer = explainer_of(detector)
        explainer.answers(scene())
        assert detector.calls == [1]
        explainer.problem(scene(), ibisa.BoxTarget(2))
        assert detector.calls == [1, 1]

    def test_is_not_called_before_there_is_a_picture(self):
        detector = Detector()
        explainer = explainer_of(detector)
        assert explainer.kind.name == "detector"
        assert explainer.kind.asks
        assert detector.calls == []

    def test_has_the_same_map_the_second_time(self):
        explainer = explainer_of(Detector())
        first, second = (explainer.explain(scene(), seed=3) for _ in range(2))
        assert first.map.tobytes() == second.map.tobytes()
        assert first.passes == second.passes

    def test_gives_all_its_boxes_together(self):
        found = explainer_of(Detector()).explain_all(scene(), "all")
        assert [each.target.label for each in found] == ["red", "green"]
        assert all(peak_is_in(each.map, name) for each, name in zip(found, LEVELS, strict=True))

    def test_is_pointed_at_in_every_way(self):
        explainer = explainer_of(Detector())
        levels = {"red": 200, "green": 210, "blue": 220}
        for target in ("blue", 2, ibisa.BoxTarget(at=(48, 48)), ibisa.BoxTarget(label="blue")):
            assert explainer.explain(scene(levels), target).target.label == "blue"
        with pytest.raises(TargetError, match=r"there is no box 4; detected: 1 blue 86%"):
            explainer.explain(scene(levels), ibisa.BoxTarget(4))
        with pytest.raises(TargetError, match="nothing was detected"):
            explainer.explain(scene({}), ibisa.BoxTarget(1))

    def test_of_several_pictures_at_once(self):
        pictures = [scene(), scene({"blue": 240}), scene({"red": 150, "green": 250, "blue": 60})]
        found = explainer_of(Detector()).explain_batch(pictures)
        assert [each.target.label for each in found] == ["red", "blue", "green"]

    @pytest.mark.parametrize("method", ["rise", "drise", "occlusion"])
    def test_by_other_methods(self, method: str):
        methods = {
            "rise": Rise(masks=2000, grid=8),
            "drise": DRise(masks=2000, grid=8),
            "occlusion": Occlusion(),
        }
        found = explainer_of(Detector()).explain(
            scene(), ibisa.BoxTarget(2), method=methods[method]
        )
        assert peak_is_in(found.map, "green")

    def test_has_metrics_that_tell_a_good_map_from_its_opposite(self):
        explainer = explainer_of(Detector())
        problem = explainer.problem(scene(), ibisa.BoxTarget(1))
        subject, metrics = subject_of(problem), (*BOX_METRICS, ENERGY)
        good = np.zeros((SIDE, SIDE), np.float32)
        left, top, right, bottom = SQUARES["red"]
        good[top:bottom, left:right] = 1
        right_way, wrong_way = (
            evaluate(subject, problem, map, metrics) for map in (good, 1 - good)
        )
        for metric in right_way:
            if "insertion" in metric or "energy" in metric:
                assert right_way[metric] > wrong_way[metric], metric
            else:
                assert right_way[metric] < wrong_way[metric], metric

    def test_may_give_a_score_for_each_class(self):
        def scores_of_all(images: np.ndarray) -> dict[str, np.ndarray]:
            boxes = np.tile(np.array(BOXES, np.float32), (len(images), 1, 1))
            return {"boxes": boxes, "scores": brightness(images)[:, :, None] * np.eye(3)}

        explainer = explainer_of(
            scores_of_all, {"boxes": (None, None, 4), "scores": (None, None, 3)}
        )
        found = explainer.explain(scene(), "green")
        assert found.target.label == "green"
        assert peak_is_in(found.map, "green")

    def test_may_know_one_class_alone(self):
        def faces(images: np.ndarray) -> dict[str, list[np.ndarray]]:
            found = Detector()(images)
            return {"boxes": found["boxes"], "confidences": found["scores"]}

        outputs = {"boxes": (None, None, 4), "confidences": (None, None)}
        found = explainer_of(faces, outputs, labels=["face"]).explain(scene(), ibisa.BoxTarget(2))
        assert found.target.label == "face"
        assert peak_is_in(found.map, "green")

    def test_may_give_one_table(self):
        def table(images: np.ndarray) -> np.ndarray:
            found = padded(images)
            return np.concatenate(
                [found["boxes"], found["scores"][..., None], found["labels"][..., None]], 2
            )

        found = explainer_of(table, {"rows": (None, None, 6)}).explain(scene(), ibisa.BoxTarget(2))
        assert found.target.label == "green"
        assert peak_is_in(found.map, "green")

    def test_may_say_it_as_tensorflow_serves_it(self):
        def served(images: np.ndarray) -> dict[str, np.ndarray]:
            found = padded(images)
            shares = found["boxes"][..., [1, 0, 3, 2]] / SIDE
            return {
                "detection_boxes": shares,
                "detection_scores": found["scores"],
                "detection_classes": found["labels"],
            }

        outputs = {
            f"detection_{name}": shape
            for name, shape in zip(("boxes", "scores", "classes"), ROWS.values(), strict=True)
        }
        answers = explainer_of(served, outputs).answers(scene())
        assert [each.label for each in answers] == ["red", "green"]
        assert answers[0].box == pytest.approx(SQUARES["red"])

    def test_may_give_a_raw_table_of_places(self):
        """What a server of an Ultralytics file returns: told by the first picture."""
        places = []
        for stride in (8, 16, 32):
            rows, columns = np.mgrid[: SIDE // stride, : SIDE // stride]
            places += [
                ((c + 0.5) * stride, (r + 0.5) * stride, stride, stride)
                for r, c in zip(rows.ravel(), columns.ravel(), strict=True)
            ]
        boxes = np.array(places, np.float32)
        best = int(np.flatnonzero((boxes == (40, 24, 16, 16)).all(1))[0])

        def raw(images: np.ndarray) -> np.ndarray:
            table = np.zeros((len(images), 4 + 3, len(boxes)), np.float32)
            table[:, :4] = boxes.T
            table[:, 4, best] = images[:, 0, 16:32, 32:48].mean((1, 2))
            return table

        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        picture[16:32, 32:48, 0] = 230
        explainer = explainer_of(raw, {"output0": (None, 7, len(boxes))})
        found = explainer.explain(picture)
        assert "Ultralytics" in explainer.kind.reason
        assert found.target.box == pytest.approx((32, 16, 48, 32), abs=0.1)
        row, column = np.unravel_index(found.map.argmax(), found.map.shape)
        assert 16 <= row < 32
        assert 32 <= column < 48

    def test_boxes_come_back_to_the_picture(self):
        """A picture of another size and aspect, whose boxes are pixels of the input."""
        wide = np.zeros((2 * SIDE, 4 * SIDE, 3), np.uint8)  # at a quarter, 16 rows from the top
        wide[4 * (24 - 16) : 4 * (40 - 16), 4 * 32 : 4 * 48, 0] = 255

        def moved(images: np.ndarray) -> dict[str, np.ndarray]:
            level = images[:, 0, 24:40, 32:48].mean((1, 2))[:, None]
            boxes = np.tile(np.array([[[32, 24, 48, 40]]], np.float32), (len(images), 1, 1))
            return {"boxes": boxes, "scores": level, "labels": np.zeros_like(level)}

        explainer = explainer_of(moved, overrides={"resize": "letterbox", "pad_value": 0})
        assert explainer.answers(wide)[0].box == pytest.approx((128, 32, 192, 96))


PROMISES: dict[str, tuple[dict[str, Any], str]] = {
    "shares": (
        {"boxes": [[[0.1, 0.1, 0.5, 0.5]]], "scores": [[0.9]], "labels": [[0]]},
        r"boxes hold fractions of the image, up to 0.5; return pixels of the input",
    ),
    "sides": (
        {"boxes": [[[30, 40, 10, 10]]], "scores": [[0.9]], "labels": [[0]]},
        r"boxes 30,40,10,10 has right <= left or bottom <= top; return left, top, right, bottom",
    ),
    "percent": (
        {"boxes": [[[1, 1, 9, 9]]], "scores": [[90]], "labels": [[0]]},
        r"scores are up to 90; return probabilities, 0 to 1",
    ),
    "unknown class": (
        {"boxes": [[[1, 1, 9, 9]]], "scores": [[0.9]], "labels": [[120]]},
        r"labels hold class 120, but classes are 0 to 90; pass labels= with a name for each",
    ),
    "half a class": (
        {"boxes": [[[1, 1, 9, 9]]], "scores": [[0.9]], "labels": [[1.5]]},
        r"labels hold 1\.5, which is not a class index",
    ),
    "rows that do not go together": (
        {"boxes": [[[1, 1, 9, 9]] * 2], "scores": [[0.9]] * 1, "labels": [[0, 1, 2]]},
        r"returned 2 boxes, 1 scores, 3 labels for one image; these numbers must be equal",
    ),
}


@pytest.mark.parametrize("case", PROMISES)
def test_a_detector_that_breaks_its_promise_is_told_in_one_line(case: str):
    returned, said = PROMISES[case]
    explainer = explainer_of(lambda images: returned, batch=1)
    with pytest.raises(OutputError, match=said) as caught:
        explainer.answers(scene())
    assert "\n" not in str(caught.value)


class TestASegmenter:
    """A score for each class at each place: how red, green or blue it is."""

    @pytest.mark.parametrize("probabilities", [False, True])
    def test_is_told_by_its_first_picture(self, probabilities: bool):
        def scores(images: np.ndarray) -> np.ndarray:
            logits = np.concatenate([np.full_like(images[:, :1], 4), 10 * images], 1)
            if not probabilities:
                return logits
            powers = np.exp(logits)
            return powers / powers.sum(1, keepdims=True)

        outputs = {"logits": (None, 4, SIDE, SIDE)}
        explainer = explainer_of(scores, outputs, labels=("background", *LABELS))
        assert explainer.kind.name == "segmenter"
        found = explainer.explain(scene(), ibisa.RegionTarget("green"))
        assert found.target.label == "green"
        expected = 1 / (1 + np.exp(4 - 10 * 180 / 255) + 2 * np.exp(-10 * 180 / 255))
        assert found.target.probability == pytest.approx(expected, abs=1e-3)
        assert peak_is_in(found.map, "green")
        assert explainer.explain(scene(), ibisa.RegionTarget(at=(40, 16))).target.label == "red"

    def test_is_told_anew_where_the_first_picture_told_nothing(self):
        """All zeros could be probabilities, and these are logits."""
        outputs = {"logits": (None, 3, SIDE, SIDE)}
        explainer = explainer_of(lambda images: 10 * images, outputs)
        explainer.answers(scene({}))
        found = explainer.explain(scene(), ibisa.RegionTarget("green"))
        assert found.target.activation == "softmax"
        assert found.target.probability == pytest.approx(
            1 / (1 + 2 * np.exp(-1800 / 255)), abs=1e-3
        )


class TestATextRecogniser:
    """Two steps, of the left and the right half: blank, or "a" where it is red, "b" green."""

    @staticmethod
    def steps(images: np.ndarray, *, probabilities: bool) -> np.ndarray:
        red, _, blue = brightness(images).T
        _, green, _ = brightness(images).T
        nothing = np.full_like(red, 0.3)
        logits = 12 * np.stack(
            [
                np.stack([nothing, np.zeros_like(red), green], 1),
                np.stack([nothing, red, np.zeros_like(red)], 1),
                np.stack([nothing + 1, blue, blue], 1),
            ],
            1,
        )
        if not probabilities:
            return logits
        powers = np.exp(logits)
        return powers / powers.sum(2, keepdims=True)

    @pytest.mark.parametrize("probabilities", [False, True])
    def test_reads_and_is_explained_character_by_character(self, probabilities: bool):
        explainer = explainer_of(
            lambda images: {"steps": self.steps(images, probabilities=probabilities)},
            {"steps": (None, 3, 3)},
            labels=["a", "b"],
            kind="text recogniser",
        )
        assert explainer.answers(scene())[0].caption == "ba"
        for number, name in ((1, "green"), (2, "red")):
            found = explainer.explain(scene(), ibisa.TextTarget(number))
            level = LEVELS[name] / 255
            rest = np.exp(-12 * level) + np.exp(12 * (0.3 - level))
            assert found.target.probability == pytest.approx(1 / (1 + rest), abs=1e-4)
            assert peak_is_in(found.map, name)
        assert explainer.explain(scene()).target.caption == 'text "ba"'

    def test_of_probabilities_needs_no_word(self):
        explainer = explainer_of(
            lambda images: self.steps(images, probabilities=True),
            {"steps": (None, 3, 3)},
            labels=["a", "b"],
        )
        explainer.answers(scene())
        assert explainer.kind.name == "text recogniser"


class TestAnEmbedder:
    @staticmethod
    def vectors(images: np.ndarray) -> np.ndarray:
        return np.repeat(brightness(images), 8, axis=1) + 0.01

    def test_is_held_against_another_picture(self):
        explainer = explainer_of(self.vectors, {"embedding": (None, 24)})
        assert explainer.kind.name == "embedder"
        both, green = scene(), scene({"green": 255})
        found = explainer.explain(both, ibisa.SimilarityTarget(green))
        assert found.target.kind == "similarity"
        assert peak_is_in(found.map, "green")

    def test_may_be_said_to_be_one(self):
        explainer = explainer_of(self.vectors, None, kind="embedder")
        assert explainer.explain(scene()).target.kind == "similarity"
        with pytest.raises(
            OptionError, match="kind is 'detector', but no output of this model fits"
        ):
            _ = explainer_of(self.vectors, {"embedding": (None, 24)}, kind="detector").kind

    def test_may_have_a_surrogate(self):
        class Counterpart(torch.nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                means = [
                    images[:, n, top:bottom, left:right].mean((1, 2))
                    for n, (left, top, right, bottom) in enumerate(SQUARES.values())
                ]
                return torch.stack(means, 1).repeat_interleave(8, 1) + 0.01

        explainer = explainer_of(
            self.vectors, {"embedding": (None, 24)}, surrogate=Counterpart(), budget=None
        )
        found = explainer.explain(scene(), ibisa.SimilarityTarget(scene({"green": 255})))
        assert found.certificate.gradient == "surrogate"
        assert found.passes.backward == 10
        assert peak_is_in(found.map, "green")


class TestValuesAndHeads:
    OUTPUTS: ClassVar = {"age": (None, 1), "gender": (None, 2)}

    @staticmethod
    def heads(images: np.ndarray) -> dict[str, np.ndarray]:
        red, green, _ = brightness(images).T
        logits = np.stack([4 * red, 4 * green], 1)
        return {"age": 10 + 50 * red, "gender": logits}

    def test_a_value_is_raised(self):
        explainer = explainer_of(
            lambda images: {"age": self.heads(images)["age"]}, {"age": (None, 1)}, labels=None
        )
        assert explainer.kind.name == "regression"
        assert explainer.answers(scene())[0].score == pytest.approx(10 + 50 * 230 / 255, abs=1e-2)
        found = explainer.explain(scene(), ibisa.ValueTarget("raise"))
        assert peak_is_in(found.map, "red")

    def test_of_several_heads_each_can_be_asked(self):
        explainer = explainer_of(self.heads, self.OUTPUTS, labels=["f", "m"])
        assert explainer.explain(scene(), "m").target.output == "gender"
        found = explainer.explain(scene(), ibisa.ValueTarget("raise", "age"))
        assert peak_is_in(found.map, "red")

    def test_the_output_of_class_scores_can_be_named(self):
        explainer = explainer_of(
            lambda images: {"a": self.heads(images)["gender"], "b": brightness(images) * 9},
            {"a": (None, 2), "b": (None, 3)},
            output="b",
        )
        assert explainer.explain(scene()).target.label == "red"
        with pytest.raises(OutputError, match="could all hold class scores"):
            explainer_of(
                lambda images: {"a": self.heads(images)["gender"], "b": brightness(images) * 9},
                {"a": (None, 2), "b": (None, 3)},
                labels=None,
            ).explain(scene())

    def test_an_objective_of_ones_own_may_be_nodes(self):
        def write(head: Head) -> str:
            rows = head.rows("gender")
            return head.log_sigmoid(head.op("Sub", head.column(rows, 1), head.column(rows, 0)))

        objective = OnnxObjective(write, "m, not f")
        found = explainer_of(self.heads, self.OUTPUTS, labels=None).explain(scene(), objective)
        assert peak_is_in(found.map, "green")


class Elsewhere(ibisa.ImageModel):
    """A model of another kind, with outputs of its own."""

    def __init__(self) -> None:
        base = ibisa.FunctionModel(padded, ibisa.InputSpec((None, 3, SIDE, SIDE), outputs=ROWS))
        super().__init__(base.signature, max_concurrency=2)

    def infer(self, feeds: Any, outputs: Any) -> Any:
        found = padded(feeds["images"])
        return {name: found[name].astype(np.float32) for name in outputs}


def test_a_model_of_another_kind_comes_through_the_same_door():
    explainer = ibisa.Explainer(
        Elsewhere(),
        preprocessing="unit",
        overrides={"resize": "stretch"},
        labels=LABELS,
        budget=120,
        options=ibisa.Options(baseline="mean"),
    )
    found = explainer.explain(scene(), ibisa.BoxTarget(2))
    assert found.target.label == "green"
    assert found.provenance.model == "Elsewhere"
    assert peak_is_in(found.map, "green")
