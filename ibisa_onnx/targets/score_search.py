"""Search for the tensor of class scores, and the error if there is none.

Shapes and graph are examined before the model has run, values after. `output_kinds` determines
what an output looks like, `class_scores` how scores are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OutputError
from ibisa_onnx.models.onnx_graph import origin, producers
from ibisa_onnx.models.signature import Signature, TensorInfo
from ibisa_onnx.targets.endings import ends_in_probabilities, feeds_probabilities, selection
from ibisa_onnx.targets.labels import ClassCount, KnownLabels
from ibisa_onnx.targets.output_kinds import OutputKinds, is_tensor

if TYPE_CHECKING:
    import onnx

Values = Mapping[str, npt.NDArray[Any]]

_SUM_TOLERANCE = 1e-3  # sums of float32 and float16 probabilities are that inexact
_ANY = "the class scores"


@dataclass(frozen=True)
class Candidate:
    """Tensor that may hold one score per class.

    Attributes
    ----------
    name
        An output or inner tensor.
    output
        Output through which it was found.
    labels
        Class names contained in the graph.
    note
        Warning about the candidate; otherwise empty.
    """

    name: str
    output: str
    labels: KnownLabels | None = None
    note: str = ""


class ScoreSearch:
    """Finds the tensor of class scores among a model's outputs, and before them.

    Parameters
    ----------
    signature
        Outputs of the model, and its image input.
    graph
        Graph of the model; None if unknown.
    wanted
        Output or inner tensor specified by the caller; None to find it.
    trusted
        Whether the caller specified the activation, and thus that there are class scores.
    """

    def __init__(
        self,
        signature: Signature,
        graph: onnx.GraphProto | None,
        wanted: str | None = None,
        *,
        trusted: bool = False,
    ) -> None:
        self._wanted, self._trusted = wanted, trusted or wanted is not None
        self._makers = {} if graph is None else producers(graph)
        self._readable = graph is not None
        self._channels = signature.image.channels
        batch = next(iter(signature.image.tensor.shape), None)
        self._kinds = OutputKinds(signature.outputs, batch, self._makers)

    def check_wanted(self) -> None:
        """Raise `OutputError` if the caller specified a tensor that does not exist."""
        names = [each.name for each in self._outputs]
        known = self._wanted is None or self._wanted in names or self._wanted in self._makers
        if not known and self._readable:
            raise OutputError(
                f"there is no output {self._wanted!r}; choose from: {', '.join(names)}, or "
                "specify an inner tensor"
            )

    def candidates(self) -> list[Candidate]:
        """Return the tensors to compute: all that may hold class scores.

        Raises
        ------
        OutputError
            There are none.
        """
        self.check_wanted()
        if self._wanted is not None and self._named is None:
            return [Candidate(self._wanted, self._wanted, self._labels_of(self._wanted))]
        outputs = self._outputs if self._named is None else [self._named]
        found = [each for each in map(self._candidate, outputs) if each is not None]
        if not found:
            raise OutputError(self._refusal())
        first: dict[str, Candidate] = {}
        for each in found:  # both outputs of a TopK lead to the same scores
            first.setdefault(each.name, each)
        return list(first.values())

    def choose(self, candidates: Sequence[Candidate], raws: Values) -> tuple[Candidate, str]:
        """Return the candidate that holds one score per class, and a warning, or "".

        Parameters
        ----------
        candidates
            Return value of `candidates`.
        raws
            Raw values of the candidates for one image, each [1, ...].

        Raises
        ------
        OutputError
            None or several of the candidates qualify, or it apparently holds something else.
        """
        self._learn_shapes(raws)
        fitting = [each for each in candidates if _holds_scores(raws[each.name])]
        fitting = [each for each in fitting if raws[each.name].dtype.kind == "f"] or fitting
        fitting = [each for each in fitting if not each.note] or fitting
        if not fitting:
            raise OutputError(self._refusal())
        doubts = {each.name: self._doubt(each, raws[each.name]) for each in fitting}
        fitting = [each for each in fitting if not doubts[each.name]] or fitting
        chosen, warning = self._only(fitting, raws)
        doubt = doubts[chosen.name]
        if doubt and not self._trusted:
            kind = "softmax (or sigmoid)" if raws[chosen.name].size > 1 else "sigmoid-logit"
            raise OutputError(
                f"output {chosen.output} looks like {doubt}, not class scores",
                f"if it contains class scores, pass activation={kind}",
            )
        if doubt:
            warning = f"output {chosen.output} looks like {doubt}; if it is, the map is meaningless"
        return chosen, warning

    def declared(self) -> ClassCount | None:
        """Return the number of classes according to shapes and graph; None if undetermined."""
        if self._wanted is None and len(self._kinds.sequences) == 1:
            last = self._kinds.sequences[0].shape[-1]
            return ClassCount(last, steps=True) if isinstance(last, int) else None
        try:
            found = self.candidates()
        except OutputError:
            return None
        if len(found) > 1:
            found = [each for each in found if ends_in_probabilities(each.name, self._makers)]
        return self._count_of(found[0]) if len(found) == 1 else None

    def labels(self) -> list[KnownLabels]:
        """Return the class names that the graph contains."""
        try:
            return [each.labels for each in self.candidates() if each.labels is not None]
        except OutputError:
            return []

    @property
    def _outputs(self) -> tuple[TensorInfo, ...]:
        return self._kinds.outputs

    @property
    def _named(self) -> TensorInfo | None:
        """The output that the caller specified; None if there is none, or it is an inner tensor."""
        return next((each for each in self._outputs if each.name == self._wanted), None)

    def _candidate(self, output: TensorInfo) -> Candidate | None:
        """Return an output, or the scores it was selected from; None if neither qualifies."""
        made = selection(output.name, self._makers)
        if made is not None and made.operator == "ZipMap":
            return Candidate(made.scores, output.name, self._labels_of(made.scores))
        if made is not None and made.operator == "TopK":
            if self._kinds.is_beside_boxes(output):
                return None
            note = (
                f"output {output.name} is sorted by TopK; explaining the scores before the TopK: "
                f"{made.scores}"
            )
            return Candidate(made.scores, output.name, note=note)
        if made is not None or not is_tensor(output) or self._kinds.is_sequence(output):
            return None
        fits = self._named is not None or self._kinds.may_hold_scores(output)
        return Candidate(output.name, output.name) if fits else None

    def _labels_of(self, scores: str) -> KnownLabels | None:
        """Return the class names that a ZipMap assigns to a tensor."""
        makers = self._makers
        for output in self._outputs:
            made = selection(output.name, makers)
            if made is None or made.labels is None:
                continue
            if origin(made.scores, makers) == origin(scores, makers):
                return KnownLabels(f"the ZipMap of output {output.name}", made.labels)
        return None

    def _count_of(self, candidate: Candidate) -> ClassCount | None:
        """Return a candidate's number of classes; None if neither labels nor shape determine it."""
        if candidate.labels is not None:
            return ClassCount.of_scores(len(candidate.labels.labels))
        shape = next((each.shape for each in self._outputs if each.name == candidate.name), ())
        sides = [side if isinstance(side, int) else 0 for side in shape[1:] if side != 1]
        if len(shape) < 2 or len(sides) > 1 or 0 in sides:
            return None
        if self._kinds.doubt_by_name(candidate.name, candidate.output, single=not sides):
            return None
        return ClassCount.of_scores(sides[0] if sides else 1)

    def _learn_shapes(self, raws: Values) -> None:
        """Record the actual shapes of outputs that are declared without one."""
        outputs = tuple(
            replace(each, shape=raws[each.name].shape)
            if each.name in raws and not each.shape
            else each
            for each in self._outputs
        )
        self._kinds = replace(self._kinds, outputs=outputs)

    def _only(self, fitting: Sequence[Candidate], raws: Values) -> tuple[Candidate, str]:
        """Return the only candidate, or the only one of several that holds probabilities."""
        if len(fitting) == 1:
            return fitting[0], ""
        sure = [each for each in fitting if self._holds_probabilities(each.name, raws[each.name])]
        names = ", ".join(each.output for each in sure or fitting)
        if len(sure) != 1:
            raise OutputError(f"outputs {names} could all hold class scores; pass output=NAME")
        others = ", ".join(each.output for each in fitting if each is not sure[0])
        return sure[0], (
            f"several outputs could hold class scores; using {names}, the only one with "
            f"probabilities; pass output= to use another: {others}"
        )

    def _holds_probabilities(self, name: str, raw: npt.NDArray[Any]) -> bool:
        values = raw.astype(np.float64)
        sums_to_one = bool(values.min() >= 0 and abs(values.sum() - 1) < _SUM_TOLERANCE)
        return sums_to_one or ends_in_probabilities(name, self._makers)

    def _doubt(self, candidate: Candidate, raw: npt.NDArray[Any]) -> str:
        """Return what a tensor looks like instead of class scores; "" if there is no doubt."""
        doubt = self._kinds.doubt(candidate.name, candidate.output, raw)
        if doubt or self._wanted is None or ends_in_probabilities(candidate.name, self._makers):
            return doubt
        sure = [
            each.name
            for each in self._outputs
            if self._kinds.may_hold_scores(each) and ends_in_probabilities(each.name, self._makers)
        ]
        if not sure or any(feeds_probabilities(candidate.name, it, self._makers) for it in sure):
            return ""
        return f"raw values (unlike {sure[0]}, it does not end in a softmax or sigmoid)"

    def _refusal(self) -> str:
        """Explain why no output, or the specified tensor, qualifies, and which might."""
        if self._wanted is None:
            return self._no_scores()
        if self._named is None:
            return f"tensor {self._wanted} does not have shape [N, K] (one score per class)"
        others = [each.name for each in self._outputs if self._kinds.may_hold_scores(each)]
        others = [name for name in others if name != self._wanted]
        if not others:
            return self._no_scores()
        return (
            f"output {self._kinds.describe(self._named)} does not hold one score per class; "
            f"these may: output={', '.join(others)}"
        )

    def _no_scores(self) -> str:
        """Explain that the model is not a classifier, what its outputs are, and what to do."""
        if len(self._outputs) == 1 and self._is_picture(self._outputs[0]):
            return (
                f"output {self._outputs[0]} looks like an image, not class scores; "
                "pass kind=regression to explain all of it, or direction='raise' with index= for "
                "a single value"
            )
        said = "; ".join(map(self._kinds.describe, self._outputs))
        problem = f"no output has shape [N, K] (one score per class): found {said}; "
        if self._kinds.sequences:
            return problem + (
                "its steps can only be explained with an objective of your own, in Python "
                "(docs/how-to/objectives.md)"
            )
        advice = next(filter(None, map(self._kinds.remedy, self._outputs)), _ANY)
        inner = ""
        if self._readable:
            example = next(filter(None, map(self._before_arg_max, self._outputs)), "")
            inner = f"select an inner tensor of that shape{example} (output= with target=), "
        single = "explain single values (direction='raise' with output= and index=), or "
        return f"{problem}{inner}{single}re-export with an extra output: {advice}"

    def _is_picture(self, output: TensorInfo) -> bool:
        """Return whether an output looks like an image with the input's number of channels."""
        several = len(output.shape) == 4 and self._channels in (output.shape[1], output.shape[3])
        return several and self._channels > 1 and output.dtype.startswith("float")

    def _before_arg_max(self, output: TensorInfo) -> str:
        """Suggest the scores from which a single class index per image was selected, if it was."""
        made = selection(output.name, self._makers)
        single = made is not None and made.operator == "ArgMax" and len(output.shape) < 3
        return f" (perhaps {made.scores})" if made is not None and single else ""


def _holds_scores(raw: npt.NDArray[Any]) -> bool:
    """Return whether an output's values may be one score per class."""
    return raw.ndim > 1 and raw.dtype.kind in "fiu" and max(raw.shape[1:]) == np.size(raw[0]) > 0
