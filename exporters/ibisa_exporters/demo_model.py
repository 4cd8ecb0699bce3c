"""Train the demo's classifier and draw its scene: `python -m exporters.demo_model`.

Writes `ibisa_onnx/demo/model.onnx` and `scene.png` from fixed seeds, within minutes on one thread.

The network classifies *which kinds are present*: its softmax should divide probability equally
among the visible objects, and be flat if there are none. It is trained on whole scenes and on
partially blurred or occluded scenes, labelled with the visible objects, because explanations query
it with such inputs.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import click
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ibisa_onnx.demo import LABELS, model_path, scene_path
from ibisa_onnx.demo.scenes import draw_scene

SIDE = 128
"""Height and width of the model's input, in pixels."""

MEAN, STD = (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)
PREPROCESSING = {
    "size": [SIDE, SIDE],
    "resize": "stretch",
    "channel_order": "RGB",
    "layout": "NCHW",
    "dtype": "float32",
    "scale": 1 / 255,
    "mean": list(MEAN),
    "std": list(STD),
}
"""Preprocessing stored in the file: model space = (pixel * scale - mean) / std."""

SEED = 20250
SCENE_SEED, SCENE_SIDE, SCENE_KINDS = 145, 480, ("striped ball", "star")
POOL, STEPS, BATCH, PEAK_RATE = 6000, 1200, 64, 4e-3
EMPTY_SHARE = 0.08


class DemoNet(nn.Module):
    """Six convolutions, three pooling layers and a linear layer: [N, 3, 128, 128] to [N, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, 16, kernel=5, stride=2),
            nn.MaxPool2d(2),
            *_block(16, 32),
            nn.MaxPool2d(2),
            *_block(32, 64),
            *_block(64, 64),
            nn.MaxPool2d(2),
            *_block(64, 96),
            *_block(96, 96),
        )
        self.classifier = nn.Linear(96, len(LABELS))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [N, 8] of normalised images [N, 3, 128, 128]."""
        pooled = functional.adaptive_avg_pool2d(self.features(images), 1)
        return self.classifier(torch.flatten(pooled, 1))  # type: ignore[no-any-return]


def _block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def draw_pool(rng: np.random.Generator, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw scenes: images uint8 [n, H, W, 3], and uint8 [n, H, W] with 1 + class, 0 for none."""
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    classes = np.zeros((count, SIDE, SIDE), np.uint8)
    for image, plane in zip(images, classes, strict=True):
        empty = rng.random() < EMPTY_SHARE
        scene = draw_scene(rng, size=(SIDE, SIDE), count=0 if empty else None)
        image[:] = scene.image
        for item in scene.objects:
            plane[item.mask] = 1 + item.index
    return images, classes


def random_keep(count: int, generator: torch.Generator) -> Tensor:
    """Draw masks [n, 1, H, W] in 0..1: full, blotchy or speckled, from hidden to visible."""
    cells = int(torch.randint(6, 49, (), generator=generator))
    coarse = int(torch.randint(2, 7, (), generator=generator))
    blotches = torch.randn(count, 1, coarse, coarse, generator=generator)
    blotches = functional.interpolate(blotches, (cells, cells), mode="bicubic")
    contrast = 8 * torch.rand(count, 1, 1, 1, generator=generator)
    logits = contrast * blotches + 2 * torch.randn(count, 1, 1, 1, generator=generator)
    uniform = torch.rand(count, 1, cells, cells, generator=generator).clamp(1e-4, 1 - 1e-4)
    soft = 0.1 + 0.9 * torch.rand(count, 1, 1, 1, generator=generator)
    keep = torch.sigmoid((logits + torch.logit(uniform)) / soft)
    keep = functional.interpolate(keep, (SIDE, SIDE), mode="bilinear")
    whole = torch.rand(count, 1, 1, 1, generator=generator) < 0.4
    return torch.where(whole, 1.0, keep)


def random_baseline(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw what replaces hidden parts: the blurred image, its mean, or a uniform colour."""
    choice = float(torch.rand((), generator=generator))
    if choice < 0.1:
        return images.mean((2, 3), keepdim=True).expand_as(images)
    if choice < 0.3:
        return torch.rand(len(images), 3, 1, 1, generator=generator).expand_as(images)
    # Down to insertion's starting image (kernel 11, sigma 5), which is about sigma 3.
    sigma = float(3 * 5 ** torch.rand((), generator=generator))
    place = torch.arange(SIDE)
    blur = torch.softmax(-((place[:, None] - place) ** 2) / (2 * sigma**2), 1)
    return blur @ images @ blur.T


def soft_targets(classes: Tensor, keep: Tensor) -> Tensor:
    """Convert visible objects to target probabilities [n, 8].

    The weight of a class rises from 0 to 1 as the visible fraction of its object rises from 20% to
    60%. Visible classes divide the known probability; the rest is spread over all classes.
    """
    count, kinds = len(classes), len(LABELS)
    place = classes.flatten(1).long() + (kinds + 1) * torch.arange(count)[:, None]
    size = (kinds + 1) * count
    area = torch.bincount(place.flatten(), minlength=size)
    kept = torch.bincount(place.flatten(), keep.flatten(), minlength=size)
    seen = (kept / area.clamp(min=1)).view(count, kinds + 1)[:, 1:]
    weight = ((seen - 0.2) / 0.4).clamp(0, 1)
    known = weight.amax(1, keepdim=True)
    shares = weight / weight.sum(1, keepdim=True).clamp(min=1e-6)
    return (known * shares + (1 - known) / kinds).float()


def training_batch(
    images: Tensor, classes: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rotate, recolour and partly hide scenes: normalised images [n, 3, H, W], targets [n, 8]."""
    turns = int(torch.randint(4, (), generator=generator))
    images, classes = images.rot90(turns, (1, 2)), classes.rot90(turns, (1, 2))
    if torch.rand((), generator=generator) < 0.5:
        images, classes = images.flip(2), classes.flip(2)
    order = torch.randperm(3, generator=generator)
    pictures = images[..., order].permute(0, 3, 1, 2).contiguous().float() / 255
    gain = 0.8 + 0.4 * torch.rand(len(images), 1, 1, 1, generator=generator)
    pictures = (pictures * gain).clamp(0, 1)
    keep = random_keep(len(images), generator)
    hidden = random_baseline(pictures, generator)
    pictures = hidden + keep * (pictures - hidden)
    inputs = normalize(pictures).contiguous(memory_format=torch.channels_last)
    return inputs, soft_targets(classes, keep)


def normalize(pictures: Tensor) -> Tensor:
    """Convert images [n, 3, H, W] in 0..1 to model space."""
    return (pictures - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def train(seed: int = SEED, pool: int = POOL, steps: int = STEPS) -> DemoNet:
    """Train the classifier from one seed, on the CPU."""
    torch.set_num_threads(1)  # the order of summation, and so the file, depends on the thread count
    generator = torch.Generator().manual_seed(seed)
    click.echo(f"drawing {pool} scenes", err=True)
    images, classes = map(torch.from_numpy, draw_pool(np.random.default_rng(seed), pool))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DemoNet()
    # Channels last is 1.5 times as fast; the exported file does not depend on it.
    net.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), PEAK_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, steps, pct_start=0.15)
    for step in range(steps):
        chosen = torch.randint(pool, (BATCH,), generator=generator)
        inputs, targets = training_batch(images[chosen], classes[chosen], generator)
        loss = functional.cross_entropy(net(inputs), targets)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            click.echo(f"step {step + 1} of {steps}: loss {loss.item():.3f}", err=True)
    net.eval()
    return net


def accuracy(net: nn.Module, count: int = 600, seed: int = SEED + 1) -> dict[str, float]:
    """Measure on new scenes: top-1 among those present, and both of two in the top two."""
    rng = np.random.default_rng(seed)
    first, pair, pairs = 0, 0, 0
    for _ in range(count):
        scene = draw_scene(rng, size=(SIDE, SIDE))
        pictures = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            order = net(normalize(pictures))[0].argsort(descending=True).tolist()
        present = {item.index for item in scene.objects}
        first += order[0] in present
        if len(present) == 2:
            pairs += 1
            pair += set(order[:2]) == present
    return {"top one": first / count, "both of two": pair / pairs}


def write_model(net: DemoNet, path: Path) -> None:
    """Export with a dynamic batch, and store preprocessing and labels under the key `ibisa`."""
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for place, layer in enumerate(net.features):
        if isinstance(layer, nn.BatchNorm2d):
            convolution = net.features[place - 1]
            assert isinstance(convolution, nn.Conv2d)
            net.features[place - 1] = nn.utils.fusion.fuse_conv_bn_eval(convolution, layer)
            net.features[place] = nn.Identity()
    buffer = io.BytesIO()
    # Not the newer exporter: it writes stack traces with paths into the file.
    torch.onnx.export(
        net,
        (torch.zeros(1, 3, SIDE, SIDE),),
        buffer,  # type: ignore[arg-type]
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    model = onnx.load_from_string(buffer.getvalue())
    facts = {"version": 1, "preprocessing": PREPROCESSING, "labels": list(LABELS)}
    onnx.helper.set_model_props(model, {"ibisa": json.dumps(facts)})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_scene(path: Path) -> None:
    """Draw the demo's scene, larger than the model's input so that it displays well."""
    import cv2

    rng = np.random.default_rng(SCENE_SEED)
    scene = draw_scene(rng, size=(SCENE_SIDE, SCENE_SIDE), kinds=SCENE_KINDS)
    done, data = cv2.imencode(".png", scene.image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done
    path.write_bytes(data.tobytes())


@click.command()
@click.option("--scene-only", is_flag=True, help="Draw the scene only; do not train the model.")
def main(scene_only: bool) -> None:
    """Write both files of the demo, and print the model's accuracy."""
    write_scene(scene_path())
    if not scene_only:
        net = train()
        for what, share in accuracy(net).items():
            click.echo(f"{what}: {share:.1%}", err=True)
        write_model(net, model_path())


if __name__ == "__main__":
    main()
