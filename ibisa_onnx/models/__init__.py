"""What can be asked: ONNX files, live sessions and functions, behind one protocol.

Nothing here knows what the outputs mean.
"""
