"""`python -m hostile [WORD …]`: run all cases, or those whose names have a word, and sum up."""

from __future__ import annotations

import sys
import time
from collections import Counter

from hostile.cases import cases
from hostile.runner import run_cases


def main(words: list[str]) -> int:
    chosen = [
        number
        for number, case in enumerate(cases())
        if not words or any(word in case.label for word in words)
    ]
    began = time.monotonic()
    reports = run_cases(chosen)
    families = Counter(report.label.split("/")[0] for report in reports)
    for report in reports:
        for violation in report.violations:
            print(f"{report.label}: {violation}")  # noqa: T201
            if words:
                print(f"    {report.err}")  # noqa: T201
    print("\n| family | cases | rejected | explained | violations | most CPU s | most MiB |")  # noqa: T201
    print("|---|---|---|---|---|---|---|")  # noqa: T201
    for family, count in families.items():
        own = [each for each in reports if each.label.startswith(f"{family}/")]
        done = sum(each.code == 0 for each in own)
        bad = sum(bool(each.violations) for each in own)
        most = f"{max(each.seconds for each in own):.1f} | {max(each.memory for each in own) >> 20}"
        print(f"| {family} | {count} | {count - done} | {done} | {bad} | {most} |")  # noqa: T201
    bad = sum(bool(each.violations) for each in reports)
    seconds = time.monotonic() - began
    print(f"\n{len(reports)} cases, {bad} with violations, {seconds:.0f} s")  # noqa: T201
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
