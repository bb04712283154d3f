"""Who imports whom, read from the sources: importing would run the package that is to be judged."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Folders of the product and the package name that each has.
FLOORS = {"kernels": "tinyflow.kernels", "models": "tinyflow.models", "tinyflow": "tinyflow"}


@dataclass(frozen=True)
class Import:
    """One imported module, and where."""

    module: str
    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def sources(*folders: str) -> list[Path]:
    """The Python files of folders at the root, each file once: symbolic links are not followed."""
    found = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    return [file for file in found if not any(path.is_symlink() for path in (file, *file.parents))]


def module_name(file: Path) -> str:
    """The dotted name under which a product file is imported."""
    relative = file.relative_to(ROOT).with_suffix("")
    parts = [*FLOORS[relative.parts[0]].split("."), *relative.parts[1:]]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(
    source: str, module: str, file: Path, modules: frozenset[str], is_package: bool = False
) -> Iterator[Import]:
    """Every import statement of a source, wherever it stands; ``from a import b`` is ``a.b`` where that is a module."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, file, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in modules else base, file, node.lineno)


def graph(files: list[Path]) -> list[Import]:
    """The imports of all files; files outside the product are known by their path."""
    product = frozenset(module_name(f) for f in sources(*FLOORS))
    found: list[Import] = []
    for file in files:
        inside = file.relative_to(ROOT).parts[0] in FLOORS
        name = module_name(file) if inside else ".".join(file.relative_to(ROOT).with_suffix("").parts)
        source = file.read_text(encoding="utf-8")
        found += imports(source, name, file.relative_to(ROOT), product, file.name == "__init__.py")
    return found
