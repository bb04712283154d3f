"""The command ``python -m tinyflow.kernels.interpreter.lint``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tinyflow.kernels.interpreter.lint.engine import lint_paths
from tinyflow.kernels.interpreter.lint.rules import RULES


def _rule_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in RULES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no rule named {', '.join(unknown)}; the rules are {', '.join(RULES)}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints each finding on a line; returns 1 if there is any, 2 if a path cannot be read, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tinyflow.kernels.interpreter.lint",
        description="Finds in Triton kernels what the interpreter accepts and compilers or GPUs do not.",
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="Python files, or folders to search for them")
    parser.add_argument("--select", type=_rule_names, metavar="RULES", help="only these rules (names, with commas)")
    parser.add_argument("--ignore", type=_rule_names, default=[], metavar="RULES", help="all but these rules")
    parser.add_argument("--rules", action="store_true", help="list the rules and stop")
    options = parser.parse_args(arguments)
    if options.rules:
        for rule in RULES.values():
            print(f"{rule.name:20} {rule.summary}")
        return 0
    if not options.paths:
        parser.error("give at least one file or folder")
    rules = [name for name in options.select or RULES if name not in options.ignore]
    try:
        findings = lint_paths(options.paths, rules)
    except (OSError, SyntaxError) as error:
        print(f"lint: {error}", file=sys.stderr)
        return 2
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
