"""Functions in place of files: the same maps, and one line where something cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import onnxruntime
import pytest
import torch

import ibisa_onnx as ibisa
from ibisa_onnx.commands.report import explanation_text
from ibisa_onnx.demo import LABELS, model_path, scene_path
from ibisa_onnx.errors import GradientError, ModelError, OutputError, TargetError

SIDE, BUDGET = 128, 60
OPEN = ibisa.InputSpec((None, 3, SIDE, SIDE))


@pytest.fixture(scope="module")
def file() -> ibisa.Explainer:
    return ibisa.Explainer(
        model_path(), threads=1, providers=["cpu"], gradient="forward-only", budget=BUDGET
    )


class Client:
    """Stands for a model elsewhere: the embedded one, which counts how often it is asked."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model_path(), options, providers=["CPUExecutionProvider"]
        )
        self.batches: list[int] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        (scores,) = self.session.run(None, {self.session.get_inputs()[0].name: images})
        return scores


@pytest.fixture
def explainer_of(file: ibisa.Explainer) -> Callable[..., ibisa.Explainer]:
    """Opens a function that does what the embedded model does."""

    def open_(
        function: Any, input_spec: ibisa.InputSpec | None = OPEN, **options: Any
    ) -> ibisa.Explainer:
        known = {"preprocessing": file.preprocessing.spec, "labels": LABELS, "budget": BUDGET}
        return ibisa.Explainer(function, input_spec, **{**known, **options})

    return open_


Open = Callable[..., ibisa.Explainer]


def test_a_function_has_the_map_of_the_file_bit_for_bit(
    file: ibisa.Explainer, explainer_of: Open
) -> None:
    client = Client()
    functions = explainer_of(client).explain_all(scene_path(), ["star", "striped ball"], seed=5)
    files = file.explain_all(scene_path(), ["star", "striped ball"], seed=5)
    for found, expected in zip(functions, files, strict=True):
        assert found.map.tobytes() == expected.map.tobytes()
        assert found.passes == expected.passes
        assert found.target.label == expected.target.label
        assert found.target.probability == expected.target.probability
        assert found.target.activation == expected.target.activation == "softmax"
        assert found.sufficiency == expected.sufficiency


def test_it_is_asked_no_more_often_than_is_counted(explainer_of: Open) -> None:
    client = Client()
    passes = explainer_of(client).explain(scene_path()).passes
    assert sum(client.batches) == passes.forward <= BUDGET
    assert len(client.batches) == passes.forward_calls
    assert passes.backward == passes.backward_calls == 0


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_kept_to(explainer_of: Open, batch: int) -> None:
    client = Client()
    spec = ibisa.InputSpec((batch, 3, SIDE, SIDE))
    found = explainer_of(client, spec).explain(scene_path())
    assert set(client.batches) == {batch}
    assert sum(client.batches) == found.passes.forward <= BUDGET


def test_one_by_one_gives_the_map_of_a_batch(explainer_of: Open) -> None:
    one = ibisa.InputSpec((1, 3, SIDE, SIDE))
    single = explainer_of(Client(), one).explain(scene_path(), seed=2)
    together = explainer_of(Client()).explain(scene_path(), seed=2)
    np.testing.assert_allclose(single.map, together.map, atol=1e-3)
    assert single.map.max() > 0.5


def test_max_batch_is_said_where_the_function_is_opened(explainer_of: Open) -> None:
    client = Client()
    model = ibisa.FunctionModel(client, OPEN, max_batch=3)
    explainer_of(model, None).explain(scene_path())
    assert max(client.batches) == 3


def test_pixels_of_a_batch_of_bytes_arrive_as_they_are() -> None:
    """The spec says uint8, so nobody needs to say anything of preprocessing."""
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    given: list[np.ndarray] = []

    def scores(images: np.ndarray) -> list[list[float]]:
        given.append(images)
        return [[float(each.mean() / 255), 1 - float(each.mean() / 255)] for each in images]

    spec = ibisa.InputSpec((None, 16, 16, 3), "uint8")
    explainer = ibisa.Explainer(scores, spec, budget=40)
    assert explainer.predict(picture)[0].probability >= 0.5
    assert given[0].dtype == np.uint8
    np.testing.assert_array_equal(given[0], picture[None])
    assert explainer.warnings == ()
    assert explainer.explain(picture).target.activation == "probability"


def test_preprocessing_that_nobody_said_is_warned_of(explainer_of: Open) -> None:
    guessed = explainer_of(Client(), preprocessing=None)
    assert any(
        "no preprocessing information found" in each
        for each in guessed.explain(scene_path()).warnings
    )
    said = explainer_of(Client(), preprocessing="unit")
    assert not any(
        "no preprocessing information found" in each for each in said.explain(scene_path()).warnings
    )
    overridden = explainer_of(
        Client(), preprocessing=None, overrides=ibisa.Overrides(preset="unit", channel_order="bgr")
    )
    assert overridden.preprocessing.spec.channel_order == "BGR"


def test_predictions_and_labels(file: ibisa.Explainer, explainer_of: Open) -> None:
    assert explainer_of(Client()).predict(scene_path(), 3) == file.predict(scene_path(), 3)
    unnamed = explainer_of(Client(), labels=None).predict(scene_path(), 3)
    assert [each.label for each in unnamed] == [None] * 3
    with pytest.raises(TargetError):
        explainer_of(Client(), labels=LABELS[:3]).predict(scene_path())


def test_no_onnx_runtime_is_loaded_for_a_function() -> None:
    code = (
        "import sys, numpy as np, ibisa_onnx as ibisa\n"
        "spec = ibisa.InputSpec((None, 3, 16, 16))\n"
        "explainer = ibisa.Explainer(lambda images: images.mean((2, 3)), spec, budget=40)\n"
        "explainer.explain(np.eye(16, dtype=np.uint8))\n"
        "print({'onnx', 'onnxruntime', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"


def test_what_is_recorded(explainer_of: Open, tmp_path: Path) -> None:
    found = explainer_of(Client()).explain(scene_path())
    source = found.provenance
    assert (source.model, source.model_sha256, source.providers) == ("Client", None, ())
    assert found.target.output == "scores"
    certificate = found.certificate
    assert (certificate.gradient, certificate.difference) == ("forward-only", None)
    assert certificate.reason == "a function has no gradient"
    assert certificate.holds
    assert str(explanation_text("a.png", found, [])[-1]).endswith(" s")
    found.save(tmp_path)
    assert ibisa.Explanation.load(tmp_path).record() == found.record()


class Counterpart(torch.nn.Module):
    """A linear model of the picture's bright middle."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = images[:, :, 24:40, 24:40].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(seen), 30 * seen - 25.8], 1)


def test_a_surrogate_lends_a_function_its_gradient() -> None:
    counterpart, calls = Counterpart(), []

    def scores(images: np.ndarray) -> torch.Tensor:
        calls.append(len(images))
        return counterpart(torch.from_numpy(images))

    picture = np.zeros((64, 64, 3), np.uint8)
    picture[24:40, 24:40] = 255
    spec = ibisa.InputSpec((None, 3, 64, 64))
    explainer = ibisa.Explainer(scores, spec, preprocessing="unit", surrogate=counterpart)
    found = explainer.explain(picture, 1)
    assert found.certificate.gradient == "surrogate"
    assert found.certificate.difference == pytest.approx(0, abs=1e-6)
    assert found.passes.backward == 10
    assert sum(calls) < found.passes.forward  # the rest ran in the surrogate
    assert picture[np.unravel_index(found.map.argmax(), found.map.shape)].all()


def test_exact_is_refused_for_a_function(explainer_of: Open) -> None:
    with pytest.raises(GradientError, match="a function has no gradient; use a surrogate or"):
        explainer_of(Client(), gradient="exact").explain(scene_path())
    asked = explainer_of(Client(), gradient="forward-only").explain(scene_path())
    assert asked.certificate.reason == "requested"


def test_a_call_that_fails_ends_the_explanation_with_its_cause(explainer_of: Open) -> None:
    client = Client()

    def flaky(images: np.ndarray) -> np.ndarray:
        if len(client.batches) == 4:
            raise TimeoutError("no answer in 5 s")
        return client(images)

    explainer = explainer_of(flaky)
    with pytest.raises(
        ModelError, match=r"flaky failed on a batch of \d: TimeoutError: no ans"
    ) as e:
        explainer.explain(scene_path())
    assert isinstance(e.value.__cause__, TimeoutError)
    assert len(client.batches) == 4
    client.batches.clear()
    expected = explainer_of(Client()).explain(scene_path()).map
    client.batches = [0] * 5
    assert explainer.explain(scene_path()).map.tobytes() == expected.tobytes()


def test_an_answer_that_is_none_ends_it_too(explainer_of: Open) -> None:
    client = Client()

    def poisoned(images: np.ndarray) -> np.ndarray:
        scores = client(images)
        if len(client.batches) == 4:
            scores[-1, 0] = np.nan
        return scores

    with pytest.raises(OutputError, match=r"poisoned returned ndarray float32 .* NaN or infinite"):
        explainer_of(poisoned).explain(scene_path())
    assert len(client.batches) == 4


def test_scores_that_depend_on_the_others_of_a_batch_are_noticed(explainer_of: Open) -> None:
    client = Client()

    def mixing(images: np.ndarray) -> np.ndarray:
        return client(images[-1:].repeat(len(images), 0))

    found = explainer_of(mixing).explain(scene_path())
    assert any("mixing declares a dynamic batch but" in each for each in found.warnings)
    one_by_one = ibisa.FunctionModel(Client(), OPEN, max_batch=1)
    # Noticed by the four that settle the baseline, which are then made anew.
    expected = explainer_of(one_by_one, None, budget=BUDGET - 4).explain(scene_path())
    np.testing.assert_array_equal(found.map, expected.map)


REFUSED: dict[str, tuple[Callable[[Open], object], str]] = {
    "no spec": (
        lambda open_: open_(Client(), None),
        r"Client is a function; .* Explainer\(function, InputSpec\(\(None, 3, 224, 224\)\)\)",
    ),
    "a spec and a file": (lambda open_: open_(str(model_path())), "a str, which is not callable"),
    "a spec and a session": (
        lambda open_: open_(Client().session),
        "InferenceSession, which is not callable",
    ),
    "a spec and an open model": (
        lambda open_: open_(ibisa.FunctionModel(Client(), OPEN)),
        "input_spec cannot be passed with an open model",
    ),
    "no spec, but a tuple": (lambda open_: open_(Client(), (1, 3, 8, 8)), "is a tuple"),
    "providers": (
        lambda open_: open_(Client(), providers=["cpu"]),
        "providers cannot be passed with",
    ),
    "input": (lambda open_: open_(Client(), input="x"), "input cannot be passed with a function"),
    "output": (
        lambda open_: open_(Client(), output="y"),
        "output cannot be passed with a function",
    ),
    "threads": (lambda open_: open_(Client(), threads=1), "threads cannot be passed with"),
    "extra inputs": (
        lambda open_: open_(Client(), extra_inputs={"x": np.zeros(1)}, threads=1),
        "threads, extra_inputs cannot be passed with a function",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together_is_refused_in_one_line(explainer_of: Open, case: str) -> None:
    attempt, said = REFUSED[case]
    with pytest.raises(ModelError, match=said) as caught:
        attempt(explainer_of)
    assert "\n" not in str(caught.value)


class Answer(BaseHTTPRequestHandler):
    """Answers with the scores of the images in a request, as JSON; where it is down, with 503."""

    client: Client

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/down":
            self.send_error(503, "model is loading")
            return
        images = np.frombuffer(body, np.float32).reshape(-1, 3, SIDE, SIDE)
        answer = json.dumps({"scores": self.client(images).tolist()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    Answer.client = Client()
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        worker = threading.Thread(target=server.serve_forever)
        worker.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        worker.join()


def test_a_model_behind_http(file: ibisa.Explainer, explainer_of: Open, address: str) -> None:
    def ask(images: np.ndarray, path: str = "/") -> np.ndarray:
        with urlopen(Request(address + path, images.tobytes()), timeout=30) as answer:
            return np.array(json.load(answer)["scores"], np.float32)

    found = explainer_of(ask).explain(scene_path(), seed=1)
    assert found.map.tobytes() == file.explain(scene_path(), seed=1).map.tobytes()

    def down(images: np.ndarray) -> np.ndarray:
        return ask(images, "/down")

    with pytest.raises(ModelError, match="HTTPError: HTTP Error 503: model is loading") as caught:
        explainer_of(down).explain(scene_path())
    assert isinstance(caught.value.__cause__, HTTPError)
