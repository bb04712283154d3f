"""What the README says is so: its commands exist, its code runs, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import tyro

from tests.house.import_graph import ROOT
from tinyflow.models import cli

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every command of the README's shell blocks, without comments."""
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    return [shlex.split(command) for line in lines for command in line.split("&&")]


def test_the_first_command_installs_and_trains() -> None:
    assert commands()[:2] == [["pip", "install", "."], ["tinyflow", "train"]]


def test_every_tinyflow_command_is_understood() -> None:
    found = [command[1:] for command in commands() if command[0] == "tinyflow"]
    assert len(found) >= 2
    for arguments in found:
        config = tyro.cli(cli._COMMANDS, args=arguments)
        for image in getattr(config, "images", ()):
            assert (ROOT / image).is_file()


def test_ci_runs_the_very_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    extract = next(line for line in script.splitlines() if line.startswith("tests="))
    shell = f'set -euo pipefail; {extract}; echo "$tests"'
    found = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    install, test = [shlex.join(c) for c in commands() if c[0] == "pytest" or c[-1:] == [".[test]"]][-2:]
    assert install == "pip install -e '.[test]'"
    assert found.strip() == test
    assert test.startswith("pytest")


def test_the_example_runs() -> None:
    (code,) = blocks("python")
    namespace: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    assert "loss" in namespace


PAGES = [Path("README.md"), *sorted(page.relative_to(ROOT) for page in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]+`", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose):
        if "://" not in target:
            assert (ROOT / page.parent / target).exists(), target
