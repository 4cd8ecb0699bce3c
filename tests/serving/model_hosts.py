"""Serves plain ONNX models on a real server: Triton, KServe or MLServer.

Run by the interpreter of the server's environment, which need not have this package:

    python model_hosts.py triton|kserve|mlserver HTTP_PORT GRPC_PORT NAME=FILE...

`NAME=FILE:undeclared` declares neither inputs nor outputs (KServe and MLServer).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

_DATATYPES = {
    "tensor(float)": "FP32",
    "tensor(uint8)": "UINT8",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
}


class Hosted:
    """An ONNX model, with its tensors as the protocol declares them."""

    def __init__(self, path: str) -> None:
        path, _, flag = path.partition(":")
        self.declared = flag != "undeclared"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        weights = {each.name for each in self.session.get_overridable_initializers()}
        self.inputs = [
            _tensor(each) for each in self.session.get_inputs() if each.name not in weights
        ]
        self.outputs = [_tensor(each) for each in self.session.get_outputs()]
        self.batches = self.inputs[0]["shape"][0] == -1

    def __call__(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [each["name"] for each in self.outputs]
        return dict(zip(names, self.session.run(names, feeds), strict=True))


def _tensor(found: Any) -> dict[str, Any]:
    sides = [side if isinstance(side, int) and side > 0 else -1 for side in found.shape]
    return {"name": found.name, "datatype": _DATATYPES[found.type], "shape": sides}


def triton(http: int, grpc: int, models: dict[str, Hosted]) -> None:
    from pytriton.model_config import ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    dtypes = {"FP32": np.float32, "UINT8": np.uint8, "INT64": np.int64, "FP16": np.float16}

    def tensors(declared: list[dict[str, Any]], batches: bool) -> list[Any]:
        return [
            Tensor(
                name=each["name"],
                dtype=dtypes[each["datatype"]],
                shape=tuple(each["shape"][1:] if batches else each["shape"]),
            )
            for each in declared
        ]

    def function(model: Hosted) -> Any:
        def infer(requests: list[Any]) -> list[Any]:
            return [model({name: each[name] for name in each.data}) for each in requests]

        return infer

    config = TritonConfig(
        http_port=http,
        grpc_port=grpc,
        allow_metrics=False,
        http_address="127.0.0.1",
        grpc_address="127.0.0.1",
    )
    with Triton(config=config) as server:
        for name, model in models.items():
            server.bind(
                model_name=name,
                infer_func=function(model),
                inputs=tensors(model.inputs, model.batches),
                outputs=tensors(model.outputs, model.batches),
                config=ModelConfig(batching=model.batches, max_batch_size=4),
            )
        server.serve()


def kserve(http: int, grpc: int, models: dict[str, Hosted]) -> None:
    import kserve as library

    class Served(library.Model):
        def __init__(self, name: str, model: Hosted) -> None:
            super().__init__(name)
            self.model, self.ready = model, True

        async def get_input_types(self) -> list[dict[str, Any]]:
            return self.model.inputs if self.model.declared else []

        async def get_output_types(self) -> list[dict[str, Any]]:
            return self.model.outputs if self.model.declared else []

        def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
            found = self.model({each.name: each.as_numpy() for each in payload.inputs})
            outputs = []
            for each in self.model.outputs:
                value = found[each["name"]]
                output = library.InferOutput(each["name"], list(value.shape), each["datatype"])
                output.set_data_from_numpy(value, binary_data=payload.from_grpc)
                outputs.append(output)
            return library.InferResponse(payload.id or "", self.name, outputs)

    server = library.ModelServer(http_port=http, grpc_port=grpc, workers=1)
    server.start([Served(name, model) for name, model in models.items()])


def mlserver(http: int, grpc: int, models: dict[str, Hosted]) -> None:

    folder = Path(tempfile.mkdtemp())
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": 0,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    for name, model in models.items():
        (folder / name).mkdir()
        said = {
            "name": name,
            "implementation": "model_hosts_runtime.Runtime",
            "parameters": {"uri": model.path, "version": "v2"},
        }
        if model.declared:
            said |= {"inputs": model.inputs, "outputs": model.outputs}
        (folder / name / "model-settings.json").write_text(json.dumps(said))
    (folder / "model_hosts_runtime.py").write_text(_RUNTIME)
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": f"{folder}:{here}"}
    os.chdir(folder)
    arguments = [sys.executable, "-m", "mlserver.cli.main", "start", str(folder)]
    os.execve(sys.executable, arguments, environment)


_RUNTIME = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

from model_hosts import Hosted


class Runtime(MLModel):
    async def load(self):
        self._hosted = Hosted(self.settings.parameters.uri)
        return True

    async def predict(self, payload):
        feeds = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        found = self._hosted(feeds)
        outputs = [NumpyCodec.encode_output(name, value) for name, value in found.items()]
        return InferenceResponse(model_name=self.name, model_version="v2", outputs=outputs)
"""

if __name__ == "__main__":
    kind, http_port, grpc_port, *pairs = sys.argv[1:]
    hosted = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        hosted[name] = Hosted(path)
        hosted[name].path = path.partition(":")[0]
    {"triton": triton, "kserve": kserve, "mlserver": mlserver}[kind](
        int(http_port), int(grpc_port), hosted
    )
