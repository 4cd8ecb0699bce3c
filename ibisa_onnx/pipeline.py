"""The pipeline from images to explanations: predict, bind targets, run a method, report.

Each stage is implemented elsewhere; the public interface is `explainer`.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.caching import BuiltOnce
from ibisa_onnx.checks import check_type, shown
from ibisa_onnx.errors import (
    GradientError,
    IbisaError,
    ImageError,
    OptionError,
    PredictionMismatchError,
    TargetError,
)
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.gradients.fidelity import input_hint
from ibisa_onnx.gradients.masked_images import Floats, MaskedImages
from ibisa_onnx.gradients.selection import GradientSelection
from ibisa_onnx.io.images import Picture, Source
from ibisa_onnx.logs import logger
from ibisa_onnx.methods.base import AttributionResult, Method, PreparedMethod, Results
from ibisa_onnx.methods.baselines import Baseline
from ibisa_onnx.methods.problem import Problem, Row, check_described
from ibisa_onnx.methods.stopping import DEADLINE, Control
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.environment import versions
from ibisa_onnx.models.headed import HeadedModel
from ibisa_onnx.models.passes import PassCounter
from ibisa_onnx.preprocessing.geometry import Geometry
from ibisa_onnx.preprocessing.reading import read_for
from ibisa_onnx.preprocessing.spec import AS_IS, Prepared, Preprocessing, mean_colour, prepare
from ibisa_onnx.preprocessing.trial import TrialRanking, rank_preprocessing
from ibisa_onnx.statements import ExplainedTarget, Passes, Prediction, Provenance, is_flat
from ibisa_onnx.targets.base import (
    Answer,
    Context,
    FixedTarget,
    Nodes,
    Objective,
    Raw,
    TargetSpec,
)
from ibisa_onnx.targets.classification import NAME as CLASSIFIER
from ibisa_onnx.targets.classification import choose
from ibisa_onnx.targets.detection import answers_above
from ibisa_onnx.targets.exposing import ExposedModels
from ibisa_onnx.targets.reader import OutputReader

_log = logger(__name__)

_TOP = 5  # classes in a record
_SERVED_TOLERANCE = 1e-3  # of a probability: rounding of another provider, or of JSON
_PER_PIXEL = 1e-8  # seconds to restore a map to its image, at first
_MANY = 1_000_000  # pixels
_MEMORY = 0.9  # of the slowest time per pixel, which fades with each map
_DETAILS = frozenset({"kind", "caption", "output", "index", "label", "activation"})


@dataclass
class Pipeline:
    """One model, its preprocessing, and the methods prepared for it."""

    model: ImageModel
    preprocessing: Preprocessing
    reader: OutputReader

    def __post_init__(self) -> None:
        self._exposed = ExposedModels(self.reader.facts)
        self._prepared: BuiltOnce[PreparedMethod] = BuiltOnce()
        self._per_pixel = _PER_PIXEL

    def ask(
        self,
        images: Sequence[Source],
        specs: Sequence[Sequence[TargetSpec]],
        baseline: Baseline,
    ) -> Problem:
        """Run each image through the model once, and bind its targets to the outputs.

        Parameters
        ----------
        images
            The images.
        specs
            The targets of each.
        baseline
            What replaces masked pixels.

        Returns
        -------
        Problem
            One row per image and target.

        Raises
        ------
        IbisaError
            An image cannot be read, or a target is not among its predictions.
        """
        pictures = [self._read(each) for each in images]
        prepared = [prepare(each, self.preprocessing) for each in pictures]
        shared = [self.model.passes.scope() for _ in pictures]
        tensors = [each.tensor for each in prepared]
        seen = self._seen(tensors, shared)
        names = [name for each in specs for spec in each for name in spec.outputs(self.reader)]
        for name in names:
            check_type("the output of a target", name, str, "its name", TargetError)
        given = [spec.objective for each in specs for spec in each if isinstance(spec, FixedTarget)]
        nodes = [each for objective in given for each in objective.nodes] + [*self._nodes(specs)]
        model, answers = self._answers(tensors, names, nodes, shared, seen)
        contexts = [self._context(each.geometry, model) for each in prepared]
        bound = self._bind(answers, specs, contexts)
        for objective in (objective for each in bound for objective in each):
            check_described(objective)
        needed = [name for each in bound for objective in each for name in objective.outputs]
        if not set(needed) <= set(names):  # a bound target reads further outputs
            nodes += [each for row in bound for objective in row for each in objective.nodes]
            model, answers = self._answers(tensors, [*names, *needed], nodes, shared, seen)
        rows = [
            Row(
                objective,
                answers[place],
                picture,
                prepared[place].geometry,
                None if n else first,
                warnings=prepared[place].warnings,
            )
            for place, (picture, first) in enumerate(zip(pictures, shared, strict=True))
            for n, objective in enumerate(bound[place])
        ]
        for row in rows:
            _ = row.probability  # reports an invalid objective before any work
        places = [place for place, each in enumerate(bound) for _ in each]
        return Problem(
            model=model,
            masked=_masked(tensors, baseline, places),
            rows=tuple(rows),
            blank=_blank(self.preprocessing, pictures, tensors),
            passes=model.passes.scope(),
            baseline_sha256=baseline.sha256,
        )

    def _read(self, source: Source) -> Picture:
        return read_for(source, self.preprocessing, self.model.limits)

    def _prepare(self, source: Source) -> Prepared:
        return prepare(self._read(source), self.preprocessing)

    def _answers(
        self,
        tensors: Sequence[Floats],
        names: Sequence[str],
        nodes: Sequence[Nodes],
        passes: Sequence[PassCounter],
        seen: Sequence[Raw],
    ) -> tuple[ImageModel, list[Raw]]:
        """Run each image alone on a model with these outputs; return the model and the values.

        `seen` holds the outputs of a function, which is not called again.
        """
        outputs = tuple(dict.fromkeys(names))
        model = self._exposed.with_outputs(outputs, nodes)

        def answer(place: int) -> Raw:
            if seen:
                raw = _with_heads(model, seen[place], outputs)
            else:
                raw = model.run(tensors[place], outputs, passes[place])
            for values in raw.values():
                values.flags.writeable = False  # shared by everything that follows
            return raw

        return model, model.map_concurrently(answer, range(len(tensors)))

    def _seen(self, tensors: Sequence[Floats], passes: Sequence[PassCounter]) -> list[Raw]:
        """Run each image through a function; its kind is detected from the first outputs.

        The kind of a file is detected by a run on noise, so nothing runs here.
        """
        if self.reader.facts.is_deployed:
            return []

        def see(place: int) -> Raw:
            return self.model.run(tensors[place], None, passes[place])

        seen = self.model.map_concurrently(see, range(len(tensors)))
        for raw in seen:
            self.reader.see(raw)
        return seen

    def _nodes(self, specs: Sequence[Sequence[TargetSpec]]) -> tuple[Nodes, ...]:
        """Return the nodes of the model's kind if a target may read their outputs."""
        fixed = all(isinstance(spec, FixedTarget) for each in specs for spec in each)
        return () if fixed else self.reader.kind.nodes

    def _context(self, geometry: Geometry, model: ImageModel) -> Context:
        """Return the context in which the targets of one image are bound."""

        def ask(source: Source, names: Sequence[str]) -> Raw:
            tensor = self._prepare(source).tensor
            return model.run(tensor, tuple(names))

        return Context(self.reader, geometry, ask)

    def _bind(
        self,
        answers: Sequence[Raw],
        specs: Sequence[Sequence[TargetSpec]],
        contexts: Sequence[Context],
    ) -> list[list[Objective]]:
        """Bind the targets of each image to its outputs.

        How class scores are read may be inferred from one image and corrected by a later one; then
        all targets are bound again.
        """
        while True:
            reading = self.reader.output
            bound = [
                _unique([each for spec in row for each in self._bind_one(spec, raw, context)])
                for raw, row, context in zip(answers, specs, contexts, strict=True)
            ]
            if reading is self.reader.output:
                return bound

    def _bind_one(self, spec: TargetSpec, raw: Raw, context: Context) -> list[Objective]:
        """Bind one target to the outputs it requested."""
        wanted = spec.outputs(self.reader)
        return spec.bind({name: raw[name] for name in wanted}, context)

    def answers(self, image: Source, confidence: float | None = None) -> list[Answer]:
        """Return everything the model predicts for an image, most confident first.

        Costs one forward pass. `confidence` is the minimum score of a detector's boxes; None: the
        default.
        """
        prepared = self._prepare(image)
        tensors, passes = [prepared.tensor], [self.model.passes]
        seen = self._seen(tensors, passes)
        kind = self.reader.kind  # of a function, known after its first call
        said = kind.answers if confidence is None else answers_above(confidence, kind)
        model, (raw,) = self._answers(tensors, kind.outputs(), kind.nodes, passes, seen)
        return said(raw, self._context(prepared.geometry, model))

    def probabilities(self, image: Source) -> npt.NDArray[np.float64]:
        """Return the probabilities of all classes, [K]; costs one forward pass."""
        tensor = self._prepare(image).tensor
        probabilities: npt.NDArray[np.float64] = self.probabilities_of(tensor)[0]
        return probabilities

    def probabilities_of(self, tensors: Floats) -> npt.NDArray[np.float64]:
        """Return class probabilities [N, K] of images [N, C, H, W] in model space.

        Costs one forward pass per image.
        """
        names = self.reader.candidates()
        raw = self._exposed.with_outputs(names, []).run(tensors, names)
        reading = self.reader.read(raw)
        return reading.probabilities(raw[reading.name])

    def try_preprocessing(
        self, images: Sequence[Source], targets: Sequence[str | int] | None
    ) -> TrialRanking:
        """Rank the preprocessing presets by the model's predictions on a few images.

        `targets` holds the class of each image, by index or label; None: unknown.
        """
        pictures, classes = [self._read(each) for each in images], None
        if targets is not None:
            scores = self.probabilities(pictures[0]) if pictures else np.empty(0)
            labels = self.reader.labels  # some are known only after the first image
            classes = [choose(each, scores, labels)[0] for each in targets]
        return rank_preprocessing(self.preprocessing, pictures, self.probabilities_of, classes)

    def map_of(
        self, problem: Problem, image: Floats | None, baseline: Baseline, method: Method, seed: int
    ) -> Floats:
        """Compute one map without resizing; see `Explainer.map_of`."""
        shown = problem.image if image is None else _image_like(problem, image)
        masked = MaskedImages(shown, baseline.of(shown))
        problem = replace(problem, masked=masked) if image is None else problem.with_images(masked)
        prepared = self.prepare(method, problem)
        found: Results = {}
        for results in prepared.run(problem, np.random.default_rng(seed), Control.from_now()):
            found |= results
        return found[0].map

    def prepare(self, method: Method, problem: Problem) -> PreparedMethod:
        """Prepare a method once per family of objectives; a problem's rows share one family."""
        objective = problem.rows[0].objective
        key = (method, problem.model.identity, objective.family)
        try:
            hash(method)
        except TypeError as error:
            raise OptionError(
                f"method {method.name} cannot be hashed: {error}; use a frozen dataclass of values "
                "that can be"
            ) from error
        return self._prepared.get(
            key, lambda: method.prepare(problem.model, objective, self.preprocessing)
        )

    def open_gradient(self, gradients: GradientSelection) -> None:
        """Open the gradient of what the model predicts, before any image.

        Raises
        ------
        GradientError
            No output that a target may read has this gradient.
        """
        kind = self.reader.kind
        names = dict.fromkeys(
            self.reader.candidates() if kind.name == CLASSIFIER else kind.outputs()
        )
        failure: IbisaError | None = None
        for name in names:
            try:
                model = self._exposed.with_outputs((name,), kind.nodes)
                gradients.open(model, (name,), self.preprocessing.size)
                return
            except GradientError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def solve(
        self, problem: Problem, method: Method, seed: int, control: Control
    ) -> Iterator[tuple[int, Explanation]]:
        """Yield the row number and explanation of each finished map of a problem.

        Intermediate maps are yielded too if the control requests them.
        """
        control.stopping.reserved = self._seconds_to_report(problem)
        families: dict[Hashable, list[int]] = {}
        for number, row in enumerate(problem.rows):
            families.setdefault(row.objective.family, []).append(number)
        for number, rows in enumerate(families.values()):
            part, own = problem, control
            if len(families) > 1:
                part = problem.take(rows).sharing()
                own = control.share(len(families) - number, first=number == 0)
            rounds = self.prepare(method, part).run(part, np.random.default_rng(seed), own)
            open_: dict[int, AttributionResult] = {}
            left = set(range(len(part)))
            for found in rounds:
                _check_results(method, found, left)
                open_ |= found
                for place, result in found.items():
                    if result.timings is not None:
                        del open_[place]
                        left.remove(place)
                    elif not control.intermediate or result.completion.ended:
                        continue
                    yield rows[place], self._report(part, place, result, method, seed)
            for place, result in open_.items():  # of a method that does not report completion
                left.remove(place)
                finished = replace(result, timings=own.finish(), passes=part.spent()[place])
                yield rows[place], self._report(part, place, finished, method, seed)

            if left:
                raise OptionError(f"method {method.name} returned no map for {len(left)} target(s)")

    def _report(
        self,
        problem: Problem,
        place: int,
        result: AttributionResult,
        method: Method,
        seed: int,
    ) -> Explanation:
        """Map a result back to its image and build the explanation."""
        begin = time.perf_counter()
        row, restore = problem.rows[place], problem.rows[place].geometry.restore
        per_pixel = float(np.prod(row.geometry.cell))  # of the map
        effect, uncertainty = (
            None if each is None else per_pixel * restore(result.per_pixel(each))
            for each in (result.effect, result.deviation)
        )
        against = result.map_against
        answer = row.probability if result.answer is None else result.answer
        finished = result.timings is not None
        if finished:
            _log.info(
                "%s: %s by %s (%s), %d forward + %d backward passes",
                row.picture.name or row.picture.sha256[:12],
                row.objective.describe()["caption"],
                method.name,
                result.certificate.gradient,
                result.passes.forward,
                result.passes.backward,
            )
        explanation = Explanation(
            map=restore(result.map),
            image=row.picture.pixels,
            target=replace(explained_target(row), probability=answer),
            sufficiency=result.sufficiency,
            completion=result.completion,
            passes=Passes(**asdict(result.passes if finished else problem.spent()[place])),
            timings=dict(result.timings or {}),
            certificate=result.certificate,
            provenance=self._provenance(problem, row, result, method, seed),
            warnings=(
                *row.warnings,
                *row.objective.warnings(row.answer),
                *_warnings(result, answer),
            ),
            against=None if against is None else restore(against),
            effect=effect,
            uncertainty=uncertainty,
            method=method.name,
            together=len(problem),
            baseline=result.baseline,
            top=self._top(row),
        )
        pixels = explanation.map.size
        if pixels >= _MANY:  # of fewer, the time says nothing of the pixels
            self._per_pixel = max((time.perf_counter() - begin) / pixels, _MEMORY * self._per_pixel)
        return explanation

    def _seconds_to_report(self, problem: Problem) -> float:
        """Return how long restoring the maps to their images is expected to take."""
        sides = [row.geometry.shown for row in problem.rows]
        return self._per_pixel * sum(height * width for height, width in sides)

    def _top(self, row: Row) -> tuple[Prediction, ...]:
        """Return the most probable classes of a row's prediction, if it has class scores."""
        probabilities = self._classes(row)
        if probabilities is None:
            return ()
        order = np.argsort(-probabilities, kind="stable")[:_TOP]
        return tuple(
            Prediction(int(each), self.reader.label(int(each)), float(probabilities[each]))
            for each in order
        )

    def _classes(self, row: Row) -> npt.NDArray[np.float64] | None:
        """Return the class probabilities of a row's prediction, [K]; None if it has none."""
        reading = self.reader.output
        if reading is None or reading.name not in row.answer:
            return None
        probabilities: npt.NDArray[np.float64] = reading.probabilities(row.answer[reading.name])[0]
        return probabilities

    def check_served(self, row: Row, served: Any) -> None:
        """Compare what a service returned with the prediction of a row.

        Raises
        ------
        PredictionMismatchError
            They differ.
        OptionError
            `served` is neither class probabilities nor a class, or the target reads no class
            scores.
        """
        found = self._classes(row)
        if found is None:
            raise OptionError("served= applies to class predictions; this target reads none")
        if isinstance(served, str | int | np.integer) and not isinstance(served, bool):
            wanted, top = choose(served, found, self.reader.labels)[0], int(found.argmax())
            if wanted != top:
                raise PredictionMismatchError(
                    f"served= is {shown(served)}, but the model predicts "
                    f"{self.reader.label(top) or f'class {top}'} ({found[top]:.1%})",
                    "check that the service runs this model on the same preprocessed image",
                )
            return
        try:
            values = np.asarray(served, np.float64).reshape(-1)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.shape != found.shape or not np.isfinite(values).all():
            raise OptionError(
                f"served is {shown(served)}; pass {len(found)} probabilities, or a class's index "
                "or label"
            )
        worst = int(np.abs(values - found).argmax())
        if abs(values[worst] - found[worst]) > _SERVED_TOLERANCE:
            raise PredictionMismatchError(
                f"served= has {values[worst]:.4f} for {self.reader.label(worst) or worst}, but the "
                f"model predicts {found[worst]:.4f} (tolerance {_SERVED_TOLERANCE:g})",
                "check that the service runs this model on the same preprocessed image",
            )

    def _provenance(
        self, problem: Problem, row: Row, result: AttributionResult, method: Method, seed: int
    ) -> Provenance:
        model = problem.model
        return Provenance(
            model=model.name,
            model_sha256=model.sha256,
            image=row.picture.name,
            image_sha256=row.picture.sha256,
            reduction=row.picture.reduction,
            preprocessing=self.preprocessing.to_dict(),
            providers=model.providers,
            versions=self.versions,
            seed=seed,
            options={"gradient": result.certificate.gradient, **method.settings},
            baseline_sha256=problem.baseline_sha256 if result.baseline else None,
            server=None if model.origin is None else dict(model.origin),
        )

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of Python and packages; looked up once, as that takes as long as some models."""
        return versions()


def _with_heads(model: ImageModel, raw: Raw, outputs: Sequence[str]) -> dict[str, Any]:
    """Return these outputs, including those computed by nodes behind the model."""
    values = model.completed(raw) if isinstance(model, HeadedModel) else raw
    return {name: values[name] for name in outputs}


def _masked(images: Sequence[Floats], baseline: Baseline, rows: Sequence[int]) -> MaskedImages:
    """Pair each image with its baseline, repeated for each of its rows."""
    pair = np.concatenate(images), np.concatenate([baseline.of(each) for each in images])
    return MaskedImages(*(each[list(rows)] for each in pair))


def _blank(spec: Preprocessing, pictures: Sequence[Picture], tensors: Sequence[Floats]) -> Floats:
    """Return the neutral colour; the images' own mean if their values are not 0..255."""
    deep = [each.deep for each in pictures if each.deep is not None and each.deep.white != 255]
    own = spec.channel_order == AS_IS or (spec.takes_own_values and deep)
    return mean_colour(spec, np.stack([each.mean((0, 2, 3)) for each in tensors]) if own else None)


def _image_like(problem: Problem, image: Floats) -> Floats:
    """Return an image as [1, C, H, W]; `ImageError` if it is not one of the problem's shape."""
    shape = problem.masked.images.shape[1:]
    if not isinstance(image, np.ndarray) or image.shape != shape or image.dtype.kind != "f":
        said = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else image
        raise ImageError(f"image is {said!r:.80}; pass float32 {list(shape)} in model space")
    return image[None]


def _check_results(method: Method, found: Results, left: set[int]) -> None:
    """Raise `OptionError` if a method returns an invalid map, or one for a finished row."""
    for place, result in found.items():
        cells = result.cells
        if place not in left:
            raise OptionError(
                f"method {method.name} returned a map for row {place}, which does not exist or is "
                "finished"
            )
        if cells.ndim != 2 or cells.dtype.kind != "f" or not np.isfinite(cells).all():
            raise OptionError(
                f"method {method.name} returned {cells.dtype} {list(cells.shape)}; a map must be "
                "finite floats [rows, columns] in 0..1"
            )


def _unique(objectives: Sequence[Objective]) -> list[Objective]:
    """Drop duplicates; an unhashable objective equals no other."""

    def key(objective: Objective) -> Hashable:
        try:
            return hash(objective), objective
        except TypeError:
            return id(objective)

    return list({key(each): each for each in objectives}.values())


def explained_target(row: Row) -> ExplainedTarget:
    """Return the explanation's record of a row's objective."""
    said = row.objective.describe()
    details = {key: value for key, value in said.items() if key not in _DETAILS}
    return ExplainedTarget(
        kind=said["kind"],
        caption=said["caption"],
        output=said.get("output") or ", ".join(row.objective.outputs),
        probability=row.probability,
        index=said.get("index"),
        label=said.get("label"),
        activation=said.get("activation"),
        details=details,
    )


def _warnings(result: AttributionResult, probability: float) -> tuple[str, ...]:
    """Return the warnings about this map; `probability` is the target's."""
    warnings, completion, certificate = [*result.warnings], result.completion, result.certificate
    if result.blind:
        warnings.append(
            "the prediction does not depend on the image: the model returns the same for "
            + ("all tested parts and baselines" if result.sufficiency else "every baseline")
        )
    elif is_flat(result.map, result.sufficiency, probability):
        warnings.append("flat map: no region of the image stands out")
    if not certificate.holds:
        differs = (certificate.difference or 0) > certificate.tolerance
        how = (
            f"path differs from the deployed model by {certificate.difference:.1e}"
            if differs
            else "gradient does not match the deployed model (relative error of its directional "
            f"derivative {certificate.gradient_error:.2f})"
        )
        hint = input_hint(certificate.gradient, certificate.difference or 0)
        warnings.append(
            f"the {certificate.gradient} {how} on this image: the map may not be faithful{hint}"
        )
    if certificate.fallback:
        warnings.append(f"no gradient, so forward passes alone are used: {certificate.reason}")
    if completion.cut_short:
        why = "the deadline" if completion.cut_short == DEADLINE else "an interruption"
        warnings.append(
            f"cut short by {why} after {completion.done} of {completion.planned} "
            f"{completion.unit}: the map is coarser than a complete one"
        )
    return tuple(warnings)
