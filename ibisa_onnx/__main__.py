"""`python -m ibisa_onnx …` does what the installed `ibisa-onnx …` does."""

from ibisa_onnx.commands import main

if __name__ == "__main__":
    main()
