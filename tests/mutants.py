"""Opens, runs and differentiates damaged models, each in a child; says how that went.

Run as `python mutants.py FOLDER SEED COUNT`: of each model in the folder so many mutants are made.
Prints one JSON object for each: what came of it, and of which mutant. A child that the runtime
itself takes down says so by its signal.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import onnx
from fuzz.mutation import mutate

from ibisa_onnx.autodiff import backward_graph
from ibisa_onnx.errors import IbisaError
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.ort import import_onnxruntime

ADDRESSES = 4 << 30  # bytes
SECONDS = 20
_BEGINNING, _END = 4096, 1024  # bytes


def mutant(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a model's structure, or one to three bytes; now and then cut or repeat a piece."""
    if rng.random() < 0.5:
        model = onnx.load_model_from_string(data)
        for _ in range(int(rng.integers(1, 4))):
            mutate(model, Random(int(rng.integers(2**62))))
        return bytes(model.SerializeToString())
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(-_END, _BEGINNING))  # graphs are written before their weights
        if rng.random() < 0.2 or not -len(data) <= place < len(data):
            place = int(rng.integers(len(data)))
        changed[place] = int(rng.integers(256))
    if rng.random() < 0.1:
        start, stop = sorted(int(each) for each in rng.integers(len(changed), size=2))
        changed[start:stop] = b"" if rng.random() < 0.5 else changed[start:stop] * 2
    return bytes(changed)


def use(data: bytes) -> str:
    """Do with a model what the package does; say what came of it."""
    said = []
    for name, task in (("run", _run), ("gradient", backward_graph)):
        try:
            task(data)
            said.append(f"{name}: done")
        except IbisaError as error:
            lines = str(error).isprintable() and len(str(error)) <= 1000
            said.append(f"{name}: {'refused' if lines else 'not one line'}: {error}")
    return "; ".join(said)


def _run(data: bytes) -> None:
    model = DeployedModel.open(data, providers=["cpu"], threads=1)
    image = model.image
    shape = (1, image.channels, min(image.height or 8, 512), min(image.width or 8, 512))
    model.run(np.zeros(shape, np.float32))


def in_child(data: bytes) -> str:
    """Use a model in a child; say what came of it, or how the child ended."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            said = use(data)
        except BaseException as error:
            said = f"foreign {type(error).__name__}: {error}"
        os.write(write, said.encode(errors="replace")[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said if code == 0 else f"signal {-code}"


def main(folder: str, seed: str, count: str) -> None:
    import_onnxruntime()
    rng = np.random.default_rng(int(seed))
    for path in sorted(Path(folder).iterdir()):
        for number in range(int(count)):
            data = mutant(path.read_bytes(), rng)
            began = time.monotonic()
            told = {"of": path.name, "number": number, "said": in_child(data)}
            told["seconds"] = round(time.monotonic() - began, 2)
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
