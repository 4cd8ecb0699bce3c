"""The gradient of every operator's node tests, against central differences, as a table.

    python benchmarks/conformance.py [--match REGEX] [--no-write]

Judges each node test case that ships inside `onnx` (see `node_cases`) and writes the table into
`docs/reference/operators.md`, between its markers. Ends with 1 if any gradient is wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import onnx
import onnxruntime as ort
from node_cases import FAILS, NO_DERIVATIVE, VERDICTS, Case, Verdict, judge, load_cases
from pages import put

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "operators.md"
_INTRODUCTION = """# Operators

What the gradients of ONNX operators and networks were compared with.

## Node tests

"""
_HEAD = """Every node test case inside onnx {onnx}, with ONNX Runtime {runtime} on CPU, by
`python benchmarks/conformance.py`. Each float input of a case is differentiated in turn, to each
float output, and compared with central differences in float64 (in float32 where nothing evaluates
the operator in float64); once with all other inputs constant, once with dynamic image sides, once
with nothing constant.

- **passes**: the gradient agrees with respect to every input that has one;
- **in part**: it agrees for some inputs and is unsupported for others;
- **unsupported**: `UnsupportedOperatorError`, with this reason;
- **no derivative**: there is none by nature;
- **no kernel**: ONNX Runtime on CPU does not run the case, so there is nothing to differentiate;
- **fails**: the gradient is wrong.

Operators of which no case has a derivative come last, in a table of their own.
"""


def main() -> int:
    """Judge, write, and say how many cases fail."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--match", default="", help="only cases or operators that match")
    parser.add_argument("--no-write", action="store_true", help="print, and leave the page alone")
    args = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    pattern = re.compile(args.match)
    cases = [c for c in load_cases() if pattern.search(c.name) or pattern.fullmatch(c.operator)]
    judged = [(case, _judged(case, i, len(cases))) for i, case in enumerate(cases)]
    text = _HEAD.format(onnx=onnx.__version__, runtime=ort.__version__) + "\n" + tables(judged)
    if args.no_write or args.match:
        print(text)
    else:
        put(PAGE, "operators", text, _INTRODUCTION)
    failing = [(case, verdict) for case, verdict in judged if verdict.kind == FAILS]
    for case, verdict in failing:
        print(f"{case.name}: {verdict.reason}", file=sys.stderr)
    return int(bool(failing))


def _judged(case: Case, number: int, total: int) -> Verdict:
    if sys.stderr.isatty():
        print(f"\r\033[K{number + 1}/{total} {case.name}", end="", file=sys.stderr, flush=True)
    return judge(case)


# -- tables


def tables(judged: Iterable[tuple[Case, Verdict]]) -> str:
    """Totals, the operators that have a derivative, and those that have none."""
    by_operator: dict[str, list[Verdict]] = defaultdict(list)
    for case, verdict in judged:
        by_operator[case.operator].append(verdict)
    ordered = dict(sorted(by_operator.items(), key=lambda item: item[0].lower()))
    flat = {o: v for o, v in ordered.items() if all(x.kind == NO_DERIVATIVE for x in v)}
    rest = {o: v for o, v in ordered.items() if o not in flat}
    everything = [verdict for verdicts in ordered.values() for verdict in verdicts]
    head = f"| operator | cases | {' | '.join(VERDICTS)} | reasons |"
    rows = [_row(operator, verdicts) for operator, verdicts in rest.items()]
    total = [f"| **all {len(ordered)} operators** {_counts(everything)} | |"]
    short = ["| operator | cases | why it has no derivative |", "|---|---|---|"]
    short += [f"| {o} | {len(v)} | {_reasons(v)} |" for o, v in flat.items()]
    rule = "|---" * (len(VERDICTS) + 3) + "|"
    return "\n".join([head, rule, *total, *rows, "", *short, ""])


def _row(operator: str, verdicts: list[Verdict]) -> str:
    return f"| {operator} {_counts(verdicts)} | {_reasons(verdicts)} |"


def _counts(verdicts: list[Verdict]) -> str:
    kinds = Counter(verdict.kind for verdict in verdicts)
    counts = [str(kinds[kind] or "") for kind in VERDICTS]
    return f"| {len(verdicts)} | {' | '.join(counts)}"


def _reasons(verdicts: list[Verdict]) -> str:
    """Each reason once, with how many cases have it."""
    counts = Counter((v.kind, v.reason) for v in verdicts if v.reason)
    lines = [f"{kind}: {reason} ({count})" for (kind, reason), count in counts.items()]
    remarks = Counter(remark for v in verdicts for remark in v.remarks)
    lines += [f"unsupported with {remark} ({count})" for remark, count in remarks.items()]
    if all(v.kind == NO_DERIVATIVE for v in verdicts):
        lines = [f"{reason} ({count})" for (_, reason), count in counts.items()]
    return "<br>".join(lines).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
