"""Export architectures of four frameworks, and explain what was written, by the commands alone.

Each architecture comes from torchvision, timm, transformers or Keras, at its usual size, with
random weights (nothing is fetched) such that every branch counts and answers differ. It goes
through `ibisa-onnx export SOURCE --surrogate` and `ibisa-onnx run FILE PICTURE` with no flag, and
again with its surrogate, each a process of its own on one processor. And once more from a copy of
the file whose weights are shaken in the last digit of float32: a deep network of random weights is
chaotic, and no surrogate can be nearer to its map than that.

Results are kept in a JSON file after each architecture, and what is there is not done again.

    python benchmarks/exports.py [--write docs/how-to/export.md] [names]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ibisa_exporters.huggingface import Logits
from ibisa_exporters.source import load_source
from ibisa_exporters.trained import Request
from pages import put
from surrogates import shake
from torch import Tensor, nn
from zoo import calibrate, randomise

from ibisa_onnx.demo import scene_path
from ibisa_onnx.io.images import read_image
from ibisa_onnx.metrics import spearman
from ibisa_onnx.preprocessing.spec import prepare

COMMAND = (sys.executable, str(Path(__file__).parents[1] / "cli.py"))
SCALE = 4.0
SOURCES = (
    "torchvision:vgg16",
    "torchvision:resnet50",
    "torchvision:densenet121",
    "torchvision:inception_v3",
    "torchvision:mobilenet_v3_large",
    "torchvision:shufflenet_v2_x1_0",
    "torchvision:efficientnet_b0",
    "torchvision:efficientnet_v2_s",
    "torchvision:regnet_y_400mf",
    "torchvision:convnext_tiny",
    "torchvision:vit_b_16",
    "torchvision:swin_t",
    "torchvision:swin_v2_t",
    "torchvision:maxvit_t",
    "timm:deit_tiny_patch16_224",
    "timm:beit_base_patch16_224",
    "timm:eva02_tiny_patch14_224",
    "timm:vit_base_patch16_siglip_224",
    "timm:swin_tiny_patch4_window7_224",
    "timm:convnextv2_atto",
    "timm:mobilevit_s",
    "timm:poolformer_s12",
    "timm:coatnet_0_rw_224",
    "timm:xcit_nano_12_p16_224",
    "timm:mixer_s32_224",
    "timm:tf_efficientnetv2_b0",
    "timm:nfnet_l0",
    "timm:repvit_m0_9",
    "hf:ViTConfig",
    "hf:DeiTConfig",
    "hf:BeitConfig",
    "hf:Dinov2Config",
    "hf:SwinConfig",
    "hf:ConvNextConfig",
    "hf:ResNetConfig",
    "hf:RegNetConfig",
    "hf:MobileNetV2Config",
    "hf:MobileViTConfig",
    "hf:PoolFormerConfig",
    "hf:EfficientNetConfig",
    "keras:MobileNetV2",
    "keras:EfficientNetB0",
    "keras:DenseNet121",
)

Result = dict[str, Any]
"""Of one architecture: what the commands said, or `failure`."""


# -- weights


def draw(net: nn.Module, example: Tensor) -> None:
    """Give a network random weights with which it tells pictures apart, and is sure of something.

    `example` is a picture as the network takes it, [1, 3, H, W].
    """
    torch.manual_seed(0)
    net.requires_grad_(False)
    randomise(net)
    calibrate(net, example.shape[-1])
    last: list[nn.Module] = []
    kinds = (nn.Linear, nn.Conv2d)
    heads = [module for module in net.modules() if isinstance(module, kinds)]
    hooks = [head.register_forward_hook(lambda module, *_: last.append(module)) for head in heads]
    scale = SCALE / float(net(example).std())
    for hook in hooks:
        hook.remove()
    for parameter in last[-1].parameters():
        parameter.mul_(scale)


def source_of(name: str, folder: Path) -> list[str]:
    """Make what `export` shall take: a source, with its weights in a file or in its folder."""
    framework, _, kind = name.partition(":")
    if framework == "keras":
        return _saved_by_keras(kind, folder)
    if framework == "hf":
        name = f"hf:{_configured(kind, folder / kind)}"
    model = load_source(name, Request("none"))
    assert model.preprocessing is not None
    picture = prepare(read_image(scene_path()), model.preprocessing).tensor
    draw(model.module, torch.from_numpy(picture))
    if isinstance(model.module, Logits):
        model.module.net.save_pretrained(folder / kind)  # type: ignore[operator]
        return [name]
    torch.save(model.module.state_dict(), folder / "weights.pt")
    return [name, "--weights", str(folder / "weights.pt")]


def _saved_by_keras(kind: str, folder: Path) -> list[str]:
    """Write a model file of Keras, whose kernels keep the size of features from layer to layer."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.utils.set_random_seed(0)
    net = getattr(keras.applications, kind)(weights=None)
    rng = np.random.default_rng(0)
    for weight in net.weights:
        fan = np.prod(weight.shape[:2] if "depthwise" in weight.path else weight.shape[:-1])
        if len(weight.shape) > 1:
            weight.assign(rng.normal(0, np.sqrt(2 / fan), weight.shape))
    for layer in net.layers:  # batch normalization takes what it sees
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    net(rng.uniform(0, 255, (8, *net.inputs[0].shape[1:])).astype(np.float32), training=True)
    path = folder / "model.keras"
    net.save(path)
    model = load_source(str(path), Request())
    spec = model.preprocessing or model.settle("imagenet", "float32").spec
    picture = prepare(read_image(scene_path()), spec).tensor.transpose(0, 2, 3, 1)
    head = net.layers[-1]
    softmax, head.activation = head.activation, keras.activations.linear
    with keras.device("cpu"), torch.no_grad():
        logits = net(np.ascontiguousarray(picture), training=False)
    head.kernel.assign(head.kernel * (SCALE / float(logits.std())))
    head.activation = softmax
    net.save(path)
    return [str(path)]


def _configured(kind: str, folder: Path) -> Path:
    """Write the usual configuration of an architecture of transformers, and of its pictures."""
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    config = getattr(transformers, kind)(num_labels=1000)
    config.save_pretrained(folder)
    processors = IMAGE_PROCESSOR_MAPPING[type(config)]
    if isinstance(processors, dict):
        processors = processors.values()
    next(each for each in processors if each is not None)().save_pretrained(folder)
    return folder


# -- measuring


def attempt(name: str) -> Result:
    """What the commands make of an architecture."""
    with tempfile.TemporaryDirectory(prefix="ibisa-onnx.") as made:
        folder = Path(made)
        try:
            return measure(source_of(name, folder), folder)
        except subprocess.CalledProcessError as error:
            said = error.stderr.strip().splitlines()
            return {"failure": said[-1].removeprefix("ibisa-onnx: error: ") if said else "died"}
        except Exception as error:
            return {"failure": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def measure(source: list[str], folder: Path) -> Result:
    """Export, explain, and explain again by the surrogate."""
    model, surrogate = folder / "model.onnx", folder / "model.surrogate.onnx"
    exported, export_seconds = _say("export", *source, "--surrogate", "-o", str(model))
    explained, run_seconds = _explain(folder / "exact.npy", model)
    again, _ = _explain(
        folder / "surrogate.npy", model, "--gradient", "surrogate", "--surrogate", str(surrogate)
    )
    shake(model, folder / "shaken.onnx")
    _explain(folder / "shaken.npy", folder / "shaken.onnx")
    agreements = exported["verification"]
    maps = ("exact", "surrogate", "shaken")
    exact, other, shaken = (np.load(folder / f"{each}.npy") for each in maps)
    return {
        "opset": exported["opset"],
        "difference": max(each["relative"] for each in agreements),
        "top5": min(each["top5"] for each in agreements),
        "certificate": explained["certificate"],
        "probability": explained["target"]["probability"],
        "surrogate": spearman(exact, other),
        "rounding": spearman(exact, shaken),
        "surrogate_certificate": again["certificate"]["difference"],
        "warnings": [*exported["warnings"], *explained["warnings"]],
        "export_seconds": export_seconds,
        "run_seconds": run_seconds,
    }


def _explain(out: Path, model: Path, *flags: str) -> tuple[Result, float]:
    return _say("run", str(model), str(scene_path()), "-o", str(out), *flags)


def _say(*words: str) -> tuple[Result, float]:
    """Run a command; what it said, and how many seconds it took."""
    start = time.perf_counter()
    done = subprocess.run(
        [*COMMAND, *words, "--json"], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    return json.loads(done.stdout), round(time.perf_counter() - start, 1)


# -- the table

ABOUT = """By `python benchmarks/exports.py`, which `make zoo` also runs: random weights, the usual
input size, opset {opset}, one core. *Difference* is the largest difference between the scores of
the file and of its source, relative to the largest score, on random input and on scenes of the
demo, in batches of one and of two. *Gradient* is the one that `run` chose without flags; *fidelity*
is the difference between its probabilities and ONNX Runtime's. *Surrogate* is Spearman's
correlation between that map and the surrogate's, *rounding* the correlation with the map of a copy
whose weights are perturbed by one part in ten million: a network of random weights is chaotic, and
no surrogate can be expected to agree better than that. Seconds are those of whole commands;
`export` also writes and checks the surrogate."""


def table(results: dict[str, Result]) -> str:
    """The results in Markdown, with what they come to."""
    good = {name: found for name, found in results.items() if "failure" not in found}
    head = (
        "| source | opset | difference | top five | gradient | fidelity | surrogate "
        "| rounding | export, s | run, s |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    opsets = ", ".join(sorted({str(found["opset"]) for found in good.values()}))
    rows = [_row(name, found) for name, found in good.items()]
    notes = list(_notes(results))
    below = ["", "Remarks:", "", *notes] if notes else []
    return "\n".join(
        [ABOUT.format(opset=opsets), "", _summary(good, results), "", head, *rows, *below]
    )


def _summary(good: dict[str, Result], results: dict[str, Result]) -> str:
    exact = [found for found in good.values() if found["certificate"]["gradient"] == "exact"]
    close = [found for found in exact if found["surrogate"] >= 0.99]
    rest = [found for found in exact if found["surrogate"] < 0.99]
    worst = max((found["difference"] for found in good.values()), default=float("nan"))
    return (
        f"Of {len(results)} architectures {len(good)} export, verify and are explained, "
        f"{len(exact)} of them by the exact gradient; the largest difference is {worst:.1e}. The "
        f"surrogate's map correlates with the exact one by 0.99 or more on {len(close)}; on the "
        f"others ({_span([f['surrogate'] for f in rest])}) rounding alone takes it to "
        f"{_span([f['rounding'] for f in rest])}."
    )


def _span(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if values else "nothing"


def _row(name: str, found: Result) -> str:
    certificate = found["certificate"]
    difference = certificate["difference"]
    held = "-" if difference is None else f"{difference:.1e}"
    alike = [f"{found[each]:.4f}" for each in ("surrogate", "rounding")]
    alike = alike if certificate["gradient"] == "exact" else ["-", "-"]
    return (
        f"| {name} | {found['opset']} | {found['difference']:.1e} | {found['top5']:.0%} "
        f"| {certificate['gradient']} | {held} | {' | '.join(alike)} "
        f"| {found['export_seconds']:.0f} | {found['run_seconds']:.0f} |"
    )


def _notes(results: dict[str, Result]) -> Iterator[str]:
    for name, found in results.items():
        if "failure" in found:
            yield f"- {name}: {found['failure']}"
        elif found["certificate"]["gradient"] != "exact":
            yield f"- {name}: {found['certificate']['reason']}"
    flat = [name for name, found in results.items() if _is_flat(found)]
    if flat:
        yield (
            "- These networks of random weights score a blurred image as they score the image, so "
            f"their maps are flat, and correlations between them mean less: {', '.join(flat)}"
        )


def _is_flat(found: Result) -> bool:
    return any("flat map" in each for each in found.get("warnings", ()))


# -- running


def main() -> None:
    """Measure what has no result yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="architectures (default: all)")
    parser.add_argument("--results", type=Path, default=Path("out/exports.json"))
    parser.add_argument("--again", action="store_true", help="also what has a result already")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="a page to put the table into")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # one processor for all that is started from here
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    kept = arguments.results
    results: dict[str, Result] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in arguments.names or SOURCES:
        if name in results and not arguments.again:
            continue
        results[name] = attempt(name)
        kept.parent.mkdir(parents=True, exist_ok=True)
        ordered = {each: results[each] for each in SOURCES if each in results}
        kept.write_text(json.dumps(ordered, indent=1))
        print(name, results[name], flush=True)
    text = table({each: results[each] for each in SOURCES if each in results})
    if arguments.write:
        put(arguments.write, "exports", text)
    print(text)


if __name__ == "__main__":
    main()
