"""Models that can be explained: ONNX files, live sessions and functions, behind one interface.

Nothing here interprets outputs.
"""
