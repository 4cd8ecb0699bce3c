"""The script behind the two files: the parts that can be checked without training for minutes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from ibisa_exporters import demo_model

from ibisa_onnx.demo import LABELS, scene_path

ort = pytest.importorskip("onnxruntime")


def test_the_committed_picture_is_the_one_the_script_draws(tmp_path: Path) -> None:
    demo_model.write_scene(tmp_path / "scene.png")
    drawn, committed = (cv2.imread(str(path)) for path in (tmp_path / "scene.png", scene_path()))
    # Rounding may differ by a level from one processor to the next.
    assert np.abs(drawn.astype(int) - committed).mean() < 0.1


def test_targets_are_what_is_left_to_see() -> None:
    classes = torch.zeros(5, 128, 128, dtype=torch.uint8)
    classes[:4, :20, :20] = 1 + 2
    classes[:4, 60:80, 60:80] = 1 + 5
    keep = torch.ones(5, 1, 128, 128)
    keep[1, :, :20, :20] = 0  # one object hidden
    keep[2] = 0  # all hidden
    keep[3] = 0.4  # both half way between seen and not
    targets = demo_model.soft_targets(classes, keep).numpy()
    both, one = np.zeros(8), np.zeros(8)
    both[[2, 5]], one[5] = 0.5, 1
    flat = np.full(8, 1 / 8)
    expected = [both, one, flat, (both + flat) / 2, flat]
    np.testing.assert_allclose(targets, expected, atol=1e-5)


def test_a_batch_follows_from_the_generator_alone() -> None:
    images, classes = map(torch.from_numpy, demo_model.draw_pool(np.random.default_rng(0), 6))
    one, same = (
        demo_model.training_batch(images, classes, torch.Generator().manual_seed(7))
        for _ in range(2)
    )
    assert all(torch.equal(left, right) for left, right in zip(one, same, strict=True))
    inputs, targets = one
    assert inputs.shape == (6, 3, 128, 128)
    assert inputs.isfinite().all()
    torch.testing.assert_close(targets.sum(1), torch.ones(6))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_file_computes_what_the_network_does(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, pictures = demo_model.DemoNet(), torch.randn(3, 3, 128, 128)
        for _ in range(2):
            net(torch.randn(4, 3, 128, 128))  # running means and variances off their start
    with torch.no_grad():
        expected = net.eval()(pictures).numpy()
    demo_model.write_model(net, tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(None, {"image": pictures.numpy()})[0]
    assert logits.shape == (3, len(LABELS))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
