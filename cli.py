"""`python cli.py …` from a checkout does what the installed `ibisa-onnx …` does."""

import sys

from ibisa_onnx.__main__ import main

if __name__ == "__main__":
    sys.path.insert(1, f"{sys.path[0]}/exporters")  # for `export` and `distill`
    main()
