"""Fuzzing of what reads strangers' bytes by our own code; `make fuzz` looks longer than the tests.

`corpus/` holds models in ONNX's text syntax, which `mutation.py` changes field by field.
"""
