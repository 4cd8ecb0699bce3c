"""What is known of a model before it has seen a picture: signature, metadata, graph, and a probe.

Formats of outputs are told by shapes and values. Where a shape is open, or values matter (are boxes
corners or centres?), the model is run once on noise: one forward pass, made only when asked for,
and once for each set of tensors. A function is never run for that, since a call may cost money:
what it says of the first picture takes the place of the probe.
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
    """One model, and how its input is made.

    Parameters
    ----------
    model
        The model.
    preprocessing
        Brings the probe to the model, and gives the input's size; None: it is not probed.
    named
        The output or inner tensor that a user named; None: none.
    labels
        The names of the classes that a user gave; None: none.
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
        self._without: set[str] = set()  # what no probe can tell
        self._again: tuple[str, ...] = ()  # what was probed under other preprocessing

    def under(self, preprocessing: Preprocessing | None) -> ModelFacts:
        """Return what is known of the model where pictures come to it otherwise.

        What its graph tells stays; what a probe told is asked anew, all of it by one.
        """
        other = copy.copy(self)
        other._spec, other._probed, other._without = preprocessing, {}, set()
        other._again = tuple(self._probed)
        return other

    @property
    def is_deployed(self) -> bool:
        """Whether ONNX Runtime runs it, so that it may be probed, and not a function."""
        return isinstance(self.model, DeployedModel)

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """All outputs as they are declared."""
        return self.model.signature.outputs

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says of itself."""
        return self.model.metadata

    @property
    def label_counts(self) -> list[int]:
        """How many classes the user's labels name, or else each of the model's own."""
        known = known_labels(self.metadata, self.model.folder)
        return [len(self._labels)] if self._labels else [len(each.labels) for each in known]

    @property
    def probed(self) -> Values:
        """What the model gave so far for noise, by the name of the tensor; nothing is run."""
        return self._probed

    @property
    def batch(self) -> int | str | None:
        """The leading side of the input that takes the image."""
        return next(iter(self.model.image.tensor.shape), None)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the input; None where nobody says."""
        if self._spec is not None:
            return self._spec.size
        image = self.model.image
        return (image.height, image.width) if image.height and image.width else None

    @cached_property
    def graph(self) -> onnx.GraphProto | None:
        """The nodes without larger weights; None where they cannot be read."""
        proto = self.model.proto()
        return None if proto is None else without_weights(proto.graph)

    @cached_property
    def makers(self) -> Mapping[str, onnx.NodeProto]:
        """The node that makes each tensor; empty where the graph is not known."""
        return {} if self.graph is None else producers(self.graph)

    @cached_property
    def selects(self) -> bool:
        """Whether the graph chooses among what it predicts."""
        return self.graph is not None and selects(self.graph)

    @cached_property
    def two_stage(self) -> bool:
        """Whether regions are cut out of features, so that before the selection are proposals."""
        return self.graph is not None and any(n.op_type == "RoiAlign" for n in self.graph.node)

    @cached_property
    def dense(self) -> tuple[str, ...]:
        """The tensors before the selection; empty where the graph selects nothing."""
        if not self.selects or self.graph is None:
            return ()
        return before_selection(self.graph, self.model.image.name)

    def shapes(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of several tensors, by name, as `shape` does; one probe for all."""
        self.values([name for name in names if self._declared(name) is None])
        found = {name: self.shape(name) for name in names}
        return {name: shape for name, shape in found.items() if shape is not None}

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return a tensor's shape for one image; None where the model does not run.

        As declared, or, where that is open or unknown, as it turned out of the probe.
        """
        declared = self._declared(name)
        if declared is not None and name not in self._probed:
            return declared
        values = self.values([name]).get(name)
        return None if values is None else values.shape

    def _declared(self, name: str) -> tuple[int, ...] | None:
        """Return an output's shape for one image; None where its declaration leaves it open."""
        declared = next((each.shape for each in self.outputs if each.name == name), None)
        if not declared:
            return None
        first, *others = declared
        rest = [side for side in others if isinstance(side, int) and side > 0]
        if len(rest) < len(others):
            return None
        return (first if isinstance(first, int) and first > 0 else 1, *rest)

    def values(self, names: Sequence[str]) -> Values:
        """Return what the model gives for noise, by the name of the tensor.

        Of a function it is what it gave for the first picture with a row. Left out is what cannot
        be had: no preprocessing, no such tensor, no such picture yet, or it does not run.
        """
        missing = [n for n in names if n not in self._probed and n not in self._without]
        if missing and self._spec is not None and self.is_deployed:
            together = list(dict.fromkeys([*missing, *self._again]))
            found, self._again = self._probe(together), ()
            if len(together) > 1 and not found:  # one of them may be to blame
                for name in missing:
                    found |= self._probe([name])
            self._probed = self._probed | found
            self._without.update(name for name in missing if name not in found)
        known = {name: self._probed[name] for name in names if name in self._probed}
        return {name: each for name, each in known.items() if self.is_deployed or each.size}

    def learn(self, raw: Values) -> bool:
        """Take a function's answer to a picture, values [1, ...], for what a probe would tell.

        Returns whether anything was learnt: an answer without a row, or of nothing but zeros, tells
        less than a later one may.
        """
        known = self._probed
        new = [name for name in raw if name not in known or _tells(raw[name]) > _tells(known[name])]
        self._probed = known | {name: raw[name] for name in new}  # who reads has the one or other
        return bool(new)

    def _probe(self, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Run the model once on noise, as one call, whatever the shapes of its outputs."""
        assert self._spec is not None
        model = self.model
        try:
            tensor = prepare(_noise(self._spec.size), self._spec).tensor
            declared = {each.name for each in self.outputs}
            inner = tuple(name for name in names if name not in declared)
            if inner and isinstance(model, DeployedModel):
                model = model.exposing(inner)
            elif inner:
                return {}
            found = model.run_raw(tensor, names)
            return {name: each for name, each in found.items() if isinstance(each, np.ndarray)}
        except DeadlineError:  # which tells nothing of the model
            raise
        except IbisaError:
            return {}


def _tells(values: npt.NDArray[Any]) -> tuple[bool, bool]:
    """Return how much an answer tells: whether there are values, and any but zeros."""
    return values.size > 0, bool(values.any())


def _noise(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return clouds of colour, [H, W, 3]: nearer to a picture than noise of every frequency."""
    import cv2

    small = [max(2, side // _CLOUD) for side in size]
    noise = np.random.default_rng(0).integers(0, 256, (*small, 3), np.uint8)
    return np.asarray(cv2.resize(noise, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
