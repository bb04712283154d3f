"""Arrows point down: models → tinyflow (nn → ops → autograd, tensor) → kernels; torch stands behind two doors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.import_graph import FLOORS, ROOT, Import, graph, imports, module_name, sources

#: What each part may import. ``engine`` is Tensor and the graph, ``framework`` every other file of tinyflow/ itself.
ALLOWED = {
    "kernels": set(),
    "engine": {"kernels"},
    "framework": {"kernels", "engine", "ops"},
    "ops": {"kernels", "engine", "framework"},
    "nn": {"engine", "framework", "ops"},
    "optim": {"kernels", "engine", "framework", "ops"},
    "averages": {"kernels", "engine", "framework", "ops", "nn", "optim"},
    "interop": {"engine", "framework", "ops", "nn"},
    "amp": {"kernels", "engine", "framework", "ops", "optim"},
    "data": {"engine", "framework"},
    "models": {"engine", "framework", "ops", "nn", "optim", "data"},
}
ENGINE = ("tensor", "device_array", "_tensor_methods", "printing", "autocast_mode", "operands", "recording", "autograd")
#: Tools in autograd/ that use the engine like anyone else.
ENGINE_TOOLS = ("gradcheck", "functional", "forward_ad", "draw")
DOORS_TO_TORCH = {Path("kernels/memory.py"), Path("tinyflow/interop.py")}


def part(module: str) -> str | None:
    """The part of the product that a module belongs to; None for the root package, which only re-exports."""
    names = module.split(".")
    if names == ["tinyflow"]:
        return None
    if names[-1] == "swa_utils":
        return "averages"  # of modules, under the name that torch gives them
    if names[1] in ENGINE:
        return "framework" if names[-1] in ENGINE_TOOLS else "engine"
    return names[1] if names[1] in ALLOWED else "framework"


def upward(found: Import, importer: str) -> str | None:
    """What is wrong with an import within the product, if anything."""
    if found.module.split(".")[0] != "tinyflow":
        return None
    if found.file.name == "__init__.py" and found.module.startswith(f"{importer}."):
        return None  # a package re-exports its own files
    source, target = part(importer), part(found.module)
    if source is None or source == target:
        return None
    if target is None:
        return f"{found}: the root package stands above kernels" if source == "kernels" else None
    return None if target in ALLOWED[source] else f"{found}: {source} stands below {target}, or beside it"


def test_no_import_points_up() -> None:
    files = {f.relative_to(ROOT): module_name(f) for f in sources(*FLOORS)}
    wrong = [upward(found, files[found.file]) for found in graph(sources(*FLOORS))]
    assert [w for w in wrong if w] == []


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("tinyflow.kernels.matmul", "from tinyflow.tensor import Tensor"),
        ("tinyflow.kernels.matmul", "import tinyflow"),
        ("tinyflow.kernels.matmul", "def late():\n    from tinyflow import nn"),
        ("tinyflow.tensor", "from tinyflow.ops import matmul"),
        ("tinyflow.autograd.engine", "import tinyflow.ops.matmul"),
        ("tinyflow.ops.matmul", "from tinyflow.nn import functional"),
        ("tinyflow.nn.linear", "from tinyflow.kernels import matmul"),
        ("tinyflow.models.resnet", "from .. import kernels"),
        ("tinyflow.nn.linear", "from tinyflow import models"),
        ("tinyflow.data.loader", "from tinyflow.optim import SGD"),
    ],
)
def test_an_import_that_points_up_is_found(importer: str, source: str) -> None:
    modules = frozenset(["tinyflow.nn", "tinyflow.kernels", "tinyflow.models", "tinyflow.kernels.matmul"])
    assert any(upward(found, importer) for found in imports(source, importer, Path("x.py"), modules))


def test_torch_stands_behind_its_doors() -> None:
    found = {i.file for i in graph(sources(*FLOORS)) if i.module.split(".")[0] == "torch"}
    assert found <= DOORS_TO_TORCH


def test_only_kernels_know_triton() -> None:
    wrong = [str(i) for i in graph(sources("tinyflow", "models")) if i.module.split(".")[0] == "triton"]
    assert wrong == []


def test_the_product_does_not_import_its_tests() -> None:
    outside = {"tests", "benchmarks", "pytest", "hypothesis", "conftest"}
    found = [i for i in graph(sources(*FLOORS)) if i.module.split(".")[0] in outside]
    assert [str(i) for i in found if i.file.name != "pytest_plugin.py"] == []


def test_no_file_imports_a_second_copy() -> None:
    everything = graph(sources(*FLOORS, "tests", "benchmarks"))
    assert [str(i) for i in everything if i.module.split(".")[0] in ("kernels", "models")] == []


@pytest.mark.parametrize("name", ["kernels", "models"])
def test_a_second_copy_is_refused(name: str) -> None:
    result = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert f"ImportError: import tinyflow.{name}" in result.stderr
