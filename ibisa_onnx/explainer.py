"""The public face: a deployed model that can be asked why.

Here arguments are checked; the work is done in `pipeline`.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.caching import BuiltOnce
from ibisa_onnx.errors import OptionError, TargetError
from ibisa_onnx.escaping import shortened
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.gradients.cache import cache_folder
from ibisa_onnx.gradients.selection import GradientSelection
from ibisa_onnx.io.images import Source
from ibisa_onnx.limits import Limits
from ibisa_onnx.methods.base import Method
from ibisa_onnx.methods.baselines import Baseline, baseline_named
from ibisa_onnx.methods.ibisa.method import Ibisa
from ibisa_onnx.methods.ibisa.options import Options, options_named
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.settings import check_seed
from ibisa_onnx.methods.stopping import Control, Progress
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.function import InputSpec
from ibisa_onnx.models.open import open_model
from ibisa_onnx.pipeline import Pipeline
from ibisa_onnx.preprocessing.resolve import Overrides
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.preprocessing.trial import TrialRanking
from ibisa_onnx.targets.arguments import check_single, is_several, listed, target_specs
from ibisa_onnx.targets.base import Answer, Kind, Objective, TargetSpec
from ibisa_onnx.targets.opening import open_reader

if TYPE_CHECKING:
    import onnxruntime
    import torch

_NAME = (str,), "a name"
_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "providers": ((str, list, tuple), "their names in a list"),
    **dict.fromkeys(("input", "output", "activation", "kind", "gradient"), _NAME),
    "labels": ((str, os.PathLike, Sequence, np.ndarray), "names in a list, or a file of them"),
    "surrogate": ((str, os.PathLike), "a file or an nn.Module"),
    "options": ((str, Options), "an Options or the name of a preset"),
    "threads": ((numbers.Integral,), "a whole number"),
    "extra_inputs": ((Mapping,), "values by name in a dict"),
    "limits": ((Limits,), "a Limits"),
}
"""Of what type an argument must be, and what to give."""

Image = Source
Target = str | int | np.integer[Any] | Objective | TargetSpec
"""A class index, a label, "top:3", an objective, or a target of another kind."""


@dataclass(frozen=True)
class Prediction:
    """A class, its label where that is known, and the probability the model gives it."""

    index: int
    label: str | None
    probability: float


class Explainer:
    """Explains the answers of one deployed model.

    To open a model may run it, which an endless one does not come back from; of people whom you do
    not know, open and ask it within `ibisa_onnx.time_limit(seconds)`.

    Parameters
    ----------
    model
        The path or the bytes of an ONNX file, a live `onnxruntime.InferenceSession`, or a function
        from a batch of images to scores, or to what its `input_spec` declares; or one that is
        opened, an `ImageModel`.
    input_spec
        What a function takes and gives; None for all else.
    providers
        Execution providers, by ONNX Runtime's names or their short forms; strict. Empty: CUDA where
        it works, else the CPU.
    input, output
        Names of the input that takes the image, and of the output, or the tensor inside the model,
        that holds class scores, where that is not plain.
    preprocessing
        A whole spec, the name of a preset, or a spec file; None: from the model's metadata, files
        beside it, its input's type and shape, and ImageNet's usual values (see `warnings`).
    overrides
        Single values of the preprocessing, which go before all else; also as a dict.
    labels
        Names of the classes by index, or a file of them; None: from the model's metadata, a
        `config.json` beside it, or its ZipMap. Of a single score, two, or the positive's alone.
    activation
        How raw scores become probabilities ("softmax", "probability", "sigmoid", ...), where that
        is read wrongly (see `targets.class_scores.Activation`).
    kind
        What kind of model it is, one of `targets.discovery.KINDS` or "classifier"; None: told by
        metadata, operators, names and shapes, and where these do not tell by one run on noise (of a
        function, by the first picture).
    gradient
        "auto", "exact", "surrogate", "forward-only", "finite-difference", "spsa" or "rloo".
    surrogate
        An ONNX file, a `.pt2` file or an `nn.Module` that takes the model's input and returns its
        raw output.
    trust
        Whether code in the surrogate's file may be run. A `.pt2` may hold any, and is refused
        without; an ONNX file holds none.
    options
        IBISA's settings, or one of their presets: "paper" (the default), "fast" or "quality".
    budget
        Forward passes for each explanation where no gradient exists; goes before `options`.
    threads
        CPU threads within an operator; None: ONNX Runtime's own choice.
    extra_inputs
        Values of the model's other inputs, by name.
    cache
        Whether exact gradients are kept for the next time, or the folder to keep them in. True:
        what the environment's IBISA_ONNX_CACHE says, else where the platform keeps caches.
    limits
        How much pictures and the model may ask for; None: as the environment says.

    Raises
    ------
    IbisaError
        Its subclasses say what is wrong: ModelError, ProviderError, PreprocessingError ...
    """

    def __init__(
        self,
        model: str
        | os.PathLike[str]
        | bytes
        | onnxruntime.InferenceSession
        | Callable[[npt.NDArray[Any]], Any]
        | ImageModel,
        input_spec: InputSpec | None = None,
        *,
        providers: Sequence[str] = (),
        input: str | None = None,
        output: str | None = None,
        preprocessing: Preprocessing | str | os.PathLike[str] | None = None,
        overrides: Overrides | Mapping[str, Any] | None = None,
        labels: Sequence[str] | str | os.PathLike[str] | None = None,
        activation: str | None = None,
        kind: str | None = None,
        gradient: str = "auto",
        surrogate: str | os.PathLike[str] | torch.nn.Module | None = None,
        trust: bool = False,
        options: Options | str | None = None,
        budget: int | None = None,
        threads: int | None = None,
        extra_inputs: Mapping[str, npt.NDArray[Any]] | None = None,
        cache: bool | str | os.PathLike[str] = True,
        limits: Limits | None = None,
    ) -> None:
        _check_types(
            providers=providers,
            input=input,
            output=output,
            labels=labels,
            activation=activation,
            kind=kind,
            gradient=gradient,
            surrogate=surrogate,
            options=options,
            threads=threads,
            extra_inputs=extra_inputs,
            limits=limits,
        )
        overrides = Overrides.of(overrides)
        self.model = open_model(
            model,
            input_spec,
            layout=_layout(preprocessing, overrides),
            output=output,
            providers=providers,
            input=input,
            threads=threads,
            extra_inputs=extra_inputs,
            limits=limits,
        )
        self.preprocessing, self._reader = open_reader(
            self.model,
            preprocessing,
            overrides,
            output=output,
            activation=activation,
            labels=labels,
            kind=kind,
        )
        self.options = options_named(options)
        if budget is not None:
            self.options = replace(self.options, budget=budget)
        self._gradients = GradientSelection(gradient, surrogate, cache_folder(cache), trust=trust)
        self._pipeline = Pipeline(self.model, self.preprocessing.spec, self._reader)
        self._baselines: BuiltOnce[Baseline] = BuiltOnce()
        self._baseline(self.method)  # what is none is told of at once
        self._given = {
            "input": input,
            "output": output,
            "kind": kind,
            "labels": self._reader.given_labels,
            "activation": activation,
            "gradient": gradient,
            "threads": threads,
            "extra_inputs": {
                name: np.asarray(value).tolist() for name, value in (extra_inputs or {}).items()
            },
        }

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes by index; None where nobody gave any.

        Those that the graph gives, and of a single score, are known once a picture was seen.
        """
        return self._reader.labels

    @property
    def method(self) -> Ibisa:
        """IBISA with this explainer's options and gradient: what `explain` uses unless told."""
        return Ibisa(self.options, self._gradients)

    @property
    def settings(self) -> dict[str, Any]:
        """All that maps and their cost depend on, beside picture, seed and method.

        Plain data, but for a surrogate that is a module: of it the type's name.
        """
        return {
            **self._given,
            "model": self.model.identity,
            "providers": self.model.providers,
            "preprocessing": self.preprocessing.spec.to_dict(),
            "surrogate": self._gradients.surrogate_identity,
            "options": asdict(self.options),
            "baseline_sha256": self._baseline(self.method).sha256,
        }

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python and of the packages that explanations rest on, by name."""
        return self._pipeline.versions

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know about this model, in any explanation."""
        return (
            *self.model.warnings,
            *self.preprocessing.warnings,
            *self._reader.warnings,
            *self._gradients.warnings,
        )

    def predict(self, image: Image, top: int = 5) -> list[Prediction]:
        """Return the likeliest classes of a picture, likeliest first, for one forward pass.

        Parameters
        ----------
        image
            The path or the bytes of a picture, a PIL image, or an array [H, W, 3] RGB.
        top
            How many.
        """
        if isinstance(top, bool) or not isinstance(top, int | np.integer) or top < 1:
            raise OptionError(f"top is {top!r}; give a whole number, 1 or more")
        probabilities = self._pipeline.probabilities(image)
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [
            Prediction(int(index), self._reader.label(int(index)), float(probabilities[index]))
            for index in order
        ]

    @property
    def kind(self) -> Kind:
        """What kind of model it is, how that is known, and what can be asked of it."""
        return self._reader.kind

    def answers(self, image: Image, *, confidence: float | None = None) -> list[Answer]:
        """Return all that the model says of a picture, the surest first, for one forward pass.

        Classes, boxes, regions, characters or values, as its kind is.

        Parameters
        ----------
        image
            The path or the bytes of a picture, a PIL image, or an array [H, W, 3] RGB.
        confidence
            The least score of a detector's boxes, 0 to 1; None: 0.25.

        Raises
        ------
        TargetError
            A confidence is given and is none, or the model is no detector.
        """
        return self._pipeline.answers(image, confidence)

    def try_preprocessing(
        self, images: Sequence[Image], targets: Sequence[str | int] | None = None
    ) -> TrialRanking:
        """Rank presets of preprocessing by what the model makes of some pictures.

        Nothing is changed: give what comes first, if it is sure, to a new `Explainer`.

        Parameters
        ----------
        images
            One or more; five of different things say far more than one.
        targets
            The class of each, by index or label; None: not known.

        Raises
        ------
        IbisaError
            A picture cannot be read, there is no such class, or the model gives no class scores.
        """
        return self._pipeline.try_preprocessing(images, targets)

    def explain(
        self,
        image: Image,
        target: Target | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        deadline: float | None = None,
        stop: Callable[[], bool] | None = None,
        method: Method | str | None = None,
    ) -> Explanation:
        """Find the pixels that the model needed for one answer.

        Parameters
        ----------
        image
            The path or the bytes of a picture, a PIL image, or an array [H, W, 3] RGB.
        target
            A class index, a label, an objective, or None: the predicted class.
        seed
            The same seed gives the same map, bit for bit, on one machine.
        progress
            Called with steps done and steps in all (without a gradient: queries).
        deadline
            Seconds, counted from the call, by which the best map so far is checked and returned;
            its `completion` says so. At least one step ("forward-only": one batch of queries) is
            always done. Only a call of ONNX Runtime that does not come back is ended: as long
            again after the deadline, and 5 s at least (see `models.running`). None: as long as it
            takes, for ever if the model is endless.
        stop
            Asked between two steps (batches of queries); True ends it in the same way.
        method
            Another method than IBISA: one of `ibisa_onnx.methods`, or its name there ("rise",
            "gradcam" ...).

        Raises
        ------
        IbisaError
            Its subclasses say what is wrong: ImageError, TargetError, OutputError ...
        """
        check_single(target)
        found = self._solve([image], [target], seed, progress, deadline, stop, method, single=True)
        ((_, explanation),) = found
        return explanation

    def explain_rounds(
        self,
        image: Image,
        target: Target | None = None,
        *,
        seed: int = 0,
        deadline: float | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[Explanation]:
        """Explain one answer round by round: a map after each step (without a gradient: round).

        The last is what `explain` returns. Those before it are not checked (their `sufficiency` is
        None), and cost no pass more. Whoever has seen enough simply stops asking.

        Parameters and errors are those of `explain`; the work, and the deadline's time, begin when
        the first map is asked for, and go on while nobody asks for the next.
        """
        check_single(target)
        check_seed(seed)
        control = Control.from_now(None, deadline, stop, intermediate=True)
        with control.limit:
            problem = self.problem(image, target)
        found = self._pipeline.solve(problem, self.method, int(seed), control)
        for _, explanation in control.limit.each(found):
            yield self._with_warnings(explanation)

    def explain_all(
        self,
        image: Image,
        targets: Sequence[Target] | Target | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        deadline: float | None = None,
        stop: Callable[[], bool] | None = None,
        method: Method | str | None = None,
    ) -> list[Explanation]:
        """Explain several answers to one picture, together, in the order of `targets`.

        The prediction, the fidelity check and the choice of the baseline are made once, and counted
        in the first explanation: of 21 forward passes the second needs 15. With a gradient all take
        their steps side by side. The deadline is that of all of them.

        Parameters
        ----------
        targets
            Class indices, labels, "top:3" or objectives, alone or in a sequence; None: the
            predicted class.
        """
        found = self._solve([image], [targets], seed, progress, deadline, stop, method)
        return _in_order(found)

    def iter_explanations(
        self,
        image: Image,
        targets: Sequence[Target] | Target | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        deadline: float | None = None,
        stop: Callable[[], bool] | None = None,
        method: Method | str | None = None,
    ) -> Iterator[Explanation]:
        """Do what `explain_all` does, and yield each explanation as soon as it is finished."""
        found = self._solve([image], [targets], seed, progress, deadline, stop, method)
        return (explanation for _, explanation in found)

    def explain_batch(
        self,
        images: Sequence[Image],
        targets: Sequence[Target] | Target | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        deadline: float | None = None,
        stop: Callable[[], bool] | None = None,
        method: Method | str | None = None,
    ) -> list[Explanation]:
        """Explain an answer to each of several pictures, together.

        With a gradient all take their steps side by side, and the model is asked about as many at
        once as it takes; each map is the one that `explain` gives for the picture alone. Memory
        grows with their number: some ten pictures are as fast as more.

        Parameters
        ----------
        images
            The pictures, of any sizes.
        targets
            One for all, or a sequence of one for each; None: the predicted class of each.

        Returns
        -------
        list of Explanation
            One for each picture, in their order.

        Raises
        ------
        TargetError
            The targets are not as many as the pictures, or one means several answers.
        """
        one = isinstance(images, str | bytes | os.PathLike | np.ndarray)
        if one or not isinstance(images, Iterable):
            raise OptionError("explain_batch takes a sequence of images; put one into a list")
        images = list(images)
        each = listed(targets) if is_several(targets) else [targets] * len(images)
        if len(each) != len(images):
            raise TargetError(
                f"there are {len(each)} targets for {len(images)} images; "
                "give one for each, or one for all"
            )
        for target in each:
            check_single(target, "explain_batch explains one answer to each picture")
        if not images:
            return []
        found = self._solve(images, each, seed, progress, deadline, stop, method, single=True)
        return _in_order(found)

    def problem(self, image: Image, target: Target | None = None) -> Problem:
        """Ask the model about a picture, for one forward pass, so as to ask more about one answer.

        Parameters and errors are those of `explain`.
        """
        check_single(target)
        problem = self._pipeline.ask([image], [target_specs(target)], self._baseline(self.method))
        _check_rows(problem, 1)
        return problem

    def prepare(self, problem: Problem, method: Method | str | None = None) -> None:
        """Prepare a method for this model, once, before it is first asked for a map.

        Parameters
        ----------
        problem
            Of any picture.
        method
            None: IBISA, whose gradient is built.

        Raises
        ------
        IbisaError
            The method cannot explain this model; the message says why.
        """
        self._pipeline.prepare(self._method(method), problem)

    def map_of(
        self,
        problem: Problem,
        image: npt.NDArray[np.float32] | None = None,
        *,
        seed: int = 0,
        method: Method | str | None = None,
    ) -> npt.NDArray[np.float32]:
        """Explain one answer at the size of the model's input, where nothing is resized.

        Parameters
        ----------
        problem
            Of one picture.
        image
            float32 [C, h, w] in model space: another image, of which the same is asked; None: the
            problem's own.
        seed, method
            As in `explain`.

        Returns
        -------
        float32 [h, w]
            The map, in 0..1.
        """
        check_seed(seed)
        chosen = self._method(method)
        return self._pipeline.map_of(problem, image, self._baseline(chosen), chosen, int(seed))

    def _solve(
        self,
        images: Sequence[Image],
        targets: Sequence[Any],
        seed: int,
        progress: Progress | None,
        deadline: float | None,
        stop: Callable[[], bool] | None,
        method: Method | str | None,
        *,
        single: bool = False,
    ) -> Iterator[tuple[int, Explanation]]:
        """Check all arguments, ask, and yield explanations with the numbers of their rows."""
        control = Control.from_now(progress, deadline, stop)
        check_seed(seed)
        chosen = self._method(method)
        specs = [target_specs(each) for each in targets]
        with control.limit:
            problem = self._pipeline.ask(images, specs, self._baseline(chosen))
        if single:
            _check_rows(problem, len(images))
        found = control.limit.each(self._pipeline.solve(problem, chosen, int(seed), control))
        return ((row, self._with_warnings(explanation)) for row, explanation in found)

    def _baseline(self, method: Method) -> Baseline:
        """Return the baseline of a method's own settings, else of these; a file is read once."""
        options = method.options if isinstance(method, Ibisa) else self.options
        name, blur = options.baseline, options.blur
        return self._baselines.get(
            (name, blur), lambda: baseline_named(name, blur, self.preprocessing.spec)
        )

    def _method(self, method: Method | str | None) -> Method:
        if method is None or (isinstance(method, str) and method == self.method.name):
            return self.method
        if isinstance(method, str):
            from ibisa_onnx.methods.registry import method_named

            return method_named(method)
        if isinstance(method, type) or not isinstance(method, Method):
            raise OptionError(
                f"method is {method!r}; give one of ibisa_onnx.methods, such as GradCam()"
            )
        return method

    def _with_warnings(self, explanation: Explanation) -> Explanation:
        """Put what there is to know of the model before what there is to know of the map."""
        warnings = dict.fromkeys((*self.warnings, *explanation.warnings))
        return replace(explanation, warnings=tuple(warnings))


def _check_types(**given: Any) -> None:
    """Raise `OptionError` where an argument is of a type that it cannot be."""
    for name, value in given.items():
        types, wanted = _TYPES[name]
        module = name == "surrogate" and callable(getattr(value, "forward", None))
        optional = value is None and name not in ("providers", "gradient")
        fits = isinstance(value, types) and not isinstance(value, bool)
        if not (fits or optional or module):
            raise OptionError(f"{name} is {shortened(repr(value), 60)}; give {wanted}")


def _in_order(found: Iterable[tuple[int, Explanation]]) -> list[Explanation]:
    """Return explanations by the numbers of their rows."""
    return [explanation for _, explanation in sorted(found, key=lambda pair: pair[0])]


def _layout(
    preprocessing: Preprocessing | str | os.PathLike[str] | None, overrides: Overrides
) -> str | None:
    """Return the layout that was given, without which some shapes cannot be read."""
    if isinstance(preprocessing, Preprocessing):
        return preprocessing.layout
    return overrides.layout


def _check_rows(problem: Problem, images: int) -> None:
    """Raise `TargetError` where targets bind to no answer of a picture, or to several."""
    pictures = {id(row.picture) for row in problem.rows}
    if len(problem) != images or len(pictures) != images:
        raise TargetError(
            f"the target means {len(problem)} answers to {images} image(s); it must mean one "
            "each, or use explain_all"
        )
