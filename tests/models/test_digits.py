"""The default run: ResNet18 learns the digits that tinyflow ships, and recognises one in a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinyflow.models.cli import main


@pytest.mark.slow
def test_resnet18_learns_to_read_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = Path(__file__).parents[2] / "docs" / "images" / "digit.png"
    monkeypatch.chdir(tmp_path)
    assert main(["train"]) == 0
    records = [json.loads(line) for line in (tmp_path / "runs/digits/metrics.jsonl").read_text().splitlines()]
    assert max(record["test_accuracy"] for record in records) >= 0.96
    capsys.readouterr()
    assert main(["predict", str(picture)]) == 0
    assert f"{picture}: 3 (" in capsys.readouterr().out
