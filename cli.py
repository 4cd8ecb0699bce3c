"""`python cli.py …` from a checkout does what the installed `ibisa-onnx …` does."""

import sys
from pathlib import Path

from ibisa_onnx.commands import main

if __name__ == "__main__":
    sys.path.insert(1, str(Path(__file__).parent / "exporters"))  # for `export` and `distill`
    main()
