"""The code blocks of the documentation's pages, and the pictures that they make."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

from tinyflow.autograd import Drawing

DOCS = Path(__file__).resolve().parents[2] / "docs"
IMAGES = DOCS / "images"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text()]

_BLOCK = re.compile(r"^```(python|output)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(page: Path) -> dict[str, object]:
    """Runs the blocks of a page one after another in one namespace, which is returned.

    Raises:
        AssertionError: if one prints something else than the page says.
    """
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": "documentation"}
    printed = ""
    for block in _BLOCK.finditer(text):
        kind, code = block.groups()
        if kind == "output":
            assert printed.strip() == code.strip(), f"{page.name} at character {block.start()}"
            continue
        before = text[: block.start(2)].count("\n")  # so that the lines of the code are those of the page
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream):
            exec(compile("\n" * before + code, str(page), "exec"), namespace)
        printed = stream.getvalue()
    return namespace


def drawings(page: Path, namespace: dict[str, object]) -> Iterator[tuple[Path, Drawing]]:
    """The drawings that a page made, with the files in which it shows them."""
    for name, value in namespace.items():
        if isinstance(value, Drawing):
            yield IMAGES / f"{page.stem}_{name}.svg", value
