"""The node tests that ship inside `onnx`, and the verdict on our gradient of each of them.

A case is one small model with its inputs. Each of its float inputs is differentiated in turn, and
the backward graph, run by ONNX Runtime, is compared with central differences of the case in
float64. The models are taken as they are, with everything but the differentiated input a constant,
with open image sides, and with everything an input of the graph.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ibisa_onnx.autodiff import Derivative, MissingRule, differentiate, missing_rules
from ibisa_onnx.autodiff.rules import RULES
from ibisa_onnx.errors import IbisaError, UnsupportedOperatorError

Array = np.ndarray[Any, Any]
Function = Callable[[Array], Array]

NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, *NARROW)

# Verdicts, from the best to the worst.
PASSES, PARTLY, UNSUPPORTED = "passes", "in part", "unsupported"
NO_DERIVATIVE, NO_KERNEL, FAILS = "no derivative", "no kernel", "fails"
VERDICTS = (PASSES, PARTLY, UNSUPPORTED, NO_DERIVATIVE, NO_KERNEL, FAILS)

_NATURE = {
    "piecewise constant": ("Ceil", "Floor", "Round", "Sign", "Hardmax", "TreeEnsemble"),
    "random": (
        *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"),
        *("RandomUniform", "RandomUniformLike"),
    ),
    "its input gives only a shape or a size": ("ConstantOfShape", "EyeLike", "MelWeightMatrix"),
    "reinterprets bits": ("BitCast",),
    "optimiser of a training loop": ("Adagrad", "Adam", "Gradient", "Momentum"),
    "rounds to two values": ("Binarizer",),
}
NATURE = {op_type: reason for reason, op_types in _NATURE.items() for op_type in op_types}


# -- the cases


@dataclass(frozen=True)
class Case:
    """One node test; `operator` is what it is about, also where it is expanded."""

    name: str
    operator: str
    model: onnx.ModelProto = field(repr=False)
    inputs: dict[str, Any] = field(repr=False)
    outputs: dict[str, Any] = field(repr=False)

    @cached_property
    def float_inputs(self) -> list[str]:
        """The tensors among the inputs that a gradient may be asked for."""
        given = [i for i in self.model.graph.input if isinstance(self.inputs[i.name], np.ndarray)]
        return [i.name for i in given if i.type.tensor_type.elem_type in FLOATS]

    @cached_property
    def float_outputs(self) -> list[str]:
        outputs = self.model.graph.output
        return [o.name for o in outputs if o.type.tensor_type.elem_type in FLOATS]

    @cached_property
    def composite(self) -> bool:
        """Whether sequences or optional values go in or out."""
        values = [*self.model.graph.input, *self.model.graph.output]
        return any(v.type.WhichOneof("value") != "tensor_type" for v in values)


@cache
def load_cases() -> list[Case]:
    """Every node test of the installed onnx, in its order."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        cases = collect_testcases(None)
    nodes = {c.name: c.model.graph.node[0] for c in cases}
    return [_read(case, nodes) for case in cases]


def _read(case: Any, nodes: dict[str, onnx.NodeProto]) -> Case:
    node = nodes[re.sub(r"_expanded(_ver\d+)?$", "", case.name)]
    domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
    given, expected = case.data_sets[0]
    graph = case.model.graph
    return Case(
        name=case.name,
        operator=domain + node.op_type,
        model=case.model,
        inputs={i.name: _array(value) for i, value in zip(graph.input, given, strict=True)},
        outputs={o.name: _array(value) for o, value in zip(graph.output, expected, strict=True)},
    )


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto) and value.data_type in FLOATS:
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


# -- variants of a model


def variant(
    case: Case, x: str, *, constants: bool = True, open_sides: bool = False
) -> onnx.ModelProto:
    """The case's model, ready to be differentiated with respect to `x`."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for value in list(model.graph.input):
        if value.name == x:
            if open_sides:
                for side in value.type.tensor_type.shape.dim:
                    side.Clear()
        elif constants and value.type.HasField("tensor_type"):
            model.graph.initializer.append(_tensor(case.inputs[value.name], value))
            model.graph.input.remove(value)
    return model


def _tensor(array: Any, value: onnx.ValueInfoProto) -> onnx.TensorProto:
    tensor = onnx.TensorProto()
    if isinstance(array, onnx.TensorProto):  # of a type narrower than a byte
        tensor.CopyFrom(array)
        tensor.name = value.name
        return tensor
    tensor = numpy_helper.from_array(np.asarray(array), value.name)
    elem = value.type.tensor_type.elem_type
    if tensor.data_type != elem:
        raise ValueError(f"{value.name} holds {tensor.data_type}, not {elem}")
    return tensor


def promoted(model: onnx.ModelProto, elem: int = TensorProto.DOUBLE) -> onnx.ModelProto:
    """The model with all floats of one type, but for the inputs that can only be float32."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    fixed = _fixed_inputs(result)
    graph = result.graph
    for value in [*graph.input, *graph.output]:
        kind = value.type.tensor_type
        if kind.elem_type in FLOATS and value.name not in fixed:
            kind.elem_type = elem
    for tensor in graph.initializer:
        if tensor.name not in fixed:
            _promote_tensor(tensor, elem)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "stash_type") and attribute.i in FLOATS:
                attribute.i = elem
            elif attribute.name == "value" and attribute.HasField("t"):
                _promote_tensor(attribute.t, elem)
            elif attribute.name in ("value_float", "value_floats"):
                _promote_numbers(attribute, elem)
    del graph.value_info[:]
    return result


def _promote_tensor(tensor: onnx.TensorProto, elem: int) -> None:
    if tensor.data_type in FLOATS:
        array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(elem))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _promote_numbers(attribute: onnx.AttributeProto, elem: int) -> None:
    numbers = attribute.f if attribute.name == "value_float" else list(attribute.floats)
    tensor = numpy_helper.from_array(np.array(numbers, helper.tensor_dtype_to_np_dtype(elem)))
    attribute.CopyFrom(helper.make_attribute("value", tensor))


def _fixed_inputs(model: onnx.ModelProto) -> set[str]:
    """Inputs that their operator takes as float32 only, such as the scales of Resize."""
    opsets = {o.domain: o.version for o in model.opset_import}
    fixed = set()
    for node in model.graph.node:
        schema = onnx.defs.get_schema(node.op_type, opsets[node.domain], node.domain)
        formal = list(schema.inputs)
        for i, name in enumerate(node.input):
            if formal and formal[min(i, len(formal) - 1)].type_str == "tensor(float)":
                fixed.add(name)
    return fixed


# -- running


def _feeds(model: onnx.ModelProto, values: dict[str, Any]) -> dict[str, Any]:
    """The values of the model's inputs, floats in the type that it takes."""
    types = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    feeds = {name: values[name] for name in types}
    for name, elem in types.items():
        if elem in FLOATS:
            feeds[name] = np.asarray(values[name]).astype(helper.tensor_dtype_to_np_dtype(elem))
    return feeds


class NoKernelError(Exception):
    """ONNX Runtime cannot run a model."""


Runner = Callable[[dict[str, Any]], list[Array]]


def runtime(model: onnx.ModelProto) -> Runner:
    """The model in ONNX Runtime, on one thread; bfloat16, which NumPy lacks, comes out wider."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    serialized = _with_readable_outputs(model).SerializeToString()
    try:
        session = ort.InferenceSession(serialized, options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors share no base class
        raise NoKernelError(_first_line(error)) from error
    names = [i.name for i in session.get_inputs()]

    def run(feeds: dict[str, Any]) -> list[Array]:
        values = {name: _ort_value(feeds[name]) for name in names}
        try:
            return [v.numpy() for v in session.run_with_ort_values(None, values)]
        except Exception as error:  # as above
            raise NoKernelError(_first_line(error)) from error

    return run


def _with_readable_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    narrow = [o for o in model.graph.output if o.type.tensor_type.elem_type == TensorProto.BFLOAT16]
    if not narrow:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for output in result.graph.output:
        if output.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            wide = f"{output.name}/wide"
            cast = helper.make_node("Cast", [output.name], [wide], to=TensorProto.FLOAT)
            result.graph.node.append(cast)
            output.name, output.type.tensor_type.elem_type = wide, TensorProto.FLOAT
    return result


def _ort_value(array: Array) -> ort.OrtValue:
    if array.dtype.name == "bfloat16":
        elem = TensorProto.BFLOAT16
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), elem)
    return ort.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))


def reference(model: onnx.ModelProto) -> Runner:
    """The model in ONNX's reference implementation."""
    try:
        evaluator = ReferenceEvaluator(model)
    except Exception as error:  # it raises whatever comes
        raise NoKernelError(_first_line(error)) from error
    names = set(evaluator.input_names)

    def run(feeds: dict[str, Any]) -> list[Array]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return evaluator.run(None, {k: v for k, v in feeds.items() if k in names})
        except Exception as error:  # as above
            raise NoKernelError(_first_line(error)) from error

    return run


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text).splitlines()[0][:160]


# -- central differences


@dataclass(frozen=True)
class Probes:
    """Directional derivatives of dy . y(x), and how exact they are."""

    x: Array
    dy: Array
    directions: Array
    slopes: Array
    tolerance: float

    def distance(self, dx: Array) -> float:
        """The largest error, relative to the largest slope."""
        if not len(self.slopes):
            return 0.0
        found = self.directions @ dx.astype(np.float64).reshape(-1)
        error = np.abs(found - self.slopes)
        least = 0.1 if dx.dtype.itemsize == 2 else 1e-2  # below, rounding may be all there is
        return float(np.max(error) / max(np.max(np.abs(self.slopes)), least))


_ALL, _SOME, _FEW, _LARGE = 96, 40, 2, 4096
_MIXED, _TERMS = 4, 256


def _directions(size: int, rng: np.random.Generator) -> Array:
    """Sums of many axes, and every axis where they are few, else some of them."""
    mixed = rng.choice([-1.0, 1.0], (_MIXED, size))
    mixed *= rng.random((_MIXED, size)) < _TERMS / max(size, 1)  # few enough to miss all corners
    if size <= _ALL:
        return np.concatenate([mixed, np.eye(size)])
    some = _SOME if size < _LARGE else _FEW
    single = np.zeros((some, size))
    single[np.arange(some), rng.choice(size, some, replace=False)] = 1
    return np.concatenate([mixed, single])


def probe(case: Case, x: str, y: str) -> Probes:
    """Central differences: in float64 if anything evaluates the case so, else in float32.

    Raises
    ------
    NoKernelError
        If nothing evaluates the case to the result that it expects.
    """
    model = variant(case, x)
    double, single = promoted(model), promoted(model, TensorProto.FLOAT)
    ways = [(runtime, double, _FINE), (reference, double, _FINE)]
    ways += [(runtime, single, _WIDE), (reference, single, _WIDE)]
    reasons = []
    for way, candidate, scale in ways:
        try:
            return _differences(case, _Forward(case, way, candidate, x, y), scale)
        except NoKernelError as error:
            reasons.append(str(error))
    raise NoKernelError(reasons[-2])


class _Forward:
    """The case as a function of one input, others as they are."""

    def __init__(self, case: Case, way: Any, model: onnx.ModelProto, x: str, y: str) -> None:
        self.run, self.x, self.y = way(model), x, y
        self.index = [o.name for o in model.graph.output].index(y)
        self.feeds = _feeds(model, case.inputs)

    def __call__(self, value: Array) -> Array:
        feeds = self.feeds | {self.x: np.asarray(value).astype(self.feeds[self.x].dtype)}
        return np.asarray(self.run(feeds)[self.index]).astype(np.float64)


@dataclass(frozen=True)
class _Scale:
    """The step of the differences, and the error that it leaves, relative to the largest slope.

    The first `repeated` of them (None: all) are taken once more, with a step `stretch` as long. No
    whole number where they only show rounding, which may be the same for a step and its double.
    """

    step: float
    tolerance: float
    stretch: float
    repeated: int | None


_FINE, _WIDE = _Scale(1e-6, 1e-5, 7.3, _MIXED), _Scale(1e-2, 5e-3, 2, None)


def _differences(case: Case, forward: _Forward, scale: _Scale) -> Probes:
    rng = np.random.default_rng(0)
    x = case.inputs[forward.x].astype(np.float64)
    _require_expected(forward(x), case.outputs[forward.y])
    x = _off_the_kinks(forward, x, scale, rng)
    dy = rng.normal(size=forward(x).shape)
    directions = _directions(x.size, rng)

    def slopes(directions: Array, step: float) -> Array:
        reaches = (step * direction.reshape(x.shape) for direction in directions)
        changes = (forward(x + reach) - forward(x - reach) for reach in reaches)
        return np.array([np.sum(dy * change) for change in changes]) / (2 * step)

    with np.errstate(invalid="ignore"):
        found = slopes(directions, scale.step)
        longer = slopes(directions[: scale.repeated], scale.stretch * scale.step)
    finite = np.isfinite(found)
    probes = Probes(x, dy, directions[finite], found[finite], scale.tolerance)
    _require_settled(found[: len(longer)], longer, 20 * scale.tolerance)
    if scale is _WIDE:  # rid of the third derivative
        return replace(probes, slopes=((4 * found - longer) / 3)[finite])
    return probes


def _require_settled(once: Array, again: Array, tolerance: float) -> None:
    """Two steps must say the same; they do not where a function is evaluated too coarsely."""
    finite = np.isfinite(once) & np.isfinite(again)
    once, again = once[finite], again[finite]
    if once.size and np.max(np.abs(once - again)) > tolerance * max(np.max(np.abs(once)), 1e-2):
        raise NoKernelError("differences of two steps disagree")


def _require_expected(found: Array, expected: Any) -> None:
    wanted = np.asarray(expected).astype(np.float64)
    if found.shape != wanted.shape or not np.allclose(
        found, wanted, rtol=2e-2, atol=2e-2, equal_nan=True
    ):
        raise NoKernelError("its result is not what the case expects")


_FURTHEST = 0.5


def _off_the_kinks(forward: _Forward, x: Array, scale: _Scale, rng: np.random.Generator) -> Array:
    """Move each element a little, as the cases like to sit where a function has a corner.

    Equal elements move by amounts that are further apart than the steps reach.
    """
    apart = 3 * scale.stretch * scale.step
    places = rng.permutation(x.size).reshape(x.shape) % max(int(_FURTHEST / apart), 1)
    off = max(1e-3, 3 * scale.step) + apart * places
    well = np.isfinite(forward(x))
    for moved in (x + off, x - off, x * (1 - off)):
        y = forward(moved)
        if y.shape == well.shape and np.array_equal(np.isfinite(y), well):
            return moved
    return x


# -- the verdict


@dataclass(frozen=True)
class Verdict:
    """What became of a case: one of VERDICTS, why, and remarks on variants of it."""

    kind: str
    reason: str = ""
    remarks: tuple[str, ...] = ()


def judge(case: Case) -> Verdict:
    """Differentiate a case in all its variants and compare."""
    if reason := _nature(case):
        return Verdict(NO_DERIVATIVE, reason)
    parts = {x: [_judge_pair(case, x, y) for y in case.float_outputs] for x in case.float_inputs}
    everything = [part for some in parts.values() for part in some]
    for kind in (FAILS, NO_KERNEL):
        if worst := next((part for part in everything if part.kind == kind), None):
            return worst
    differentiable = [part for part in everything if part.kind != NO_DERIVATIVE]
    if not differentiable:
        return everything[0]
    kinds = {part.kind for part in differentiable}
    remarks = dict.fromkeys(remark for part in differentiable for remark in part.remarks)
    kind = kinds.pop() if len(kinds) == 1 else PARTLY
    return Verdict(kind, _refusals(case, parts), tuple(remarks))


def _refusals(case: Case, parts: dict[str, list[Verdict]]) -> str:
    """Each reason once, with the inputs that it holds for."""
    places: dict[str, list[int]] = {}
    for place, x in enumerate(case.inputs):
        for reason in dict.fromkeys(p.reason for p in parts.get(x, []) if p.kind == UNSUPPORTED):
            places.setdefault(reason, []).append(place)
    whole = len(case.float_inputs)
    return "; ".join(
        reason if len(some) == whole else f"input {', '.join(map(str, some))}: {reason}"
        for reason, some in places.items()
    )


def _nature(case: Case) -> str:
    """Why there can be no derivative, or ""."""
    if reason := NATURE.get(case.operator.rpartition(".")[2]):
        return reason
    if case.composite:
        return "sequence or optional values"
    if not case.float_inputs:
        return "no floating-point input"
    if not case.float_outputs:
        return "no floating-point output"
    if case.operator == "Dropout" and np.any(case.inputs.get("t", False)):
        return "random"
    return ""


def _judge_pair(case: Case, x: str, y: str) -> Verdict:
    model = variant(case, x)
    try:
        derivative = differentiate(model, x, y)
    except UnsupportedOperatorError as error:
        return _refused(case, model, x, y, error)
    except Exception as error:  # anything but a refusal is a defect
        return Verdict(FAILS, f"{x} to {y}: {type(error).__name__}: {_plain(_first_line(error))}")
    try:
        probes = probe(case, x, y)
        compare(case, model, derivative, probes)
        remarks = list(_other_variants(case, x, y, probes))
    except NoKernelError as error:
        return Verdict(NO_KERNEL, _plain(str(error)))
    except WrongGradientError as error:
        if not _is_run_as_expected(case, model, y):
            return Verdict(NO_KERNEL, "ONNX Runtime's own result is not what the case expects")
        return Verdict(FAILS, f"{x} to {y}: {error}")
    return Verdict(PASSES, remarks=tuple(remarks))


def _is_run_as_expected(case: Case, model: onnx.ModelProto, y: str) -> bool:
    """Whether ONNX Runtime, whose gradient ours is, computes what the differences were taken of."""
    place = [output.name for output in model.graph.output].index(y)
    try:
        _require_expected(runtime(model)(_feeds(model, case.inputs))[place], case.outputs[y])
    except NoKernelError:
        return False
    return True


_FLAT = ("its output has no gradient", "does not depend on")


def _refused(case: Case, model: onnx.ModelProto, x: str, y: str, error: Exception) -> Verdict:
    names = [node.name or node.output[0] for node in model.graph.node]
    if not any(repr(name) in str(error) for name in (*names, y)):
        return Verdict(FAILS, f"{x} to {y}: rejected without naming the node: {error}")
    rules = missing_rules(model, x, y)
    if rules and all(rule.why.startswith(_FLAT) for rule in rules):
        return _flat(case, x, y)
    reason = _reason(case, rules, error)
    place = list(case.inputs).index(x)
    if _declared_flat(case, place):
        return Verdict(NO_DERIVATIVE, f"ONNX declares its input {place} not differentiable")
    return Verdict(UNSUPPORTED, reason)


def _flat(case: Case, x: str, y: str) -> Verdict:
    """No path leads from the input to the output; the differences have to say so too."""
    try:
        probes = probe(case, x, y)
    except NoKernelError as error:
        return Verdict(NO_KERNEL, _plain(str(error)))
    if probes.distance(np.zeros(probes.x.shape)) > probes.tolerance:
        return Verdict(FAILS, f"{x} to {y}: taken for constant, which it is not")
    return Verdict(NO_DERIVATIVE, "its value does not matter to the result")


def _reason(case: Case, rules: Sequence[MissingRule], error: Exception) -> str:
    if not rules:
        return _plain(str(error))
    first = rules[0]
    own = first.op_type == case.operator.rpartition(".")[2]
    return _plain(first.why if own else f"{first.op_type}: {first.why}")


def _declared_flat(case: Case, place: int) -> bool:
    node = case.model.graph.node[0]
    opset = next(o.version for o in case.model.opset_import if o.domain == node.domain)
    formal = list(onnx.defs.get_schema(node.op_type, opset, node.domain).inputs)
    flat = onnx.defs.OpSchema.DifferentiationCategory.NonDifferentiable
    if place == 0 and RULES.get(node.op_type, node.domain) is not None:
        return False  # whatever ONNX says: DFT is linear
    return place < len(formal) and formal[place].differentiation_category == flat


def _plain(reason: str) -> str:
    """A reason without the names of one case."""
    reason = re.sub(r"'?grad/\w+'?|'\w+_expanded_function_\w+'", "…", reason)
    reason = re.sub(r".* while running (\w+) node\..*", r"the \1 of ONNX Runtime stops", reason)
    reason = re.sub(r"in its definition: (\w+) …: ", r"\1: ", reason)
    return re.sub(r"node with name '[^']*'|[Nn]ame:'?[\w/]*'?|\(node:[^)]*\)", "node", reason)


class WrongGradientError(Exception):
    """A gradient that does not agree with central differences, or a graph that does not run."""


def _other_variants(case: Case, x: str, y: str, probes: Probes) -> Iterator[str]:
    """Compare the other ways to hand in the case; yield why one of them is unsupported."""
    ways = {"dynamic sides": {"open_sides": True}, "nothing constant": {"constants": False}}
    for name, options in ways.items():
        narrow = any(isinstance(value, onnx.TensorProto) for value in case.inputs.values())
        if name == "nothing constant" and (len(case.inputs) == 1 or narrow):
            continue
        model = variant(case, x, **options)
        try:
            _require(_gradient(case, differentiate(model, x, y), probes), probes)
        except UnsupportedOperatorError as error:
            yield f"{name}: {_reason(case, missing_rules(model, x, y), error)}"
        except WrongGradientError as error:
            raise WrongGradientError(f"{name}: {error}") from error


_TOLERANCE = {"float16": 6e-2, "bfloat16": 2e-1, "float32": 2e-3, "float64": 1e-5}


def compare(case: Case, model: onnx.ModelProto, derivative: Derivative, probes: Probes) -> None:
    """Run a derivative as it is, and in float64 where ONNX Runtime can.

    Raises
    ------
    WrongGradientError, NoKernelError
    """
    x, y = derivative.input, derivative.output
    _require(_gradient(case, derivative, probes), probes)
    double = promoted(model)
    if case.model.graph.node[0].op_type in ("Cast", "CastLike"):
        return
    try:
        twice = differentiate(double, x, y)
        runtime(twice.backward)
        dx = _gradient(case, twice, probes)
    except (NoKernelError, IbisaError):
        return
    _require(dx, probes)


def _require(dx: Array, probes: Probes) -> None:
    if dx.shape != probes.x.shape:
        raise WrongGradientError(f"the gradient has shape {dx.shape}, not {probes.x.shape}")
    tolerance = max(probes.tolerance, _TOLERANCE[dx.dtype.name])
    distance = probes.distance(dx)
    if not distance <= tolerance:
        raise WrongGradientError(f"in {dx.dtype.name} off by {distance:.2g}")


def _gradient(case: Case, derivative: Derivative, probes: Probes) -> Array:
    """Run both graphs of a derivative."""
    forward = runtime(derivative.forward)
    y, *saved = forward(_feeds(derivative.forward, case.inputs | {derivative.input: probes.x}))
    try:
        backward = runtime(derivative.backward)
        given = dict(zip(derivative.saved, saved, strict=True))
        given[derivative.cotangent] = probes.dy.astype(y.dtype)
        (dx,) = backward(_feeds(derivative.backward, given))
    except NoKernelError as error:
        raise WrongGradientError(f"the backward graph does not run: {error}") from error
    return dx
