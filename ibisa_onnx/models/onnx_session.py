"""The deployed ONNX model: a file or live session, and the graphs derived from it.

`base.py` has what all models share: image checks, batching and pass counts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, cast

import numpy.typing as npt

from ibisa_onnx.checks import check_type
from ibisa_onnx.errors import IbisaError, ModelError, OutputError
from ibisa_onnx.io.files import Buffer, is_buffer
from ibisa_onnx.io.literals import parse_json
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.batch_axis import add_batch_axis, lone_picture
from ibisa_onnx.models.extra_inputs import check_extra_inputs, extra_feed
from ibisa_onnx.models.forking import generation, why_unusable
from ibisa_onnx.models.live_session import file_of_session
from ibisa_onnx.models.memory import check_answer, check_call
from ibisa_onnx.models.onnx_file import ModelFile, without_initializer_inputs
from ibisa_onnx.models.ort import CPU, CUDA, import_onnxruntime
from ibisa_onnx.models.ort_messages import essence
from ibisa_onnx.models.providers import (
    OPENVINO,
    Provider,
    check_providers,
    check_unreported,
    resolve_providers,
    with_options,
)
from ibisa_onnx.models.running import run
from ibisa_onnx.models.session_options import open_file, open_graph
from ibisa_onnx.models.signature import (
    METADATA_KEY,
    Layout,
    Signature,
    TensorInfo,
    check_metadata,
    find_image,
    read_layout,
)

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from ibisa_onnx.limits import Limits
    from ibisa_onnx.models.base import Images, Values
    from ibisa_onnx.models.passes import PassCounter
    from ibisa_onnx.models.weights import Weights

_BY_VALUE = frozenset({CPU, CUDA})  # accept weights as values; others may require a whole graph
_UNREPORTED = (
    "OpenVINO does not report the options of an open session, so graphs derived from it use its "
    'defaults; pass its options as providers=[("openvino", {...})], or providers=["openvino"] if '
    "it has none"
)
_MOST_TENSORS = 1000  # inputs, and outputs: each is compared with all others
_NUMPY_NAMES = {"float": "float32", "double": "float64"}


class DeployedModel(ImageModel):
    """An ONNX model in ONNX Runtime, as deployed: runs float32 images and counts passes.

    Create one with `DeployedModel.open`, which `Explainer` does for paths, bytes and sessions.

    Parameters
    ----------
    session
        The `onnxruntime.InferenceSession`.
    file
        The model file behind it.
    signature
        Inputs and outputs.
    extra_inputs
        Values of all inputs but the image, by name.
    threads
        Threads per operator; None: ONNX Runtime's default.
    max_batch
        Maximum images per call if the batch axis is dynamic.
    provider_options
        Options of providers that the session does not report, by the provider's full name.

    Attributes
    ----------
    session : onnxruntime.InferenceSession
        The session.
    file : ModelFile
        The model file, as far as it is known.

    Raises
    ------
    ModelError
        A value for another input is missing or does not fit.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        file: ModelFile,
        signature: Signature,
        *,
        extra_inputs: Mapping[str, npt.NDArray[Any]] | None = None,
        threads: int | None = None,
        max_batch: int = 8,
        provider_options: Mapping[str, dict[str, str]] | None = None,
    ) -> None:
        on_cpu = set(session.get_providers()) == {CPU}
        super().__init__(signature, max_batch, (threads or cores()) if on_cpu else 1)
        self._on_cpu, self._extension, self._opened = on_cpu, "", generation()
        self.session = session
        self.file = file
        self._threads = threads
        self._provider_options = dict(provider_options or {})
        self._extra = check_extra_inputs(signature, extra_inputs or {}, file.label)

    @classmethod
    def open(
        cls,
        source: str | os.PathLike[str] | Buffer | onnxruntime.InferenceSession,
        *,
        providers: Sequence[Provider] = (),
        input: str | None = None,
        layout: str | None = None,
        extra_inputs: Mapping[str, npt.NDArray[Any]] | None = None,
        threads: int | None = None,
        max_batch: int = 8,
        limits: Limits | None = None,
    ) -> DeployedModel:
        """Open a model, or wrap a live session.

        Parameters
        ----------
        source
            The path of an ONNX file (with its external weights beside it, if any), its bytes in any
            buffer, or a live `onnxruntime.InferenceSession`.
        providers
            Execution providers, short or full names, or pairs of a name and its options; empty:
            CUDA if it works, else CPU. For a live session, options that its provider does not
            report, for the graphs that are derived.
        input
            Name of the image input; None: the only input that can hold images.
        layout
            "NCHW" or "NHWC"; None: inferred from the input's shape.
        extra_inputs
            Values of all other inputs, by name, cast to the input's dtype and rank: four numbers
            for [N, 4] become [1, 4]. A value with a leading axis of 1 is repeated per image if that
            axis is dynamic.
        threads
            Threads per operator; None: ONNX Runtime's default.
        max_batch
            Maximum images per call if the batch axis is dynamic.
        limits
            Limits on the model; None: from the environment.

        Returns
        -------
        DeployedModel
            The opened model.

        Raises
        ------
        ModelError
            The file cannot be opened, is not an image model, or exceeds the limits.
        ProviderError
            A requested execution provider is not available.

        Examples
        --------
        ```python
        model = ibisa_onnx.DeployedModel.open("model.onnx", providers=["cuda"])
        explainer = ibisa_onnx.Explainer(model)
        ```
        """
        warnings = []
        check_type("providers", providers, (str, list, tuple), "a list of names")
        check_type("input", input, (str, NoneType), "a name")
        check_type("extra_inputs", extra_inputs, (Mapping, NoneType), "values by name in a dict")
        names, options = with_options([providers] if isinstance(providers, str) else providers)
        if isinstance(source, str | os.PathLike) or is_buffer(source):
            file = ModelFile.of(cast("str | Buffer", source), limits)
            file.check_readable()
            wanted = [(name, options.get(name, {})) for name in resolve_providers(names)]
            session = open_file(file, wanted, threads)
            if not names and CUDA in _unused(session):
                warnings.append(
                    "this build of ONNX Runtime has CUDA, but CUDA does not work here, so the CPU "
                    "is used; `ibisa-onnx doctor` shows why"
                )
        elif hasattr(source, "get_providers"):
            session = cast("onnxruntime.InferenceSession", source)
            file = file_of_session(session, limits)
            threads = threads or session.get_session_options().intra_op_num_threads or None
            check_unreported(session, options)
            if OPENVINO in session.get_providers() and not names:
                warnings.append(_UNREPORTED)
        else:
            raise ModelError(
                f"the model is a {type(source).__name__}; "
                "pass a path, bytes or an onnxruntime.InferenceSession "
                "(or, to an Explainer, a function with its InputSpec)"
            )
        check_providers(names, session.get_providers())
        with _text_alone(file.label):
            file, session = _with_batch_axis(file, session, input, threads, options)
            check_metadata(session.get_modelmeta().custom_metadata_map, file.label, limits)
            signature = _read_signature(session, file.label, input, read_layout(layout))
        check_call(signature, file.label, limits)
        model = cls(
            session,
            file,
            signature,
            extra_inputs=extra_inputs,
            threads=threads,
            max_batch=max_batch,
            provider_options=options,
        )
        model.warnings += warnings
        return model

    @staticmethod
    def tensors(path: str | os.PathLike[str]) -> tuple[list[TensorInfo], list[TensorInfo]]:
        """Return all inputs and outputs of any ONNX file, image model or not.

        Parameters
        ----------
        path
            The ONNX file.

        Returns
        -------
        tuple of list of TensorInfo
            Inputs and outputs.

        Raises
        ------
        ModelError
            The file cannot be opened.
        """
        file = ModelFile.at(path)
        file.check_readable()
        session = open_file(file, [CPU], None)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        with _text_alone(file.label):
            return [_tensor_info(each) for each in inputs], [_tensor_info(each) for each in outputs]

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers in use, highest priority first."""
        return tuple(self.session.get_providers())

    @property
    def name(self) -> str | None:
        """The file's name; None for bytes."""
        return self.file.name

    @property
    def label(self) -> str:
        """The file's name, or "the model", for messages."""
        return self.file.label

    @property
    def folder(self) -> Path | None:
        """The folder of the external weights; None for bytes."""
        return self.file.folder

    @property
    def limits(self) -> Limits | None:
        """Limits on the model; None: from the environment."""
        return self.file.limits

    @cached_property
    def sha256(self) -> str | None:
        """SHA-256 of the file and its external weights; None if the file is unknown."""
        return self.file.sha256()

    @property
    def graph_sha256(self) -> str | None:
        """SHA-256 of graph and weights without metadata; reads the file on each access."""
        return self.file.graph_sha256()

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The file's custom metadata."""
        return dict(self.session.get_modelmeta().custom_metadata_map)

    def proto(self) -> onnx.ModelProto | None:
        """Parse the graph, without external weights and with initializers not listed as inputs.

        Returns
        -------
        onnx.ModelProto or None
            A new copy on each call. None if there is no ONNX graph to read: a live session that
            does not store its path, or ONNX Runtime's own format.
        """
        return self.file.load_proto()

    @property
    def why_no_graph(self) -> str:
        """Why `proto` returns None."""
        return self.file.why_no_graph

    def extra_feed(self, batch: int) -> dict[str, npt.NDArray[Any]]:
        """Return the values of all inputs but the image, by name.

        Values whose leading axis is the image's are repeated for each of `batch` images.
        """
        return extra_feed(self.signature, self._extra, batch)

    def exposing(
        self,
        tensors: Sequence[str],
        write: Callable[[onnx.GraphProto], object] = lambda graph: None,
    ) -> DeployedModel:
        """Return a copy of this model with inner tensors as additional outputs, in a new session.

        Passes are counted together with this model's.

        Parameters
        ----------
        tensors
            Names of tensors in the graph, or of those that `write` adds.
        write
            Appends nodes to the graph, in place.

        Returns
        -------
        DeployedModel
            The extended model.

        Raises
        ------
        OutputError
            There is no graph to read, or no such tensor in it.
        """

        before_that, known = self.file.extension, set[str]()

        def extend(graph: onnx.GraphProto) -> None:
            if before_that is not None:
                before_that(graph)
            known.update(each.name for each in graph.initializer)
            write(graph)
            declared = {each.name for each in graph.output}
            made = {name for node in graph.node for name in node.output}
            for name in tensors:
                if name not in made:
                    outputs = ", ".join(each.name for each in self.signature.outputs)
                    raise OutputError(
                        f"{self.label} has no output or tensor {name!r}; its outputs are: {outputs}"
                    )
                if name not in declared:
                    graph.output.add(name=name)

        file = replace(self.file, extension=extend)
        proto = file.load_proto()
        if proto is None:
            raise OutputError(f"tensors inside {self.label} cannot be read: {file.why_no_graph}")
        added = [each for each in proto.graph.initializer if each.name not in known]
        parts = [each.SerializeToString(deterministic=True) for each in (*proto.graph.node, *added)]
        digest = hashlib.sha256(b"".join([*parts, repr(tuple(tensors)).encode()])).hexdigest()
        session = self.new_session(proto)
        outputs = tuple(_tensor_info(each) for each in session.get_outputs())
        model = DeployedModel(
            session,
            file,
            replace(self.signature, outputs=outputs),
            extra_inputs=self._extra,
            provider_options=self._provider_options,
            threads=self._threads,
            max_batch=self.max_batch,
        )
        model._extension = f"{self._extension}+{digest}"
        model.passes, model.warnings = self.passes, self.warnings
        return model

    def new_session(
        self, model: onnx.ModelProto, weights: Weights | None = None
    ) -> onnxruntime.InferenceSession:
        """Open a derived graph with this model's providers, options and threads.

        External weights are read from this model's folder.

        Parameters
        ----------
        model
            The graph; it may be modified.
        weights
            Weights that were removed from it, by name; others are ignored.

        Returns
        -------
        onnxruntime.InferenceSession
            The session.

        Raises
        ------
        ModelError
            The graph cannot be serialised or opened.
        """
        given = self._weights_for(model, weights or {})
        graph = without_initializer_inputs(model)
        try:
            return open_graph(graph, self.file, self._providers(), self._threads, given)
        except IbisaError:
            raise
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime cannot open a graph derived from {self.label}: {essence(error)}"
            ) from error

    def _providers(self) -> list[tuple[str, dict[str, str]]]:
        """Return the session's providers with their options."""
        return _providers_of(self.session, self._provider_options)

    def _weights_for(self, model: onnx.ModelProto, weights: Weights) -> Weights:
        """Return the weights to pass as values; for other providers, put them into the graph."""
        from ibisa_onnx.models.weights import give_weights, missing_weights

        if _BY_VALUE.issuperset(self.providers):
            return {name: weights[name] for name in missing_weights(model)}
        give_weights(model, weights)
        return {}

    @property
    def preferred_batch(self) -> int:
        """Images per call when there are many: 1 on the CPU, where parallel calls are faster."""
        return self.image.batch or (1 if self._on_cpu else self.max_batch)

    @property
    def identity(self) -> str:
        """The SHA-256 of file and weights; for a session with an unknown file, unique to it."""
        return (self.sha256 or super().identity) + self._extension

    def infer(self, feeds: Values, outputs: Sequence[str]) -> Values:
        """Make one call of the session."""
        has_threads = not self._on_cpu or self._threads != 1
        if why := why_unusable(self._opened, has_threads=has_threads):
            raise ModelError(
                f"{self.label} was opened before this process was forked, and {why}; open it in "
                "each worker process, or on the CPU with threads=1"
            )
        found = dict(zip(outputs, run(self.session, outputs, feeds, self.label), strict=True))
        check_answer(found, self.label, self.limits)
        return found

    def _run(
        self, images: Images, names: list[str], most: int, passes: PassCounter
    ) -> dict[str, npt.NDArray[Any]]:
        """Run images; falls back to one per call if the file wrongly declares a dynamic batch."""
        batch_is_open = self.image.batch is None and most > 1 and len(images) > 1
        try:
            return super()._run(images, names, most, passes)
        except IbisaError:
            if not batch_is_open:
                raise
            # Raises if the batch is not the cause.
            results = super()._run(images, names, 1, passes)
            self.run_one_by_one("fails on more than one image per call")
            return results


def counterpart_of(
    source: str | os.PathLike[str] | DeployedModel | None, limits: Limits | None
) -> DeployedModel | None:
    """Open the file that runs behind a model, whose gradient stands for the model's.

    Raises
    ------
    ModelError
        The file cannot be opened.
    """
    if source is None or isinstance(source, DeployedModel):
        return source
    check_type("gradient_from", source, (str, os.PathLike), "an ONNX file", ModelError)
    try:
        return DeployedModel.open(source, limits=limits)
    except ModelError as error:
        problem = f"gradient_from={os.fspath(source)!r} cannot be opened: {error.problem}"
        raise ModelError(problem, error.advice) from error


@contextmanager
def _text_alone(label: str) -> Iterator[None]:
    """Raise ModelError for names that are not UTF-8: in live sessions and .ort files."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ModelError(f"{label} contains a name that is not UTF-8; re-export it") from error


def _with_batch_axis(
    file: ModelFile,
    session: onnxruntime.InferenceSession,
    input: str | None,
    threads: int | None,
    options: Mapping[str, dict[str, str]],
) -> tuple[ModelFile, onnxruntime.InferenceSession]:
    """Reopen a model whose image input has no batch axis, with one; leave others unchanged."""
    name = lone_picture([_tensor_info(each) for each in session.get_inputs()], input)
    if name is None:
        return file, session
    batched = replace(file, extension=lambda graph: add_batch_axis(graph, name))
    proto = batched.load_proto()
    if proto is None:
        return file, session
    return batched, open_graph(proto, file, _providers_of(session, options), threads)


def _providers_of(
    session: onnxruntime.InferenceSession, unreported: Mapping[str, dict[str, str]]
) -> list[tuple[str, dict[str, str]]]:
    """Return a session's providers with their options, among them those it does not report."""
    options = session.get_provider_options()
    for each in options.values():  # a captured graph requires fixed input addresses
        each.pop("enable_cuda_graph", None)
    return [
        (name, options.get(name) or unreported.get(name, {})) for name in session.get_providers()
    ]


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _unused(session: onnxruntime.InferenceSession) -> set[str]:
    """Return the providers of this build that the session does not use."""
    return set(import_onnxruntime().get_available_providers()) - set(session.get_providers())


def _read_signature(
    session: onnxruntime.InferenceSession, label: str, input: str | None, layout: Layout | None
) -> Signature:
    """Read inputs and outputs from a session, and find the image input."""
    inputs = tuple(_tensor_info(each) for each in session.get_inputs())
    outputs = tuple(_tensor_info(each) for each in session.get_outputs())
    for what, found in (("inputs", inputs), ("outputs", outputs)):
        if len(found) > _MOST_TENSORS:
            raise ModelError(
                f"{label} has {len(found):,} {what}, more than {_MOST_TENSORS:,}; "
                "re-export it with only those that are needed"
            )
    hint = _layout_hint(session.get_modelmeta().custom_metadata_map)
    image = find_image(inputs, name=input, layout=layout, hint=hint, model=label)
    return Signature(inputs, outputs, image)


def _layout_hint(metadata: Mapping[str, str]) -> Layout | None:
    """Return the layout in the project's own metadata; errors there are reported elsewhere."""
    try:
        name = parse_json(metadata.get(METADATA_KEY, "{}"))["preprocessing"]["layout"]
        return read_layout(name)
    except (ValueError, LookupError, TypeError, ModelError):
        return None


def _tensor_info(argument: Any) -> TensorInfo:
    """Describe an input or output; types other than tensors keep ONNX Runtime's name."""
    inner = argument.type.removeprefix("tensor(").removesuffix(")")
    name = _NUMPY_NAMES.get(inner, inner) if argument.type.startswith("tensor(") else argument.type
    return TensorInfo(argument.name, name, tuple(argument.shape or ()))
