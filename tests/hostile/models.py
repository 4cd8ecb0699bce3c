"""Models: damaged files, sizes that nobody has, graphs that never end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hostile.base import (
    CLASSES,
    INSPECT,
    RUN,
    SIDE,
    flipped,
    graph,
    model,
    truncated,
    with_model,
    write,
)
from hostile.case import Case, Expected

_FAMILY = "models"
_DEADLINE = ("--deadline-ms", "1000")


def make() -> Iterator[Case]:
    honest = model().SerializeToString()
    yield _of("honest", lambda: honest, "explained")
    for name, data in truncated(honest):
        yield _of(name, lambda data=data: data, "refused")
    for name, data in flipped(honest, 50):
        yield _of(name, lambda data=data: data)
    for name, (source, expected) in _structures().items():
        yield _of(name, source, expected)
        yield Case(_FAMILY, f"inspect-{name}", with_model(source, *INSPECT))
    for name, source in _sizes().items():
        yield _of(name, source, "refused")
        yield Case(_FAMILY, f"inspect-{name}", with_model(source, *INSPECT), "refused")
        yield Case(
            _FAMILY,
            f"annotate-{name}",
            with_model(source, "annotate", "m.onnx", "--preprocess", "unit", "-o", "a.onnx"),
        )
    for name, source in _endless().items():
        for command in (RUN, INSPECT):
            words = (*command, *_DEADLINE)
            yield Case(_FAMILY, f"{command[0]}-{name}", with_model(source, *words), "refused")
    for name, source in _outputs().items():
        yield _of(f"output-{name}", source)
    for name, make_file in _no_files().items():
        for command in (RUN, INSPECT, ("annotate", "m.onnx", "--preprocess", "unit")):
            yield Case(_FAMILY, f"{command[0]}-{name}", _instead(make_file, command), "refused")


def _of(name: str, source: Callable[[], Any], expected: Expected = "either") -> Case:
    return Case(_FAMILY, name, with_model(source), expected)


def _instead(make_file: Callable[[Path], object], words: tuple[str, ...]) -> Any:
    def build(folder: Path) -> tuple[str, ...]:
        write(folder)
        (folder / "m.onnx").unlink()
        make_file(folder / "m.onnx")
        return words

    return build


def node(op: str, inputs: str, outputs: str, **more: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **more)


def _edited(change: Callable[[onnx.ModelProto], object]) -> Callable[[], onnx.ModelProto]:
    def source() -> onnx.ModelProto:
        made = model()
        change(made)
        return made

    return source


def _bytes_in_place(old: bytes, new: bytes) -> Callable[[], bytes]:
    assert len(old) == len(new)

    def source() -> bytes:
        data = model(metadata={"author": "someone"}).SerializeToString()
        assert old in data
        return data.replace(old, new)

    return source


def _structures() -> dict[str, tuple[Callable[[], Any], Expected]]:
    def no_nodes(made: onnx.ModelProto) -> None:
        del made.graph.node[:]

    def cycle(made: onnx.ModelProto) -> None:
        made.graph.node[1].input[0] = "l"

    def twice(made: onnx.ModelProto) -> None:
        made.graph.node.append(made.graph.node[0])

    def absent(made: onnx.ModelProto) -> None:
        made.graph.node[0].input[0] = "nowhere"

    def no_output(made: onnx.ModelProto) -> None:
        del made.graph.output[:]

    def no_input(made: onnx.ModelProto) -> None:
        del made.graph.input[:]

    def bad_dims(made: onnx.ModelProto) -> None:
        made.graph.initializer[0].dims[0] = 2**40

    def negative(made: onnx.ModelProto) -> None:
        made.graph.initializer[0].dims[0] = -CLASSES

    def strange_type(made: onnx.ModelProto) -> None:
        made.graph.initializer[0].data_type = 99

    def no_opset(made: onnx.ModelProto) -> None:
        del made.opset_import[:]

    def opset(number: int) -> Callable[[onnx.ModelProto], None]:
        def change(made: onnx.ModelProto) -> None:
            made.opset_import[0].version = number

        return change

    def ir(number: int) -> Callable[[onnx.ModelProto], None]:
        def change(made: onnx.ModelProto) -> None:
            made.ir_version = number

        return change

    changes: dict[str, Callable[[onnx.ModelProto], None]] = {
        "no-nodes": no_nodes,
        "cycle": cycle,
        "twice": twice,
        "absent-input": absent,
        "no-output": no_output,
        "no-input": no_input,
        "dims-huge": bad_dims,
        "dims-negative": negative,
        "type-99": strange_type,
        "no-opset": no_opset,
        "opset-99": opset(99),
        "opset-0": opset(0),
        "opset-negative": opset(-1),
        "ir-99": ir(99),
    }
    found: dict[str, tuple[Callable[[], Any], Expected]] = {
        name: (_edited(change), "refused") for name, change in changes.items()
    }
    return found | {
        "empty": (lambda: b"", "refused"),
        "text": (lambda: b"not a model", "refused"),
        "garbage": (lambda: bytes(range(256)) * 40, "refused"),
        "varint": (lambda: b"\x3a" + b"\xff" * 9 + b"\x01", "refused"),
        "tensor": (
            lambda: numpy_helper.from_array(np.ones(9, np.float32)).SerializeToString(),
            "refused",
        ),
        "name-not-utf8": (_bytes_in_place(b"conv", b"\xff\xfe\xff\xff"), "either"),
        "op-not-utf8": (_bytes_in_place(b"Relu", b"\xff\xfe\xff\xff"), "refused"),
        "tensor-not-utf8": (_bytes_in_place(b"image", b"ima\xff\xff"), "either"),
        "metadata-not-utf8": (_bytes_in_place(b"someone", b"some\xff\xff\xff"), "either"),
        "recursion": (_recursive, "refused"),
        "doubling": (_doubling, "refused"),
        "nested": (_nested, "either"),
        "many-nodes": (_many_nodes, "either"),
        "unknown-operator": (
            lambda: model(graph([node("Nope", "l", "y", domain="own")])),
            "refused",
        ),
        "training": (_edited(lambda made: made.training_info.add()), "either"),
        "vector-doubling": (_vector_doubling, "either"),
        "many-outputs": (_many_outputs, "refused"),
        "many-boxes": (_many_boxes, "explained"),
    }


def _function(name: str, nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a"], ["b"], nodes, opsets)


def _recursive() -> onnx.ModelProto:
    functions = [_function("f", [node("f", "a", "b", domain="own")])]
    return model(graph([node("f", "l", "y", domain="own")]), functions=functions)


def _doubling() -> onnx.ModelProto:
    functions = [_function("f0", [node("Neg", "a", "b")])]
    for k in range(1, 25):
        calls = [
            node(f"f{k - 1}", "a", "c", domain="own"),
            node(f"f{k - 1}", "c", "b", domain="own"),
        ]
        functions.append(_function(f"f{k}", calls))
    return model(graph([node("f24", "l", "y", domain="own")]), functions=functions)


def _nested(depth: int = 22) -> onnx.ModelProto:
    """Return a model with branches in branches."""
    body = helper.make_graph(
        [node("Identity", "l", "b0")], "b", [], [helper.make_tensor_value_info("b0", 1, None)]
    )
    for k in range(1, depth):
        inner = node(
            "If", "yes", f"b{k}", then_branch=body, else_branch=body if k < 6 else _leaf(k)
        )
        out = helper.make_tensor_value_info(f"b{k}", 1, None)
        body = helper.make_graph([inner], "b", [], [out])
    last = node("If", "yes", "y", then_branch=body, else_branch=_leaf(depth))
    return model(graph([last], constants={"yes": np.array(True)}))


def _vector_doubling(times: int = 40) -> onnx.ModelProto:
    """Return a model in which a vector is joined to itself, in a branch that is never taken."""
    chain = [node("Concat", f"s{k} s{k}", f"s{k + 1}", axis=0) for k in range(times)]
    last = [node("Size", f"s{times}", "whole"), node("Cast", "whole", "real", to=1)]
    nodes = [node("Shape", "image", "s0"), *chain, *last, node("Mul", "l real", "b1")]
    out = helper.make_tensor_value_info("b1", 1, None)
    branch = helper.make_graph(nodes, "b", [], [out])
    tail = [
        node("ReduceMax", "image", "bright", keepdims=0),
        node("Greater", "bright most", "never"),
        node("If", "never", "y", then_branch=branch, else_branch=_leaf(1)),
    ]
    return model(graph(tail, constants={"most": np.float32(99)}))


def _many_outputs(count: int = 20000) -> onnx.ModelProto:
    made = model()
    for k in range(count):
        made.graph.node.append(node("Neg", "l", f"o{k}"))
        made.graph.output.add().CopyFrom(helper.make_tensor_value_info(f"o{k}", 1, ["n", 5]))
    return made


def _many_boxes(count: int = 10**6) -> onnx.ModelProto:
    """Return a detector, as Ultralytics writes them, that finds one object in so many boxes."""
    tail = [
        node("ReduceMean", "image", "mean", axes=[1, 2, 3], keepdims=0),
        node("Reshape", "mean column", "dark"),
        node("Mul", "dark little", "moved"),
        node("Add", "moved box", "one"),
        node("Expand", "one shape", "y"),
    ]
    constants = {
        "column": np.array([-1, 1, 1]),
        "little": np.float32(1e-3),
        "box": np.array([9, 9, 5, 5, 0.9, 0], np.float32).reshape(1, 6, 1),
        "shape": np.array([1, 6, count]),
    }
    made = graph(tail, outputs=[("y", 1, ["n", 6, count])], constants=constants)
    return model(made, {"author": "Ultralytics", "names": "{0: 'a', 1: 'b'}"})


def _leaf(k: int) -> onnx.GraphProto:
    name = f"e{k}"
    return helper.make_graph(
        [node("Identity", "l", name)], "e", [], [helper.make_tensor_value_info(name, 1, None)]
    )


def _many_nodes(count: int = 3000) -> onnx.ModelProto:
    chain = [node("Neg", "l" if k == 0 else f"t{k - 1}", f"t{k}") for k in range(count)]
    return model(graph([*chain, node("Neg", f"t{count - 1}", "y")]))


def _sizes() -> dict[str, Callable[[], onnx.ModelProto]]:
    def shaped(*shape: Any, outputs: Any = None) -> Callable[[], onnx.ModelProto]:
        return lambda: model(graph(shape=shape, outputs=outputs))

    def wide() -> onnx.ModelProto:
        many = 2 * 10**7
        tail = [node("Gather", "l zero", "one", axis=1), node("Expand", "one shape", "y")]
        return model(
            graph(
                tail,
                outputs=[("y", 1, ["n", 200 * many])],
                constants={"zero": np.array([0]), "shape": np.array([1, 200 * many])},
            )
        )

    def inner() -> onnx.ModelProto:
        tail = [
            node("Expand", "l shape", "wide"),
            node("ReduceMean", "wide", "y", axes=[0], keepdims=0),
        ]
        return model(graph(tail, constants={"shape": np.array([10**11, 1, CLASSES])}))

    def metadata(text: str) -> Callable[[], onnx.ModelProto]:
        return lambda: model(graph(shape=("n", 3, "h", "w")), {"ibisa": text})

    return {
        "input-30000": shaped("n", 3, 30000, 30000),
        "input-2**40": shaped("n", 3, 2**40, 4),
        "batch-100000": shaped(100000, 3, 224, 224),
        "batch-2**60": shaped(2**60, 3, SIDE, SIDE),
        "outputs-4e9": wide,
        "inner-5e11": inner,
    }


def _endless() -> dict[str, Callable[[], onnx.ModelProto]]:
    return {"loop": _loop, "loop-on-pictures": lambda: _loop(only_bright=True)}


def _loop(turns: int = 2**40, *, only_bright: bool = False) -> onnx.ModelProto:
    """Return a model that turns round so many times, or where a picture is bright only."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", "go", "on"), node("Neg", "state", "next")],
        "body",
        [value("turn", 7, []), value("go", 9, []), value("state", 1, None)],
        [value("on", 9, []), value("next", 1, None)],
    )
    before = [node("Identity", "turns", "count")]
    if only_bright:
        before = [
            node("ReduceMax", "image", "bright", keepdims=0),
            node("Ceil", "bright", "up"),
            node("Cast", "up", "whole", to=TensorProto.INT64),
            node("Clip", "whole none one", "switch"),
            node("Mul", "turns switch", "count"),
        ]
    constants = {
        "turns": np.array(turns),
        "yes": np.array(True),
        "none": np.array(0),
        "one": np.array(1),
    }
    return model(graph([*before, node("Loop", "count yes l", "y", body=body)], constants=constants))


def _outputs() -> dict[str, Callable[[], onnx.ModelProto]]:
    def of(op: str, kind: int = 1, **more: Any) -> Callable[[], onnx.ModelProto]:
        return lambda: model(
            graph([node(op, "l", "y", **more)], outputs=[("y", kind, ["n", CLASSES])])
        )

    def constant(value: float) -> Callable[[], onnx.ModelProto]:
        tail = [node("Mul", "l zero", "none"), node("Add", "none k", "y")]
        constants = {"zero": np.float32(0), "k": np.full((1, CLASSES), value, np.float32)}
        return lambda: model(graph(tail, constants=constants))

    def divided() -> onnx.ModelProto:
        return model(graph([node("Div", "l zero", "y")], constants={"zero": np.float32(0)}))

    def text() -> onnx.ModelProto:
        tail = [node("Cast", "l", "y", to=TensorProto.STRING)]
        return model(graph(tail, outputs=[("y", TensorProto.STRING, ["n", CLASSES])]))

    def sequence() -> onnx.ModelProto:
        made = model(graph([node("SequenceConstruct", "l l", "y")]))
        kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None))
        made.graph.output[0].type.CopyFrom(kind)
        return made

    def lying() -> onnx.ModelProto:
        return model(graph(outputs=[("y", 1, ["n", 77])]))

    def empty() -> onnx.ModelProto:
        tail = [node("Slice", "l zero zero one", "y")]
        constants = {"zero": np.array([0]), "one": np.array([1])}
        return model(graph(tail, outputs=[("y", 1, ["n", "k"])], constants=constants))

    def ranks() -> onnx.ModelProto:
        """Return a model whose answer has another number of axes for another picture."""
        tail = [
            node("ReduceSum", "image", "sum", keepdims=0),
            node("Cast", "sum", "whole", to=TensorProto.INT64),
            node("Mod", "whole four", "count"),
            node("Unsqueeze", "count first", "length"),
            node("Expand", "ones length", "sides"),
            node("Concat", "one sides rest", "shape", axis=0),
            node("Reshape", "l shape", "y"),
        ]
        constants = {
            "four": np.array(4),
            "first": np.array([0]),
            "ones": np.array([1]),
            "one": np.array([1]),
            "rest": np.array([-1]),
        }
        return model(graph(tail, outputs=[("y", 1, None)], constants=constants))  # type: ignore[list-item]

    return {
        "ranks": ranks,
        "bool": of("Cast", TensorProto.BOOL, to=TensorProto.BOOL),
        "int64": of("Cast", TensorProto.INT64, to=TensorProto.INT64),
        "half": of("Cast", TensorProto.FLOAT16, to=TensorProto.FLOAT16),
        "constant": constant(1.0),
        "nan": constant(float("nan")),
        "infinite": constant(float("inf")),
        "huge": constant(3e38),
        "tiny": constant(1e-45),
        "divided": divided,
        "text": text,
        "sequence": sequence,
        "lying-shape": lying,
        "empty": empty,
        "random": lambda: model(graph([node("RandomNormalLike", "l", "y")])),
        "argmax": lambda: model(
            graph([node("ArgMax", "l", "y", axis=1)], outputs=[("y", 7, ["n", 1])])
        ),
    }


def _no_files() -> dict[str, Callable[[Path], object]]:
    return {
        "pipe": lambda path: os.mkfifo(path),
        "zero": lambda path: path.symlink_to("/dev/zero"),
        "null": lambda path: path.symlink_to("/dev/null"),
        "folder": lambda path: path.mkdir(),
        "loop-link": lambda path: path.symlink_to(path),
    }
