"""A model behind a network, on real servers: Triton, KServe and MLServer on the loopback.

Each serves the demo model and, if IBISA_ASSETS is set, the real ones. Forward-only maps are those
of the same file in this process: bit for bit for classes and regions; for boxes up to rounding,
since the server returns scores and boxes that are decoded here by a separate graph.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tritonclient.http", reason="needs the extra [remote]")

from serving.servers import KINDS, Served, hosted

import ibisa_onnx as ibisa
from ibisa_onnx.errors import ModelError, RemoteError

DEMO = Path(ibisa.__file__).parent / "demo" / "model.onnx"
SCENE = DEMO.parent / "scene.png"
PROTOCOLS = ("http", "grpc")
ROUNDING = 1e-5


def _assets() -> Path | None:
    folder = os.environ.get("IBISA_ASSETS")
    return Path(folder) if folder and Path(folder).is_dir() else None


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The served files by name."""
    folder = _assets()
    found = {"demo": DEMO}
    if folder is not None:
        models = folder / "models"
        found |= {name: models / f"{name}.onnx" for name in ("squeezenet", "mobilenetv2")}
        found["face"] = models / "face_rfb320.onnx"
        found["regions"] = _with_scores(
            models / "deeplabv3_int8.onnx", tmp_path_factory.mktemp("models") / "regions.onnx"
        )
    return found


def _with_scores(model: Path, path: Path) -> Path:
    """Write a segmenter whose output is the scores of each cell, rather than a class per pixel."""
    import onnx

    (resized,) = ibisa.Explainer(model).kind.outputs()
    proto = onnx.load(model)
    (name,) = (node.input[0] for node in proto.graph.node if resized in node.output)
    del proto.graph.output[:]
    proto.graph.output.add(name=name)
    onnx.save(proto, path)
    return path


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest,
    files: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Served]]:
    models: dict[str, str | Path] = dict(files)
    if request.param != "triton":  # which requires declarations
        models["bare"] = f"{DEMO}:undeclared"
    with hosted(request.param, models, tmp_path_factory.mktemp(request.param)) as served:
        yield request.param, served


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_maps_are_those_of_the_same_file_bit_for_bit(server: tuple[str, Served], protocol: str):
    described: dict[str, Any] = {"budget": 60, "preprocessing": "unit"}
    described |= {"overrides": {"mean": [0.45], "std": [0.25], "resize": "stretch"}}
    kind, served = server
    explainer = ibisa.Explainer(served.url("demo", protocol), **described)
    found = explainer.explain(SCENE)
    local = ibisa.Explainer(DEMO, gradient="forward-only", **described).explain(SCENE)
    assert found.target.index == local.target.index
    assert found.map.tobytes() == local.map.tobytes()
    assert found.passes.forward == local.passes.forward
    record = found.record()["provenance"]
    assert record["server"]["server"].startswith(kind)
    assert explainer.model.max_batch == (4 if kind == "triton" else 8)  # as its configuration says


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_files_gradient_gives_the_files_map(server: tuple[str, Served], protocol: str):
    _, served = server
    found = ibisa.Explainer(served.url("demo", protocol), gradient_from=DEMO).explain(SCENE)
    local = ibisa.Explainer(DEMO).explain(SCENE)
    assert found.map.tobytes() == local.map.tobytes()
    assert found.certificate.gradient == "surrogate"
    assert found.certificate.difference == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_concurrent_requests_are_not_mixed_up(server: tuple[str, Served], protocol: str):
    _, served = server
    model = ibisa.RemoteModel(served.url("demo", protocol), max_batch=1, max_concurrency=8)
    images = np.random.default_rng(0).normal(size=(64, 3, 128, 128)).astype(np.float32)
    found = model.run(images)["logits"]
    assert np.array_equal(found, ibisa.DeployedModel.open(DEMO).run(images)["logits"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_unknown_model_is_reported_in_one_line(server: tuple[str, Served], protocol: str):
    _, served = server
    with pytest.raises(RemoteError, match="no such model or version") as caught:
        ibisa.RemoteModel(served.url("absent", protocol))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_input_of_another_dtype_is_reported_in_one_line(
    server: tuple[str, Served], protocol: str
):
    _, served = server
    spec = ibisa.InputSpec((None, 3, 128, 128), "uint8")
    explainer = ibisa.Explainer(served.url("demo", protocol), spec)
    with pytest.raises(RemoteError) as caught:
        explainer.predict(SCENE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_that_declares_nothing_can_be_described(server: tuple[str, Served], protocol: str):
    kind, served = server
    if kind == "triton":
        pytest.skip("Triton requires declarations")
    url = served.url("bare", protocol)
    with pytest.raises(ModelError, match="declares no inputs; pass its name as input="):
        ibisa.Explainer(url)
    spec = ibisa.InputSpec((None, 3, 128, 128))
    described: dict[str, Any] = {"gradient_from": DEMO}
    found = ibisa.Explainer(url, spec, input="image", **described).predict(SCENE)
    assert found[0].label == "striped ball"


REAL: dict[str, tuple[str, Any, dict[str, Any], float]] = {
    "squeezenet": ("images/n01616318_vulture.JPEG", None, {"preprocessing": "caffe"}, 0),
    "mobilenetv2": ("images/n01616318_vulture.JPEG", None, {"preprocessing": "tf"}, 0),
    "face": (
        "detection/11.jpg",
        ibisa.BoxTarget(1),
        {
            "overrides": {"mean": [127], "std": [128], "scale": 1, "resize": "stretch"},
            "labels": ["face"],
        },
        ROUNDING,
    ),
    "regions": (
        "segmentation/bird_segmentation.bmp",
        None,
        {"kind": "segmenter", "labels": [str(each) for each in range(21)]},
        0,
    ),
}


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_models(name: str, server: tuple[str, Served], files: dict[str, Path], assets: Path):
    image, target, options, tolerance = REAL[name]
    shown = assets / image
    kind, served = server
    usual = {"budget": 40, **options}
    local = ibisa.Explainer(files[name], gradient="forward-only", **usual)
    expected = local.explain(shown, target)
    for protocol in PROTOCOLS if kind == "triton" else ("grpc",):  # JSON takes minutes
        explainer = ibisa.Explainer(served.url(name, protocol), **usual)
        found = explainer.explain(shown, target)
        assert explainer.kind.name == local.kind.name
        assert found.target.caption == expected.target.caption
        assert np.abs(found.map - expected.map).max() <= tolerance


@pytest.mark.real
def test_the_files_gradient_explains_boxes(
    server: tuple[str, Served], files: dict[str, Path], assets: Path
):
    """Two outputs, and nodes behind them that decode the boxes."""
    image, target, options, _ = REAL["face"]
    _, served = server
    url = served.url("face", "grpc")
    found = ibisa.Explainer(url, gradient_from=files["face"], **options).explain(
        assets / image, target
    )
    local = ibisa.Explainer(files["face"], **options).explain(assets / image, target)
    assert found.certificate.gradient == "surrogate"
    assert np.abs(found.map - local.map).max() <= ROUNDING
