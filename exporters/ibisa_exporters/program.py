"""`model.pt2`: a program written by `torch.export.save`, from a trusted author."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ibisa_exporters.trained import SIDE, Request, TrainedModel
from ibisa_exporters.weights import load_weights
from ibisa_onnx.errors import ExportError
from ibisa_onnx.gradients.surrogate import load_program, module_of


def load(name: str, request: Request) -> TrainedModel:
    """Load a program."""
    path = Path(name)
    if request.weights == "none":
        raise ExportError(f"{path} contains its own weights; omit weights='none'")
    program = load_program(path, "program", request.trust)
    _check_evaluates(program, path)
    batch, channels, *sides = _input(program, path)
    own = [side if isinstance(side, int) else None for side in sides]
    wanted = request.size or [side or SIDE for side in own]
    if any(side not in (None, want) for side, want in zip(own, wanted, strict=True)):
        raise ExportError(f"{path} requires {sides[0]}x{sides[1]} (height x width); omit size=")
    module = module_of(program, path, "program")
    vars(module).pop("train", None)  # it raises, but torch's older tracer calls it; use nn.Module's
    if request.file is not None:
        load_weights(module, request.file)
    fixed = batch if isinstance(batch, int) else None
    example = torch.zeros(1, channels, *wanted)
    return TrainedModel(path.stem, module, example, batch=fixed)


def _input(program: torch.export.ExportedProgram, path: Path) -> list[Any]:
    """Return the shape of the only input: numbers, or symbols for dynamic dimensions."""
    names = program.graph_signature.user_inputs
    nodes = [
        node for node in program.graph.nodes if node.op == "placeholder" and node.name in names
    ]
    values = [node.meta.get("val") for node in nodes]
    shapes = [getattr(value, "shape", ()) for value in values]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        said = ", ".join(f"[{', '.join(map(str, shape))}]" for shape in shapes)
        raise ExportError(
            f"{path} has inputs {said or 'none'}; export a program with one input [N, C, H, W]"
        )
    if values[0].dtype != torch.float32:
        dtype = str(values[0].dtype).removeprefix("torch.")
        raise ExportError(f"{path} has a {dtype} input; export a program with a float32 input")
    return list(shapes[0])


def _check_evaluates(program: torch.export.ExportedProgram, path: Path) -> None:
    """Reject a program that was exported in training mode."""
    for node in program.graph.nodes:
        name = str(node.target)
        drops = name.startswith("aten.dropout") and node.args[-1] is True
        learns = name.startswith("aten.batch_norm") and len(node.args) > 5 and node.args[5] is True
        if drops or learns:
            raise ExportError(f"{path} was exported in training mode ({name}); call eval() first")
