"""Models that also return inner tensors, for targets that read these or append nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ibisa_onnx.caching import BuiltOnce
from ibisa_onnx.errors import OptionError
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.headed import HeadedModel
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.targets.base import Nodes
from ibisa_onnx.targets.facts import ModelFacts

if TYPE_CHECKING:
    import onnx

_MOST = 4  # open sessions


class ExposedModels:
    """Sessions of one model with additional outputs; the last few are cached."""

    def __init__(self, facts: ModelFacts) -> None:
        self._model, self._facts = facts.model, facts
        self._declared = frozenset(each.name for each in facts.outputs)
        # Holds the writers too, so that their ids in the key are not reused.
        self._open: BuiltOnce[tuple[list[Nodes], ImageModel]] = BuiltOnce(_MOST)

    def with_outputs(self, names: Iterable[str], nodes: Iterable[Nodes]) -> ImageModel:
        """Return the model with these tensors as outputs; the model itself if it has them all.

        Parameters
        ----------
        names
            Outputs, inner tensors, or tensors that `nodes` make.
        nodes
            Nodes that may be appended to the graph.

        Raises
        ------
        OutputError
            There is no such tensor, or inner tensors cannot be read.
        OptionError
            Two nodes make tensors of the same name.
        """
        inner = tuple(dict.fromkeys(name for name in names if name not in self._declared))
        if not inner:
            return self._model
        known = self._facts.makers
        writing = [each for each in nodes if set(inner).difference(known) & set(each.outputs)]
        writers = list({id(each): each for each in writing}.values())
        made = [name for each in writers for name in each.outputs if name not in known]
        for name in made:
            if made.count(name) > 1:
                raise OptionError(
                    f"two objectives write the same tensor {name!r}; give each its own caption"
                )

        def write(graph: onnx.GraphProto) -> None:
            for each in writers:
                each.to_onnx(graph)

        def open_() -> ImageModel:
            if isinstance(self._model, DeployedModel):
                return self._model.exposing(inner, write)
            return HeadedModel(self._model, inner, write)

        key = (inner, *map(id, writers))
        return self._open.get(key, lambda: (writers, open_()))[1]
