"""What comes from the frameworks: their preprocessing, pixel by pixel, their labels, weights."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ibisa_exporters.source import default_file, load_source
from ibisa_exporters.trained import Request

from ibisa_onnx import Explainer
from ibisa_onnx.demo import scene_path
from ibisa_onnx.errors import ExportError
from ibisa_onnx.io.images import read_image
from ibisa_onnx.metrics.agreement import spearman
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.signature import Layout
from ibisa_onnx.preprocessing.spec import prepare

RANDOM = Request("none")


@pytest.fixture(scope="session")
def torchvision():
    return pytest.importorskip("torchvision", reason="torchvision is not installed")


@pytest.fixture(scope="session")
def timm():
    return pytest.importorskip("timm", reason="timm is not installed")


@pytest.fixture(scope="session")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="session")
def keras():
    if find_spec("keras") is None:  # to import it would be to choose a backend
        pytest.skip("Keras is not installed")
    from ibisa_exporters.keras import _import

    return _import()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Nothing answers, and the caches are empty; the addresses that were tried."""
    asked = []

    def refuse(request, timeout):
        asked.append(request.full_url)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return asked


def differs_by(model, transform) -> float:
    """How far our input is from the framework's, in standard deviations.

    One value in a thousand is left out: Pillow clips an overshooting kernel between rows and
    columns too.
    """
    from PIL import Image

    ours = prepare(read_image(scene_path()), model.preprocessing).tensor[0]
    theirs = np.asarray(transform(Image.open(scene_path()).convert("RGB")))
    assert ours.shape == theirs.shape
    return float(np.quantile(np.abs(ours - theirs), 0.999))


# A grey level is 1 / 255 / 0.225 = 0.017.
ONE_LEVEL = 0.02


@pytest.mark.parametrize("name", ["resnet18", "resnet50.IMAGENET1K_V2", "swin_t", "vit_b_32"])
def test_torchvisions_transforms(torchvision, name):
    model = load_source(f"torchvision:{name}", RANDOM)
    architecture, _, tag = name.partition(".")
    published = torchvision.models.get_model_weights(architecture)
    weights = published[tag] if tag else published.DEFAULT
    assert differs_by(model, weights.transforms()) < ONE_LEVEL
    assert model.labels == tuple(weights.meta["categories"])


@pytest.mark.parametrize("name", ["resnet10t", "mobilevit_xxs", "vit_tiny_patch16_224"])
def test_timms_transforms(timm, name):
    model = load_source(f"timm:{name}", RANDOM)
    config = timm.data.resolve_data_config({}, model=model.module)
    assert differs_by(model, timm.data.create_transform(**config)) < ONE_LEVEL
    assert model.labels is not None
    assert len(model.labels) == 1000
    assert model.labels[1].startswith("goldfish")


def small(transformers, folder: Path, **options) -> str:
    """A small ViT as `save_pretrained` writes it."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(**sizes, intermediate_size=32, image_size=32, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = transformers.ViTForImageClassification(config)
    net.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder)
    return f"hf:{folder}"


def test_a_folder_of_transformers(transformers, tmp_path, cli):
    names = {0: "cat", 1: "dog", 2: "owl"}
    source = small(transformers, tmp_path / "vit", id2label=names, num_labels=3)
    model = load_source(source, Request())
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "vit")

    def transform(picture):
        return processor(picture, return_tensors="np")["pixel_values"][0]

    assert differs_by(model, transform) < ONE_LEVEL
    assert model.labels == ("cat", "dog", "owl")
    result = cli("export", source, "-o", "vit.onnx", "--surrogate", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["labels"] == 3


def test_labels_that_say_nothing_are_left_out(transformers, tmp_path):
    assert load_source(small(transformers, tmp_path / "vit"), Request()).labels is None


def test_a_config_alone_has_random_weights_of_the_seed(transformers, tmp_path):
    source = small(transformers, tmp_path / "vit")
    (tmp_path / "vit" / "model.safetensors").unlink()
    one, two, three = (load_source(source, Request("none", seed)).module for seed in (1, 1, 2))
    x = torch.ones(1, 3, 32, 32)
    assert torch.equal(one(x), two(x))
    assert not torch.equal(one(x), three(x))
    with pytest.raises(ExportError, match="transformers cannot build"):
        load_source(source, Request())


def test_weights_that_are_no_classifiers(transformers, tmp_path, capfd):
    source = small(transformers, tmp_path / "vit")
    net = transformers.ViTModel.from_pretrained(tmp_path / "vit", add_pooling_layer=False)
    net.save_pretrained(tmp_path / "vit")
    capfd.readouterr()
    with pytest.raises(ExportError, match=r"classifier\.bias, classifier\.weight missing"):
        load_source(source, Request())
    assert capfd.readouterr().err == ""


def test_the_folder_one_is_in(transformers, tmp_path, monkeypatch):
    small(transformers, tmp_path / "vit.v2")
    monkeypatch.chdir(tmp_path / "vit.v2")
    assert [str(default_file(each)) for each in ("hf:.", "hf:./", "hf:../vit.v2")] == [
        "vit.v2.onnx"
    ] * 3


def test_weights_of_ones_own_and_other_classes(torchvision, tmp_path):
    net = torchvision.models.resnet18(num_classes=7)
    torch.save({"model": net.state_dict()}, tmp_path / "mine.pth")
    request = Request(str(tmp_path / "mine.pth"), classes=7)
    model = load_source("torchvision:resnet18", request)
    assert torch.equal(model.module.fc.weight, net.fc.weight)
    assert model.labels is None
    with pytest.raises(ExportError, match=r"fc.weight \[7, 512\].*classes=N"):
        load_source("torchvision:resnet18", Request(str(tmp_path / "mine.pth")))


@pytest.mark.real
def test_trained_weights_and_photographs(torchvision, assets, cli, tmp_path):
    import onnx
    from onnx import numpy_helper

    deployed = assets / "models" / "squeezenet.onnx"
    graph = onnx.load(deployed).graph
    values = {each.name: numpy_helper.to_array(each).copy() for each in graph.initializer}
    order = [name for node in graph.node if node.op_type == "Conv" for name in node.input[1:]]
    names = torchvision.models.squeezenet1_1().state_dict()
    weights = {k: torch.from_numpy(values[v]) for k, v in zip(names, order, strict=True)}
    torch.save(weights, tmp_path / "weights.pt")
    words = ("export", "torchvision:squeezenet1_1", "--weights", "weights.pt")
    photographs = sorted((assets / "images").glob("*.JPEG"))[:40:10]
    assert len(photographs) == 4
    told = [word for photo in photographs for word in ("--images", photo)]
    result = cli(*words, "--preprocess", "caffe", "--surrogate", "-o", "net.onnx", *told)
    assert result.code == 0, result.err
    mine, theirs = Explainer("net.onnx"), Explainer(deployed, preprocessing="caffe")
    surrogate = Explainer("net.onnx", gradient="surrogate", surrogate="net.surrogate.onnx")
    for photo in photographs:
        one, two = mine.explain(photo), surrogate.explain(photo)
        probability = theirs.predict(photo, 1)[0].probability
        assert one.target.probability == pytest.approx(probability, abs=1e-4)
        assert spearman(one.map, two.map) > 0.98  # 0.990 and more were seen; rounding moves it


def test_another_size_keeps_the_share_that_is_cropped(torchvision):
    model = load_source("torchvision:resnet18", Request("none", size=(112, 112)))
    assert model.preprocessing.shorter_side == 128
    assert model.example.shape == (1, 3, 112, 112)


def test_published_weights_in_the_cache_need_no_network(torchvision, offline, tmp_path):
    net = torchvision.models.squeezenet1_1()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(net.state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    model = load_source("torchvision:squeezenet1_1", Request())
    assert torch.equal(model.module.classifier[1].weight, net.classifier[1].weight)
    assert offline == []


def test_torchvision_without_a_network_says_what_to_put_where(torchvision, offline, tmp_path):
    with pytest.raises(ExportError) as error:
        load_source("torchvision:squeezenet1_1", Request())
    assert "no route to host" in str(error.value)
    assert f"put squeezenet1_1-b8a52dc0.pth into {tmp_path / 'hub' / 'checkpoints'}" in str(
        error.value
    )
    assert "weights=FILE" in str(error.value)


@pytest.mark.parametrize(
    ("source", "file"),
    [("timm:resnet10t", "model.safetensors"), ("hf:someone/no-such-vit", "model.safetensors")],
)
def test_the_hub_without_a_network_says_what_to_put_where(
    timm, transformers, offline, source, file
):
    with pytest.raises(ExportError, match=f"put {file} of .* into the cache .*models--"):
        load_source(source, Request())
    assert len(offline) == 1


def test_the_hubs_cache_may_hold_weights_of_the_older_kind(
    transformers, offline, tmp_path, monkeypatch
):
    """As the hub's library lays it out: a revision's folder of files, and what it is called."""
    import huggingface_hub

    root = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(root), raising=False)
    snapshot = root / "models--someone--old-vit" / "snapshots" / ("0" * 40)
    small(transformers, snapshot)
    weights = snapshot / "model.safetensors"
    torch.save(
        __import__("safetensors.torch").torch.load_file(weights), snapshot / "pytorch_model.bin"
    )
    weights.unlink()
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    model = load_source("hf:someone/old-vit", Request())
    same = load_source(f"hf:{snapshot}", Request())
    x = torch.ones(1, 3, 32, 32)
    assert torch.equal(model.module(x), same.module(x))
    assert offline == []


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("vit_b_16", (100, 100), "cannot build vit_b_16"),
        ("vit_b_16", (96, 128), "requires square images"),
        ("maxvit_t", (100, 100), "cannot build maxvit_t"),
    ],
)
def test_sizes_that_an_architecture_cannot_have(torchvision, name, size, said):
    with pytest.raises(ExportError, match=said):
        load_source(f"torchvision:{name}", Request("none", size=size))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("torchvision:resnet51", "has no classifier 'resnet51'; similar names: .*resnet50"),
        ("torchvision:resnet50.V9", "no weights 'V9' of resnet50; choose from: IMAGENET1K_V1"),
        ("timm:resnet9999", "timm has no model 'resnet9999'; similar names: resnet"),
        ("hf:./nothing", "contains no config.json"),
        ("hf:few", "few contains no config.json"),
    ],
)
def test_names_that_there_are_not(
    torchvision, timm, transformers, tmp_path, monkeypatch, source, said
):
    (tmp_path / "few").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match=said):
        load_source(source, RANDOM)


def test_a_keras_model(keras, cli, tmp_path):
    layers = keras.layers
    net = keras.Sequential(
        [
            layers.Input((20, 24, 3)),
            layers.Rescaling(1 / 127.5, -1),
            layers.Conv2D(6, 3, strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(4, activation="softmax"),
        ]
    )
    net.save("net.keras")
    result = cli("export", "net.keras", "--surrogate", "--json")
    assert result.code == 0, result.err
    said = json.loads(result.out)
    assert said["files"] == ["net.onnx", "net.surrogate.onnx"]
    assert said["preprocessing"]["scale"] == 1.0  # it scales by itself
    assert DeployedModel.open("net.onnx").image.layout is Layout.NHWC
    run = ("run", "net.onnx", scene_path(), "--target", "2")
    assert cli(*run, "-o", "a.png").code == 0
    surrogate = cli(
        *run, "-o", "b.png", "--gradient", "surrogate", "--surrogate", "net.surrogate.onnx"
    )
    assert surrogate.code == 0, surrogate.err


def test_a_keras_model_in_half_precision(keras, cli, tmp_path):
    layers = keras.layers
    inner = keras.Sequential([layers.Conv2D(6, 3), layers.BatchNormalization()])
    first = [layers.Input((20, 24, 3)), layers.Rescaling(1 / 255)]
    keras.Sequential([*first, inner, layers.GlobalAveragePooling2D(), layers.Dense(4)]).save(
        "n.keras"
    )
    result = cli("export", "n.keras", "--half", "--surrogate")
    assert result.code == 0, result.err
    assert DeployedModel.open("n.onnx").image.dtype == "float16"


def test_keras_says_what_it_cannot_load(keras, cli, tmp_path):
    (tmp_path / "other.keras").write_bytes(b"not a model")
    result = cli("export", "other.keras")
    assert result.code == 1
    assert "Keras cannot load other.keras" in result.err


@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
def test_code_in_a_keras_model_is_not_run_without_trust(keras, cli, tmp_path, name):
    touched, layers = str(tmp_path / "touched"), keras.layers
    code = f"__import__('pathlib').Path({touched!r}).touch()"
    function = eval(f"lambda images: ({code}, images.mean((1, 2)))[1]")
    shape = {"output_shape": (3,)}  # else it is called to learn it
    keras.Sequential([layers.Input((20, 24, 3)), layers.Lambda(function, **shape)]).save(name)
    (tmp_path / "touched").unlink(missing_ok=True)
    result = cli("export", name, "-o", "made.onnx")
    assert result.code == 1
    assert f"{name} contains code (a Lambda layer); pass --trust if" in result.err
    assert not (tmp_path / "touched").exists()
    assert cli("export", name, "-o", "made.onnx", "--trust").code == 0
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("version", ["3.5.0", "3.11.2"])
def test_a_keras_whose_safe_mode_does_not_hold_opens_nothing(monkeypatch, tmp_path, version):
    def load_model(*_, **__):
        pytest.fail("it was opened")

    backend = SimpleNamespace(backend=lambda: "torch")
    saving = SimpleNamespace(load_model=load_model)
    fake = SimpleNamespace(
        __version__=version, backend=backend, saving=saving, device=lambda _: nullcontext()
    )
    monkeypatch.setitem(sys.modules, "keras", fake)
    (tmp_path / "net.keras").write_bytes(b"")
    with pytest.raises(ExportError, match=f"Keras {version} may execute code in .*install 3.11.3"):
        load_source(str(tmp_path / "net.keras"), Request())


def test_the_environment_is_left_as_it_was(keras, monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    with pytest.raises(ExportError):
        load_source(str(tmp_path / "no.keras"), Request())
    assert "KERAS_BACKEND" not in os.environ


def test_another_backend_is_named_before_it_is_looked_for(cli, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    result = cli("export", "net.keras")
    assert result.code == 1
    assert "Keras uses the backend jax; set KERAS_BACKEND=torch" in result.err


def test_keras_on_another_backend(cli, monkeypatch, tmp_path):
    backend = SimpleNamespace(backend=lambda: "tensorflow")
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(backend=backend))
    result = cli("export", "net.keras")
    assert result.code == 1
    assert "KERAS_BACKEND=torch" in result.err
