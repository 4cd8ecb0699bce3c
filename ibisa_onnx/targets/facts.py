"""What is known about a model before its first image: signature, metadata, graph and a probe.

Output formats are recognised by shapes and values. If a shape is dynamic, or values matter (are
boxes corners or centres?), the model is run once on noise: one forward pass, made on demand, once
per set of tensors. Python functions are never probed, since a call may cost money; their
prediction for the first image takes the place of the probe.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import DeadlineError, IbisaError
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.onnx_graph import producers, without_weights
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.signature import TensorInfo
from ibisa_onnx.preprocessing.spec import Preprocessing, prepare
from ibisa_onnx.targets.frontier import before_selection, selects
from ibisa_onnx.targets.labels import known_labels

if TYPE_CHECKING:
    import onnx

_CLOUD = 16  # pixels

Values = Mapping[str, npt.NDArray[Any]]


class ModelFacts:
    """A model and its preprocessing, and what can be inferred from them.

    Parameters
    ----------
    model
        The model.
    preprocessing
        Preprocessing of the probe, including the input size; None to never probe.
    named
        Output or inner tensor that the caller specified; None for none.
    labels
        Class names that the caller passed; None for none.
    """

    def __init__(
        self,
        model: ImageModel,
        preprocessing: Preprocessing | None = None,
        named: str | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        self.model, self.named, self._spec, self._labels = model, named, preprocessing, labels
        self._probed: dict[str, npt.NDArray[Any]] = {}
        self._without: set[str] = set()  # tensors that cannot be probed
        self._again: tuple[str, ...] = ()  # tensors probed under other preprocessing

    def under(self, preprocessing: Preprocessing | None) -> ModelFacts:
        """Return the facts under other preprocessing.

        What the graph determines stays; whatever was probed is probed again, in one pass.
        """
        other = copy.copy(self)
        other._spec, other._probed, other._without = preprocessing, {}, set()
        other._again = tuple(self._probed)
        return other

    @property
    def is_deployed(self) -> bool:
        """Whether ONNX Runtime runs the model, so that it may be probed; False for functions."""
        return isinstance(self.model, DeployedModel)

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """All outputs, as declared."""
        return self.model.signature.outputs

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata of the model file."""
        return self.model.metadata

    @property
    def label_counts(self) -> list[int]:
        """Number of the caller's labels, or else of each of the model's label sources."""
        known = known_labels(self.metadata, self.model.folder)
        return [len(self._labels)] if self._labels else [len(each.labels) for each in known]

    @property
    def probed(self) -> Values:
        """Values from probes so far, by tensor name; runs nothing."""
        return self._probed

    @property
    def batch(self) -> int | str | None:
        """Leading dimension of the image input."""
        return next(iter(self.model.image.tensor.shape), None)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the input; None if unknown."""
        if self._spec is not None:
            return self._spec.size
        image = self.model.image
        return (image.height, image.width) if image.height and image.width else None

    @cached_property
    def graph(self) -> onnx.GraphProto | None:
        """The graph without large weights; None if it cannot be read."""
        proto = self.model.proto()
        return None if proto is None else without_weights(proto.graph)

    @cached_property
    def makers(self) -> Mapping[str, onnx.NodeProto]:
        """Node that makes each tensor; empty if the graph is unknown."""
        return {} if self.graph is None else producers(self.graph)

    @cached_property
    def selects(self) -> bool:
        """Whether the graph selects among its predictions, as NMS does."""
        return self.graph is not None and selects(self.graph)

    @cached_property
    def two_stage(self) -> bool:
        """Whether the graph crops regions of features: the selection is then among proposals."""
        return self.graph is not None and any(n.op_type == "RoiAlign" for n in self.graph.node)

    @cached_property
    def dense(self) -> tuple[str, ...]:
        """Tensors before the selection; empty if the graph selects nothing."""
        if not self.selects or self.graph is None:
            return ()
        return before_selection(self.graph, self.model.image.name)

    def shapes(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of several tensors by name, as `shape` does, with one probe for all."""
        self.values([name for name in names if self._declared(name) is None])
        found = {name: self.shape(name) for name in names}
        return {name: shape for name, shape in found.items() if shape is not None}

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return a tensor's shape for one image; None if the model does not run.

        The declared shape, or the probed one if that is dynamic or unknown.
        """
        declared = self._declared(name)
        if declared is not None and name not in self._probed:
            return declared
        values = self.values([name]).get(name)
        return None if values is None else values.shape

    def _declared(self, name: str) -> tuple[int, ...] | None:
        """Return an output's declared shape for one image; None if it is dynamic."""
        declared = next((each.shape for each in self.outputs if each.name == name), None)
        if not declared:
            return None
        first, *others = declared
        rest = [side for side in others if isinstance(side, int) and side > 0]
        if len(rest) < len(others):
            return None
        return (first if isinstance(first, int) and first > 0 else 1, *rest)

    def values(self, names: Sequence[str]) -> Values:
        """Return the model's values for noise, by tensor name.

        For a function, its values for the first image that has any. Tensors that cannot be obtained
        are left out: no preprocessing, no such tensor, no image yet, or the model does not run.
        """
        missing = [n for n in names if n not in self._probed and n not in self._without]
        if missing and self._spec is not None and self.is_deployed:
            together = list(dict.fromkeys([*missing, *self._again]))
            found, self._again = self._probe(together), ()
            if len(together) > 1 and not found:  # a single tensor may be at fault
                for name in missing:
                    found |= self._probe([name])
            self._probed = self._probed | found
            self._without.update(name for name in missing if name not in found)
        known = {name: self._probed[name] for name in names if name in self._probed}
        return {name: each for name, each in known.items() if self.is_deployed or each.size}

    def learn(self, raw: Values) -> bool:
        """Use a function's prediction for an image, values [1, ...], in place of a probe.

        Returns whether anything was learnt: an empty or all-zero prediction tells less than a later
        one may.
        """
        known = self._probed
        new = [name for name in raw if name not in known or _tells(raw[name]) > _tells(known[name])]
        self._probed = known | {name: raw[name] for name in new}  # atomic for concurrent readers
        return bool(new)

    def _probe(self, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Run the model once on noise and return the tensors, whatever their shapes."""
        assert self._spec is not None
        model = self.model
        try:
            tensor = prepare(noise(self._spec.size), self._spec).tensor
            declared = {each.name for each in self.outputs}
            inner = tuple(name for name in names if name not in declared)
            if inner and isinstance(model, DeployedModel):
                model = model.exposing(inner)
            elif inner:
                return {}
            found = model.run_raw(tensor, names)
            return {name: each for name, each in found.items() if isinstance(each, np.ndarray)}
        except DeadlineError:  # says nothing about the model
            raise
        except IbisaError:
            return {}


def _tells(values: npt.NDArray[Any]) -> tuple[bool, bool]:
    """Return how informative values are: whether there are any, and any but zeros."""
    return values.size > 0, bool(values.any())


def noise(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return smooth colour noise, [H, W, 3], which resembles an image more than white noise."""
    import cv2

    small = [max(2, side // _CLOUD) for side in size]
    noise = np.random.default_rng(0).integers(0, 256, (*small, 3), np.uint8)
    return np.asarray(cv2.resize(noise, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
