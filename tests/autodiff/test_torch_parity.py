"""The blocks that image classifiers are made of, against PyTorch, from both exporters."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from ibisa_onnx.autodiff import differentiate


class Residual(nn.Module):
    """ResNet's basic block, with a strided shortcut."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 7, 2, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.body = nn.Sequential(
            nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, 1, 1)
        )
        self.shortcut = nn.Conv2d(8, 12, 1, 2)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.body(x) + self.shortcut(x))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


class Inverted(nn.Module):
    """MobileNet V3's inverted residual with squeeze-and-excitation."""

    def __init__(self, activation):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), activation())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 5, 2, 2, groups=16), activation())
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1)
        )
        self.gate = nn.Hardsigmoid()
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.depthwise(self.expand(x))
        x = x * self.gate(self.squeeze(x))
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    """DenseNet's concatenations and its transition, then VGG's head."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, 1, 1) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3 + 4 * i) for i in range(3))
        self.transition = nn.Sequential(nn.Conv2d(15, 6, 1), nn.AvgPool2d(2, 2))
        self.head = nn.Sequential(nn.Linear(6 * 64, 10), nn.ReLU(), nn.Dropout(), nn.Linear(10, 3))

    def forward(self, x):
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.cat([x, layer(torch.relu(norm(x)))], 1)
        return self.head(torch.flatten(self.transition(x), 1)).log_softmax(1)


class Inception(nn.Module):
    """GoogLeNet's branches, with its pooling modes."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 4, 1)
        self.three = nn.Conv2d(3, 4, (1, 3), 1, (0, 1))
        self.pool = nn.MaxPool2d(3, 1, 1, ceil_mode=True)
        self.average = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.down = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.head = nn.Linear(14, 4)

    def forward(self, x):
        x = torch.cat([self.one(x), self.three(x).relu(), self.pool(x), self.average(x)], 1)
        return self.head(self.down(x).mean((2, 3))).softmax(1)


class Transformer(nn.Module):
    """ViT's patches, class token, attention and MLP."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.position = nn.Parameter(torch.randn(1, 17, 12))
        self.norm = nn.LayerNorm(12)
        self.qkv = nn.Linear(12, 36)
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        q, k, v = self.qkv(self.norm(x)).reshape(-1, 17, 3, 2, 6).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / 6**0.5).softmax(-1)
        x = x + (weights @ v).transpose(1, 2).reshape(-1, 17, 12)
        x = x + self.mlp(self.norm(x))
        return self.head(self.norm(x)[:, 0])


class Shifted(nn.Module):
    """Swin's shifted windows and patch merging, ConvNeXt's layer scale."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.full((8,), 0.5))
        self.merge = nn.Linear(32, 4)

    def forward(self, x):
        x = self.norm(self.stem(x).permute(0, 2, 3, 1))
        x = torch.roll(x, (-1, -1), (1, 2))
        windows = x.reshape(-1, 2, 4, 2, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 8)
        windows = windows + self.scale * nn.functional.gelu(self.mix(windows))
        x = windows.reshape(-1, 2, 2, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, 8)
        x = torch.roll(x, (1, 1), (1, 2))
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.merge(torch.cat(parts, -1)).mean((1, 2))


class UpAndDown(nn.Module):
    """A decoder: bilinear and nearest resizing, transposed convolution, group norm."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.SiLU())
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.norm = nn.InstanceNorm2d(4, affine=True)

    def forward(self, x):
        y = self.norm(self.up(self.down(x)))
        y = nn.functional.interpolate(y, scale_factor=0.5, mode="bilinear")
        y = nn.functional.interpolate(y, size=(12, 12), mode="nearest")
        y = nn.functional.pad(y, (1, 2, 1, 0), mode="reflect")
        return nn.functional.leaky_relu(y, 0.1).amax((2, 3))


class Standardised(nn.Module):
    """NFNet's weight-standardised convolutions, two of one shape, and a blurring stride."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.weights = nn.Parameter(torch.randn(2, 6, 6, 3, 3))
        self.gain = nn.Parameter(torch.rand(6) + 0.5)
        self.register_buffer(
            "blur", torch.tensor([1.0, 2, 1]).outer(torch.tensor([1.0, 2, 1])) / 16
        )

    def forward(self, x):
        x = self.stem(x)
        for weight in self.weights:
            flat = nn.functional.batch_norm(
                weight.reshape(1, 6, -1), None, None, weight=self.gain, training=True, momentum=0.0
            )
            x = x + nn.functional.silu(nn.functional.conv2d(x, flat.reshape_as(weight), padding=1))
        x = nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
        kernel = self.blur.expand(6, 1, 3, 3)
        return nn.functional.conv2d(x, kernel, stride=2, groups=6).mean((2, 3))


class Rotary(nn.Module):
    """DINOv3's rotary positions, tiled at run time, and Swin V2's cosine attention."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.qkv = nn.Linear(8, 24)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1, bias=False))

    def positions(self, size, like):
        steps = (torch.arange(size, dtype=like.dtype) + 0.5) / size
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).flatten(0, 1)
        angles = (grid[:, :, None] * torch.tensor([1, 0.1], dtype=like.dtype)).flatten(1, 2).tile(2)
        distances = (grid[:, None] - grid).abs().sum(-1, keepdim=True)
        return angles, 4 * torch.sigmoid(self.bias(distances))[..., 0]

    def forward(self, x):
        q, k, v = self.qkv(self.patches(x).flatten(2).transpose(1, 2)).chunk(3, -1)
        angles, bias = self.positions(4, x)
        q, k = (self.turn(nn.functional.normalize(u, dim=-1), angles) for u in (q, k))
        weights = (q @ k.transpose(1, 2) * self.scale.clamp(max=4.0).exp() + bias).softmax(-1)
        return (weights @ v).mean(1)

    def turn(self, x, angles):
        first, second = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


class Reader(nn.Module):
    """CRNN: columns of features, read from both sides by two recurrent layers."""

    def __init__(self, layer):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3, 1, 1)
        )
        self.layers = layer(6 * 8, 5, num_layers=2, bidirectional=True)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        columns = self.features(x).flatten(1, 2).permute(2, 0, 1)
        read, last = self.layers(columns)
        last = last[1] if isinstance(last, tuple) else last
        return self.head(read).log_softmax(-1).sum(0) + last.sum((0, 2)).unsqueeze(1)


BLOCKS = {
    "reader-lstm": lambda: Reader(nn.LSTM),
    "reader-gru": lambda: Reader(nn.GRU),
    "reader-rnn": lambda: Reader(nn.RNN),
    "residual": Residual,
    "inverted-hardswish": lambda: Inverted(nn.Hardswish),
    "inverted-relu6": lambda: Inverted(nn.ReLU6),
    "inverted-silu": lambda: Inverted(nn.SiLU),
    "dense": Dense,
    "inception": Inception,
    "transformer": Transformer,
    "shifted": Shifted,
    "up-and-down": UpAndDown,
    "standardised": Standardised,
    "rotary": Rotary,
}


def export(net, x, dynamo):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            batch = torch.export.Dim("N", min=1, max=8)
            program = torch.onnx.export(net, (x,), dynamo=True, dynamic_shapes=({0: batch},))
            return program.model_proto
        buffer = io.BytesIO()
        names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "N"}}}
        torch.onnx.export(net, (x,), buffer, dynamo=False, opset_version=17, **names)
    return onnx.load_model_from_string(buffer.getvalue())


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", BLOCKS)
def test_block(name, dynamo):
    torch.manual_seed(0)
    net = BLOCKS[name]().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    x = torch.randn(2, 3, 16, 16)
    model = export(net, x, dynamo)
    source, target = model.graph.input[0].name, model.graph.output[0].name
    derivative = differentiate(model, source, target)
    forward = ort.InferenceSession(derivative.forward.SerializeToString())
    backward = ort.InferenceSession(derivative.backward.SerializeToString())
    image = torch.randn(3, 3, 16, 16)
    y, *saved = forward.run(None, {source: image.numpy()})
    dy = torch.randn(y.shape)
    feeds = {derivative.cotangent: dy.numpy(), **dict(zip(derivative.saved, saved, strict=True))}
    (dx,) = backward.run(None, feeds)
    exact = image.double().requires_grad_(True)
    (net.double()(exact) * dy).sum().backward()
    expected = exact.grad.numpy()
    assert np.abs(dx - expected).max() <= 1e-4 * np.abs(expected).max()
