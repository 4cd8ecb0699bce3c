"""Offline tools that make ONNX files; the runtime never imports them. All of them need torch."""

from ibisa_onnx.imports import import_extra

import_extra("torch", "export")  # so that whichever is imported says it in one line
