"""A model behind a network, on a server that can be made to fail.

The server's model is planted: the brightness of three squares, so the right map is known. Real
servers are in `test_remote_servers.py`, addresses in `tests/models/test_endpoint.py`.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tritonclient.http", reason="needs the extra [remote]")

from serving.fake_server import (
    LABELS,
    SIDE,
    SQUARES,
    Fake,
    Reply,
    encoded,
    fake_server,
    scene,
    scores,
)

import ibisa_onnx as ibisa
from ibisa_onnx.errors import (
    DeadlineError,
    GradientError,
    ModelError,
    OutputError,
    PreprocessingError,
    RemoteError,
)

DEMO = Path(ibisa.__file__).parent / "demo" / "model.onnx"
USUAL: dict[str, Any] = {
    "preprocessing": "unit",
    "overrides": {"resize": "stretch"},
    "labels": LABELS,
    "budget": 100,
}
SECRET = "Bearer d4c3b2a1-very-secret"


@pytest.fixture
def fake() -> Iterator[Fake]:
    with fake_server(Fake()) as server:
        yield server


def explainer_of(model: Any, **options: Any) -> ibisa.Explainer:
    return ibisa.Explainer(model, **(USUAL | options))


def posts(fake: Fake) -> int:
    return sum(method == "POST" for method, _ in fake.requests)


def peak_is_in(map: np.ndarray, name: str) -> bool:
    left, top, right, bottom = SQUARES[name]
    row, column = np.unravel_index(map.argmax(), map.shape)
    return bool(top <= row < bottom and left <= column < right)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_is_explained_by_no_more_requests_than_are_counted(binary: bool):
    with fake_server(Fake(binary=binary)) as fake:
        explainer = explainer_of(fake.url)
        assert posts(fake) == 0
        found = explainer.explain(scene(red=230, green=180), "green")
        assert peak_is_in(found.map, "green")
        assert found.certificate.gradient == "forward-only"
        assert found.certificate.reason == "a model behind a network has no gradient"
        assert posts(fake) == found.passes.forward_calls
        assert sum(fake.batches) == found.passes.forward <= 100
        same = ibisa.Explainer(scores, ibisa.InputSpec((None, 3, SIDE, SIDE)), **USUAL)
        local = same.explain(scene(red=230, green=180), "green")
        assert found.map.tobytes() == local.map.tobytes()


def test_is_recorded_by_url_and_version_and_as_not_hashed(fake: Fake, tmp_path: Path):
    found = explainer_of(fake.url).explain(scene(red=230))
    found.save(tmp_path)
    record = json.loads(next(tmp_path.glob("*.json")).read_text())["provenance"]
    assert record["model"] == fake.url
    assert record["model_sha256"] is None
    assert record["server"]["server"] == "fake 1.0"
    assert record["server"]["version"] == "3"
    assert "not by its content" in record["server"]["note"]
    assert ibisa.Explanation.load(tmp_path).provenance == found.provenance


class TestCredentials:
    @pytest.mark.parametrize("how", ["headers", "environment", "URL"])
    def test_are_sent_and_never_shown(
        self, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ):
        caplog.set_level(0)

        def echoed(images: np.ndarray, usual: Reply) -> Reply:
            return 500, {}, fake.headers[-1]["authorization"].encode()

        with fake_server(Fake()) as fake:
            url, headers = fake.url, None
            if how == "headers":
                headers = {"Authorization": SECRET}
            elif how == "environment":
                monkeypatch.setenv("IBISA_ONNX_AUTHORIZATION", SECRET)
            else:
                url = url.replace("://", "://someone:hunter22@")
            model = ibisa.RemoteModel(url, headers=headers)
            explainer = explainer_of(model)
            found = explainer.explain(scene(red=230))
            sent = {each["authorization"] for each in fake.headers}
            fake.reply = echoed
            with pytest.raises(RemoteError) as caught:
                explainer.predict(scene(red=230))
        expected = "Basic c29tZW9uZTpodW50ZXIyMg==" if how == "URL" else SECRET
        assert sent == {expected}
        shown = [str(caught.value), model.name, model.identity, repr(model.origin), caplog.text]
        shown += [json.dumps(found.record()), repr(explainer.settings)]
        for secret in (expected, expected.split()[1], "hunter22"):
            assert all(secret not in text for text in shown)

    def test_are_not_quoted_if_they_cannot_be_sent(self, fake: Fake):
        with pytest.raises(ModelError, match="header X-Key is not printable ASCII") as caught:
            ibisa.RemoteModel(fake.url, headers={"X-Key": "very\nsecret"})
        assert "secret" not in str(caught.value)


def nothing(images: np.ndarray, usual: Reply) -> Reply | None:
    return None


def status(code: int, said: str) -> Callable[[np.ndarray, Reply], Reply]:
    return lambda images, usual: (code, {}, json.dumps({"error": said}).encode())


def with_headers(**more: str) -> Callable[[np.ndarray, Reply], Reply]:
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return lambda images, usual: (200, usual[1] | named, usual[2])


def returning(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, Reply], Reply]:
    return lambda images, usual: encoded(change(scores(images)), binary=True)


def claiming(**said: Any) -> Callable[[np.ndarray, Reply], Reply]:
    """Change what the header of a binary response says of its tensor."""

    def reply(images: np.ndarray, usual: Reply) -> Reply:
        _, headers, body = usual
        length = int(headers["Inference-Header-Content-Length"])
        data = json.loads(body[:length])
        data["outputs"][0] |= said
        text = json.dumps(data).encode()
        return 200, {"Inference-Header-Content-Length": str(len(text))}, text + body[length:]

    return reply


FAILURES: dict[str, tuple[Callable[[np.ndarray, Reply], Reply | None], type[Exception], str]] = {
    "drops the connection": (nothing, RemoteError, "was not repeated, since it may have run"),
    "fails": (status(500, "out of memory"), RemoteError, r"the server failed \(500\): out of mem"),
    "is overloaded": (status(429, "slow down"), RemoteError, r"too many requests \(429\): slow do"),
    "rejects one image": (
        status(400, "wrong dtype"),
        RemoteError,
        r"rejected \(400\): wrong dtype",
    ),
    "loses the model": (
        status(404, "gone"),
        RemoteError,
        r"no such model or version \(404\): gone",
    ),
    "unloads the model": (status(503, "loading"), RemoteError, r"is not ready \(503\): loading"),
    "wants a password": (
        status(401, "who?"),
        RemoteError,
        r"access denied \(401\): who\?; set IBISA",
    ),
    "redirects": (
        lambda images, usual: (307, {"Location": "http://elsewhere/"}, b""),
        RemoteError,
        r"redirects to http://elsewhere/; pass that address",
    ),
    "ends early": (
        with_headers(Content_Length="100000", Connection="close"),
        RemoteError,
        r"ends after \d+ of 100,000",
    ),
    "promises too much": (
        with_headers(Content_Length=str(1 << 40)),
        RemoteError,
        "above the limit of",
    ),
    "lies about the header": (
        with_headers(Inference_Header_Content_Length="9999999"),
        RemoteError,
        "breaks the protocol",
    ),
    "sends half a tensor": (
        claiming(shape=[1, 3000]),
        RemoteError,
        "breaks the protocol",
    ),
    "sends a huge shape": (claiming(shape=[1 << 40, 1 << 40]), RemoteError, "breaks the protocol"),
    "sends no JSON": (
        lambda images, usual: (200, {}, b"<html>"),
        RemoteError,
        "breaks the protocol",
    ),
    "sends another output": (claiming(name="other"), OutputError, "no 'scores', only other"),
    "sends text": (claiming(datatype="BYTES"), RemoteError, "breaks the protocol"),
    "sends NaN": (returning(lambda values: values * np.nan), OutputError, "NaN or infinite"),
    "sends two rows": (
        returning(lambda values: np.repeat(values, 2, 0)),
        OutputError,
        r"float32 \[2, 3\] for 1 image\(s\), but declares scores \[N, 3\]",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_server_that_fails_gets_one_line_and_no_second_request(failure: str, fake: Fake):
    reply, error, said = FAILURES[failure]
    explainer = explainer_of(fake.url)
    fake.reply = reply
    with pytest.raises(error, match=said) as caught:
        explainer.explain(scene(red=230))
    assert "\n" not in str(caught.value)
    assert fake.url in str(caught.value)
    assert posts(fake) == 1
    fake.reply = None  # and the explainer remains usable
    assert explainer.predict(scene(red=230))[0].label == "red"


class TestTime:
    def test_of_a_request_is_limited(self, fake: Fake):
        release = threading.Event()
        explainer = explainer_of(ibisa.RemoteModel(fake.url, timeout=0.3))
        fake.reply = lambda images, usual: (release.wait(30), usual)[1]
        try:
            with pytest.raises(RemoteError, match=r"no response within 0.3 s; pass a longer timeo"):
                explainer.predict(scene(red=230))
        finally:
            release.set()
        assert posts(fake) == 1

    def test_limit_ends_a_request(self, fake: Fake):
        release = threading.Event()
        explainer = explainer_of(fake.url)
        fake.reply = lambda images, usual: (release.wait(30), usual)[1]
        try:
            with ibisa.time_limit(0.3), pytest.raises(DeadlineError):
                explainer.predict(scene(red=230))
        finally:
            release.set()
        fake.reply = None
        assert explainer.predict(scene(red=230))[0].label == "red"

    def test_limit_ends_an_attempt_to_connect(self):
        """The backlog is full, so that nothing is accepted and nothing refused."""
        with socket.socket() as full, ExitStack() as waiting:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            for _ in range(4):
                other = waiting.enter_context(socket.socket())
                other.setblocking(False)
                with suppress(BlockingIOError):
                    other.connect(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}/v2/models/squares"
            with ibisa.time_limit(0.3), pytest.raises(DeadlineError):
                ibisa.RemoteModel(url, connect_timeout=60)
            with pytest.raises(RemoteError, match=r"cannot connect: no connection within 0\.2 s"):
                ibisa.RemoteModel(url, connect_timeout=0.2)

    def test_limit_ends_the_wait_for_a_free_request(self, fake: Fake):
        entered, release = threading.Event(), threading.Event()
        explainer = explainer_of(ibisa.RemoteModel(fake.url, max_concurrency=1))
        fake.reply = lambda images, usual: (entered.set(), release.wait(30), usual)[2]
        other = threading.Thread(target=explainer.predict, args=(scene(red=230),))
        other.start()
        try:
            assert entered.wait(30)
            with ibisa.time_limit(0.3), pytest.raises(DeadlineError):
                explainer.predict(scene(green=230))
        finally:
            release.set()
            other.join()
        assert posts(fake) == 1


class TestConnections:
    def test_refused_ones_are_retried_and_reported(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # nobody listens
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/v2/models/squares"
            with pytest.raises(RemoteError, match=r"cannot connect \(3 attempts\): Connection ref"):
                ibisa.RemoteModel(url)

    def test_are_reused(self, fake: Fake):
        explainer = explainer_of(fake.url)
        for _ in range(3):
            explainer.predict(scene(red=230))
        assert fake.connections == 1

    def test_that_the_server_closed_meanwhile_are_replaced(self, fake: Fake):
        explainer = explainer_of(fake.url)
        explainer.predict(scene(red=230))
        fake.hang_up()
        assert explainer.predict(scene(red=230))[0].label == "red"
        assert posts(fake) == 2

    def test_are_at_most_as_many_as_allowed_and_as_many_as_useful(self, fake: Fake):
        both = threading.Barrier(2)
        explainer = explainer_of(ibisa.RemoteModel(fake.url, max_batch=1, max_concurrency=2))
        explainer.predict(scene(red=230))
        fake.reply = lambda images, usual: (both.wait(30), usual)[1]
        explainer.model.run(np.zeros((6, 3, SIDE, SIDE), np.float32))
        assert fake.most_running == 2


class TestEncryption:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        """A certificate of localhost, signed by itself, and its key in one file."""
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        path = tmp_path / "server.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        command += ["-keyout", str(path), "-out", str(tmp_path / "public.pem")]
        subprocess.run(command, check=True, capture_output=True)
        path.write_bytes(path.read_bytes() + (tmp_path / "public.pem").read_bytes())
        return path

    def test_trusts_only_known_certificates_of_the_named_host(self, certificate: Path):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        trusted = certificate.with_name("public.pem")
        with fake_server(Fake(), context) as fake:
            url = f"https://localhost:{fake.port}/v2/models/squares"
            explainer = explainer_of(ibisa.RemoteModel(url, certificates=trusted))
            assert peak_is_in(explainer.explain(scene(red=230)).map, "red")
            assert fake.connections == 1
            with pytest.raises(RemoteError, match=r"cannot connect: .*certificate verify failed"):
                ibisa.RemoteModel(url)
            other = url.replace("localhost", "127.0.0.1")
            with pytest.raises(RemoteError, match=r"cannot connect: .*IP address mismatch"):
                ibisa.RemoteModel(other, certificates=trusted)


class TestBatches:
    def test_are_as_large_as_the_server_says(self):
        with fake_server(Fake(most=3)) as fake:
            found = explainer_of(fake.url).explain(scene(red=230))
        assert max(fake.batches) == 3
        assert peak_is_in(found.map, "red")

    def test_that_are_rejected_are_halved(self, fake: Fake):
        def reply(images: np.ndarray, usual: Reply) -> Reply:
            if len(images) > 2:
                return 400, {}, b'{"error": "at most 2"}'
            return usual

        fake.reply = reply
        explainer = explainer_of(fake.url)
        found = explainer.explain(scene(red=230))
        assert peak_is_in(found.map, "red")
        assert explainer.model.max_batch == 2
        assert sum("images, so calls have 2" in text for text in found.warnings) == 1
        assert sum(size for size in fake.batches if size <= 2) == found.passes.forward


def declared(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> Fake:
    return Fake(metadata={"name": "squares", "inputs": inputs, "outputs": outputs})


IMAGES = {"name": "images", "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE]}
SCORES = {"name": "scores", "datatype": "FP32", "shape": [-1, 3]}
METADATA: dict[str, tuple[Fake, str]] = {
    "nothing": (declared([], []), "declares no inputs; pass its name as input= and its shape as"),
    "no outputs": (declared([IMAGES], []), "declares no outputs; pass input_spec="),
    "no image": (
        declared([IMAGES | {"datatype": "BYTES", "shape": [-1]}], [SCORES]),
        "no image input",
    ),
    "only text": (declared([IMAGES], [SCORES | {"datatype": "BYTES"}]), "no numeric output"),
    "nonsense": (declared([{"name": 3}], [SCORES]), "declares an invalid tensor"),
    "not ready": (Fake(ready=False), "is not ready; try again later"),
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_that_does_not_suffice_says_what_to_pass(case: str):
    server, said = METADATA[case]
    with fake_server(server) as fake, pytest.raises((ModelError, OutputError), match=said):
        explainer_of(fake.url)


class TestMetadata:
    def test_may_be_absent_if_the_caller_describes_the_model(self):
        with fake_server(declared([], [])) as fake:
            spec = ibisa.InputSpec((None, 3, SIDE, SIDE))
            found = explainer_of(fake.url, input_spec=spec, input="images").explain(scene(blue=200))
            named = ibisa.InputSpec((None, 3, SIDE, SIDE), outputs={"scores": (None, 3)})
            again = explainer_of(fake.url, input_spec=named, input="images")
            assert again.explain(scene(blue=200)).map.tobytes() == found.map.tobytes()
        assert peak_is_in(found.map, "blue")
        assert found.target.output == "scores"

    def test_may_lack_the_batch_axis(self):
        images, one = IMAGES | {"shape": [3, SIDE, SIDE]}, SCORES | {"shape": [3]}
        with fake_server(declared([images], [one])) as fake:
            fake.predict = lambda image: scores(image[None])[0]
            found = explainer_of(fake.url).explain(scene(blue=200))
        assert peak_is_in(found.map, "blue")

    def test_may_lack_the_batch_axis_of_the_output_alone(self):
        with fake_server(declared([IMAGES], [SCORES | {"shape": [3]}])) as fake:
            assert explainer_of(fake.url).predict(scene(blue=200))[0].label == "blue"


def boxes(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return a row for each bright square, as many as the brightest image has."""
    rows = [np.flatnonzero(each > 1) for each in scores(images)]
    most = max(map(len, rows))
    found = {
        "boxes": np.zeros((len(images), most, 4), np.float32),
        "scores": np.zeros((len(images), most), np.float32),
        "labels": np.zeros((len(images), most), np.int64),
    }
    for place, (classes, values) in enumerate(zip(rows, scores(images), strict=True)):
        found["boxes"][place, : len(classes)] = np.array(list(SQUARES.values()))[classes]
        found["scores"][place, : len(classes)] = values[classes] / 6
        found["labels"][place, : len(classes)] = classes
    return found


def embedding(images: np.ndarray) -> dict[str, np.ndarray]:
    return {"embedding": np.repeat(scores(images), 8, 1) + np.float32(0.01)}


def age(images: np.ndarray) -> dict[str, np.ndarray]:
    return {"age": 10 + 5 * scores(images)[:, :1]}


def regions(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return logits of red, green, blue and none at each pixel."""
    none = np.full_like(images[:, :1], 0.3)
    return {"logits": 8 * np.concatenate([images, none], 1)}


def steps(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return logits of blank, a and b at three steps: a where there is red, b where green is."""
    found = np.full((len(images), 3, 3), -6, np.float32)
    found[:, 0, 1], found[:, 2, 2] = (2 * scores(images)[:, :2]).T
    found[:, [0, 2], 0], found[:, 1, 0] = 3.6, 12
    return {"steps": found}


KINDS: dict[str, tuple[Any, dict[str, tuple[int | None, ...]], Any]] = {
    "detector": (
        boxes,
        {"boxes": (None, None, 4), "scores": (None, None), "labels": (None, None)},
        ibisa.BoxTarget(2),
    ),
    "embedder": (embedding, {"embedding": (None, 24)}, "similarity"),
    "text recogniser": (steps, {"steps": (None, 3, 3)}, ibisa.TextTarget(2)),
    "regression": (age, {"age": (None, 1)}, ibisa.ValueTarget("raise")),
    "segmenter": (regions, {"logits": (None, 4, SIDE, SIDE)}, ibisa.RegionTarget(1)),
}


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_output_is_explained_as_a_functions(kind: str, binary: bool):
    predict, shapes, target = KINDS[kind]
    if target == "similarity":
        target = ibisa.SimilarityTarget(scene(green=255))
    outputs = [
        {
            "name": name,
            "datatype": "INT64" if name == "labels" else "FP32",
            "shape": [-1 if side is None else side for side in shape],
        }
        for name, shape in shapes.items()
    ]
    options: dict[str, Any] = {"options": ibisa.Options(baseline="mean"), "budget": 60}
    options["labels"] = {"detector": LABELS, "text recogniser": ["a", "b"]}.get(kind)
    image = scene(red=230, green=180)
    with fake_server(declared([IMAGES], outputs)) as fake:
        fake.binary, fake.predict = binary, predict
        explainer = explainer_of(fake.url, kind=kind, **options)
        found = explainer.explain(image, target)
        assert explainer.kind.name == kind
    spec = ibisa.InputSpec((None, 3, SIDE, SIDE), outputs=shapes)
    local = explainer_of(predict, input_spec=spec, kind=kind, **options).explain(image, target)
    assert found.target.caption == local.target.caption
    assert found.map.tobytes() == local.map.tobytes()
    assert peak_is_in(found.map, "red" if kind == "regression" else "green")


class TestGradientFromAFile:
    @staticmethod
    def server() -> Fake:
        """A server of the demo model, with an output of another name."""
        import onnxruntime

        session = onnxruntime.InferenceSession(DEMO, providers=["CPUExecutionProvider"])
        fake = declared([IMAGES | {"shape": [-1, 3, 128, 128]}], [SCORES | {"shape": [-1, 8]}])
        fake.predict = lambda images: session.run(None, {"image": images})[0]
        return fake

    SCENE = DEMO.parent / "scene.png"

    def test_gives_the_files_own_map(self):
        with fake_server(self.server()) as fake:
            explainer = ibisa.Explainer(fake.url, gradient_from=DEMO)
            found = explainer.explain(self.SCENE)
        local = ibisa.Explainer(DEMO).explain(self.SCENE)
        assert found.map.tobytes() == local.map.tobytes()
        assert found.target.label == local.target.label == "striped ball"  # labels of the file
        assert found.certificate.gradient == "surrogate"
        assert found.certificate.reason == "the gradient of model.onnx"
        assert found.certificate.difference < 1e-6
        assert found.sufficiency == local.sufficiency
        assert found.provenance.options["surrogate"] == "model.onnx"
        assert sum(fake.batches) == found.passes.forward - 11  # one check and ten steps by the file

    def test_is_not_used_if_the_server_predicts_something_else(self):
        fake = self.server()
        usual = fake.predict
        fake.predict = lambda images: usual(images)[:, ::-1].copy()
        with fake_server(fake):
            found = ibisa.Explainer(fake.url, gradient_from=DEMO, budget=60).explain(self.SCENE)
            named = ibisa.Explainer(fake.url, gradient_from=DEMO, gradient="surrogate")
            insisted = named.explain(self.SCENE)
        assert found.certificate.gradient == "forward-only"
        assert "differs from the deployed model by" in found.certificate.reason
        assert not insisted.certificate.holds
        assert any("may not be faithful" in text for text in insisted.warnings)

    def test_works_for_a_function_too(self):
        fake = self.server()
        spec = ibisa.InputSpec((None, 3, 128, 128))
        explainer = ibisa.Explainer(fake.predict, spec, gradient_from=DEMO)
        local = ibisa.Explainer(DEMO).explain(self.SCENE)
        assert explainer.explain(self.SCENE).map.tobytes() == local.map.tobytes()

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"gradient": "exact"}, r"gradient='exact' does not use gradient_from="),
            ({"gradient": "forward-only"}, r"'forward-only' does not use gradient_from="),
            ({"surrogate": DEMO}, r"surrogate= and gradient_from= are two gradients"),
        ],
        ids=["exact", "forward-only", "surrogate"],
    )
    def test_contradicts_other_gradients(self, options: dict[str, Any], said: str):
        with fake_server(self.server()) as fake, pytest.raises(GradientError, match=said):
            ibisa.Explainer(fake.url, gradient_from=DEMO, **options)

    def test_belongs_to_models_without_one(self):
        with pytest.raises(ModelError, match="an ONNX file has a gradient of its own"):
            ibisa.Explainer(DEMO, gradient_from=DEMO)


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"timeout": 0}, "timeout is 0; pass a number of seconds above 0"),
            ({"connect_timeout": True}, "connect_timeout is True"),
            ({"max_batch": 0}, "max_batch is 0"),
            ({"max_concurrency": 1.5}, r"max_concurrency is 1\.5"),
            ({"certificates": "absent.pem"}, "certificates is 'absent.pem', which is not a file"),
            ({"extra_inputs": {"x": 1}}, "no additional input 'x'"),
            ({"input": "x"}, "has no input 'x'"),
            ({"headers": {"a b": "c"}}, "headers has the name 'a b'"),
        ],
        ids=lambda each: next(iter(each)) if isinstance(each, dict) else None,
    )
    def test_are_checked(self, options: dict[str, Any], said: str, fake: Fake):
        with pytest.raises(ModelError, match=said):
            ibisa.RemoteModel(fake.url, **options)

    def test_of_onnx_runtime_do_not_apply(self, fake: Fake):
        with pytest.raises(ModelError, match="providers, threads cannot be passed with a model on"):
            ibisa.Explainer(fake.url, providers=["cpu"], threads=1)

    def test_preprocessing_must_fit(self, fake: Fake):
        with pytest.raises(PreprocessingError):
            ibisa.Explainer(fake.url, overrides={"size": (64, 64)})


class TestTheCommandLine:
    @pytest.fixture(autouse=True)
    def _scene(self, tmp_path: Path) -> None:
        import cv2

        cv2.imwrite(str(tmp_path / "scene.png"), scene(red=230, green=180)[..., ::-1])

    UNIT = ("--preprocess", "unit", "--resize", "stretch")

    def test_runs(self, cli: Any, fake: Fake, tmp_path: Path):
        done = cli(
            *("run", fake.url, "scene.png", *self.UNIT, "--budget", 60, "--with-data"),
            *("--header", "X-Tenant: 7", "--timeout-ms", 9000, "--concurrency", 2),
            *("--images-per-request", 5),
        )
        assert done.code == 0, done.err
        assert "forward-only: a model behind a network has no gradient" in done.out
        assert max(fake.batches) <= 5
        assert {each["x-tenant"] for each in fake.headers} == {"7"}
        record = json.loads((tmp_path / "scene.ibisa.json").read_text())
        assert record["provenance"]["model"] == fake.url

    def test_runs_by_a_files_gradient(self, cli: Any):
        with fake_server(TestGradientFromAFile.server()) as fake:
            done = cli("run", fake.url, "scene.png", "--gradient-from", DEMO, "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["certificate"]["gradient"] == "surrogate"

    def test_inspects(self, cli: Any, fake: Fake):
        done = cli("inspect", fake.url, "scene.png", *self.UNIT, "--json")
        assert done.code == 0, done.err
        found = json.loads(done.out)
        assert found["kind"]["name"] == "classifier"
        assert found["server"]["server"] == "fake 1.0"
        assert found["predictions"][0]["index"] == 0
        assert posts(fake) == 2  # the prediction, and whether `run` would reject the image

    def test_inspects_without_a_call_if_there_is_no_image(self, cli: Any, fake: Fake):
        assert cli("inspect", fake.url).code == 0
        assert posts(fake) == 0

    def test_evaluates(self, cli: Any, fake: Fake):
        done = cli(
            *("eval", fake.url, "scene.png", *self.UNIT, "--budget", 60),
            *("--metric", "insertion", "--json"),
        )
        assert done.code == 0, done.err

    def test_describes_a_model_that_declares_nothing(self, cli: Any):
        with fake_server(declared([], [])) as fake:
            spec = ("--input", "images", "--input-spec", f"float32[N,3,{SIDE},{SIDE}] scores[N,3]")
            bare = cli("run", fake.url, "scene.png")
            done = cli("run", fake.url, "scene.png", *self.UNIT, *spec, "--budget", 60)
        assert "pass its name as --input and its shape as --input-spec" in bare.err
        assert done.code == 0, done.err

    @pytest.mark.parametrize(
        ("line", "code", "said"),
        [
            (("annotate", "URL"), 2, "MODEL is on a server, so there is no file"),
            (("gradient", "URL"), 2, "MODEL is on a server, so there is no file"),
            (
                ("run", "URL", "scene.png", "--provider", "cpu"),
                2,
                "--provider and --threads do not",
            ),
            (("run", "m.onnx", "scene.png", "--concurrency", 2), 2, "apply to a model on a server"),
            (("run", "URL", "scene.png", "--header", "secret"), 2, "not NAME:VALUE"),
            (("run", "URL", "scene.png", "--input-spec", "float32"), 2, "is not DTYPE[SHAPE]"),
            (("run", "URL?x", "scene.png"), 1, "has a query or fragment"),
            (("run", "https://a.b/m.onnx", "scene.png"), 1, "URLs are not read; download the file"),
            (("run", "URLx", "scene.png"), 1, "there is no such model or version (404)"),
        ],
        ids=lambda each: each if isinstance(each, str) else None,
    )
    def test_refuses_in_one_line(
        self, line: tuple[Any, ...], code: int, said: str, cli: Any, fake: Fake
    ):
        done = cli(
            *(
                str(each).replace("URL", fake.url) if str(each).startswith("URL") else each
                for each in line
            )
        )
        assert done.code == code
        assert said in done.err
        assert "secret" not in done.err
