"""Draws the pictures of the documentation by the code of its pages: ``python -m tests.docs.pictures``."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.docs.pages import IMAGES, PAGES, drawings, run


def main() -> None:
    for page in PAGES:
        with _elsewhere() as folder:
            namespace = run(page)
            for path, drawing in drawings(page, namespace):
                print(drawing.save(path))
            for picture in sorted(folder.glob("*.png")):
                print(shutil.copyfile(picture, IMAGES / f"{page.stem}_{picture.name}"))


@contextlib.contextmanager
def _elsewhere() -> Iterator[Path]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


if __name__ == "__main__":
    main()
