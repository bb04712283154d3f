"""Runs the rules over files and drops what a comment allows."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyflow.kernels.interpreter.lint.rules import RULES
from tinyflow.kernels.interpreter.lint.source import Kernel, find_kernels
from tinyflow.kernels.interpreter.lint.walk import check_kernel

_ALLOW = re.compile(r"#\s*lint:\s*allow\s+(?P<rule>[\w-]+)[ \t]*(?P<reason>.*)")
_SKIPPED_FOLDERS = frozenset({"__pycache__", "build", "dist", "node_modules", "site-packages"})


@dataclass(frozen=True, order=True)
class Finding:
    """One place in a kernel that a rule objects to; ``column`` counts from 1."""

    path: str
    line: int
    column: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.rule}: {self.message}"


@dataclass
class _Allowance:
    line: int
    rule: str
    reason: str
    covers: range
    used: bool = False


def lint_paths(paths: Iterable[str | Path], rules: Sequence[str] | None = None) -> list[Finding]:
    """Findings in Python files, and in those of folders at any depth, sorted by place.

    Raises:
        OSError: if a path cannot be read.
        SyntaxError: if a file is no Python.
    """
    findings: list[Finding] = []
    for path in _files(paths):
        findings += lint_source(path.read_text(encoding="utf-8"), str(path), rules)
    return findings


def lint_source(text: str, path: str = "<source>", rules: Sequence[str] | None = None) -> list[Finding]:
    """Findings in one module's source, sorted by place; ``rules`` are names, by default all.

    A comment ``# lint: allow RULE reason`` on a finding's line, or alone on the line above it, drops that rule's
    findings there. A comment that gives no reason, names no rule or drops nothing is a finding itself.
    """
    chosen = list(RULES) if rules is None else list(rules)
    tree = ast.parse(text, filename=path)
    kernels = find_kernels(tree)
    found: dict[tuple[int, int, str], Finding] = {}
    for kernel in kernels:
        for finding in _kernel_findings(kernel, path, chosen):
            found.setdefault((finding.line, finding.column, finding.rule), finding)
    allowances = _allowances(text) if kernels else []
    kept = [finding for finding in found.values() if not _allowed(finding, allowances)]
    kept += _allowance_findings(allowances, path, chosen)
    return sorted(kept)


def _kernel_findings(kernel: Kernel, path: str, chosen: Sequence[str]) -> Iterator[Finding]:
    selected = [RULES[name] for name in chosen]
    for constants in kernel.constant_sets():
        for name, node, message in check_kernel(kernel, constants, selected):
            yield Finding(path, node.lineno, node.col_offset + 1, name, message)  # type: ignore[attr-defined]


def _files(paths: Iterable[str | Path]) -> Iterator[Path]:
    for given in map(Path, paths):
        if given.is_dir():
            for path in sorted(given.rglob("*.py")):
                inside = path.relative_to(given).parts[:-1]
                if not any(part in _SKIPPED_FOLDERS or part.startswith(".") for part in inside):
                    yield path
        else:
            yield given


def _allowances(text: str) -> list[_Allowance]:
    found = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        match = _ALLOW.search(token.string) if token.type == tokenize.COMMENT else None
        if match:
            line = token.start[0]
            alone = token.line[: token.start[1]].strip() == ""
            covers = range(line, line + 2 if alone else line + 1)
            found.append(_Allowance(line, match["rule"], match["reason"].strip(" -:"), covers))
    return found


def _allowed(finding: Finding, allowances: list[_Allowance]) -> bool:
    matching = [a for a in allowances if a.rule == finding.rule and finding.line in a.covers]
    for allowance in matching:
        allowance.used = True
    return bool(matching)


def _allowance_findings(allowances: list[_Allowance], path: str, chosen: Sequence[str]) -> Iterator[Finding]:
    for allowance in allowances:
        if allowance.rule not in RULES:
            message = f"there is no rule `{allowance.rule}`; the rules are {', '.join(RULES)}"
        elif not allowance.reason:
            message = f"say why: `# lint: allow {allowance.rule} reason`"
        elif not allowance.used and allowance.rule in chosen:
            message = f"no finding of `{allowance.rule}` here any more: remove the comment"
        else:
            continue
        yield Finding(path, allowance.line, 1, "allow-comment", message)
