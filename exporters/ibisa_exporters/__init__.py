"""Offline tools that make ONNX files; the runtime never imports them."""
