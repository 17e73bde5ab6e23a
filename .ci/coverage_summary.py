"""Print a coverage report in JSON as a short page: the whole, the parts, and the files that the tests know least."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

N_FILES = 10


def summary(report: dict[str, Any]) -> str:
    """Return the page, in Markdown.

    Args:
        report: What ``coverage json`` writes.
    """
    files = {name: (one["summary"]["covered_lines"], one["summary"]["num_statements"])
             for name, one in report["files"].items()}  # fmt: skip
    covered: Counter[str] = Counter()
    statements: Counter[str] = Counter()
    for name, (hit, total) in files.items():
        part = "/".join(Path(name).parts[:-1][:2])
        covered[part] += hit
        statements[part] += total
    whole = report["totals"]
    lines = [
        f"## Coverage of the fast tests: {share(whole['covered_lines'], whole['num_statements'])}",
        "",
        "| part | covered | statements |",
        "| --- | ---: | ---: |",
        *(f"| {part} | {share(covered[part], n)} | {n:,} |" for part, n in sorted(statements.items()) if n),
        "",
        f"Most statements without a test, of {len(files)} files:",
        "",
        "| file | covered | without |",
        "| --- | ---: | ---: |",
    ]
    least = sorted(files, key=lambda name: files[name][0] - files[name][1])[:N_FILES]
    lines += [f"| {name} | {share(*files[name])} | {files[name][1] - files[name][0]} |" for name in least]
    return "\n".join(lines) + "\n"


def share(hit: int, total: int) -> str:
    """Return a share in percent, rounded down, so that 100 % means all."""
    return f"{100 * hit // total if total else 100} %"


if __name__ == "__main__":
    print(summary(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), end="")
