"""The code in the documentation runs, prints what the page says, and makes the pictures that it shows."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, drawings, run


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = run(page)
    for path, drawing in drawings(page, namespace):
        assert f"images/{path.name}" in page.read_text()
        assert words_of_svg(path.read_text()) == words_of_source(drawing.source), (
            f"{path.name} shows another graph: python -m tests.docs.pictures"
        )


def words_of_svg(svg: str) -> list[str]:
    """All lines of text in a picture."""
    return sorted(html.unescape(line) for line in re.findall(r"<text [^>]*>(.*?)</text>", svg))


def words_of_source(source: str) -> list[str]:
    labels = re.findall(r'label="(.*?)"', source)
    return sorted(line for label in labels for line in label.split("\\n"))


def test_there_are_pages() -> None:
    assert {"autograd", "engine", "own_op", "profiling"} <= {page.stem for page in PAGES}
