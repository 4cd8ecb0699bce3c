"""Maps by AISE, the forward-only method of openvino-xai, of the models that we measure on.

    python3.11 -m venv aise
    aise/bin/pip install openvino-xai onnxruntime opencv-python numpy onnx click platformdirs
    PYTHONPATH=. aise/bin/python benchmarks/aise.py ASSETS WORK [--model squeezenet]

The environment is its own because openvino-xai keeps to an old numpy; PYTHONPATH is this checkout.
The maps, .npy float32 [224, 224], go to WORK/aise-{forwards}-{model}/ and, from the same forward
passes, to WORK/aise-centred-{forwards}-{model}/. What is there is skipped, so that an interrupted
run goes on where it stopped. Printed are the forward passes and the seconds that each map took.

AISE puts a Gaussian window on the picture, once keeping and once deleting what lies in it, and sums
the windows, each times the difference between the two scores; an optimiser (DIRECT) says where the
next window goes. It gets the same file in the same ONNX Runtime, the same crop and the same score,
the probability of the predicted class, as in `photographs.py`. It multiplies what it gets by the
window: here that is model space, so what is deleted becomes the mean colour (mobilenetv2: grey).

AISE divides its sum by the largest value. Where the sum is below 0 at every pixel that turns the
map upside down. The first kind of maps is the package's own, left as it is: turned back they score
worse still, for windows crowd where the optimiser found most. The second kind is mended: for each
width of the window the differences are centred before they are summed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from openvino_xai.methods.black_box.aise.classification import AISEClassification
from openvino_xai.methods.black_box.base import Preset
from photographs import PRESETS, Score, explainer_of_crops, photographs

# Each iteration takes two forward passes, for each of 3 kernels or (quality) 5, and the prediction
# takes one. Iterations are a floor: DIRECT ends only when a round is through, and AISE leaves the
# surplus out of its map. "balance" comes to 301 or more as it is; "speed" (20 iterations) may stay
# below 150 and "quality" (50) below 680, so these two get what their budget asks for.
SETTINGS: dict[int, dict[str, Any]] = {
    150: {"preset": Preset.SPEED, "num_iterations_per_kernel": 25},
    300: {"preset": Preset.BALANCE},
    680: {"preset": Preset.QUALITY, "num_iterations_per_kernel": 68},
}


class Aise(AISEClassification):
    """AISE of a score, in place of an OpenVINO model."""

    def __init__(self, *, score: Score) -> None:
        super().__init__(model=None, postprocess_fn=lambda scores: scores, prepare_model=False)
        self._score = score

    def model_forward(self, x: np.ndarray, preprocess: bool = True) -> np.ndarray:
        """Return the score of an image [1, C, H, W] as that of an only class, [1, 1]."""
        return self._score(x.astype(np.float32))[:, None]

    def map(self, image: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
        """Return the map of an image [C, H, W], float32 [H, W], as AISE gives it."""
        maps = self.generate_saliency_map(image[None], [0], scale_output=False, **settings)
        return maps[0].astype(np.float32)

    def centred_map(self) -> np.ndarray:
        """Return what the last map is when each kernel's differences have their mean taken off."""
        for kernel, differences in self.pred_score_hist.items():
            used = np.array(differences[: self.num_iterations_per_kernel])
            self.pred_score_hist[kernel] = list(used - used.mean())
        return self._kernel_density_estimation().astype(np.float32)


def save(file: Path, values: np.ndarray) -> None:
    """Write an array under a temporary name, and rename it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp.npy")
    np.save(temporary, values)
    temporary.replace(file)


def write_maps(args: argparse.Namespace, model: str) -> None:
    """Write what is missing of a model's maps."""
    whole, fitted = explainer_of_crops(args.assets, model, args.threads)
    for photo in photographs(args.assets, whole, fitted):
        for forwards, settings in SETTINGS.items():
            shipped, centred = (
                args.work / f"{kind}-{forwards}-{model}" / f"{photo.path.stem}.npy"
                for kind in ("aise", "aise-centred")
            )
            if shipped.exists() and centred.exists():
                continue
            aise = Aise(score=photo.score)
            before, start = fitted.model.passes.forward, time.perf_counter()
            save(shipped, aise.map(photo.image, settings))
            seconds = time.perf_counter() - start
            spent = fitted.model.passes.forward - before
            save(centred, aise.centred_map())
            print(model, photo.path.stem, forwards, spent, f"{seconds:.2f} s", flush=True)


def main() -> None:
    """Write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("assets", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", action="append", choices=PRESETS)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    for model in args.model or ("squeezenet", "mobilenetv2"):
        write_maps(args, model)


if __name__ == "__main__":
    main()
