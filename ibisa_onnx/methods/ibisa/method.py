"""IBISA as a method: gradient check, optimisation or queries, and the check of the map."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ibisa_onnx.checks import check_type
from ibisa_onnx.errors import GradientError, IbisaError, ModelError, NonFiniteGradientError
from ibisa_onnx.gradients.fidelity import CheckedPath, check_fidelity, without_gradient
from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.gradients.selection import GradientPath, GradientSelection
from ibisa_onnx.methods.base import AttributionResult, Results, one_by_one
from ibisa_onnx.methods.baselines import AUTO
from ibisa_onnx.methods.budget import ImagesMixError, Queries, allowance
from ibisa_onnx.methods.ibisa import forward_only
from ibisa_onnx.methods.ibisa.against import EvidenceAgainst
from ibisa_onnx.methods.ibisa.baseline_choice import count_of, for_rounds, settle_baselines
from ibisa_onnx.methods.ibisa.finite_difference import FINITE_DIFFERENCE, Estimator, MaskQueries
from ibisa_onnx.methods.ibisa.gradient_check import GradientCheck
from ibisa_onnx.methods.ibisa.optimizer import Step, optimise, pathwise, price
from ibisa_onnx.methods.ibisa.options import Options
from ibisa_onnx.methods.ibisa.sufficiency import IMAGES, check_sufficiency
from ibisa_onnx.methods.problem import Problem, Row
from ibisa_onnx.methods.stopping import Control
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.passes import PassCount
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.statements import Certificate, Completion
from ibisa_onnx.targets.base import Objective
from ibisa_onnx.targets.retention import KEPT

_BATCH = 8
_SAME = 1e-5  # relative difference of probabilities that counts as rounding
_STEP = 4.0  # expected cost of a first step and the gradient check, in forward passes
_CHECK = 3.0  # maximum cost of the check, in steps of one forward and one backward pass


@dataclass(frozen=True)
class Ibisa:
    """IBISA: information bottleneck with input sampling for attribution.

    Optimises a mask of keep probabilities until it retains what the prediction depends on, in as
    few bits as possible (after B. Coelho and J. S. Cardoso, Neurocomputing 638:130112, 2025). Works
    with an exact gradient of the ONNX model, with a surrogate's, or from forward passes alone.

    Attributes
    ----------
    options
        Settings; see `Options` and its presets.
    gradients
        Which gradient to use; by default the best one that is available and passes the fidelity
        check.
    """

    options: Options = field(default_factory=Options)
    gradients: GradientSelection = field(default_factory=GradientSelection)
    estimator: Estimator = FINITE_DIFFERENCE
    name: ClassVar[str] = "ibisa"

    def __post_init__(self) -> None:
        check_type("options", self.options, Options, "an Options")
        check_type("gradients", self.gradients, GradientSelection, "a GradientSelection")

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings by name."""
        return {"surrogate": self.gradients.surrogate_name, **asdict(self.options)}

    def prepare(
        self, model: ImageModel, objective: Objective, preprocessing: Preprocessing
    ) -> PreparedIbisa:
        """Open the gradient; `GradientError` if the requested one is unavailable."""
        path = self.gradients.open(model, objective.outputs, preprocessing.size)
        if path.source is not None and type(objective).vjp is Objective.vjp:
            error = GradientError(f"{type(objective).__name__} has no vjp")
            path = without_gradient(error, auto=self.gradients.auto).path
        return PreparedIbisa(self.options, path, self.gradients.auto, self.estimator)


@dataclass(frozen=True)
class PreparedIbisa:
    """IBISA for one model.

    `auto` states whether rows whose gradient fails are explained without gradients.
    """

    options: Options
    path: GradientPath
    auto: bool
    estimator: Estimator

    def run(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[Results]:
        """Optimise lambda, yielding intermediate results.

        Raises
        ------
        DeadlineError
            There is no time for a first step.
        NonFiniteGradientError
            The gradient is NaN or infinite for this image, and `auto` is off.
        GradientError
            The budget is too small for an explanation without gradients.
        """
        control.require()
        begin = time.perf_counter()
        checked = self._check_paths(problem)
        if self._asked:
            problem = settle_baselines(problem, self.options.baseline)
        passes = 1 + self._asked
        control.pace = _STEP * (time.perf_counter() - begin) / passes
        control.require(control.pace)
        for results in self._run(problem, checked, rng, control):
            yield {row: self._described(problem.rows[row], each) for row, each in results.items()}

    def _run(
        self,
        problem: Problem,
        checked: list[CheckedPath],
        rng: np.random.Generator,
        control: Control,
    ) -> Iterator[Results]:
        """Explain rows with a usable gradient by it, and all others without."""
        failed: dict[int, _Failure] = {}
        rows = [row for row, each in enumerate(checked) if each.path.source is not None]
        if rows:
            yield from self._by_gradients(problem, rows, checked, control, failed)
        for row, failure in failed.items():
            checked[row] = without_gradient(failure.error, auto=self.auto)
        left = [row for row, each in enumerate(checked) if each.path.source is None]
        if left:
            following = iter(left)

            def run_one(
                one: Problem, rng: np.random.Generator, control: Control
            ) -> Iterator[AttributionResult]:
                return self._without_gradient(one, checked[next(following)], rng, control)

            for found in one_by_one(problem.take(left), rng, control, run_one):
                yield {
                    left[place]: _and(each, failed, left[place]) for place, each in found.items()
                }

    def _check_paths(self, problem: Problem) -> list[CheckedPath]:
        """Check the gradient's fidelity on each image, for all its rows at once."""

        def check(group: npt.NDArray[np.intp]) -> list[CheckedPath]:
            first, images = problem.rows[group[0]], problem.masked.images[group[:1]]
            readouts = [problem.rows[number].objective.readout for number in group]
            passes = first.shared or problem.passes
            return check_fidelity(self.path, images, first.answer, readouts, passes, auto=self.auto)

        return [
            each
            for found in problem.model.map_concurrently(check, problem.pictures)
            for each in found
        ]

    def _by_gradients(
        self,
        problem: Problem,
        rows: list[int],
        checked: list[CheckedPath],
        control: Control,
        failed: dict[int, _Failure],
    ) -> Iterator[Results]:
        """Explain rows with a gradient together; record those for which it fails in `failed`."""
        part = problem.take(rows)
        control.lap("open")
        last: Results = {}
        errors: dict[int, IbisaError] = {}
        check = GradientCheck(len(part), coarse=self.path.coarse)
        try:
            for maps, against, completion in self._steps(part, control, check):
                found = dict(zip(rows, maps, strict=True))
                below = dict(zip(rows, against, strict=True))
                known = {
                    row: replace(checked[row], gradient_error=error)
                    for row, error in zip(rows, check.errors, strict=True)
                }
                errors |= self._faults(found, known)
                last = {
                    row: AttributionResult(
                        cells,
                        part.size,
                        completion,
                        known[row].certificate,
                        against=below[row],
                        warnings=self.path.warnings,
                    )
                    for row, cells in found.items()
                    if row not in errors
                }
                if not last or (errors and not self.auto):
                    break
                yield last
        except ModelError as error:
            errors, last = dict.fromkeys(rows, error), {}
        control.lap("optimise")
        if self.options.check and last and not control.stopped:
            steps = min(_CHECK, self._images)
            last = self._check_in_time(part, rows, last, control, steps * control.pace)
        spent = dict(zip(rows, part.spent(), strict=True))
        # A single row shares its problem's counter, which keeps counting.
        own = [PassCount()] if part is problem else part.passes.count.split(len(rows))
        failed |= {row: _Failure(error, own[rows.index(row)]) for row, error in errors.items()}
        timings = control.finish()
        yield {row: replace(each, timings=timings, passes=spent[row]) for row, each in last.items()}

    def _faults(
        self, maps: Mapping[int, Floats], checked: Mapping[int, CheckedPath]
    ) -> dict[int, IbisaError]:
        """Return the rows whose gradient is unusable: off (if that matters) or not finite."""
        refused: dict[int, IbisaError] = {
            row: each.refused() for row, each in checked.items() if each.gradient_is_off
        }
        return (refused if self.auto else {}) | {
            row: _not_finite(self.path.name)
            for row, cells in maps.items()
            if not np.isfinite(cells).all()
        }

    def _steps(
        self,
        problem: Problem,
        control: Control,
        check: GradientCheck,
    ) -> Iterator[tuple[Floats, Floats, Completion]]:
        """Run IBISA's ten steps, yielding the maps of all rows and the evidence against."""
        options, source = self.options, self.path.source
        assert source is not None
        against = EvidenceAgainst(len(problem))

        def open_step(rounds: Sequence[int]) -> Step:
            if problem.fixed > 1 and len(problem) * len(rounds) > 1:
                problem.rows_mix()  # tested on probabilities, which retention is not
            several = for_rounds(problem, rounds)
            gradient = check.watch(several, several.gradient(source))
            return against.watch(pathwise(gradient, options.temperature))

        together, steps = not control.anytime, options.steps * options.rounds
        prices = [price(row.objective.extent) for row in problem.rows]
        maps = optimise(
            *(open_step, len(problem), problem.size, options),
            prices=prices,
            together=together,
        )
        begin, control.pace = time.perf_counter(), 0.0
        for number, cells in enumerate(maps, 1):
            done = number * (options.rounds if together else 1)
            control.progress(done, steps)
            now = time.perf_counter()
            control.pace, begin = max(control.pace, now - begin), now
            ahead = 1 + (_CHECK if options.check else 0)
            over = done < steps and control.stopping.over(ahead * control.pace)
            completion = Completion(done, steps, "steps", control.stopping.reason)
            yield cells, against.below(cells), completion
            if over:
                return

    def _without_gradient(
        self,
        problem: Problem,
        checked: CheckedPath,
        rng: np.random.Generator,
        control: Control,
    ) -> Iterator[AttributionResult]:
        """Explain the only row by forward passes alone, and check its map."""
        by_differences = checked.path.name == "finite-difference"
        search = self._by_differences if by_differences else self._by_regression
        for found in search(problem, checked, rng, control):
            if not np.isfinite(found.cells).all():
                raise _not_finite(checked.path.name)
            yield found
        control.lap("optimise")
        if self.options.check and not control.stopped:
            seconds = self._images * control.pace / _STEP
            yield self._check_in_time(problem, [0], {0: found}, control, seconds)[0]

    def _by_differences(
        self,
        problem: Problem,
        checked: CheckedPath,
        rng: np.random.Generator,
        control: Control,
    ) -> Iterator[AttributionResult]:
        """Run the ten steps along a gradient estimated from forward passes."""
        estimator, options, check = self.estimator, self.options, self._images
        queries = Queries(problem, control, check=check)
        ask = MaskQueries(
            queries,
            problem.masked,
            options.temperature,
            coarse=checked.path.coarse,
            fixed=problem.fixed,
            grid=options.grid,
        )
        allowed = allowance(problem, options.budget, check, problem.row.asked)
        plan = estimator.plan(ask, allowed, options.steps)
        shares = [estimator.queries(ask, each) for each in plan]
        queries.planned = sum(shares)
        options = replace(options, steps=len(plan), rounds=1)
        against = EvidenceAgainst(1)
        step = against.watch(estimator.step(ask, plan, rng))
        prices = [price(problem.row.objective.extent)]
        steps = optimise(lambda _: step, 1, problem.size, options, prices=prices)
        for maps, following in zip(steps, [*shares[1:], 0], strict=True):
            over = following > 0 and queries.over(following)
            yield AttributionResult(
                maps[0],
                problem.size,
                queries.completion,
                checked.certificate,
                against=against.below(maps)[0],
            )
            if over:
                return

    def _by_regression(
        self,
        problem: Problem,
        checked: CheckedPath,
        rng: np.random.Generator,
        control: Control,
    ) -> Iterator[AttributionResult]:
        """Spend the budget left by prediction and check on queries."""
        budget, check, certificate = self.options.budget, self._images, checked.certificate
        unused, spent = deepcopy(rng), problem.row.asked
        planned = allowance(problem, budget, check, spent)
        try:
            queries = Queries(problem, control, planned, check, whole_first=True)
            yield from _estimated(queries, certificate, rng)
        except ImagesMixError as found:  # at the first query, whose scores are worthless
            planned = allowance(problem, budget, check, spent + found.spent)
            yield from _estimated(Queries(problem, control, planned, check), certificate, unused)

    @property
    def _asked(self) -> int:
        """Number of images run before the first step to choose the baseline."""
        options = self.options
        return count_of(options.baseline) if options.check or options.baseline == AUTO else 0

    @property
    def _images(self) -> int:
        """Number of images that the check of a finished map shows."""
        return IMAGES - self._asked if self.options.check else 0

    def _described(self, row: Row, result: AttributionResult) -> AttributionResult:
        """Add the baselines' names and warnings; clear the map if the model ignores the image.

        That is the case if image, baselines and everything that the check showed have the same
        score.
        """
        result = replace(result, answer=row.probability)
        if not row.baselines:
            return replace(result, baseline=self.options.baseline)
        taken, whole = row.baselines[: self.options.rounds], row.probability
        shown = result.sufficiency.probabilities if result.sufficiency else ()
        blind = row.blind and bool(np.allclose(shown, whole, rtol=_SAME, atol=0))
        warnings = (*row.objective.warnings(row.answer), *result.warnings)
        if not blind and whole > 0 and taken[0].score >= KEPT * whole:
            value = row.objective.describe().get("value") is not None
            score = "all of the value" if value else f"{taken[0].score:.1%} for this target"
            more = "adds to it" if value else "raises the prediction"
            warnings += (
                f"the baseline ({taken[0].name}) alone retains {score}: "
                f"the map shows what {more}, not what it depends on",
            )
        if blind:
            nothing = np.zeros_like(result.cells)
            result = replace(result, cells=nothing, against=nothing)
        return replace(
            result,
            baseline=", ".join(each.name for each in taken),
            blind=blind,
            warnings=warnings,
        )

    def _check_in_time(
        self,
        problem: Problem,
        rows: list[int],
        results: Results,
        control: Control,
        seconds: float,
    ) -> Results:
        """Check finished maps, unless the expected seconds are more than there are."""
        if seconds > control.stopping.left:
            unchecked = (
                "no time for the check: whether the highest-ranked pixels suffice is unknown"
            )
            return {
                row: replace(each, warnings=(*each.warnings, unchecked))
                for row, each in results.items()
            }
        checked = self._check_maps(problem, rows, results)
        control.lap("check")
        return checked

    def _check_maps(self, problem: Problem, rows: list[int], results: Results) -> Results:
        """Check finished maps with the model; `rows` are the names of the problem's rows."""

        def check(row: int) -> AttributionResult:
            found = results[row]
            sufficiency = check_sufficiency(problem, rows.index(row), found.map, self._images)
            return replace(found, sufficiency=sufficiency)

        return dict(zip(results, problem.model.map_concurrently(check, results), strict=True))


def _estimated(
    queries: Queries, certificate: Certificate, rng: np.random.Generator
) -> Iterator[AttributionResult]:
    """Make all queries, yielding a result after each round."""
    problem = queries.problem
    batch = -(-_BATCH // problem.pair) * problem.pair
    for estimate in forward_only.estimates(
        queries,
        problem.masked,
        queries.planned,
        rng,
        batch=batch,
        multiple=problem.pair // 2,
        location=problem.row.objective.location,
        over=lambda: queries.over(batch),
    ):
        queries.learned()
        over = queries.done < queries.planned and queries.over(batch)
        yield AttributionResult(
            estimate.keep,
            problem.size,
            queries.completion,
            certificate,
            against=estimate.against,
            effect=estimate.effect,
            deviation=estimate.deviation,
        )
        if over:
            return


@dataclass(frozen=True)
class _Failure:
    """Why the gradient of a row failed, and the passes spent until then."""

    error: IbisaError
    passes: PassCount


def _and(result: AttributionResult, failed: dict[int, _Failure], row: int) -> AttributionResult:
    """Add the passes of a failed gradient to a finished result."""
    if result.timings is None or row not in failed:
        return result
    return replace(result, passes=result.passes + failed[row].passes)


def _not_finite(path: str) -> NonFiniteGradientError:
    return NonFiniteGradientError(
        f"the {path} gradient is NaN or infinite for this image", "try gradient='forward-only'"
    )
