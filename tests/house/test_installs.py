"""tinyflow works in every way that people run a project, each tried in a fresh virtual environment.

The dependencies are lent from the environment that runs the tests, so nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.house.import_graph import ROOT

#: Asks the interpreter that runs it which tinyflow it has, and whether any file was loaded under two names.
PROBE = """
import importlib.metadata, json, os, sys
import tinyflow, tinyflow.kernels.launch, tinyflow.models.config
from tinyflow.data import digits
names = {}
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if name != "__main__" and file and name.split(".")[0] in ("tinyflow", "kernels", "models"):
        names.setdefault(os.path.realpath(file), []).append(name)
print(json.dumps({
    "package": os.path.dirname(tinyflow.__file__),
    "version": tinyflow.__version__,
    "images": len(digits().train),
    "twice": [n for n in names.values() if len(n) > 1],
    "top level": [n for n in ("kernels", "models") if n in sys.modules],
}))
"""
DATA = ("data/files/digits.npz", "data/files/README.md", "py.typed")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """A command's output; its failure is the test's."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_", "PYTEST"))}
    clean["PYTHONDONTWRITEBYTECODE"] = "1"
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of the checkout, links kept as links, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source") / "tinyflow"
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=unwanted)
    return copy


@pytest.fixture(scope="session")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist of the checkout, and a wheel made from the checkout. Building must import neither it nor torch."""
    out = tmp_path_factory.mktemp("dist")
    poison = tmp_path_factory.mktemp("poison")
    (poison / "torch.py").write_text("raise ImportError('building imported torch')")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ".", "--sdist", "--wheel", cwd=source,
        PYTHONPATH=str(poison))  # fmt: skip
    return {"sdist": next(out.glob("*.tar.gz")), "wheel": next(out.glob("*.whl"))}


def environment(folder: Path) -> Path:
    """The interpreter of a new virtual environment that borrows the packages installed here."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (own / "borrowed.pth").write_text("\n".join(sorted(paths)) + "\n")
    return python


def install(python: Path, *what: str | Path, cwd: Path) -> None:
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
        "--ignore-installed", "--no-cache-dir", "--disable-pip-version-check", *what, cwd=cwd)  # fmt: skip


def probe(python: Path, cwd: Path, **environment: str) -> dict[str, Any]:
    """What a fresh process in ``cwd`` says of its tinyflow."""
    found = json.loads(run(python, "-c", PROBE, cwd=cwd, **environment))
    assert found["version"] == declared_version()
    assert found["images"] > 1000
    assert found["twice"] == []
    assert found["top level"] == []
    for name in DATA:
        assert (Path(found["package"]) / name).is_file()
    return found


def declared_version() -> str:
    lines = (ROOT / "tinyflow" / "__init__.py").read_text().splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("__version__"))


def test_bare_checkout_on_the_path(source: Path, tmp_path: Path) -> None:
    found = probe(Path(sys.executable), tmp_path, PYTHONPATH=str(source))
    assert found["package"] == str(source / "tinyflow")


def test_editable_install(source: Path, tmp_path: Path) -> None:
    editable = tmp_path / "source"
    shutil.copytree(source, editable, symlinks=True)
    python = environment(tmp_path / "venv")
    install(python, "--editable", ".", cwd=editable)
    assert probe(python, tmp_path)["package"] == str(editable / "tinyflow")
    assert "usage: tinyflow" in run(python.parent / "tinyflow", "--help", cwd=tmp_path)


def test_wheel(source: Path, built: dict[str, Path], tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    install(python, built["wheel"], cwd=tmp_path)
    installed = probe(python, tmp_path)["package"]
    assert Path(installed).is_relative_to(tmp_path / "venv")
    assert "usage: tinyflow" in run(python.parent / "tinyflow", "--help", cwd=tmp_path)
    # The checkout as the current folder, beside the installed wheel: the one or the other, never a mixture.
    assert probe(python, source)["package"] == str(source / "tinyflow")
    assert "usage: tinyflow" in run(python.parent / "tinyflow", "--help", cwd=source)


def test_sdist(built: dict[str, Path], tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    install(python, built["sdist"], cwd=tmp_path)
    assert Path(probe(python, tmp_path)["package"]).is_relative_to(tmp_path / "venv")


def test_wheel_holds_the_product_and_nothing_else(source: Path, built: dict[str, Path]) -> None:
    expected = set()
    for folder, prefix in (("tinyflow", "tinyflow"), ("kernels", "tinyflow/kernels"), ("models", "tinyflow/models")):
        for file in (source / folder).rglob("*"):
            if file.is_file() and not any(path.is_symlink() for path in (file, *file.parents)):
                expected.add(f"{prefix}/{file.relative_to(source / folder)}")
    with zipfile.ZipFile(built["wheel"]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        licence = [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
    assert held == expected
    assert licence


def test_sdist_holds_the_licence_and_real_files(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    assert {"LICENSE", "README.md", "tinyflow/kernels/launch.py", "tinyflow/models/cli.py"} <= set(names)
    assert not any(member.issym() for member in names.values())
