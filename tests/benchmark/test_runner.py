"""A comparison measures what is missing and nothing else, and no picture spoils it for others."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.benchmark import runner as module
from ibisa_onnx.benchmark.maps import MapFolder
from ibisa_onnx.benchmark.runner import Benchmark, Entry
from ibisa_onnx.demo import model_path
from ibisa_onnx.errors import GradientError, ImageError, MetricError, OptionError
from ibisa_onnx.methods.drise import DRise
from ibisa_onnx.methods.random_map import RandomMap
from ibisa_onnx.metrics import AVERAGE_DROP, BOX_METRICS, ENERGY
from ibisa_onnx.targets.arguments import PointTarget
from ibisa_onnx.targets.detection import BoxTarget

EXPLAINING = 1 + 3  # the prediction, and what a planted method asks


@dataclass
class Notes:
    """A listener that remembers."""

    failures: list[tuple[str, Exception]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def failed(self, image: Path, error: Exception) -> None:
        self.failures.append((image.name, error))

    def warned(self, image: Path, text: str) -> None:
        self.warnings.append((image.name, text))


@pytest.fixture
def pictures(picture):
    return [picture("a.png", 0), picture("b.png", 1), picture("c.png", 2)]


def passes(benchmark: Benchmark, model: Any) -> int:
    before = model.images
    list(benchmark.run())
    return model.images - before


def written(benchmark: Benchmark) -> list[list[str]]:
    """Picture and method of each line of the file."""
    lines = benchmark.store.path.read_text().splitlines()[1:]
    return [line.split(",")[0:3:2] for line in lines]


def test_each_picture_has_a_row_of_each_method_with_its_scores_and_cost(benchmark, pictures):
    rows = list(benchmark(pictures).run())
    assert [(row.image, row.method) for row in rows] == [
        (image, method)
        for image in ("a.png", "b.png", "c.png")
        for method in ("perfect", "inverse")
    ]
    for row in rows:
        assert (row.forward, row.backward, row.target) == (EXPLAINING, 0, "class 0")
        exact = {"perfect": 1 / 26, "inverse": 24.6 / 26}[row.method]
        assert row.scores["deletion"] == pytest.approx(exact, abs=1e-6)
        assert 0 < row.seconds < 60
        assert row.peak_bytes > 2**20


def test_what_was_measured_is_not_measured_again(benchmark, pictures, model):
    rows = list(benchmark(pictures).run())
    again = benchmark(pictures)
    assert passes(again, model) == 0
    assert [row.key for row in again.run()] == [row.key for row in rows]


def test_an_interrupted_run_goes_on_where_it_was(benchmark, pictures, model):
    whole = passes(benchmark(pictures, seed=1), model)  # other settings: of no use to what follows
    before = model.images
    for done, _ in enumerate(benchmark(pictures).run(), 1):
        if done == 3:  # the first method of the second picture
            break
    first, rest = model.images - before, benchmark(pictures)
    twice = 1 + 2  # the second picture's prediction, and whether images of a batch mix
    assert passes(rest, model) <= whole - first + twice
    assert len(written(rest)) == 6 + 6


def test_a_new_method_and_a_new_picture_alone_are_measured(benchmark, pictures):
    list(benchmark(pictures[:1], ("perfect",)).run())
    more = benchmark(pictures[:2])
    list(more.run())
    assert written(more) == [
        ["a.png", "perfect"],
        ["a.png", "inverse"],
        ["b.png", "perfect"],
        ["b.png", "inverse"],
    ]


def test_another_version_has_rows_of_its_own(benchmark, picture, monkeypatch):
    (old,) = benchmark([picture()], ("perfect",)).run()
    monkeypatch.setattr(ibisa, "__version__", "99")
    (new,) = benchmark([picture()], ("perfect",)).run()
    assert old.settings != new.settings


def test_other_settings_have_rows_of_their_own(
    benchmark, open_explainer, planted, pictures, picture
):
    def digest(**words: Any) -> str:
        words = {"entries": [Entry("perfect", planted())], **words}
        (row,) = benchmark(pictures[:1], **words).run()
        return row.settings

    def reading(place: int) -> list[Entry]:
        return [Entry("perfect", planted(), [picture("read.png", place)])]

    base = digest()
    others = [
        digest(seed=1),
        digest(explainer=open_explainer(gradient="forward-only")),
        digest(explainer=open_explainer(budget=60)),
        digest(entries=[Entry("perfect", planted(passes=4))]),
        digest(entries=reading(7)),
        digest(entries=reading(8)),
    ]
    assert len({base, *others}) == 7
    assert digest() == base
    assert digest(entries=reading(7)) == others[4]


def test_a_baseline_s_file_with_other_content_is_another_run(
    benchmark, open_explainer, picture, pictures
):
    def digest(place: int) -> str:
        options = ibisa.Options(baseline=str(picture("empty.png", place)))
        (row,) = benchmark(
            pictures[:1], ("perfect",), explainer=open_explainer(options=options)
        ).run()
        return row.settings

    first = digest(5)
    assert digest(6) != first
    assert digest(5) == first


def test_another_model_and_another_preprocessing_have_rows_of_their_own(benchmark, picture):
    changed = model_path().read_bytes() + b"\x1a\x00"  # another domain, which nobody reads
    explainers = [
        ibisa.Explainer(model_path(), threads=1),
        ibisa.Explainer(changed, threads=1),
        ibisa.Explainer(model_path(), threads=1, preprocessing="imagenet"),
    ]
    image = picture(size=(128, 128))
    settings = set()
    for explainer in explainers:
        words = {"entries": [Entry("random", RandomMap())], "explainer": explainer, "metrics": ()}
        settings |= {row.settings for row in benchmark([image], **words).run()}
    assert len(settings) == 3


def test_a_picture_that_cannot_be_read_is_left_out(benchmark, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    notes = Notes()
    images = [tmp_path / "bad.png", pictures[0], tmp_path / "nosuch.png", pictures[1]]
    rows = list(benchmark(images, listener=notes).run())
    assert [row.image for row in rows] == ["a.png", "a.png", "b.png", "b.png"]
    assert sorted(name for name, _ in notes.failures) == ["bad.png", "nosuch.png"]
    assert all(isinstance(error, ImageError) for _, error in notes.failures)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_picture_that_a_method_cannot_explain_is_left_out(benchmark, planted, pictures, failing):
    notes = Notes()
    entries = [Entry("inverse", planted("inverse")), Entry("p", planted(fails_at=failing))]
    rows = list(benchmark(pictures[:2], entries=entries, listener=notes).run())
    good = pictures[1 - failing].name
    assert [row.method for row in rows if row.image == good] == ["inverse", "p"]
    assert [row.method for row in rows if row.image != good] == ["inverse"]
    ((name, error),) = notes.failures
    assert name == pictures[failing].name
    assert isinstance(error, GradientError)


def test_a_picture_of_which_a_metric_is_not_defined_is_left_out(benchmark, picture, monkeypatch):
    notes, measure, bad = Notes(), module.evaluate, picture("bad.png")

    def evaluate(subject: Any, problem: Any, *rest: Any) -> dict[str, float]:
        if problem.image[0, 0, 0, 0] < 0:
            raise MetricError("not defined here")
        return measure(subject, problem, *rest)

    monkeypatch.setattr(module, "evaluate", evaluate)
    images = [bad, picture("good.png", 3)]
    rows = list(benchmark(images, metrics=(AVERAGE_DROP,), listener=notes).run())
    assert [row.image for row in rows] == ["good.png", "good.png"]
    assert [name for name, _ in notes.failures] == ["bad.png"]


def test_pictures_of_the_same_content_count_once_and_it_is_said(benchmark, picture):
    notes = Notes()
    rows = list(benchmark([picture("a.png"), picture("copy.png")], listener=notes).run())
    assert [row.image for row in rows] == ["a.png", "a.png"]
    ((name, text),) = notes.warnings
    assert name == "copy.png"
    assert "a.png" in text


def test_a_method_that_refuses_the_model_ends_it_before_any_map(
    benchmark, planted, picture, model, tmp_path
):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    entries = [Entry("inverse", planted("inverse")), Entry("perfect", planted(refuses=True))]
    refused = benchmark([tmp_path / "bad.png", picture()], entries=entries)
    with pytest.raises(GradientError, match="refuses this model"):
        list(refused.run())
    assert model.images == 1  # the problem
    assert not refused.store.path.exists()


def test_the_warnings_of_a_map_are_passed_on_with_the_method_s_name(benchmark, planted, picture):
    class Flat(planted):
        def run_one(self, problem: Any, rng: Any, control: Any) -> Any:
            (found,) = super().run_one(problem, rng, control)
            yield replace(found, cells=np.full_like(found.cells, 0.5))

    notes = Notes()
    list(benchmark([picture()], entries=[Entry("flat", Flat("inverse"))], listener=notes).run())
    ((name, text),) = notes.warnings
    assert name == "a.png"
    assert text.startswith("flat: flat map")


def test_maps_are_kept_and_a_missing_one_is_made_again_without_measuring(
    benchmark, pictures, model, tmp_path
):
    maps = MapFolder(tmp_path / "maps")
    list(benchmark(pictures[:2]).run())
    kept = benchmark(pictures[:2], maps=maps)
    explaining = 2 * (1 + 2 * EXPLAINING)  # of each picture the problem, and two explanations
    assert passes(kept, model) == explaining
    files = sorted((tmp_path / "maps").rglob("*.npy"))
    assert len(files) == 4
    perfect = next(file for file in files if "perfect" in file.parent.name)
    assert np.load(perfect)[4:8, 6:11].min() > np.load(perfect)[9:].max()
    assert len(written(kept)) == 4
    files[0].unlink()
    assert passes(benchmark(pictures[:2], maps=maps), model) == 1 + EXPLAINING
    assert files[0].exists()
    assert passes(benchmark(pictures[:2], maps=maps), model) == 0


def test_progress_counts_maps_and_tells_the_time_of_what_is_missing(
    benchmark, planted, pictures, model
):
    entries = [Entry("slow", planted(passes=9)), Entry("quick", planted("inverse"))]
    list(benchmark(pictures[:1], entries=entries).run())
    shown: list[Any] = []
    rest = benchmark(pictures, entries=entries, clock=lambda: model.images)  # a second each
    list(rest.run(lambda *told: shown.append(told)))
    assert [done for done, _, _ in shown] == sorted(done for done, _, _ in shown)
    assert {total for _, total, _ in shown} == {6}
    left = {done: [seconds for count, _, seconds in shown if count == done] for done in range(7)}
    assert left[2][0] is None  # of what an earlier run has measured nobody knows how long it took
    assert left[3][0] is None
    slow, quick = left[4][0] - left[5][0], left[5][0] - left[6][0]
    assert slow - quick == 9 - 3
    assert left[4][0] > left[4][-1] > quick  # it falls while the slow one is at work
    assert left[6][-1] == 0


def test_progress_ends_though_a_picture_fails(benchmark, planted, pictures):
    entries = [Entry("p", planted(fails_at=1)), Entry("inverse", planted("inverse"))]
    shown: list[Any] = []
    list(benchmark(pictures, entries=entries).run(lambda *told: shown.append(told)))
    assert shown[-1] == (6, 6, 0)


# -- targets


def test_a_detector_s_boxes_are_compared_and_other_pictures_left_out(
    benchmark, detector, squares, planted
):
    images = [
        squares("a.png", (1, 2, 0), (3, 0, 1)),
        squares("b.png", (0, 1, 1)),  # where nothing is red
        squares("c.png", (2, 2, 0)),
    ]
    notes = Notes()
    metrics = (*BOX_METRICS, ENERGY)
    entries = [Entry("drise", DRise(64, 8)), Entry("random", RandomMap())]
    made = {"explainer": detector, "entries": entries, "metrics": metrics, "listener": notes}
    rows = list(benchmark(images, target=BoxTarget(label="red"), **made).run())
    assert [(row.image, row.method) for row in rows] == [
        (image, method) for image in ("a.png", "c.png") for method in ("drise", "random")
    ]
    assert rows[0].target == "box 1: red at 16,8,24,16"
    ((name, error),) = notes.failures
    assert name == "b.png"
    assert "no red was detected; detected: 1 green 90%" in str(error)
    for drise, random in zip(rows[::2], rows[1::2], strict=True):
        for metric in metrics:
            ahead = drise.scores[metric.name] - random.scores[metric.name]
            assert (ahead > 0) == metric.higher_is_better, metric.name


def test_what_is_not_of_such_a_target_is_said_at_once(benchmark, pictures):
    notes = Notes()
    with pytest.raises(OptionError, match="requires a detector's box, not a class"):
        list(benchmark(pictures, metrics=BOX_METRICS, listener=notes).run())
    assert notes.failures == []


def test_each_target_has_rows_of_its_own(benchmark, detector, squares, planted):
    image = squares("a.png", (1, 2, 0), (3, 0, 1))
    made = {"explainer": detector, "entries": [Entry("random", RandomMap())]}
    targets = (None, "green", BoxTarget(1), BoxTarget(2), PointTarget((2.0, 30.0)))
    rows = [next(benchmark([image], target=each, **made).run()) for each in targets]
    assert len({row.settings for row in rows}) == len(targets)
    boxes = ["red at 16,8,24,16", "green at 0,24,8,32"]
    said = [boxes[number - 1] for number in (1, 2, 1, 2, 2)]
    assert [row.target.split(": ")[1] for row in rows] == said
    (again,) = benchmark([image], target=BoxTarget(2), **made).run()
    assert again.key == rows[3].key
