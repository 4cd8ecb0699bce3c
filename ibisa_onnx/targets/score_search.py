"""Which tensor of a model holds class scores, and what to say where none does.

Told by shapes and by the graph before the model has run, and by values after. What an output looks
like is in `output_kinds`, how scores are read in `class_scores`.
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

_SUM_TOLERANCE = 1e-3  # what single precision, and half, leave of a sum of probabilities
_ANY = "the scores of the classes"


@dataclass(frozen=True)
class Candidate:
    """A tensor that may hold one score for each class.

    Attributes
    ----------
    name
        An output, or a tensor inside the model.
    output
        The output that led to it.
    labels
        Names of the classes that the graph gives.
    note
        What a reader must know of it; else empty.
    """

    name: str
    output: str
    labels: KnownLabels | None = None
    note: str = ""


class ScoreSearch:
    """Finds the one tensor of class scores among a model's outputs, and before them.

    Parameters
    ----------
    signature
        All outputs of the model, and the input that takes the image.
    graph
        Its nodes; None where they are not known.
    wanted
        The output or the inner tensor that the user named; None: to be found.
    trusted
        Whether the user said how the scores are read, and so that there are some.
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
        """Raise `OutputError` where the user named what the model has not."""
        names = [each.name for each in self._outputs]
        known = self._wanted is None or self._wanted in names or self._wanted in self._makers
        if not known and self._readable:
            raise OutputError(
                f"there is no output {self._wanted!r}; choose from: {', '.join(names)}, or from "
                "the tensors inside the model"
            )

    def candidates(self) -> list[Candidate]:
        """Return the tensors that are to be computed: all that may hold class scores.

        Raises
        ------
        OutputError
            None may.
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
        """Return the candidate that holds one score for each class, and a warning, or "".

        Parameters
        ----------
        candidates
            What `candidates` returned.
        raws
            Their raw values for one image, [1, ...].

        Raises
        ------
        OutputError
            None does, several do, or it holds something else by all that is known of it.
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
                f"output {chosen.output} is not read as class scores: it looks like {doubt}",
                f"give activation={kind} if it holds them all the same",
            )
        if doubt:
            warning = f"output {chosen.output} looks like {doubt}: if it is, the map means nothing"
        return chosen, warning

    def declared(self) -> ClassCount | None:
        """Tell by shapes and graph how many classes there are; None where they do not say."""
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
        """Return the names of the classes that the graph gives."""
        try:
            return [each.labels for each in self.candidates() if each.labels is not None]
        except OutputError:
            return []

    @property
    def _outputs(self) -> tuple[TensorInfo, ...]:
        return self._kinds.outputs

    @property
    def _named(self) -> TensorInfo | None:
        """The output that the user named; None where there is none, or it is an inner tensor."""
        return next((each for each in self._outputs if each.name == self._wanted), None)

    def _candidate(self, output: TensorInfo) -> Candidate | None:
        """Return an output, or the scores that it was selected from; None where it has neither."""
        made = selection(output.name, self._makers)
        if made is not None and made.operator == "ZipMap":
            return Candidate(made.scores, output.name, self._labels_of(made.scores))
        if made is not None and made.operator == "TopK":
            if self._kinds.is_beside_boxes(output):
                return None
            note = (
                f"output {output.name} is sorted by TopK, so the scores before the TopK are "
                f"explained: {made.scores}"
            )
            return Candidate(made.scores, output.name, note=note)
        if made is not None or not is_tensor(output) or self._kinds.is_sequence(output):
            return None
        fits = self._named is not None or self._kinds.may_hold_scores(output)
        return Candidate(output.name, output.name) if fits else None

    def _labels_of(self, scores: str) -> KnownLabels | None:
        """Return the names that a ZipMap gives to the classes of a tensor."""
        makers = self._makers
        for output in self._outputs:
            made = selection(output.name, makers)
            if made is None or made.labels is None:
                continue
            if origin(made.scores, makers) == origin(scores, makers):
                return KnownLabels(f"the ZipMap of output {output.name}", made.labels)
        return None

    def _count_of(self, candidate: Candidate) -> ClassCount | None:
        """Tell how many classes a candidate has, None where neither labels nor shape say."""
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
        """Give outputs of which no shape is declared the one that they turned out to have."""
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
            raise OutputError(f"outputs {names} can all hold class scores; choose with output=NAME")
        others = ", ".join(each.output for each in fitting if each is not sure[0])
        return sure[0], (
            f"of several outputs {names} is read, which alone holds probabilities; output= chooses "
            f"another: {others}"
        )

    def _holds_probabilities(self, name: str, raw: npt.NDArray[Any]) -> bool:
        values = raw.astype(np.float64)
        sums_to_one = bool(values.min() >= 0 and abs(values.sum() - 1) < _SUM_TOLERANCE)
        return sums_to_one or ends_in_probabilities(name, self._makers)

    def _doubt(self, candidate: Candidate, raw: npt.NDArray[Any]) -> str:
        """Return what a tensor looks like rather than class scores, empty where nothing does."""
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
        return f"no class scores (it ends in no softmax or sigmoid, as {sure[0]} does)"

    def _refusal(self) -> str:
        """Say why no output, or the tensor that was named, will do, and which might."""
        if self._wanted is None:
            return self._no_scores()
        if self._named is None:
            return f"tensor {self._wanted} is not one score for each class [N, K]"
        others = [each.name for each in self._outputs if self._kinds.may_hold_scores(each)]
        others = [name for name in others if name != self._wanted]
        if not others:
            return self._no_scores()
        return (
            f"output {self._kinds.describe(self._named)} is not one score for each class; "
            f"these may be: output={', '.join(others)}"
        )

    def _no_scores(self) -> str:
        """Say that a model is no classifier, what its outputs are, and what would make it one."""
        if len(self._outputs) == 1 and self._is_picture(self._outputs[0]):
            return (
                f"output {self._outputs[0]} looks like a picture, not class scores; "
                "kind=regression explains all of it, direction='raise' with index= one value"
            )
        said = "; ".join(map(self._kinds.describe, self._outputs))
        problem = f"no output holds one score for each class [N, K]: {said}; "
        if self._kinds.sequences:
            return problem + (
                "only an objective of your own can explain one of its steps, in Python "
                "(docs/reference/targets.md)"
            )
        advice = next(filter(None, map(self._kinds.remedy, self._outputs)), _ANY)
        inside = "output= chooses only among such outputs, and target= a class of one; "
        if self._readable:
            example = next(filter(None, map(self._before_arg_max, self._outputs)), "")
            inside = f"name a tensor inside the model that is{example} (output= with target=), "
        inside += "explain one of these numbers (direction='raise' with output= and index=), or "
        return f"{problem}{inside}export the model with one more output: {advice}"

    def _is_picture(self, output: TensorInfo) -> bool:
        """Tell whether an output is a picture, of as many channels as the one that goes in."""
        several = len(output.shape) == 4 and self._channels in (output.shape[1], output.shape[3])
        return several and self._channels > 1 and output.dtype.startswith("float")

    def _before_arg_max(self, output: TensorInfo) -> str:
        """Suggest the scores that one class index a picture was made from, if it was."""
        made = selection(output.name, self._makers)
        single = made is not None and made.operator == "ArgMax" and len(output.shape) < 3
        return f" (perhaps {made.scores})" if made is not None and single else ""


def _holds_scores(raw: npt.NDArray[Any]) -> bool:
    """Tell by the values whether an output is one score for each class."""
    return raw.ndim > 1 and raw.dtype.kind in "fiu" and max(raw.shape[1:]) == np.size(raw[0]) > 0
