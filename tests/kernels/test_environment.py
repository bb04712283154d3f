"""Variables of the environment: a value that means nothing is an error that names the known ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinyflow.kernels import environment

NAME = "TINYFLOW_TRIED"


def test_choice(monkeypatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert environment.choice(NAME, ("fast", "stock")) == "fast"
    for value, found in (("", "fast"), ("stock", "stock"), (" STOCK ", "stock")):
        monkeypatch.setenv(NAME, value)
        assert environment.choice(NAME, ("fast", "stock")) == found
    monkeypatch.setenv(NAME, "slow")
    with pytest.raises(ValueError, match="TINYFLOW_TRIED must be 'fast' or 'stock', got 'slow'"):
        environment.choice(NAME, ("fast", "stock"))


def test_words(monkeypatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert environment.words(NAME, ("launch",)) == frozenset()
    monkeypatch.setenv(NAME, "launch, ")
    assert environment.words(NAME, ("launch",)) == {"launch"}
    monkeypatch.setenv(NAME, "lanuch")
    with pytest.raises(ValueError, match="unknown word 'lanuch'; known are 'launch'"):
        environment.words(NAME, ("launch",))


@pytest.mark.parametrize(("value", "found"), [("", False), ("0", False), ("off", False), ("1", True), ("Yes", True)])
def test_flag(monkeypatch, value, found) -> None:
    monkeypatch.setenv(NAME, value)
    assert environment.flag(NAME) is found


def test_flag_of_another_word(monkeypatch) -> None:
    monkeypatch.setenv(NAME, "perhaps")
    with pytest.raises(ValueError, match="must be one of 1, true, yes, on, y, or of 0, false.*got 'perhaps'"):
        environment.flag(NAME)


def test_integer(monkeypatch) -> None:
    monkeypatch.setenv(NAME, "")
    assert environment.integer(NAME) is None
    monkeypatch.setenv(NAME, "-3")
    assert environment.integer(NAME) == -3
    with pytest.raises(ValueError, match="must be a positive integer, got '-3'"):
        environment.integer(NAME, least=1)
    monkeypatch.setenv(NAME, "three")
    with pytest.raises(ValueError, match="must be an integer, got 'three'"):
        environment.integer(NAME)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TINYFLOW_LOG", "lanuch"),
        ("TINYFLOW_LAUNCHER", "trition"),
        ("TINYFLOW_INTERPRETER", "quick"),
        ("TINYFLOW_STRICT", "maybe"),
        ("TINYFLOW_INTERPRETER_THREADS", "0"),
    ],
)
def test_an_import_says_so(name, value) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import tinyflow; (tinyflow.ones(2) + 1).sum()"],
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert f"ValueError: {name}" in done.stderr and value in done.stderr


def test_a_name_that_is_almost_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYFLOW_STICT", "1")
    with pytest.warns(UserWarning, match="TINYFLOW_STICT means nothing here; was TINYFLOW_STRICT meant"):
        environment.warn_of_mistyped()


def test_other_names_are_left_alone(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    for name in ("TINYFLOW_STRICT", "TINYFLOW_SCHEDULED", "TINYFLOW_HOME", "TINYFLO_LOG"):
        monkeypatch.setenv(name, "1")
    environment.warn_of_mistyped()
    assert not recwarn.list


def test_every_variable_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "environment.md").read_text()
    assert set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE)) == set(environment.NAMES)
