"""The code in the documentation runs, block after block of a page in one namespace, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(python|output)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text()], ids=lambda p: p.stem)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": "documentation"}
    printed = ""
    for block in BLOCK.finditer(text):
        kind, code = block.groups()
        if kind == "output":
            assert printed.strip() == code.strip(), f"{page.name} at character {block.start()}"
            continue
        line = text[: block.start()].count("\n") + 1
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream):
            exec(compile("\n" * line + code, str(page), "exec"), namespace)
        printed = stream.getvalue()


def test_there_are_pages() -> None:
    assert any(p.stem == "autograd" for p in PAGES)
