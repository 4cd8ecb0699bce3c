"""The public face: a deployed model that can be asked why.

Here the parts are put together: the picture prepared, the target chosen, the gradient path opened
and certified, lambda found and checked, the map brought back to the picture. Each part lives
elsewhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import (
    ModelError,
    NonFiniteGradientError,
    OptionError,
    TargetError,
)
from ibisa_onnx.explanation import (
    ExplainedTarget,
    Explanation,
    Provenance,
    Sufficiency,
)
from ibisa_onnx.gradients.cache import cache_folder
from ibisa_onnx.gradients.fidelity import Certified, certify, without_gradient
from ibisa_onnx.gradients.selection import (
    GradientPath,
    check_gradient,
    choose_gradient,
    surrogate_identity,
    surrogate_name,
)
from ibisa_onnx.io.images import read_picture
from ibisa_onnx.methods.base import Attribution, Method
from ibisa_onnx.methods.budget import Progress
from ibisa_onnx.methods.ibisa.method import Found, search
from ibisa_onnx.methods.ibisa.optimizer import PRESETS, Options
from ibisa_onnx.methods.ibisa.sufficiency import IMAGES, check_sufficiency
from ibisa_onnx.methods.masking import BASELINES, Bottleneck
from ibisa_onnx.methods.problem import Case
from ibisa_onnx.methods.stopping import Limit, check_deadline
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.environment import versions
from ibisa_onnx.models.function import InputSpec
from ibisa_onnx.models.open import open_model
from ibisa_onnx.models.passes import PassCount
from ibisa_onnx.pipeline import Asked, Inquiry, Question
from ibisa_onnx.preprocessing.resolve import Overrides, settle_preprocessing
from ibisa_onnx.preprocessing.spec import Preprocessing, mean_colour, prepare
from ibisa_onnx.reporting import report
from ibisa_onnx.targets.classification import (
    ClassOutput,
    choose,
    count,
)
from ibisa_onnx.targets.reader import OutputReader

if TYPE_CHECKING:
    import onnxruntime
    import torch

Image = str | os.PathLike[str] | bytes | npt.NDArray[Any]
Target = str | int | np.integer[Any]


@dataclass(frozen=True)
class Prediction:
    """A class, its label where that is known, and the probability the model gives it."""

    index: int
    label: str | None
    probability: float


class Explainer:
    """Explains the answers of one deployed model.

    Parameters
    ----------
    model
        The path or the bytes of an ONNX file, a live `onnxruntime.InferenceSession`, or a function
        from a batch of images to scores; or one that is opened, a `DeployedModel` or a
        `FunctionModel`.
    input_spec
        What a function takes; None for all else.
    providers
        Execution providers, by ONNX Runtime's names or their short forms; strict. Empty: CUDA where
        it works, else the CPU.
    input, output
        Names of the input that takes the image and of the output that holds class scores, where
        that is not plain.
    preprocessing
        A whole spec, the name of a preset, or a spec file; None: from the model's metadata, files
        beside it, its input's type and shape, and ImageNet's usual values (see `warnings`).
    overrides
        Single values of the preprocessing, which go before all else.
    labels
        Names of the classes by index, or a file of them; None: from the model's metadata, or a
        `config.json` beside it.
    activation
        How raw scores become probabilities ("softmax", "probability", "sigmoid", ...), where that
        is read wrongly (see `targets.Activation`).
    gradient
        "auto", "exact", "surrogate", "forward-only", "finite-difference", "spsa" or "rloo".
    surrogate
        A `.pt2` file or an `nn.Module` that takes the model's input and returns its raw output.
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
        overrides: Overrides | None = None,
        labels: Sequence[str] | str | os.PathLike[str] | None = None,
        activation: str | None = None,
        gradient: str = "auto",
        surrogate: str | os.PathLike[str] | torch.nn.Module | None = None,
        options: Options | str | None = None,
        budget: int | None = None,
        threads: int | None = None,
        extra_inputs: Mapping[str, npt.NDArray[Any]] | None = None,
        cache: bool | str | os.PathLike[str] = True,
    ) -> None:
        self.model = open_model(
            model,
            input_spec,
            layout=_layout(preprocessing, overrides),
            output=output,
            providers=providers,
            input=input,
            threads=threads,
            extra_inputs=extra_inputs,
        )
        self.preprocessing = settle_preprocessing(
            self.model.signature,
            self.model.metadata,
            preprocessing,
            overrides or Overrides(),
            self.model.folder,
        )
        self.options = _settle_options(options)
        if budget is not None:
            self.options = replace(self.options, budget=budget)
        check_gradient(gradient, surrogate)
        self._reader = OutputReader(self.model, output, activation, labels)
        self._wanted_gradient, self._surrogate = gradient, surrogate
        self._cache = cache_folder(cache)
        self._auto = gradient == "auto"
        self._opened: dict[tuple[Method, ClassOutput], Attribution] = {}
        self._said = {
            "output": output,
            "activation": activation,
            "gradient": gradient,
            "threads": threads,
            "extra_inputs": {
                name: np.asarray(value).tolist() for name, value in (extra_inputs or {}).items()
            },
        }

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes by index; None where nobody gave any."""
        return self._reader.labels

    @property
    def settings(self) -> dict[str, Any]:
        """All that maps and their cost depend on, beside picture, seed and method.

        Plain data, but for a surrogate that is a module: of it the type's name.
        """
        return {
            **self._said,
            "model": self.model.sha256 or self.model.name,
            "providers": self.model.providers,
            "preprocessing": self.preprocessing.spec.to_dict(),
            "surrogate": surrogate_identity(self._surrogate),
            "options": asdict(self.options),
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know about this model, in any explanation."""
        path = self.__dict__.get("_path")  # which warns only once it is opened
        return (
            *self.model.warnings,
            *self.preprocessing.warnings,
            *self._reader.warnings,
            *(path.warnings if path else ()),
        )

    def predict(self, image: Image, top: int = 5) -> list[Prediction]:
        """Return the likeliest classes of a picture, likeliest first, for one forward pass.

        Parameters
        ----------
        image
            The path or the bytes of a picture, or an array uint8 [H, W, 3] RGB.
        top
            How many.
        """
        probabilities = self._ask(image).probabilities
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [
            Prediction(int(index), self._reader.label(int(index)), float(probabilities[index]))
            for index in order
        ]

    def explain(
        self,
        image: Image,
        target: Target | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        deadline: float | None = None,
        stop: Callable[[], bool] | None = None,
        method: Method | None = None,
    ) -> Explanation:
        """Say which pixels the model needed for one answer.

        Parameters
        ----------
        image
            The path or the bytes of a picture, or an array uint8 [H, W, 3] RGB.
        target
            A class index, a label, or None: the predicted class.
        seed
            The same seed gives the same map, bit for bit, on one machine.
        progress
            Called with steps done and steps in all (without a gradient: queries).
        deadline
            Seconds, counted from the call, by which the best map so far is checked and returned;
            its `completion` says so. At least one step ("forward-only": one batch of queries) is
            always done. None: as long as it takes.
        stop
            Asked between two steps (batches of queries); True ends it in the same way.
        method
            Another method than IBISA, one of `ibisa_onnx.methods`.

        Raises
        ------
        IbisaError
            Its subclasses say what is wrong: ImageError, TargetError, OutputError ...
        """
        _check_single(target)
        (explanation,) = self.explain_all(
            image,
            target,
            seed=seed,
            progress=progress,
            deadline=deadline,
            stop=stop,
            method=method,
        )
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
        _check_single(target)
        seconds = check_deadline(deadline)
        inquiry = self._inquire(image, target, seed)
        limit = _limit(inquiry.begin, seconds, stop)
        yield from self._rounds(inquiry, inquiry.indices[0], limit, None, each=True)

    def explain_all(
        self,
        image: Image,
        targets: Sequence[Target] | Target | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        deadline: float | None = None,
        stop: Callable[[], bool] | None = None,
        method: Method | None = None,
    ) -> Iterator[Explanation]:
        """Explain several answers to one picture, one after the other.

        The prediction and the certificate are computed once and counted in the first explanation:
        of 20 forward passes the second needs 18. The deadline is that of each explanation by
        itself.

        Parameters
        ----------
        targets
            Class indices, labels or "top:3", alone or in a sequence; None: the predicted class.
        """
        seconds = check_deadline(deadline)
        inquiry = self._inquire(image, targets, seed, method)
        for index in inquiry.indices:
            limit = _limit(inquiry.begin, seconds, stop)
            yield from self._rounds(inquiry, index, limit, progress, each=False)
            inquiry.begin, inquiry.spent = time.perf_counter(), PassCount()

    def question(self, image: Image, target: Target | None = None) -> Question:
        """Ask the model about a picture, for one forward pass, so as to ask more about one answer.

        Parameters and errors are those of `explain`.
        """
        _check_single(target)
        asked = self._ask(image)
        (index,) = self._indices(target, asked)
        bottleneck = self._bottleneck(asked)
        return Question(
            case=self._case(asked, bottleneck, index),
            target=self._explained(asked, index),
            geometry=asked.prepared.geometry,
            blank=mean_colour(self.preprocessing.spec),
        )

    def open(self, question: Question, method: Method | None = None) -> None:
        """Prepare a method for this model, once, before it is first asked for a map.

        Parameters
        ----------
        question
            To any picture.
        method
            None: IBISA, whose gradient is built.

        Raises
        ------
        IbisaError
            The method cannot explain this model; the message says why.
        """
        if method is None:
            _ = self._path
        else:
            self._attribution(method, question.case.output)

    def _bottleneck(self, asked: Asked) -> Bottleneck:
        tensor = asked.prepared.tensor
        hidden = BASELINES[self.options.baseline]
        return Bottleneck(tensor, hidden(tensor, self.options.blur * max(tensor.shape[2:])))

    def _case(self, asked: Asked, bottleneck: Bottleneck, index: int, check: int = 0) -> Case:
        answer = float(asked.probabilities[index])
        return Case(self.model, bottleneck, asked.output, index, answer, check)

    def _inquire(
        self,
        image: Image,
        targets: Sequence[Target] | Target | None,
        seed: int,
        method: Method | None = None,
    ) -> Inquiry:
        """Ask the model what it says of a picture, and certify the gradient there."""
        if isinstance(method, type) or not (method is None or hasattr(method, "open")):
            raise OptionError(
                f"method is {method!r}; give one of ibisa_onnx.methods, such as GradCam()"
            )
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise OptionError(f"seed is {seed!r}; give a whole number, 0 or more")
        begin, before = time.perf_counter(), self.model.passes.snapshot()
        question = self._ask(image)
        indices = self._indices(targets, question)
        certified = self._certified(question, method)
        spent = self.model.passes.since(before)
        bottleneck = self._bottleneck(question)
        return Inquiry(question, indices, bottleneck, int(seed), certified, begin, spent, method)

    def _certified(self, asked: Asked, method: Method | None) -> Certified:
        """Hold the source of gradients against the model; other methods do so on their way."""
        if method is not None:
            return Certified(self._attribution(method, asked.output).path)
        tensor, auto = asked.prepared.tensor, self._auto
        return certify(self._path, tensor, asked.output, asked.probabilities, auto=auto)

    def _attribution(self, method: Method, output: ClassOutput) -> Attribution:
        """Open another method, once."""
        if (method, output) not in self._opened:
            self._opened[method, output] = method.open(self, output)
        return self._opened[method, output]

    def _rounds(
        self,
        inquiry: Inquiry,
        index: int,
        limit: Limit,
        progress: Progress | None,
        *,
        each: bool,
    ) -> Iterator[Explanation]:
        """Explain one answer: the map of each round where `each`, and the last one, checked."""
        opened = time.perf_counter()
        checked = inquiry.method is None and self.options.check
        check = IMAGES if checked else 0  # maps of other methods are no keep-probabilities
        case = self._case(inquiry.question, inquiry.bottleneck, index, check)
        for found in self._counted(inquiry, self._search(case, inquiry, limit, progress)):
            if each and not found.completion.ended:
                yield self._report(inquiry, index, found, None, {"open": opened})
        times = {"open": opened, "optimise": time.perf_counter()}
        before = self.model.passes.snapshot()
        sufficiency = check_sufficiency(case, found.keep) if checked else None
        inquiry.spent += self.model.passes.since(before)
        yield self._report(inquiry, index, found, sufficiency, times)

    def _counted(self, inquiry: Inquiry, rounds: Iterator[Found]) -> Iterator[Found]:
        """Count what each round takes, in whichever thread, and nothing that is run in between."""
        while True:
            before = self.model.passes.snapshot()
            found = next(rounds, None)
            inquiry.spent += self.model.passes.since(before)
            if found is None:
                return
            yield found

    def _report(
        self,
        inquiry: Inquiry,
        index: int,
        found: Found,
        sufficiency: Sufficiency | None,
        times: Mapping[str, float],
    ) -> Explanation:
        """Say what was found, with all that there is to know about it."""
        method = inquiry.method
        return report(
            inquiry,
            found,
            sufficiency,
            times,
            target=self._explained(inquiry.question, index),
            provenance=self._provenance(
                inquiry.question, inquiry.certified.path, inquiry.seed, method
            ),
            warnings=self.warnings,
        )

    def _ask(self, image: Image) -> Asked:
        """Prepare a picture and push it forward once."""
        picture = read_picture(image)
        prepared = prepare(picture.pixels, self.preprocessing.spec)
        raws = self.model.run(prepared.tensor, self._reader.candidates())
        output = self._reader.read(raws)
        return Asked(picture, prepared, output, output.probabilities(raws[output.name])[0])

    def _indices(self, targets: Sequence[Target] | Target | None, question: Asked) -> list[int]:
        """Return the classes that are meant, each once."""
        several = isinstance(targets, Sequence | np.ndarray) and not isinstance(targets, str)
        words: list[Any] = list(targets) if several else [targets]  # type: ignore[arg-type]
        if not words:
            raise TargetError("no target is given; leave it out for the predicted class")
        means = (choose(word, question.probabilities, self.labels) for word in words)
        return list(dict.fromkeys(index for indices in means for index in indices))

    @cached_property
    def _path(self) -> GradientPath:
        """The source of gradients, opened once the output is settled."""
        output = self._reader.output
        assert output is not None
        return choose_gradient(
            self._wanted_gradient,
            self.model,
            output.name,
            self._surrogate,
            self._cache,
            output.quantisation,
        )

    def _search(
        self, case: Case, inquiry: Inquiry, limit: Limit, progress: Progress | None
    ) -> Iterator[Found]:
        """Find lambda; under "auto" without the gradient where that fails."""
        path, options, seed = inquiry.certified.path, self.options, inquiry.seed
        if inquiry.method is not None:
            rng = np.random.default_rng(seed)
            yield from self._attribution(inquiry.method, case.output)(case, rng, progress, limit)
            return
        try:
            yield from search(case, path, options, seed, progress, limit)
            return
        except (NonFiniteGradientError, ModelError) as error:
            if path.source is None:
                raise
            inquiry.certified = without_gradient(error, auto=self._auto)
        yield from search(case, inquiry.certified.path, options, seed, progress, limit)

    def _explained(self, question: Asked, index: int) -> ExplainedTarget:
        return ExplainedTarget(
            output=question.output.name,
            index=index,
            label=self._reader.label(index),
            probability=float(question.probabilities[index]),
            activation=str(question.output.activation),
        )

    def _provenance(
        self, question: Asked, path: GradientPath, seed: int, method: Method | None
    ) -> Provenance:
        return Provenance(
            model=self.model.name,
            model_sha256=self.model.sha256,
            image=question.picture.name,
            image_sha256=question.picture.sha256,
            preprocessing=self.preprocessing.spec.to_dict(),
            providers=self.model.providers,
            versions=self._versions,
            seed=seed,
            options={
                "gradient": path.name,
                "surrogate": surrogate_name(self._surrogate),
                **(asdict(self.options) if method is None else method.settings),
            },
        )

    @cached_property
    def _versions(self) -> dict[str, str]:
        """Of Python and packages; looked up once, for that takes as long as some models."""
        return versions()


def _settle_options(options: Options | str | None) -> Options:
    """Return settings that were given, by their preset's name, or not at all."""
    if isinstance(options, Options):
        return options
    name = "paper" if options is None else options
    if name not in PRESETS:
        raise OptionError(f"there is no preset {name!r}; choose from: {', '.join(PRESETS)}")
    return PRESETS[name]


def _layout(
    preprocessing: Preprocessing | str | os.PathLike[str] | None, overrides: Overrides | None
) -> str | None:
    """Return the layout that was said, without which some shapes cannot be read."""
    if isinstance(preprocessing, Preprocessing):
        return preprocessing.layout
    return overrides.layout if overrides else None


def _check_single(target: Any) -> None:
    if count(target) > 1:
        raise TargetError(f"target {target!r} is several classes; use explain_all")


def _limit(begin: float, seconds: float, stop: Callable[[], bool] | None) -> Limit:
    return Limit(begin + seconds, stop) if stop else Limit(begin + seconds)
