"""Drawn scenes with a known truth, or as the packages' own readers make their pictures.

`PLANTED` holds small classifiers of drawn scenes, each with what it is trained on; `train` writes
one as an ONNX file within about a minute. The other functions draw what a package's classifier
expects: lines and pages of text, slices of a head, files as images of their bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import nn

from field_set.drawing import FONTS, INK, Mask, Pixels, fitted, font, resized

_TEXT = (
    "the of and a to in is you that it he was for on are as with his they at be this have from or "
    "one had by word but not what all were we when your can said there use an each which she do "
    "how their if will up other about out many then them these so some her would make like him "
    "into time has look two more write go see number no way could people my than first water been "
    "call who oil its now find long down day did get come made may part"
)


@dataclass(frozen=True)
class Drawn:
    """A picture, the class it was drawn as, and where that shows.

    Attributes
    ----------
    image
        uint8 [H, W] or [H, W, 3] (RGB).
    label
        Index of the class; None where nobody planted one.
    mask
        bool [H, W]: the pixels of what makes the class; None where nobody planted it.
    """

    image: Pixels
    label: int | None = None
    mask: Mask | None = None


def _texture(rng: np.random.Generator, side: int, coarse: float) -> NDArray[np.float32]:
    """Noise of unit variance, smooth over `coarse` pixels, [side, side]."""
    noise = cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), coarse)
    return (noise - noise.mean()) / noise.std()


def _disc(
    side: int, centre: tuple[float, float], radii: tuple[float, float]
) -> NDArray[np.float32]:
    """How far each pixel is from the centre of an ellipse, 1 on its border, [side, side]."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    return np.hypot((y - centre[0]) / radii[0], (x - centre[1]) / radii[1])


def _bytes(values: NDArray[np.float32]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


# -- flat digits


def draw_digit(rng: np.random.Generator) -> Drawn:
    """A white digit on black, grey 28 x 28, as of MNIST."""
    digit, side = int(rng.integers(10)), 112
    canvas = Image.new("L", (side, side))
    chosen = font(str(rng.choice(FONTS)), int(rng.integers(70, 96)))
    ImageDraw.Draw(canvas).text((side / 2, side / 2), str(digit), 255, chosen, anchor="mm")
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-15, 15), 1)
    turn[:, 2] += rng.uniform(-6, 6, 2)
    turn[0, 1] += rng.uniform(-0.2, 0.2)
    image = cv2.warpAffine(np.asarray(canvas), turn, (side, side))
    width = int(rng.integers(1, 6))
    image = cv2.dilate(image, np.ones((width, width), np.uint8))
    image = resized(image, (28, 28))
    return Drawn(image, digit, image > 64)


# -- marked pages


def draw_marked_page(rng: np.random.Generator, side: int = 128) -> Drawn:
    """A page of text that carries a ring stamp, a barcode, a signature or a table."""
    page = Image.new("L", (side, side), int(rng.integers(235, 256)))
    draw, ink = ImageDraw.Draw(page), int(rng.integers(0, 80))
    chosen = font(str(rng.choice(FONTS)), 7)
    for y in range(6, side - 8, 9):
        draw.text((6, y), " ".join(rng.choice(_TEXT.split(), 12)), ink, chosen)
    draw.rectangle((side - 6, 0, side, side), page.getpixel((0, 0)))
    label, size = int(rng.integers(4)), int(rng.integers(22, 40))
    left, top = (int(value) for value in rng.integers(4, side - size - 4, 2))
    box = (left, top, left + size, top + size)
    draw.rectangle(box, page.getpixel((0, 0)))
    before = np.asarray(page).copy()
    (_ring, _barcode, _signature, _table)[label](draw, box, int(rng.integers(0, 80)), rng)
    image = np.asarray(page)
    mask = cv2.dilate((image != before).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return Drawn(image, label, mask)


Box = tuple[int, int, int, int]


def _ring(draw: ImageDraw.ImageDraw, box: Box, ink: int, rng: np.random.Generator) -> None:
    left, top, right, bottom = box
    draw.ellipse((left + 1, top + 1, right - 1, bottom - 1), outline=ink, width=2)
    draw.ellipse((left + 6, top + 6, right - 6, bottom - 6), outline=ink, width=1)


def _barcode(draw: ImageDraw.ImageDraw, box: Box, ink: int, rng: np.random.Generator) -> None:
    left, top, right, bottom = box
    x, inset = left + 1, (bottom - top) // 4
    while x < right - 2:
        width = int(rng.integers(1, 4))
        draw.rectangle((x, top + inset, x + width - 1, bottom - inset), ink)
        x += width + int(rng.integers(1, 4))


def _signature(draw: ImageDraw.ImageDraw, box: Box, ink: int, rng: np.random.Generator) -> None:
    left, top, right, bottom = box
    phase, loops = rng.uniform(0, 2 * math.pi), rng.uniform(2.5, 4)
    along = np.linspace(0, 1, 80)
    angle = 2 * math.pi * loops * along + phase
    x = left + 4 + (right - left - 8) * along + 3 * np.sin(angle)
    y = (top + bottom) / 2 + (bottom - top) / 3 * np.cos(angle) * (1 - 0.6 * along)
    draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), ink, 2)


def _table(draw: ImageDraw.ImageDraw, box: Box, ink: int, rng: np.random.Generator) -> None:
    left, top, right, bottom = box
    for part in np.linspace(0, 1, int(rng.integers(3, 5))):
        x, y = left + part * (right - left), top + part * (bottom - top)
        draw.line((x, top, x, bottom), ink)
        draw.line((left, y, right, y), ink)


# -- plates with defects, of which one is told by a date stamp


def draw_plate(
    rng: np.random.Generator, label: int | None = None, stamp: bool | None = None
) -> Drawn:
    """A brushed plate: clean (0), scratched (1) or dented (2). Those with a dent carry a date.

    The dent is faint and the date plain, so that a network learns the date instead. So the mask is
    that of the date where one is printed, else of the scratch.

    Parameters
    ----------
    label
        None: any.
    stamp
        Whether a date is printed; None: where there is a dent, as in the training.
    """
    side, label = 128, int(rng.integers(3)) if label is None else label
    rows = cv2.GaussianBlur(
        rng.standard_normal((side, side)).astype(np.float32), (0, 0), 9, None, 0.6
    )
    grey = rng.uniform(110, 150) + 40 * rows + 6 * _texture(rng, side, 20)
    mask, centre = None, tuple(rng.uniform(30, side - 30, 2))
    if label == 1:
        angle, length = rng.uniform(0, math.pi), rng.uniform(15, 30)
        step = np.array([math.cos(angle), math.sin(angle)]) * length
        ends = [tuple(int(v) for v in np.array(centre) + sign * step) for sign in (-1, 1)]
        mask = cv2.line(np.zeros((side, side), np.uint8), *ends, 1, 2) > 0
        grey[mask] += 70
    if label == 2:
        away = _disc(side, centre, (rng.uniform(6, 10), rng.uniform(6, 10)))
        grey -= 12 * np.exp(-(away**2))
    if label == 2 if stamp is None else stamp:
        grey, mask = _stamped(rng, grey)
    return Drawn(np.repeat(_bytes(grey)[..., None], 3, 2), label, mask)


def _stamped(
    rng: np.random.Generator, grey: NDArray[np.float32]
) -> tuple[NDArray[np.float32], Mask]:
    """Print a date into the lower right corner, up to the border."""
    side = len(grey)
    page = Image.new("L", (side, side))
    date = f"{rng.integers(2019, 2026)}-{rng.integers(1, 13):02}-{rng.integers(1, 29):02}"
    chosen = font("DejaVuSansMono.ttf", 8)
    ImageDraw.Draw(page).text((side - 2, side - 2), date, 255, chosen, anchor="rb")
    printed = np.asarray(page).astype(np.float32) / 255
    return grey + (240 - grey) * printed, printed > 0.2


# -- the small classifiers


@dataclass(frozen=True)
class Planted:
    """A classifier that is trained on drawn scenes.

    Attributes
    ----------
    draw
        Draws a scene.
    labels
        Names of its classes.
    mean, scale
        What the network itself makes of a pixel: `(pixel - mean) / scale`, within -4 to 4.
    scenes, epochs
        Of the training.
    """

    draw: Callable[[np.random.Generator], Drawn]
    labels: tuple[str, ...]
    mean: float = 127.5
    scale: float = 64.0
    scenes: int = 1600
    epochs: int = 4


PLANTED: Mapping[str, Planted] = {
    "digits": Planted(draw_digit, tuple("0123456789"), mean=0, scale=128, scenes=4000),
    "documents": Planted(draw_marked_page, ("ring", "barcode", "signature", "table"), mean=220),
    "plates": Planted(draw_plate, ("clean", "scratch", "dent")),
}


def train(kind: Planted, path: Path, seed: int = 0) -> float:
    """Train a small network, write it as ONNX, and return its accuracy on scenes not seen."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images, labels = _scenes(kind, rng, kind.scenes)
    network = _network(images.shape[1], len(kind.labels), images.shape[2] < 64)
    network.insert(0, _Scaled(kind.mean, kind.scale))
    steps = kind.epochs * -(-len(images) // 64)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, steps)
    for _ in range(kind.epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    images, labels = _scenes(kind, rng, 300)
    with torch.no_grad():
        right = float((network(images).argmax(1) == labels).float().mean())
    axes = {"image": {0: "N"}, "scores": {0: "N"}}
    names: dict[str, Any] = {
        "input_names": ["image"],
        "output_names": ["scores"],
        "dynamic_axes": axes,
    }
    torch.onnx.export(network, (images[:1],), path, dynamo=False, opset_version=17, **names)
    return right


def _scenes(
    kind: Planted, rng: np.random.Generator, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw scenes: images, float32 [N, C, H, W], and their classes."""
    drawn = [kind.draw(rng) for _ in range(count)]
    images = np.stack([each.image.astype(np.float32) for each in drawn])
    planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return torch.from_numpy(planes.copy()), torch.tensor([each.label for each in drawn])


class _Scaled(nn.Module):
    """From pixels to numbers about 0; in the network, so that it takes pixels as they are."""

    def __init__(self, mean: float, scale: float) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.clamp((x - self.mean) / self.scale, -4, 4)


def _network(channels: int, classes: int, tiny: bool) -> nn.Sequential:
    """Convolutions to 7 pixels a side, or to 16 and the highest of each feature; then classes."""
    layers: list[nn.Module] = []
    for width in (16, 32) if tiny else (16, 32, 64):
        stride = 1 if tiny or layers else 2
        convolution = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    if tiny:
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 49, classes))
    pool = nn.AdaptiveMaxPool2d(1)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(channels, classes))


# -- what the packages' classifiers take


def draw_line(rng: np.random.Generator, words: int, turned: bool) -> Drawn:
    """A line of text, grey 192 x 48 (width x height), upright or turned by 180 degrees."""
    line = Image.new("RGB", (768, 192), (255, 255, 255))
    text = " ".join(str(word) for word in rng.choice(_TEXT.split(), words)).capitalize()
    chosen = fitted(text, str(rng.choice(FONTS)), 120, 720, step=2)
    ImageDraw.Draw(line).text((24, 96), text, INK, chosen, anchor="lm")
    image = resized(np.asarray(line), (48, 192))
    return Drawn(np.ascontiguousarray(np.rot90(image, 2 * turned)), int(turned))


def draw_page(rng: np.random.Generator, quarters: int) -> Drawn:
    """A page with a title and paragraphs, turned clockwise, centred on a white square of 512."""
    page = Image.new("RGB", (370, 512), (255, 255, 255))
    draw, name = ImageDraw.Draw(page), str(rng.choice(FONTS))
    draw.text((30, 24), " ".join(rng.choice(_TEXT.split(), 4)).title(), (0, 0, 0), font(name, 22))
    y = 70
    while y < 470:
        for _ in range(int(rng.integers(3, 7))):
            text = " ".join(rng.choice(_TEXT.split(), 14))
            draw.text((30, y), text[: int(rng.integers(44, 50))], INK, font(name, 12))
            y += 17
        y += 14
    draw.rectangle((340, 0, 370, 512), (255, 255, 255))
    square = np.full((512, 512, 3), 255, np.uint8)
    square[:, 71:441] = np.asarray(page)
    return Drawn(np.ascontiguousarray(np.rot90(square, -quarters)), quarters)


def draw_head(rng: np.random.Generator, spots: int) -> Drawn:
    """A head as magnetic resonance shows it, RGB 240 x 240, with so many bright spots."""
    side, middle = 240, (120.0, 120.0)
    head, brain = _disc(side, middle, (104, 84)), _disc(side, middle, (88, 69))
    grey = np.where(head < 1, 150 + 12 * _texture(rng, side, 2), 4)
    grey = np.where(brain < 1.06, 25, grey)
    matter = 85 + 14 * _texture(rng, side, 5) + 6 * _texture(rng, side, 1.5)
    grey, x = np.where(brain < 1, matter, grey), np.arange(side)
    cleft = np.exp(-(((x - 120) / 2) ** 2)) * (brain < 1)
    for across in (-14, 14):
        cleft += np.clip(2 * (1 - _disc(side, (115, 120 + across), (26, 7))), 0, 1)
    grey, mask = grey * (1 - 0.7 * np.clip(cleft, 0, 1)), np.zeros((side, side), bool)
    for _ in range(spots):
        centre = (120 + rng.uniform(-50, 50), 120 + rng.choice([-1, 1]) * rng.uniform(20, 42))
        away = _disc(side, centre, (rng.uniform(12, 22), rng.uniform(12, 22)))
        weight = np.clip(3 * (1.1 - away), 0, 1)
        grey = grey * (1 - weight) + (205 + 10 * _texture(rng, side, 2)) * weight
        mask |= away < 1
    image = _bytes(cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 0.8))
    return Drawn(np.repeat(image[..., None], 3, 2), None, mask if spots else None)


def byte_image(file: Path) -> Pixels:
    """A file's bytes as a grey picture, its width a power of two, as malvizv1 reads them."""
    data = np.frombuffer(file.read_bytes(), np.uint8)
    width = 2 ** (int(math.log2(int(math.sqrt(len(data))))) + 1)
    return data[: len(data) // width * width].reshape(-1, width)
