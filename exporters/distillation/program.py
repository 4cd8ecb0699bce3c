"""A fitted student as a `.pt2` file, with what is known of it inside."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from exporters.surrogate import open_program
from ibisa_onnx.gradients.surrogate import FACTS


def program_bytes(
    student: nn.Module, shape: tuple[int, int, int], facts: Mapping[str, Any]
) -> bytes:
    """Export a module for any number of images [N, C, H, W] of one shape, to run on any device.

    Parameters
    ----------
    student
        Moved to the CPU and put into eval mode.
    shape
        Channels, height and width.
    facts
        What travels with it, as JSON (`FACTS`).
    """
    student.cpu().eval()
    file = io.BytesIO()
    program = open_program(student, torch.zeros(2, *shape))
    torch.export.save(program, file, extra_files={FACTS: json.dumps(facts)})
    return file.getvalue()
