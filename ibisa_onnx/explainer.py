"""The public entry point, `Explainer`: checks arguments; `pipeline` does the work."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from ibisa_onnx.caching import BuiltOnce
from ibisa_onnx.checks import check_count, check_type, shown
from ibisa_onnx.errors import AbsentTargetError, OptionError, OutputError, TargetError
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.gradients.cache import cache_folder
from ibisa_onnx.gradients.selection import GradientSelection
from ibisa_onnx.io.formats import encode_png
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
from ibisa_onnx.models.running import check_deadline
from ibisa_onnx.pipeline import Pipeline
from ibisa_onnx.preprocessing.resolve import Overrides
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.preprocessing.trial import TrialRanking
from ibisa_onnx.statements import Prediction
from ibisa_onnx.targets.arguments import check_single, is_several, listed, target_specs
from ibisa_onnx.targets.base import Answer, Kind, Objective, TargetSpec
from ibisa_onnx.targets.opening import open_reader

if TYPE_CHECKING:
    import onnxruntime
    import torch
    from typing_extensions import Buffer

    from ibisa_onnx.gradients.selection import Gradient
    from ibisa_onnx.methods.ibisa.options import PresetName
    from ibisa_onnx.methods.registry import MethodName
    from ibisa_onnx.models.providers import Provider

_NAME = (str,), "a name"
_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "providers": ((str, list, tuple), "a list of names"),
    **dict.fromkeys(("input", "output", "activation", "kind", "gradient"), _NAME),
    "labels": ((str, os.PathLike, Sequence, np.ndarray), "a list of names, or a file"),
    "surrogate": ((str, os.PathLike), "a file or an nn.Module"),
    "gradient_from": ((str, os.PathLike), "an ONNX file"),
    "options": ((str, Options), "an Options or the name of a preset"),
    "threads": ((numbers.Integral,), "an integer"),
    "extra_inputs": ((Mapping,), "a dict of values by name"),
    "limits": ((Limits,), "a Limits"),
}
"""Accepted types of an argument, and what to pass."""

Image = Source
Target = str | int | np.integer[Any] | Objective | TargetSpec
"""A class index, a label, "top:3", an `Objective`, or a `TargetSpec` such as `BoxTarget`."""
Served = Sequence[float] | npt.NDArray[Any] | int | np.integer[Any] | str
"""Class probabilities [K], or the index or label of a class."""


class Explainer:
    """Explains the predictions of one deployed model.

    Thread-safe: several threads may call one explainer. Opening a model may run it; for untrusted
    models, open and call the explainer within `ibisa_onnx.time_limit(seconds)`.

    Parameters
    ----------
    model
        The path of an ONNX file or its bytes in any buffer, a live `onnxruntime.InferenceSession`,
        a function that `input_spec` describes, the URL of a model on a server (see `RemoteModel`),
        or an `ImageModel` such as `DeployedModel` or `FunctionModel`.
    input_spec
        Inputs and outputs of a function, or of a model on a server that does not declare them; None
        for all other models.
    providers
        Execution providers, by ONNX Runtime's names or their short forms ("cuda"), or pairs of a
        name and its options. A requested provider that does not start is an error, never a
        fallback. Empty: CUDA if it works, else CPU.
    input
        Name of the image input; None: the only input that can hold images.
    output
        Name of the output, or of the tensor inside the model, with the class scores; None:
        detected.
    preprocessing
        A `Preprocessing`, the name of a preset, or the path of a spec file. None: inferred from the
        model's metadata, files beside it, its input's type and shape, and last ImageNet defaults,
        with a warning (see `warnings`).
    overrides
        Individual preprocessing settings, which take precedence over all other sources: an
        `Overrides` or a dict of its fields.
    labels
        Class names by index, or a file with them; for a single score, two names or only the
        positive class's. None: from the model's metadata, a `config.json` beside it, or its ZipMap.
    activation
        How raw scores become probabilities ("softmax", "probability", "sigmoid" ...; see
        `targets.class_scores.Activation`); None: detected.
    kind
        The kind of model, one of `targets.discovery.KINDS` or "classifier". None: detected from
        metadata, operators, names and shapes and, if these are inconclusive, from one run on noise
        (for a function, from the first image).
    gradient
        "auto", "exact", "surrogate", "forward-only" or "finite-difference".
    surrogate
        A differentiable substitute for the model: an ONNX file, a `.pt2` file or an `nn.Module`
        with the model's input and raw output.
    gradient_from
        The ONNX file that runs behind a function or a model on a server. Its gradient is used,
        checked against the model on each image; its metadata, and files beside it, supply
        preprocessing and labels.
    trust
        Whether code in the surrogate's file may run. A `.pt2` file may contain arbitrary code and
        is rejected otherwise; an ONNX file contains none.
    options
        IBISA's settings, or a preset: "standard" (the default), "fast" or "quality".
    budget
        Forward passes per explanation if the gradient is "forward-only"; overrides `options`.
    threads
        CPU threads per operator; None: ONNX Runtime's default.
    max_batch
        Maximum images per model call; a lower number saves memory. None: 8, or the model's fixed
        batch.
    extra_inputs
        Values of the model's other inputs, by name.
    cache
        Whether to cache exact gradients on disk, or the cache folder. True: the folder in the
        environment variable IBISA_ONNX_CACHE, else the platform's cache directory.
    limits
        Limits on what images and the model may ask for; None: from the environment.

    Attributes
    ----------
    model : ImageModel
        The opened model.
    preprocessing : ResolvedPreprocessing
        The preprocessing settings, each with its source.
    options : Options
        IBISA's settings.
    cache : Path or None
        The folder of the gradient cache; None if it is off.

    Raises
    ------
    ModelError
        The model cannot be opened, or is not an image model.
    ProviderError
        A requested execution provider is not available.
    PreprocessingError
        The preprocessing is contradictory, or does not fit the model's input.
    OutputError
        The output does not exist.
    GradientError
        `gradient` is "exact" and the model has no exact gradient, or contradicts other arguments.
    OptionError
        An argument has the wrong type or value.
    IbisaError
        Base class of all of these.

    Examples
    --------
    ```python
    import ibisa_onnx

    explainer = ibisa_onnx.Explainer("model.onnx", overrides={"mean": [0.5], "std": [0.5]})
    print(explainer.preprocessing.spec, explainer.warnings)
    for prediction in explainer.predict("dog.jpg"):
        print(prediction.label, prediction.probability)
    explainer.explain("dog.jpg").save("dog/")
    ```
    """

    def __init__(
        self,
        model: str
        | os.PathLike[str]
        | Buffer
        | onnxruntime.InferenceSession
        | Callable[[npt.NDArray[Any]], Any]
        | ImageModel,
        input_spec: InputSpec | None = None,
        *,
        providers: Sequence[Provider] = (),
        input: str | None = None,
        output: str | None = None,
        preprocessing: Preprocessing | str | os.PathLike[str] | None = None,
        overrides: Overrides | Mapping[str, Any] | None = None,
        labels: Sequence[str] | str | os.PathLike[str] | None = None,
        activation: str | None = None,
        kind: str | None = None,
        gradient: Gradient = "auto",
        surrogate: str | os.PathLike[str] | torch.nn.Module | None = None,
        gradient_from: str | os.PathLike[str] | None = None,
        trust: bool = False,
        options: Options | PresetName | None = None,
        budget: int | None = None,
        threads: int | None = None,
        max_batch: int | None = None,
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
            gradient_from=gradient_from,
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
            gradient_from=gradient_from,
            **({} if max_batch is None else {"max_batch": check_count("max_batch", max_batch)}),
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
        self.cache = cache_folder(cache)
        self._gradients = GradientSelection(
            gradient,
            surrogate,
            self.cache,
            trust=trust,
            counterpart=self.model.counterpart,
        )
        self._pipeline = Pipeline(self.model, self.preprocessing.spec, self._reader)
        self._baselines: BuiltOnce[Baseline] = BuiltOnce()
        self._baseline(self.method)  # an invalid baseline is reported at once
        if gradient == "exact":
            self._pipeline.open_gradient(self._gradients)  # as is a missing gradient
        self._given = {
            "input": input,
            "output": output,
            "kind": kind,
            "labels": self._reader.given_labels,
            "activation": activation,
            "gradient": gradient,
            "threads": threads,
            "max_batch": max_batch,
            "extra_inputs": {
                name: np.asarray(value).tolist() for name, value in (extra_inputs or {}).items()
            },
        }

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names by index; None if unknown.

        Labels stored in the graph, and those of a single score, are known after the first image.
        """
        return self._reader.labels

    @property
    def method(self) -> Ibisa:
        """IBISA with this explainer's options and gradient: the default method of `explain`."""
        return Ibisa(self.options, self._gradients)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that maps and their cost depend on, except image, seed and method.

        JSON data; a surrogate that is a module is represented by its type's name.
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
        """Versions of Python and of the packages involved, by name."""
        return self._pipeline.versions

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about this model, repeated in each of its explanations."""
        return (
            *self.model.warnings,
            *self.preprocessing.warnings,
            *self._reader.warnings,
            *self._gradients.warnings,
        )

    def predict(self, image: Image, top: int = 5) -> list[Prediction]:
        """Return the most probable classes of an image, in descending order.

        Costs one forward pass.

        Parameters
        ----------
        image
            The path or bytes of an image file, a PIL image, or an array [H, W, 3] RGB.
        top
            Number of classes.

        Returns
        -------
        list of Prediction
            At most `top` classes.

        Raises
        ------
        OptionError
            `top` is not an integer of 1 or more.
        ImageError
            The image cannot be read or does not fit the model.
        OutputError
            The model returns no class scores.
        """
        if isinstance(top, bool) or not isinstance(top, int | np.integer) or top < 1:
            raise OptionError(f"top is {top!r}; pass an integer, 1 or more")
        probabilities = self._pipeline.probabilities(image)
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [
            Prediction(int(index), self._reader.label(int(index)), float(probabilities[index]))
            for index in order
        ]

    @property
    def kind(self) -> Kind:
        """The kind of model, how it was detected, and the targets it supports."""
        return self._reader.kind

    def answers(self, image: Image, *, confidence: float | None = None) -> list[Answer]:
        """Return everything the model predicts for an image, most confident first.

        Classes, boxes, regions, characters or values, depending on `kind`. Costs one forward pass.

        Parameters
        ----------
        image
            The path or bytes of an image file, a PIL image, or an array [H, W, 3] RGB.
        confidence
            Minimum score of a detector's boxes, 0 to 1; None: 0.25.

        Returns
        -------
        list of Answer
            The predictions.

        Raises
        ------
        ImageError
            The image cannot be read or does not fit the model.
        TargetError
            `confidence` is out of range, or the model is not a detector.
        """
        return self._pipeline.answers(image, confidence)

    def try_preprocessing(
        self, images: Sequence[Image], targets: Sequence[str | int] | None = None
    ) -> TrialRanking:
        """Rank the preprocessing presets by the model's predictions on a few images.

        Changes nothing: if the first candidate is conclusive, pass it to a new `Explainer`.

        Parameters
        ----------
        images
            One or more; five images of different things are far more conclusive than one.
        targets
            The class of each image, by index or label; None: unknown.

        Returns
        -------
        TrialRanking
            The candidates, best first.

        Raises
        ------
        IbisaError
            An image cannot be read, a class does not exist, or the model returns no class scores.
        """
        if targets is not None and not is_several(targets):
            raise TargetError(
                f"targets is {shown(targets)}; pass the class of each image in a list"
            )
        return self._pipeline.try_preprocessing(_images(images), targets)

    def explain(
        self,
        image: Image,
        target: Target | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        deadline: float | None = None,
        stop: Callable[[], bool] | None = None,
        method: Method | MethodName | None = None,
        served: Served | None = None,
    ) -> Explanation:
        """Compute the map of one prediction: which pixels does it depend on?

        Parameters
        ----------
        image
            The path or bytes of an image file, a PIL image, or an array: [H, W, 3] RGB or [H, W]
            grey, uint8 in 0..255 or floats in 0..1.
        target
            A class index, a label, an objective or a target such as `BoxTarget`; None: the
            predicted class (of other kinds of model, the most confident prediction).
        seed
            Random seed; the same seed returns the same map, bit for bit, on one machine.
        progress
            Called with the numbers of finished and of all steps (without a gradient: queries).
        deadline
            Seconds from the call within which the best map so far is returned; its `completion`
            reports that. Reading the image and restoring the map to its size are counted. The final
            check is left out if there is no time for it. None: no deadline. A model call that does
            not return is ended after as long again, and at least 5 s, past the deadline; without a
            deadline it is never ended.
        stop
            Called between steps (batches of queries); returning True ends the run at once, with the
            map so far and without its check (`sufficiency` is None).
        method
            A method other than IBISA: one of `ibisa_onnx.methods` or its name ("rise", "gradcam"
            ...).
        served
            What a service has returned for this image, to be verified by the forward pass that is
            explained: the probabilities of all classes [K], or the index or label of the predicted
            class. None: not verified. The prediction is in `Explanation.top`.

        Returns
        -------
        Explanation
            The map and its record.

        Raises
        ------
        ImageError
            The image cannot be read or does not fit the model.
        TargetError
            The target does not exist, or names several predictions.
        OutputError
            The model's outputs cannot be explained.
        GradientError
            The requested gradient is not available.
        OptionError
            An argument is invalid, or `method` does not support the model.
        DeadlineError
            There is no time for a first step, or a model call did not return.
        PredictionMismatchError
            The model predicts something other than `served`.
        ModelError
            The model failed.

        Examples
        --------
        ```python
        explainer = ibisa_onnx.Explainer("model.onnx")
        explanation = explainer.explain("dog.jpg")
        explanation = explainer.explain("dog.jpg", target="bloodhound", deadline=2.0)
        ```
        """
        check_single(target)
        found = self._solve(
            [image], [target], seed, progress, deadline, stop, method, served, single=True
        )
        ((_, explanation),) = found
        return explanation

    async def explain_async(
        self,
        image: Image,
        target: Target | None = None,
        *,
        stop: Callable[[], bool] | None = None,
        **options: Any,
    ) -> Explanation:
        """Compute one map in a worker thread, for `asyncio`.

        Parameters and errors are those of `explain`. If the task is cancelled, the work ends before
        its next step, without a check, and its map is discarded.

        Returns
        -------
        Explanation
            The map and its record.

        Examples
        --------
        ```python
        async with asyncio.timeout(2):
            explanation = await explainer.explain_async("dog.jpg")
        ```
        """
        import asyncio
        import threading

        cancelled = threading.Event()

        def ends() -> bool:
            return cancelled.is_set() or (stop is not None and stop())

        try:
            return await asyncio.to_thread(self.explain, image, target, stop=ends, **options)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def explain_rounds(
        self,
        image: Image,
        target: Target | None = None,
        *,
        seed: int = 0,
        deadline: float | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[Explanation]:
        """Explain one prediction step by step: yield the map after each step (forward-only: round).

        The last explanation is the one `explain` returns. Earlier ones are unchecked (`sufficiency`
        is None) and cost no additional passes. Stop iterating to end early.

        Parameters and errors are those of `explain`. Work and deadline start with the first map,
        and the deadline keeps running between maps.

        Yields
        ------
        Explanation
            The map so far.
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
        deadline_each: float | None = None,
        stop: Callable[[], bool] | None = None,
        method: Method | MethodName | None = None,
    ) -> list[Explanation]:
        """Explain several targets of one image together.

        The prediction, the fidelity check and the choice of baseline are made once and counted in
        the first explanation: with 21 forward passes for the first, the second needs 15. With a
        gradient, all targets take their steps in parallel. Parameters not listed are those of
        `explain`; the deadline applies to all targets together.

        Parameters
        ----------
        image
            The path or bytes of an image file, a PIL image, or an array [H, W, 3] RGB.
        targets
            Class indices, labels, "top:3" or objectives, alone or in a sequence; None: the
            predicted class.
        deadline_each
            Seconds per target: all targets together have as many times that, and at most
            `deadline`.

        Returns
        -------
        list of Explanation
            In the order of `targets`.

        Raises
        ------
        IbisaError
            As `explain`.

        Examples
        --------
        ```python
        first, second, third = explainer.explain_all("dog.jpg", "top:3")
        dog, cat = explainer.explain_all("pets.jpg", ["bloodhound", "tabby"])
        ```
        """
        found = self._solve(
            [image], [targets], seed, progress, deadline, stop, method, each=deadline_each
        )
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
        method: Method | MethodName | None = None,
    ) -> Iterator[Explanation]:
        """Compute what `explain_all` does, yielding each explanation as soon as it is finished.

        Parameters and errors are those of `explain_all`.

        Yields
        ------
        Explanation
            In the order in which they finish.
        """
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
        method: Method | MethodName | None = None,
    ) -> list[Explanation]:
        """Explain one target in each of several images together.

        With a gradient, all images take their steps in parallel, in the largest model calls that
        the batch axis allows. Each map equals the one `explain` returns for the image alone. Memory
        grows with the number of images; about ten are as fast per image as more. Parameters not
        listed are those of `explain`; the deadline applies to all images together.

        Parameters
        ----------
        images
            A sequence of images of any sizes.
        targets
            One target for all images, or a sequence with one per image; None: each image's
            predicted class.

        Returns
        -------
        list of Explanation
            One per image, in their order.

        Raises
        ------
        TargetError
            The number of targets differs from the number of images, or a target names several
            predictions.
        IbisaError
            As `explain`.

        Examples
        --------
        ```python
        explanations = explainer.explain_batch(["dog.jpg", "cat.jpg"])
        explanations = explainer.explain_batch(["dog.jpg", "cat.jpg"], ["bloodhound", "tabby"])
        ```
        """
        images = _images(images)
        each = listed(targets) if is_several(targets) else [targets] * len(images)
        if len(each) != len(images):
            raise TargetError(
                f"{len(each)} targets for {len(images)} images; pass one per image, or one for all"
            )
        for target in each:
            check_single(target, "explain_batch explains one prediction per image")
        if not images:
            return []
        found = self._solve(images, each, seed, progress, deadline, stop, method, single=True)
        return _in_order(found)

    def problem(self, image: Image, target: Target | None = None) -> Problem:
        """Return the explanation problem of an image and target; costs one forward pass.

        For metrics and for methods that are run by hand; see `map_of`. Parameters and errors are
        those of `explain`.

        Returns
        -------
        Problem
            The model, the image in model space, and the bound target.
        """
        check_single(target)
        problem = self._pipeline.ask([image], [target_specs(target)], self._baseline(self.method))
        _check_rows(problem, 1)
        return problem

    def prepare(self, problem: Problem, method: Method | MethodName | None = None) -> None:
        """Prepare a method for this model ahead of the first explanation.

        Parameters
        ----------
        problem
            The problem of any image.
        method
            None: IBISA, whose gradient is built.

        Raises
        ------
        IbisaError
            The method cannot explain this model; the message says why.
        """
        check_type("problem", problem, Problem, "what `Explainer.problem` returns")
        self._pipeline.prepare(self._method(method), problem)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an Explainer holds open sessions and cannot be pickled or copied; create it in the "
            "process that uses it"
        )

    def warm_up(self, image: Image | None = None) -> None:
        """Do what the first request would otherwise pay for: explain one image and discard it.

        Infers the kind of model, builds or loads the gradient, allocates memory, and imports what
        is needed to read images.

        Parameters
        ----------
        image
            An image on which the model predicts something; None: noise, in which a detector may
            find nothing, so that its gradient is built later.

        Raises
        ------
        IbisaError
            As `explain`.
        """
        if image is not None:
            self.explain(image)
            return
        height, width = self.preprocessing.spec.size
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        try:
            self.explain(encode_png(noise))
        except (AbsentTargetError, OutputError):  # of noise, not of the model
            return

    def map_of(
        self,
        problem: Problem,
        image: npt.NDArray[np.float32] | None = None,
        *,
        seed: int = 0,
        method: Method | MethodName | None = None,
    ) -> npt.NDArray[np.float32]:
        """Compute one map at the size of the model's input, without resizing.

        Parameters
        ----------
        problem
            The problem of one image.
        image
            float32 [C, h, w] in model space: another image to explain for the same target; None:
            the problem's own.
        seed
            Random seed.
        method
            As in `explain`.

        Returns
        -------
        ndarray
            float32 [h, w], in 0..1.
        """
        check_type("problem", problem, Problem, "what `Explainer.problem` returns")
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
        method: Method | MethodName | None,
        served: Served | None = None,
        *,
        single: bool = False,
        each: float | None = None,
    ) -> Iterator[tuple[int, Explanation]]:
        """Check all arguments, predict, and yield explanations with their row numbers."""
        control = Control.from_now(progress, deadline, stop)
        of_each = check_deadline(each, "deadline_each")
        check_seed(seed)
        chosen = self._method(method)
        specs = [target_specs(each) for each in targets]
        with control.limit:
            problem = self._pipeline.ask(images, specs, self._baseline(chosen))
        if single:
            _check_rows(problem, len(images))
        if served is not None:
            self._pipeline.check_served(problem.row, served)
        control.end_within(of_each * len(problem))
        found = control.limit.each(self._pipeline.solve(problem, chosen, int(seed), control))
        return ((row, self._with_warnings(explanation)) for row, explanation in found)

    def _baseline(self, method: Method) -> Baseline:
        """Return the baseline of the method's settings, else of this explainer's."""
        options = method.options if isinstance(method, Ibisa) else self.options
        name, blur = options.baseline, options.blur
        return self._baselines.get(
            (name, blur), lambda: baseline_named(name, blur, self.preprocessing.spec)
        )

    def _method(self, method: Method | MethodName | None) -> Method:
        if method is None or (isinstance(method, str) and method == self.method.name):
            return self.method
        if isinstance(method, str):
            from ibisa_onnx.methods.registry import method_named

            return method_named(method)
        if isinstance(method, type) or not isinstance(method, Method):
            raise OptionError(
                f"method is {method!r}; pass one of ibisa_onnx.methods, such as GradCam()"
            )
        return method

    def _with_warnings(self, explanation: Explanation) -> Explanation:
        """Put the model's warnings before the map's."""
        warnings = dict.fromkeys((*self.warnings, *explanation.warnings))
        return replace(explanation, warnings=tuple(warnings))


def _check_types(**given: Any) -> None:
    """Raise `OptionError` if an argument has the wrong type."""
    for name, value in given.items():
        types, wanted = _TYPES[name]
        module = name == "surrogate" and callable(getattr(value, "forward", None))
        optional = value is None and name not in ("providers", "gradient")
        if not (optional or module):
            check_type(name, value, types, wanted)


def _images(images: Iterable[Image]) -> list[Image]:
    """Return images as a list; `OptionError` if they are a single one, or none."""
    one = isinstance(images, str | bytes | bytearray | memoryview | os.PathLike | np.ndarray)
    if one or not isinstance(images, Iterable):
        raise OptionError(f"images is {shown(images)}; pass a sequence, a single image as a list")
    return list(images)


def _in_order(found: Iterable[tuple[int, Explanation]]) -> list[Explanation]:
    """Return explanations in the order of their rows."""
    return [explanation for _, explanation in sorted(found, key=lambda pair: pair[0])]


def _layout(
    preprocessing: Preprocessing | str | os.PathLike[str] | None, overrides: Overrides
) -> str | None:
    """Return the given layout, which some shapes require."""
    if isinstance(preprocessing, Preprocessing):
        return preprocessing.layout
    return overrides.layout


def _check_rows(problem: Problem, images: int) -> None:
    """Raise `TargetError` unless targets bind to exactly one prediction per image."""
    pictures = {id(row.picture) for row in problem.rows}
    if len(problem) != images or len(pictures) != images:
        raise TargetError(
            f"the target names {len(problem)} predictions for {images} image(s); name one per "
            "image, or use explain_all"
        )
